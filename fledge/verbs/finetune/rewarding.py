"""`finetune reward`: a copy of an assistant learns from what its own answers are worth."""

from __future__ import annotations

import time as clock
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fledge.arch.record import to_json
from fledge.train.run import Reward
from fledge.train.tracking import wanted
from fledge.verbs import terminal
from fledge.verbs.finetune.adapting import Rank, adapting, trainee, writer_for
from fledge.verbs.finetune.forgetting import as_score, forgotten_by, lines
from fledge.verbs.finetune.instructing import ANSWERING, EXAMPLES, Example, Format, chosen_chat, said_to
from fledge.verbs.machine import look
from fledge.verbs.model import Dtype
from fledge.verbs.pages import rewarded_page
from fledge.verbs.session import (
    AFTER,
    Column,
    Duration,
    Name,
    Parent,
    Place,
    Settings,
    Trackers,
    alone,
    applied,
    asked_of,
    begun_run,
    command_began,
    fingerprint,
    open_writer,
    refuse_other_data,
    refuse_unknown,
    seconds_of,
    settings_of,
    watched,
    within,
)

if TYPE_CHECKING:
    from fledge.evaluation.statistics import Interval
    from fledge.text import ChatFormat, Template
    from fledge.train.rollouts import Question, Worth
    from fledge.train.run import Machine, Run
    from fledge.verbs.scoring.results import Forgotten

MEASURED = 100  # held-out questions that are answered at each validation
QUESTIONS = 4  # a step


@dataclass(frozen=True)
class Rewarded:
    """The folder of a model that learned from a reward, and the mean reward of its answers to held-out questions before and after."""

    out: str
    steps: int
    tokens: int
    seconds: float
    validation: dict[str, float]
    questions: int
    before: Interval
    after: Interval
    examples: tuple[Example, ...]
    forgotten: Forgotten | None

    def __str__(self) -> str:
        return lines(
            f"{self.out}: {self.questions:,} questions, {self.steps:,} steps, {terminal.duration(self.seconds)}; "
            f"mean reward of held-out answers {self.before} before, {self.after} after",
            self.forgotten,
        )


@alone
def reward(
    data: Place,
    /,
    *,
    out: Place,
    from_: Name,
    reward: str = "answer",
    lora: Rank | None = None,
    format: Format | None = None,
    samples: int = 8,
    max_tokens: int = 128,
    prompt_column: Column | None = None,
    answer_column: Column | None = None,
    validation: float = 0.1,
    epochs: int = 1,
    time: Duration | None = None,
    set: Settings | None = None,
    seed: int = 0,
    device: str = "auto",
    dtype: Dtype = "auto",
    threads: int = 0,
    deterministic: bool = False,
    track: Trackers | None = None,
) -> Rewarded:
    """Teach an assistant by a reward that can be checked: it answers each question several times, and the better answers grow (GRPO).

    Args:
        data: a table of questions with the answers that are known, as for instruct.
        out: the model's folder.
        from_: the assistant to start from.
        reward: answer (1 where the last number is the known answer's), or FILE.py:FUNCTION, given question, known answer and what is said.
        lora: train an adapter of this rank beside the frozen model (--set adapter.targets, .alpha, .ranks, .dora, .frozen).
        format: how turns are written: chatml, llama3, alpaca or plain; by default as the assistant was taught.
        samples: how often each question is answered in a step.
        max_tokens: how long an answer may become.
        prompt_column: the column of the questions, where the guess is wrong.
        answer_column: the column of the known answers.
        validation: the share of questions held out.
        epochs: how often each question is seen at most.
        time: instead of epochs: how long it may take, such as 5m.
        set: any field of the run, such as goal.kl=0.05, goal.temperature=0.8 or batch.rows=8; may be given several times.
        seed: of the split, the order of questions and the answers.
        device: auto, cpu or cuda.
        dtype: of the matrix products; auto takes the faster one.
        threads: CPU threads; 0 leaves the number to torch.
        deterministic: the same bits twice, even where that is slower.
        track: who is told the numbers beside run/metrics.jsonl: tensorboard, wandb or trackio; may be given several times.
    """
    started = command_began()
    asked = asked_of(locals(), leave_out=("started", "out", "device", "threads", "track"))
    trackers = wanted(track)
    out, settings, seconds = Path(out), settings_of(set), seconds_of(time) if time else None
    if format is not None:
        refuse_unknown(format, Format, "--format")
    goal = Reward(samples, max_tokens)
    begun = begun_run(out, asked)
    terminal.say(f"This machine: {look()}")
    from fledge.data import instructions
    from fledge.train.plan import this_machine
    from fledge.train.rollouts import Question, worth_named

    worth, code = worth_named(reward)
    whole = instructions.read_instructions(str(data), prompt_column, answer_column)
    for line in whole.said():
        terminal.say(f"  {line}")
    machine = begun.machine if begun is not None else this_machine(device, dtype, threads, deterministic, seed)
    training, held_out = (
        [Question(c.asked, c.answer, c.row) for c in part if instructions.is_whole(c)]
        for part in instructions.split(whole.conversations, validation, seed)
    )
    if not training or not held_out:
        raise ValueError(
            f"of {len(whole.conversations)} questions with answers none is left to learn from or to hold out: give more of them"
        )
    parent = open_writer(from_)
    chat = format or chosen_chat(parent.facts, parent.tokenizer)
    job = RewardJob(training, held_out, parent, chat, worth, code, goal, epochs, seconds, lora)
    return job.run(out, machine, settings, asked, started, trackers)


@dataclass(frozen=True)
class RewardJob:
    """Questions to learn from and held out, the model that answers them, and what an answer is worth (`code` says how); `chat` names a
    format or is a template."""

    training: Sequence[Question]
    held_out: Sequence[Question]
    parent: Parent
    chat: str
    worth: Worth
    code: bytes
    goal: Reward
    epochs: int = 1
    seconds: float | None = None
    lora: int | None = None

    @property
    def form(self) -> ChatFormat | Template:
        from fledge.text import chat_format

        return chat_format(self.chat, self.parent.tokenizer)

    def run(
        self, out: Path, machine: Machine, settings: dict[str, str], asked: dict[str, Any], started: float, track: Sequence[str] = ()
    ) -> Rewarded:
        """Measure, train on the model's own answers, keep the best by held-out reward, and measure again."""
        import copy

        import numpy as np

        from fledge.evaluation.statistics import ratio
        from fledge.train.loop import on_machine
        from fledge.train.objective import Reinforce
        from fledge.train.rollouts import Rollouts
        from fledge.train.training import train

        tokenizer, form = self.parent.tokenizer, self.form
        form.usable_with(tokenizer)
        begun = begun_run(out, asked)
        run = begun or self.planned(machine, settings)
        refuse_other_data(out, run, self.fingerprint)
        goal = run.goal
        assert isinstance(goal, Reward)
        model = self.parent.with_arch(run.arch).network.to(machine.device)
        checked = Rollouts(model, tokenizer, form, self.held_out[:MEASURED], self.worth, goal, machine, 1)
        measuring = clock.monotonic()
        shown = checked.questions[:EXAMPLES]
        asking = [question.messages for question in shown]
        with on_machine(machine):
            before = checked.measured(model)
            said_before = said_to(asking, model, tokenizer, self.chat, goal.tokens)
        reference = copy.deepcopy(model).eval().requires_grad_(False) if goal.kl else None
        model, objective = trainee(model, run, self.parent), Reinforce(goal, reference)
        batches = Rollouts(model, tokenizer, form, self.training, self.worth, goal, machine, run.batch.rows, run.batch.accumulate)
        if batches.left_out:
            terminal.say(f"  {batches.left_out:,} of {len(self.training):,} questions fill the model's context and are left out")
        if begun is None and self.seconds is not None:
            reserve = AFTER * self.seconds + clock.monotonic() - measuring
            run = within(self.seconds, reserve, started, run, model, objective, batches.batch_at)
        data = {"questions": batches.examples, "held out": len(self.held_out), "format": form.name, "reward": asked["reward"]}
        writer = writer_for(out, tokenizer, run, self.parent, data=data, chat=self.chat, generation=ANSWERING)
        with watched("Reward", out, run.plan.steps) as (bar, hooks):
            result = train(
                run, model, batches, objective, out, evaluate=lambda model: {"reward": float(checked.measured(model).mean())},
                best_of=lambda scores: -scores["reward"], export=writer.export, after_step=hooks, asked=asked, started=started,
                track=track, say=bar.say,
            )  # fmt: skip
        best = writer.best(machine.device)
        with on_machine(machine):
            after = checked.measured(best)
            said_after = said_to(asking, best, tokenizer, self.chat, goal.tokens)
        was, now = (ratio(rewards, np.ones(len(rewards))) for rewards in (before, after))
        forgotten = forgotten_by(best, writer, machine, self.seconds)
        writer.save(best, {"mean reward of held-out answers": {"before": to_json(was), "after": to_json(now)}, **as_score(forgotten)})
        examples = tuple(
            Example(question.text, question.answer, was.text, now.text)
            for question, was, now in zip(shown, said_before, said_after, strict=True)
        )
        done = Rewarded(
            str(out), result.steps, result.tokens, result.seconds, result.validation, batches.examples, was, now, examples, forgotten
        )  # fmt: skip
        rewarded_page(done, out).write(out / "run" / "report.html")
        return done

    @property
    def fingerprint(self) -> str:
        return fingerprint([[question.messages, question.answer] for question in self.training] + [self.code.decode("utf-8", "replace")])

    def planned(self, machine: Machine, settings: dict[str, str]) -> Run:
        """The run: 4 questions a step, at a part of the rates of fine-tuning."""
        from fledge.train.plan import GENTLE, at_rate, finetuning_optimizer
        from fledge.train.run import Batch, Constant, Data, Plan, Run, Save

        rows = int(settings.get("batch.rows", QUESTIONS))
        per_epoch = max(1, len(self.training) // (rows * int(settings.get("batch.accumulate", 1))))
        run = Run(
            self.parent.arch, Data((), self.fingerprint, "reward"), Batch(rows, 1, self.parent.arch.context),
            finetuning_optimizer(self.parent.optimizer), Constant(), Plan(self.epochs * per_epoch),
            Save(evaluate=max(1, self.epochs * per_epoch // 10)), machine, goal=self.goal,
        )  # fmt: skip
        run = adapting(run, self.lora, self.parent, self.form)
        return applied(replace(run, optimizer=at_rate(run.optimizer, GENTLE)), settings)
