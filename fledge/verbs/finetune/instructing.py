"""`finetune instruct`: a copy of a model becomes an assistant."""

from __future__ import annotations

import time as clock
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fledge.train.tracking import wanted
from fledge.verbs import terminal
from fledge.verbs.finetune.adapting import Rank, adapting, trainee, writer_for
from fledge.verbs.machine import look
from fledge.verbs.model import Dtype
from fledge.verbs.pages import instructed_page
from fledge.verbs.session import (
    AFTER,
    Duration,
    Name,
    Parent,
    Place,
    Settings,
    Trackers,
    applied,
    asked_of,
    begun_run,
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
    from fledge.data.instructions import Conversation
    from fledge.model import Transformer
    from fledge.text import Tokenizer
    from fledge.train.objective import Objective
    from fledge.train.run import Machine, Run

Format = Literal["chatml", "llama3", "alpaca", "plain"]
ANSWERING = {"do_sample": True, "temperature": 0.3, "top_p": 0.9, "repetition_penalty": 1.15}
EXAMPLES = 5


@dataclass(frozen=True)
class Instructed:
    """An assistant's folder, and how well it predicts held-out answers before and after.

    `before` is the base model's perplexity of the answers in the chat format or in a plain prompt, whichever is better.
    """

    out: str
    steps: int
    tokens: int
    seconds: float
    validation: dict[str, float]
    conversations: int
    before: float
    after: float
    examples: tuple[Example, ...]

    def __str__(self) -> str:
        return (
            f"{self.out}: {self.conversations:,} conversations, {self.steps:,} steps, {terminal.duration(self.seconds)}; "
            f"perplexity of held-out answers {self.before:.1f} before, {self.after:.1f} after"
        )


@dataclass(frozen=True)
class Example:
    """A held-out question, its own answer, and what the model says to it before and after."""

    question: str
    answer: str
    before: str
    after: str


@together
def instruct(
    data: Place,
    /,
    *,
    out: Place,
    from_: Name,
    lora: Rank | None = None,
    format: Format | None = None,
    everything: bool = False,
    validation: float = 0.1,
    epochs: int = 3,
    time: Duration | None = None,
    set: Settings | None = None,
    seed: int = 0,
    device: str = "auto",
    dtype: Dtype = "auto",
    threads: int = 0,
    deterministic: bool = False,
    track: Trackers | None = None,
) -> Instructed:
    """Fine-tune a model to an assistant on questions and answers.

    Args:
        data: .json or .jsonl (also .csv, .parquet, .gz/.zst) with instruction/input/output, messages, or prompt/completion.
        out: the assistant's folder.
        from_: the pretrained model to start from.
        lora: train an adapter of this rank beside the frozen model (--set adapter.targets, .alpha, .ranks, .dora, .frozen).
        format: how turns are written: chatml, llama3, alpaca or plain; by default chatml where the tokenizer has its tokens, else alpaca.
        everything: train on the questions too, not on the answers alone.
        validation: the share of conversations held out.
        epochs: how often each conversation is seen at most.
        time: instead of epochs: how long it may take, such as 5m.
        set: any field of the run, such as optimizer.rate=1e-4 or batch.context=512; may be given several times.
        seed: of the split and the order of conversations.
        device: auto, cpu or cuda.
        dtype: of the matrix products; auto takes the faster one.
        threads: CPU threads; 0 leaves the number to torch.
        deterministic: the same bits twice, even where that is slower.
        track: who is told the numbers beside run/metrics.jsonl: tensorboard, wandb or trackio; may be given several times.
    """
    started = clock.monotonic()
    asked = asked_of(locals(), leave_out=("started", "out", "device", "threads", "track"))
    trackers = wanted(track)
    out, settings, seconds = Path(out), settings_of(set), seconds_of(time) if time else None
    if format is not None:
        refuse_unknown(format, Format, "--format")
    begun = begun_run(out, asked)
    terminal.say(f"This machine: {look()}")
    from fledge.data import instructions
    from fledge.train.plan import this_machine

    whole = instructions.read_instructions(str(data))
    terminal.say(f"  {len(whole.conversations):,} conversations in the layout {whole.layout}")
    machine = begun.machine if begun is not None else this_machine(device, dtype, threads, deterministic, seed)
    training, held_out = instructions.split(whole.conversations, validation, seed)
    held_out = [conversation for conversation in held_out if instructions.is_whole(conversation)]
    if not held_out:
        raise ValueError(f"of {len(whole.conversations)} conversations none with a question and an answer is held out: give more of them")
    parent = open_writer(from_)
    job = InstructJob(training, held_out, parent, format or default_format(parent), everything, epochs, seconds, lora=lora)
    return job.run(out, machine, settings, asked, started, trackers)


def default_format(parent: Parent) -> str:
    """The format that the parent converses in, else chatml where its tokenizer has the tokens, else alpaca."""
    return parent.facts.get("chat") or ("chatml" if parent.tokenizer.special("<|im_start|>") is not None else "alpaca")


@dataclass(frozen=True)
class InstructJob:
    """Conversations to learn from and held out, and the model that learns to answer."""

    training: Sequence[Conversation]
    held_out: Sequence[Conversation]
    parent: Parent
    format: str
    everything: bool = False
    epochs: int = 3
    seconds: float | None = None
    more: dict[str, Any] | None = None
    lora: int | None = None

    def run(
        self, out: Path, machine: Machine, settings: dict[str, str], asked: dict[str, Any], started: float, track: Sequence[str] = ()
    ) -> Instructed:
        """Check the conversations, train on the answers, keep the best by held-out loss, and measure before and after."""
        from fledge.data.batches import Conversations
        from fledge.data.instructions import lint, tokenized
        from fledge.evaluation.language import answer_score
        from fledge.text import FORMATS
        from fledge.train.loop import on_machine
        from fledge.train.parallel import ranks
        from fledge.train.training import train, validate

        form, tokenizer = FORMATS[self.format], self.parent.tokenizer
        turns = tokenized(self.training, form, tokenizer, self.everything)
        begun = begun_run(out, asked)
        run = begun or self.planned(turns, machine, settings)
        refuse_other_data(out, run, fingerprint([c.messages for c in self.training]))
        model = trainee(self.parent.with_arch(run.arch).network, run, self.parent)
        for line in lint(self.training, turns, run.batch.context, form.stop_tokens(tokenizer)).said():
            terminal.say(f"  {line}")
        batches = Conversations(turns, run.batch.context, run.batch.rows, machine.seed, run.batch.accumulate)
        checked = self.answers(form, run)
        measuring = clock.monotonic()
        with on_machine(machine):
            before = min(answer_score(model, part).perplexity.value for part in (checked, self.answers(FORMATS["plain"], run)))
        said_before = self.examples(model, None)
        objective = self.objective(run)
        if begun is None and self.seconds is not None:
            reserve = AFTER * self.seconds + clock.monotonic() - measuring
            run = within(self.seconds, reserve, started, run, model, objective, batches.batch_at)
        data = {"conversations": len(batches.kept), "held out": len(self.held_out), "format": self.format}
        writer = writer_for(out, tokenizer, run, self.origin, data=data, chat=self.format, generation=ANSWERING, more=self.more)
        with watched("Assistant", out, run.plan.steps) as (bar, hooks):
            result = train(
                run, model, batches, objective, out, evaluate=lambda model: validate(model, objective, checked, machine),
                export=writer.export, after_step=hooks, asked=asked, started=started, track=track, say=bar.say,
            )  # fmt: skip
        ranks.only_first()
        best = writer.best(machine.device)
        with on_machine(machine):
            after = answer_score(best, checked).perplexity.value
        examples = tuple(
            Example(c.prompt, c.messages[-1].content, was, now)
            for c, was, now in zip(self.held_out, said_before, self.examples(best, self.format), strict=False)
        )
        writer.save(best, {"perplexity of held-out answers": {"before": before, "after": after}})
        done = Instructed(
            str(out), result.steps, result.tokens, result.seconds, result.validation, len(batches.kept), before, after, examples
        )  # fmt: skip
        instructed_page(done, self, out).write(out / "run" / "report.html")
        return done

    def planned(self, turns, machine: Machine, settings: dict[str, str]) -> Run:
        """The run: packed rows of the model's context (512 tokens at most), about 2,048 tokens a step."""
        from fledge.train.plan import finetuning_optimizer
        from fledge.train.run import Batch, Data, Plan, Run, Save, Stable

        arch = replace(self.parent.arch, head=self.parent.arch.head)
        context = min(arch.context, 512)
        rows = max(1, 2048 // context)
        per_epoch = max(1, round(sum(min(len(turn.tokens), context) for turn in turns) / (rows * context)))
        run = Run(
            arch, Data((), fingerprint([c.messages for c in self.training]), "instruct"), Batch(rows, 1, context),
            finetuning_optimizer(self.parent.optimizer),
            Stable(min(20, per_epoch), 0.5), Plan(self.epochs * per_epoch), Save(patience=3), machine,
        )  # fmt: skip
        return applied(adapting(self.aimed(run), self.lora, self.parent), settings)

    @property
    def origin(self) -> Parent | None:
        """What the model was before, if it was anything."""
        return self.parent

    def aimed(self, run: Run) -> Run:
        """The run with what is aimed at."""
        return run

    def objective(self, run: Run) -> Objective:
        from fledge.train.objective import PredictTokens

        return PredictTokens()

    def answers(self, form, run: Run) -> list:
        """The held-out conversations as batches whose labels are the answers."""
        from fledge.data.batches import Conversations
        from fledge.data.instructions import tokenized

        return list(Conversations(tokenized(self.held_out, form, self.parent.tokenizer), run.batch.context, run.batch.rows).in_order())

    def examples(self, model: Transformer, chat: str | None) -> list[str]:
        return said_to([conversation.prompt for conversation in self.held_out[:EXAMPLES]], model, self.parent.tokenizer, chat)


def said_to(questions: Sequence[str], model: Transformer, tokenizer: Tokenizer, chat: str | None) -> list[str]:
    """What the model says to questions as `chat` would: in the chat format, or after the bare question."""
    from fledge.verbs.model import Model

    speaker = Model(model, tokenizer, {"chat": chat, "generation": ANSWERING})
    ask: Callable[[str], str] = (
        (lambda q: speaker.chat([{"role": "user", "content": q}], max_tokens=60, seed=0))
        if chat is not None
        else (lambda q: speaker.generate(f"{q}\n\n", max_tokens=60, seed=0))
    )
    return [ask(question) for question in questions]
