"""`finetune prefer`: a copy of an assistant learns which of two answers is preferred."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fledge.arch.record import to_json
from fledge.train.run import Preference
from fledge.train.tracking import wanted
from fledge.verbs import terminal
from fledge.verbs.finetune.adapting import Rank, adapting, trainee, writer_for
from fledge.verbs.finetune.forgetting import as_score, forgotten_by, lines
from fledge.verbs.finetune.instructing import ANSWERING, EXAMPLES, Example, Format, answer_length, answerable, chosen_chat, said_to
from fledge.verbs.machine import look
from fledge.verbs.model import Dtype
from fledge.verbs.pages import preferred_page
from fledge.verbs.session import (
    AFTER,
    Column,
    Duration,
    Name,
    Parent,
    Place,
    Settings,
    Trackers,
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
    together,
    watched,
    within,
)

if TYPE_CHECKING:
    import numpy as np

    from fledge.data.batches import Comparisons
    from fledge.data.preferences import Preferred
    from fledge.evaluation.statistics import Interval
    from fledge.model import Transformer
    from fledge.text import ChatFormat, Template
    from fledge.train.run import Machine, Run
    from fledge.verbs.scoring.results import Forgotten

REFERENCES = 8  # pairs whose log-probabilities are taken at once


@dataclass(frozen=True)
class Prefers:
    """The folder of a model that prefers, how often it is right about held-out pairs, and what that costs.

    `accuracy` is the share of held-out pairs whose chosen answer gained more probability than the rejected one, `margin` by how much on
    average (in rewards); `loss_before` and `loss_after` are those of the chosen answers, nats a token.
    """

    out: str
    steps: int
    tokens: int
    seconds: float
    validation: dict[str, float]
    pairs: int
    accuracy: Interval
    margin: Interval
    loss_before: float
    loss_after: float
    examples: tuple[Example, ...]
    forgotten: Forgotten | None

    def __str__(self) -> str:
        return lines(
            f"{self.out}: {self.pairs:,} pairs, {self.steps:,} steps, {terminal.duration(self.seconds)}; reward accuracy {self.accuracy} "
            f"on held-out pairs, margin {self.margin}; loss of chosen answers {self.loss_before:.3f} before, {self.loss_after:.3f} after",
            self.forgotten,
        )


@together
def prefer(
    data: Place,
    /,
    *,
    out: Place,
    from_: Name,
    lora: Rank | None = None,
    format: Format | None = None,
    beta: float = 0.1,
    sft: float = 0.0,
    length_normalised: bool = False,
    prompt_column: Column | None = None,
    validation: float = 0.1,
    epochs: int = 2,
    time: Duration | None = None,
    set: Settings | None = None,
    seed: int = 0,
    device: str = "auto",
    dtype: Dtype = "auto",
    threads: int = 0,
    deterministic: bool = False,
    track: Trackers | None = None,
) -> Prefers:
    """Teach an assistant which of two answers is preferred, by direct preference optimisation (DPO).

    Args:
        data: a table (.json .jsonl .csv .tsv .parquet, plain or .gz/.zst) with chosen and rejected: answers beside a question in one of
            instruct's layouts, messages, or dialogues.
        out: the model's folder.
        from_: the assistant to start from, which is also what it is held to.
        lora: train an adapter of this rank beside the frozen model (--set adapter.targets, .alpha, .ranks, .dora, .frozen).
        format: how turns are written: chatml, llama3, alpaca or plain; by default as the assistant was taught.
        beta: how firmly it is held to what it was; less lets it move further.
        sft: the weight of the chosen answers' own loss beside the preference.
        length_normalised: compare log-probabilities a token, so that length counts for nothing.
        prompt_column: the column of the questions, where the guess is wrong.
        validation: the share of questions held out.
        epochs: how often each pair is seen at most.
        time: instead of epochs: how long it may take, such as 5m.
        set: any field of the run, such as goal.smoothing=0.1 or optimizer.rate=1e-5; may be given several times.
        seed: of the split and the order of pairs.
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
    goal = Preference(beta, length_normalised, sft)
    begun = begun_run(out, asked)
    terminal.say(f"This machine: {look()}")
    from fledge.data import preferences
    from fledge.train.plan import this_machine

    whole = preferences.read_preferences(str(data), prompt_column)
    for line in whole.said():
        terminal.say(f"  {line}")
    machine = begun.machine if begun is not None else this_machine(device, dtype, threads, deterministic, seed)
    training, held_out = preferences.divided(whole.pairs, validation, seed)
    parent = open_writer(from_)
    chat = format or chosen_chat(parent.facts, parent.tokenizer)
    job = PreferJob(training, held_out, parent, chat, goal, epochs, seconds, lora)
    return job.run(out, machine, settings, asked, started, trackers)


@dataclass(frozen=True)
class PreferJob:
    """Pairs of answers to learn from and held out, and the model that learns to prefer; `chat` names a format or is a template."""

    training: Sequence[Preferred]
    held_out: Sequence[Preferred]
    parent: Parent
    chat: str
    goal: Preference
    epochs: int = 2
    seconds: float | None = None
    lora: int | None = None

    @property
    def form(self) -> ChatFormat | Template:
        from fledge.text import chat_format

        return chat_format(self.chat, self.parent.tokenizer)

    def run(
        self, out: Path, machine: Machine, settings: dict[str, str], asked: dict[str, Any], started: float, track: Sequence[str] = ()
    ) -> Prefers:
        """Take the reference's log-probabilities, train, keep the best by held-out loss, and measure."""
        import numpy as np

        from fledge.evaluation.statistics import ratio
        from fledge.train.loop import on_machine
        from fledge.train.objective import Prefer
        from fledge.train.parallel import ranks
        from fledge.train.training import train, validate

        tokenizer = self.parent.tokenizer
        begun = begun_run(out, asked)
        run = begun or self.planned(machine, settings)
        refuse_other_data(out, run, self.fingerprint)
        goal = run.goal
        assert isinstance(goal, Preference)
        reference, objective = self.parent.with_arch(run.arch).network, Prefer(goal)
        batches, checked = (self.batches(pairs, run) for pairs in (self.training, self.held_out))
        if batches.truncated:
            many = f"{batches.truncated:,} of {len(self.training):,} pairs"
            terminal.say(f"  answers longer than {run.batch.context} tokens lose their end, in {many} (--set batch.context=...)")
        shown = list(islice(answerable([pair.chosen for pair in self.held_out], self.form, self.parent), EXAMPLES))
        asking, longest = [conversation.asked for conversation in shown], answer_length(shown, self.parent)
        with on_machine(machine):
            for part in (batches, checked):
                part.reference, counts = logprobs(reference.to(machine.device), part, machine)
            said_before = said_to(asking, reference, tokenizer, self.chat, longest)
        before = self.chosen_loss(checked.reference, counts)
        model = trainee(reference, run, self.parent)
        if begun is None and self.seconds is not None:
            run = within(self.seconds, AFTER * self.seconds, started, run, model, objective, batches.batch_at)
        data = {"pairs": len(batches.kept), "held out": len(checked.kept), "format": self.form.name}
        writer = writer_for(out, tokenizer, run, self.parent, data=data, chat=self.chat, generation=ANSWERING)
        held_out = list(checked.in_order())
        with watched("Preferences", out, run.plan.steps) as (bar, hooks):
            result = train(
                run, model, batches, objective, out, evaluate=lambda model: validate(model, objective, held_out, machine),
                export=writer.export, after_step=hooks, asked=asked, started=started, track=track, say=bar.say,
            )  # fmt: skip
        ranks.only_first()
        best = writer.best(machine.device)
        with on_machine(machine):
            found, counts = logprobs(best, checked, machine)
            said_after = said_to(asking, best, tokenizer, self.chat, longest)
        assert checked.reference is not None
        moved = found - checked.reference
        rewards = goal.beta * (moved / counts if goal.length_normalised else moved)
        margins, ones = rewards[:, 0] - rewards[:, 1], np.ones(len(rewards))
        accuracy, margin, after = ratio(margins > 0, ones), ratio(margins, ones), self.chosen_loss(found, counts)
        examples = tuple(
            Example(conversation.prompt, conversation.answer, was.text, now.text)
            for conversation, was, now in zip(shown, said_before, said_after, strict=True)
        )
        loss = {"before": before, "after": after}
        forgotten = forgotten_by(best, writer, machine, self.seconds)
        scores = {"reward accuracy": to_json(accuracy), "reward margin": to_json(margin), "loss of chosen answers": loss}
        writer.save(best, {**scores, **as_score(forgotten)})
        done = Prefers(
            str(out), result.steps, result.tokens, result.seconds, result.validation, len(batches.kept), accuracy, margin, before, after,
            examples, forgotten,
        )  # fmt: skip
        preferred_page(done, out).write(out / "run" / "report.html")
        return done

    @property
    def fingerprint(self) -> str:
        return fingerprint([[pair.chosen.messages, pair.rejected.messages] for pair in self.training])

    def planned(self, machine: Machine, settings: dict[str, str]) -> Run:
        """The run: 8 pairs a step, at a part of the rates of fine-tuning; answers of up to 512 tokens with what they answer."""
        from fledge.train.plan import GENTLE, at_rate, finetuning_optimizer
        from fledge.train.run import Batch, Data, Plan, Run, Save, Stable

        per_epoch = max(1, len(self.training) // 8)
        run = Run(
            self.parent.arch, Data((), self.fingerprint, "prefer"), Batch(8, 1, min(self.parent.arch.context, 512)),
            finetuning_optimizer(self.parent.optimizer), Stable(min(20, per_epoch), 0.5), Plan(self.epochs * per_epoch),
            Save(evaluate=max(1, per_epoch // 3), patience=3), machine, goal=self.goal,
        )  # fmt: skip
        run = adapting(run, self.lora, self.parent, self.form)
        return applied(replace(run, optimizer=at_rate(run.optimizer, GENTLE)), settings)

    def batches(self, pairs: Sequence[Preferred], run: Run) -> Comparisons:
        """The pairs as batches; the reference is not in them yet."""
        from fledge.data.batches import Comparisons
        from fledge.data.preferences import answers

        form, tokenizer = self.form, self.parent.tokenizer
        form.usable_with(tokenizer)
        sides = [answers(pair, form, tokenizer) for pair in pairs]
        return Comparisons(sides, run.batch.context, run.batch.rows, tokenizer.pad, run.machine.seed, run.batch.accumulate)

    def chosen_loss(self, logprobs: np.ndarray | None, counts: np.ndarray) -> float:
        """The mean loss of the chosen answers, nats a token."""
        assert logprobs is not None
        return float(-logprobs[:, 0].sum() / counts[:, 0].sum())


def logprobs(model: Transformer, pairs: Comparisons, machine: Machine) -> tuple[np.ndarray, np.ndarray]:
    """The log-probability that a model gives to each answer, in nats, and how many tokens that sums, both (pairs, 2)."""
    import numpy as np
    import torch

    from fledge.evaluation.language import evaluating
    from fledge.train.loop import precision
    from fledge.train.objective import answer_logprobs

    order = np.argsort(pairs.lengths, kind="stable")
    sums, counts = np.zeros((2, len(order), 2))
    with evaluating(model), torch.no_grad(), precision(machine):
        for start in range(0, len(order), REFERENCES):
            rows = order[start : start + REFERENCES]
            found, count = answer_logprobs(model, pairs.collated([(None, int(row)) for row in rows]))
            sums[rows], counts[rows] = found.double().cpu(), count.cpu()
    return sums, counts
