"""`finetune instruct`: a copy of a model becomes an assistant."""

from __future__ import annotations

import time as clock
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from fledge.train.tracking import wanted
from fledge.verbs import terminal
from fledge.verbs.finetune.adapting import Rank, adapting, trainee, writer_for
from fledge.verbs.finetune.forgetting import as_score, forgotten_by, lines
from fledge.verbs.machine import look
from fledge.verbs.model import Dtype
from fledge.verbs.pages import instructed_page
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
    from fledge.arch import Arch
    from fledge.data.batches import Batch
    from fledge.data.instructions import Conversation
    from fledge.evaluation.generated import TextScore
    from fledge.evaluation.statistics import Interval
    from fledge.generation import Completion
    from fledge.model import Transformer
    from fledge.report import Page
    from fledge.text import ChatFormat, Message, Template, Tokenizer
    from fledge.train.objective import Objective
    from fledge.train.run import Machine, Run
    from fledge.verbs.scoring.results import Forgotten

Format = Literal["chatml", "llama3", "alpaca", "plain"]
Part = Annotated[float | Path | str, Parameter(metavar="SHARE|FILE")]  # of conversations, or a file with them
ANSWERING = {"do_sample": True, "temperature": 0.3, "top_p": 0.9, "repetition_penalty": 1.15}
EXAMPLES = 5
MEASURED = 200  # held-out questions that are answered at most, before and after
WRITING = 0.05  # of the time, about, goes into answering them before; to do it again is as much at most
TOGETHER = 16  # are answered first, from which follows for how many more there is time
LONGEST = 256  # tokens of such an answer at most


@dataclass(frozen=True)
class Answers:
    """How well a model answers what it was not trained on: the `perplexity` of the answers that are there, and of those that it has
    `written` itself the share that `ended` by themselves, and how near they come to the others (ROUGE; none where its library is
    missing)."""

    perplexity: Interval
    written: int
    ended: Interval
    scores: tuple[TextScore, ...]

    @property
    def measures(self) -> tuple[tuple[str, Interval], ...]:
        """Each measure under the name that people read."""
        return (
            ("perplexity of held-out answers", self.perplexity),
            ("share of its answers that end by themselves", self.ended),
            *((f"{score.measure} of its answers", score.interval) for score in self.scores),
        )


@dataclass(frozen=True)
class Instructed:
    """An assistant's folder, and how well it answers held-out questions, before (the base model, in the chat format or asked plainly,
    whichever makes the held-out answers more probable) and after; what it has `forgotten` of its parent's text, where that is at hand."""

    out: str
    steps: int
    tokens: int
    seconds: float
    validation: dict[str, float]
    conversations: int
    held_out: int
    format: str
    before: Answers
    after: Answers
    examples: tuple[Example, ...]
    forgotten: Forgotten | None

    @property
    def compared(self) -> tuple[tuple[str, Interval, Interval], ...]:
        """Each measure with what it was before and after."""
        return tuple((name, was, now) for (name, was), (_, now) in zip(self.before.measures, self.after.measures, strict=True))

    def __str__(self) -> str:
        first = f"{self.out}: {self.conversations:,} conversations, {self.steps:,} steps, {terminal.duration(self.seconds)}"
        return lines(first, *(f"{name}: before {was}, after {now}" for name, was, now in self.compared), self.forgotten)


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
    prompt_column: Column | None = None,
    answer_column: Column | None = None,
    validation: Part = 0.1,
    test: Part = 0.1,
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
    """Fine-tune a model to an assistant on questions and answers, and measure it on others before and after.

    Args:
        data: a table (.json .jsonl .csv .tsv .parquet, plain or .gz/.zst) of Alpaca's, ShareGPT's or GSM8K's columns, of messages, or of
            prompts and answers; the layout is guessed and said. fledge show DATA --from MODEL tells what would be trained on.
        out: the assistant's folder.
        from_: the pretrained model to start from.
        lora: train an adapter of this rank beside the frozen model (--set adapter.targets, .alpha, .ranks, .dora, .frozen).
        format: how turns are written: chatml, llama3, alpaca or plain; by default as the model's own chat template does, where it has one,
            else chatml where the tokenizer has its tokens, else alpaca.
        everything: train on the questions too, not on the answers alone.
        prompt_column: the column of the questions, where the guess is wrong.
        answer_column: the column of the answers.
        validation: the share of conversations that training is checked on, or a file with them.
        test: the share of conversations that the assistant is measured on at the end, or a file with them; 0 takes those of validation.
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
    started = command_began()
    asked = asked_of(locals(), leave_out=("started", "out", "device", "threads", "track"))
    trackers = wanted(track)
    out, settings, seconds = Path(out), settings_of(set), seconds_of(time) if time else None
    if format is not None:
        refuse_unknown(format, Format, "--format")
    begun = begun_run(out, asked)
    terminal.say(f"This machine: {look()}")
    from fledge.train.plan import this_machine

    parts = parted(data, validation, test, prompt_column, answer_column, seed)
    machine = begun.machine if begun is not None else this_machine(device, dtype, threads, deterministic, seed)
    parent = open_writer(from_)
    chat = format or chosen_chat(parent.facts, parent.tokenizer)
    job = InstructJob(*parts, parent, chat, everything, epochs, seconds, lora=lora)
    return job.run(out, machine, settings, asked, started, trackers)


def parted(
    data: Place, validation: Part, test: Part, prompt: str | None, answer: str | None, seed: int
) -> tuple[list[Conversation], list[Conversation], list[Conversation]]:
    """Conversations to learn from, to check training on, and to measure with; those of the last two are whole.

    Raises `ValueError` where one of them has none.
    """
    from fledge.data.instructions import is_whole, read_instructions, split

    whole = read_instructions(str(data), prompt, answer)
    for line in whole.said():
        terminal.say(f"  {line}")
    training, left = list(whole.conversations), 1.0
    parts = 1 + sum(isinstance(part, float | int) and part > 0 for part in (test, validation))
    if (different := len({conversation.prompt for conversation in training})) < parts:
        raise ValueError(f"{data} asks {different} different things, but to learn from some and hold out others it needs at least {parts}")
    held: dict[str, list[Conversation]] = {}
    for name, part in (("test", test), ("validation", validation)):
        if isinstance(part, float | int):
            if not 0 <= part < left:
                raise ValueError(f"--{name} {part} is no share of the conversations that are left: use 0.1, or a file")
            training, held[name] = split(training, part / left, seed) if part else (training, [])
            left -= part
        else:
            held[name] = list(read_instructions(str(part), prompt, answer).conversations)
            known = {conversation.prompt for conversation in training}
            if again := sum(conversation.prompt in known for conversation in held[name]):
                terminal.say(f"  {again:,} of {len(held[name]):,} questions of {part} are asked in {data} too")
    found = {name: [conversation for conversation in rows if is_whole(conversation)] for name, rows in held.items()}
    if not found["validation"]:
        raise ValueError(f"of {len(whole.conversations)} conversations none with a question and an answer is held out: give more of them")
    return training, found["validation"], found["test"] or found["validation"]


def chosen_chat(facts: Mapping[str, Any], tokenizer: Tokenizer) -> str:
    """The chat format or the template that the model converses in, else chatml where its tokenizer has the tokens, else alpaca."""
    return facts.get("chat") or facts.get("chat_template") or ("chatml" if tokenizer.special("<|im_start|>") is not None else "alpaca")


def row_length(arch: Arch) -> int:
    """Tokens in a row of training where nobody says: the model's context, 512 at most."""
    return min(arch.context, 512)


@dataclass(frozen=True)
class InstructJob:
    """Conversations to learn from, to check on and to measure with, and the model that learns to answer; `chat` names a format or is a
    template."""

    training: Sequence[Conversation]
    held_out: Sequence[Conversation]
    test: Sequence[Conversation]
    parent: Parent
    chat: str
    everything: bool = False
    epochs: int = 3
    seconds: float | None = None
    more: dict[str, Any] | None = None
    lora: int | None = None

    @property
    def form(self) -> ChatFormat | Template:
        from fledge.text import chat_format

        return chat_format(self.chat, self.parent.tokenizer)

    def run(
        self, out: Path, machine: Machine, settings: dict[str, str], asked: dict[str, Any], started: float, track: Sequence[str] = ()
    ) -> Instructed:
        """Check the conversations, train on the answers, keep the best by held-out loss, and measure before and after."""
        from fledge.data.batches import Conversations
        from fledge.data.instructions import lint, tokenized
        from fledge.train.loop import on_machine
        from fledge.train.parallel import ranks
        from fledge.train.training import train, validate

        form, tokenizer = self.form, self.parent.tokenizer
        turns = tokenized(self.training, form, tokenizer, self.everything)
        begun = begun_run(out, asked)
        run = begun or self.planned(turns, machine, settings)
        refuse_other_data(out, run, fingerprint([c.messages for c in self.training]))
        model = trainee(self.parent.with_arch(run.arch).network, run, self.parent)
        for line in lint(self.training, turns, run.batch.context, form.stop_tokens(tokenizer), run.arch.context).said():
            terminal.say(f"  {line}")
        batches = Conversations(turns, run.batch.context, run.batch.rows, machine.seed, run.batch.accumulate)
        checked = self.labelled(self.held_out, self.chat, run)
        if not self.asked:
            raise ValueError(
                f"none of {len(self.test)} held-out questions leaves room for an answer in a context of {run.arch.context} tokens: "
                "hold out more with --test, or shorter ones"
            )
        with on_machine(machine):
            beside = self.beside(run)
        measuring = clock.monotonic()
        with on_machine(machine):
            model.to(machine.device)
            perplexities = {chat: self.perplexity(model, chat, run) for chat in dict.fromkeys((self.chat, "plain"))}
            asking = min(perplexities, key=lambda chat: perplexities[chat].value)
            said_before = self.said(model, asking, None if self.seconds is None else WRITING * self.seconds)
        before = self.measured(perplexities[asking], said_before)
        objective = self.objective(run)
        if begun is None and self.seconds is not None:
            reserve = AFTER * self.seconds + clock.monotonic() - measuring
            run = within(self.seconds, reserve, started, run, model, objective, batches.batch_at)
        data = {"conversations": len(batches.kept), "held out": len(self.held_out), "measured": len(self.test), "format": form.name}
        writer = writer_for(out, tokenizer, run, self.origin, data=data, chat=self.chat, generation=ANSWERING, more=self.more)
        with watched("Assistant", out, run.plan.steps) as (bar, hooks):
            result = train(
                run, model, batches, objective, out, evaluate=lambda model: validate(model, objective, checked, machine),
                export=writer.export, after_step=hooks, asked=asked, started=started, track=track, say=bar.say,
            )  # fmt: skip
        ranks.only_first()
        best = writer.best(machine.device)
        with on_machine(machine):
            said_after = self.said(best, self.chat, most=len(said_before))
            after = self.measured(self.perplexity(best, self.chat, run), said_after)
        examples = tuple(
            Example(c.prompt, c.answer, was.text, now.text)
            for c, was, now in zip(self.asked[:EXAMPLES], said_before, said_after, strict=False)
        )
        done = self.told(beside)(
            out=str(out), steps=result.steps, tokens=result.tokens, seconds=result.seconds, validation=result.validation,
            conversations=len(batches.kept), held_out=len(self.test), format=form.name, before=before, after=after, examples=examples,
            forgotten=forgotten_by(best, writer, machine, self.seconds),
        )  # fmt: skip
        compared = {name: {"before": was.value, "after": now.value} for name, was, now in done.compared}
        writer.save(best, {**compared, **as_score(done.forgotten)})
        self.page(done, out).write(out / "run" / "report.html")
        return done

    def beside(self, run: Run) -> Interval | None:
        """What else is measured before training, so that its time is counted: the perplexity of another model."""
        return None

    def told(self, beside: Interval | None) -> Callable[..., Instructed]:
        """What makes the result."""
        return Instructed

    def page(self, done: Any, out: Path) -> Page:
        """The report."""
        return instructed_page(done, self, out)

    def planned(self, turns, machine: Machine, settings: dict[str, str]) -> Run:
        """The run: packed rows of the model's context (512 tokens at most), about 2,048 tokens a step."""
        from fledge.train.plan import finetuning_optimizer
        from fledge.train.run import Batch, Data, Plan, Run, Save, Stable

        arch = replace(self.parent.arch, head=self.parent.arch.head)
        context = row_length(arch)
        rows = max(1, 2048 // context)
        per_epoch = max(1, round(sum(min(len(turn.tokens), context) for turn in turns) / (rows * context)))
        run = Run(
            arch, Data((), fingerprint([c.messages for c in self.training]), "instruct"), Batch(rows, 1, context),
            finetuning_optimizer(self.parent.optimizer),
            Stable(min(20, per_epoch), 0.5), Plan(self.epochs * per_epoch), Save(patience=3), machine,
        )  # fmt: skip
        return applied(adapting(self.aimed(run), self.lora, self.parent, self.form, turns), settings)

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

    def labelled(self, conversations: Sequence[Conversation], chat: str, run: Run) -> list[Batch]:
        """Conversations as batches whose labels are the answers."""
        from fledge.data.batches import Conversations
        from fledge.data.instructions import tokenized
        from fledge.text import chat_format

        turns = tokenized(conversations, chat_format(chat, self.parent.tokenizer), self.parent.tokenizer)
        return list(Conversations(turns, run.batch.context, run.batch.rows).in_order())

    def perplexity(self, model: Transformer, chat: str, run: Run) -> Interval:
        """Of the answers to measure with."""
        from fledge.evaluation.language import answer_score

        return answer_score(model, self.labelled(self.test, chat, run)).perplexity

    @cached_property
    def asked(self) -> list[Conversation]:
        """The conversations to measure with whose questions leave room for an answer, at most `MEASURED`."""
        return list(islice(answerable(self.test, self.form, self.parent), MEASURED))

    def said(self, model: Transformer, chat: str, seconds: float | None = None, most: int | None = None) -> list[Completion]:
        """What the model answers to the questions to measure with, as `chat` would: to the first `most`, or as many as `seconds` allow."""
        limit = answer_length(self.asked, self.parent)
        asked = [conversation.asked for conversation in self.asked[:most]]
        found: list[Completion] = []
        until, size = clock.monotonic() + (seconds or 0), len(asked) if seconds is None else TOGETHER
        while size and len(found) < len(asked):
            part, began = asked[len(found) : len(found) + size], clock.monotonic()
            found += said_to(part, model, self.parent.tokenizer, chat, limit)
            now = clock.monotonic()
            size = int(len(part) * (until - now) / (2 * (now - began)))  # half of what fits, for the machine may become slower
        return found

    def measured(self, perplexity: Interval, said: Sequence[Completion]) -> Answers:
        """How well these answers do beside those of the conversations that they belong to."""
        import numpy as np

        from fledge.evaluation.generated import installed, rouge
        from fledge.evaluation.statistics import ratio

        ended = ratio(np.array([answer.reason == "stop" for answer in said]), np.ones(len(said)))
        own = [conversation.answer for conversation in self.asked[: len(said)]]
        return Answers(perplexity, len(said), ended, tuple(rouge([answer.text for answer in said], own)) if installed() else ())


def answerable(conversations: Sequence[Conversation], form: ChatFormat | Template, parent: Parent) -> Iterator[Conversation]:
    """Those whose questions leave room for an answer in the model's context.

    Raises `ValueError` naming the row that the format cannot write.
    """
    from fledge.data.instructions import of_row

    for conversation in conversations:
        with of_row(conversation.row):
            read = form.encode(parent.tokenizer, list(conversation.asked), answer=True).tokens
        if len(read) < parent.arch.context:
            yield conversation


def answer_length(conversations: Sequence[Conversation], parent: Parent) -> int:
    """Tokens that an answer of the model's own to one of these may have: as many as the longest that is there, and the end."""
    there = map(len, parent.tokenizer.encode_batch([conversation.answer for conversation in conversations]))
    return min(LONGEST, 1 + max(there, default=0), max(1, parent.arch.context // 2))


def said_to(asked: Sequence[Sequence[Message]], model: Transformer, tokenizer: Tokenizer, chat: str, longest: int) -> list[Completion]:
    """What the model answers to each of these messages as `chat` would, in at most so many tokens."""
    from fledge.verbs.model import Model

    speaker = Model(model, tokenizer, {"chat": chat, "generation": ANSWERING})
    return speaker.answers([[asdict(message) for message in messages] for messages in asked], max_tokens=longest, seed=0)
