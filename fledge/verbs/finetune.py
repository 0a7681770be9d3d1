"""`finetune classify`, `instruct` and `pairs`: a copy of a model becomes a classifier, an assistant, a translator."""

from __future__ import annotations

import json
import time as clock
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fledge.arch.record import to_json
from fledge.train.tracking import wanted
from fledge.verbs import terminal
from fledge.verbs.machine import look
from fledge.verbs.model import Dtype
from fledge.verbs.pages import classified_page, instructed_page
from fledge.verbs.pairing import pairs
from fledge.verbs.session import (
    AFTER,
    Column,
    Duration,
    ModelWriter,
    Name,
    Parent,
    Place,
    PresetName,
    Settings,
    Trackers,
    applied,
    arch_of,
    asked_of,
    begun_run,
    command_began,
    framing_for,
    open_parent,
    open_writer,
    preset_of,
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

    from fledge.data.instructions import Conversation
    from fledge.data.labelled import Labelled
    from fledge.evaluation.metrics import ClassifierScore
    from fledge.evaluation.statistics import Interval
    from fledge.model import Transformer
    from fledge.train.run import Machine, Run

__all__ = ["classify", "instruct", "pairs"]

Trained = Literal["all", "last-block", "head"]
Balance = Literal["labels", "rows"]
Format = Literal["chatml", "llama3", "alpaca", "plain"]
ANSWERING = {"do_sample": True, "temperature": 0.3, "top_p": 0.9, "repetition_penalty": 1.15}
EXAMPLES = 5


@dataclass(frozen=True)
class Method:
    """One way to classify, measured on the test rows."""

    name: str
    score: ClassifierScore


@dataclass(frozen=True)
class Classified:
    """A classifier's folder, how good it is beside the baselines, and which of them to use."""

    out: str
    steps: int
    tokens: int
    seconds: float
    validation: dict[str, float]
    labels: tuple[str, ...]
    methods: tuple[Method, ...]
    difference: Interval
    verdict: str

    @property
    def score(self) -> ClassifierScore:
        return self.methods[-1].score

    def __str__(self) -> str:
        lines = [f"{m.name}: accuracy {m.score.accuracy}, macro-F1 {m.score.macro_f1}" for m in self.methods]
        return "\n".join(
            [f"{self.out}: {len(self.labels)} labels, {self.score.rows:,} test rows (value, 95 % interval)", *lines, self.verdict]
        )


@together
def classify(
    data: Place,
    /,
    *,
    out: Place,
    from_: Name | None = None,
    arch: PresetName | None = None,
    text_column: Column | None = None,
    label_column: Column | None = None,
    train: Trained = "all",
    balance: Balance = "labels",
    epochs: int = 4,
    time: Duration | None = None,
    set: Settings | None = None,
    seed: int = 0,
    device: str = "auto",
    dtype: Dtype = "auto",
    threads: int = 0,
    deterministic: bool = False,
    track: Trackers | None = None,
) -> Classified:
    """Fine-tune a model to a classifier and measure it beside two baselines on the same held-out rows.

    Args:
        data: a table of texts with labels: .csv .tsv .jsonl .json .parquet, plain or .gz/.zst.
        out: the classifier's folder.
        from_: the pretrained model to start from.
        arch: instead of one: a preset with random weights, over bytes.
        text_column: the column of the texts; guessed and said when not given.
        label_column: the column of the labels; guessed and said when not given.
        train: which weights learn: all, last-block (with the final norm and the head) or head.
        balance: what weighs the same while learning: all labels, rare ones too, or all rows.
        epochs: how often each row is seen at most; training ends earlier when validation gets no better.
        time: instead of epochs: how long it may take, such as 5m.
        set: any field of the run, such as optimizer.rate=1e-4 or batch.context=128; may be given several times.
        seed: of the split, the new head and the order of rows.
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
    if (from_ is None) == (arch is None):
        raise ValueError("say what to start from: either --from MODEL for a pretrained model, or --arch PRESET for random weights")
    refuse_unknown(train, Trained, "--train")
    refuse_unknown(balance, Balance, "--balance")
    begun = begun_run(out, asked)
    terminal.say(f"This machine: {look()}")
    from fledge.data import labelled
    from fledge.train.plan import this_machine

    whole = labelled.read_labelled(str(data), text_column, label_column)
    for line in whole.said():
        terminal.say(f"  {line}")
    machine = begun.machine if begun is not None else this_machine(device, dtype, threads, deterministic, seed)
    parent = open_parent(from_) if from_ is not None else fresh_parent(str(arch), settings, seed)
    job = ClassifierJob(tuple(labelled.split(whole, seed=seed)), parent, train, balance, epochs, seconds)
    return job.run(out, machine, settings, asked, started, trackers)


@dataclass(frozen=True)
class ClassifierJob:
    """Labelled rows in three parts (train, validation, test) and the model that learns to tell them apart."""

    parts: tuple[Labelled, ...]
    parent: Parent
    train: Trained = "all"
    balance: Balance = "labels"
    epochs: int = 4
    seconds: float | None = None

    def run(
        self, out: Path, machine: Machine, settings: dict[str, str], asked: dict[str, Any], started: float, track: Sequence[str] = ()
    ) -> Classified:
        """Train, keep the best by validation macro-F1, and measure it on the test rows beside the baselines."""
        import numpy as np

        from fledge.data.batches import LabelledTexts, class_weights
        from fledge.evaluation.metrics import accuracy, confusion, macro_f1
        from fledge.model import with_new_head
        from fledge.train.loop import on_machine
        from fledge.train.objective import Classify
        from fledge.train.parallel import ranks
        from fledge.train.training import train, validate

        training, validation, test = self.parts
        names, tokenizer = training.names, self.parent.tokenizer
        begun = begun_run(out, asked)
        run = begun or self.planned(machine, settings)
        refuse_other_data(out, run, fingerprint(training))
        batches = LabelledTexts(
            training.texts, training.labels, tokenizer, run.batch.context, run.batch.rows, machine.seed, run.batch.accumulate
        )
        if batches.truncated:
            many = f"{batches.truncated:,} of {len(training.texts):,} texts"
            terminal.say(f"  {many} are longer than {run.batch.context} tokens and lose their end (--set batch.context=...)")
        objective = Classify(class_weights(training.labels, len(names)).tolist() if self.balance == "labels" else [1.0] * len(names))
        checked = list(LabelledTexts(validation.texts, validation.labels, tokenizer, run.batch.context, 2 * run.batch.rows).in_order())
        truth = np.array(validation.labels)

        def evaluate(model: Transformer) -> dict[str, float]:
            matrix = confusion(truth, self.predicted(model, validation, run.batch.context), len(names))
            return {
                **validate(model, objective, checked, machine),
                "accuracy": float(accuracy(matrix)),
                "macro_f1": float(macro_f1(matrix)),
            }

        trunk = self.parent.with_arch(replace(run.arch, head=self.parent.arch.head)).network
        model = with_new_head(trunk, run.arch.head, machine.seed)
        freeze(model, self.train)
        rivals = self.rivals(test)
        if begun is None and self.seconds is not None:
            run = within(self.seconds, AFTER * self.seconds, started, run, model, objective, batches.batch_at)
        facts = {
            "text_column": training.text_column,
            "label_column": training.label_column,
            "rows": len(training.texts),
            "labels": ", ".join(names),
        }
        writer = ModelWriter(out, tokenizer, run, data=facts, parent=self.parent, more={"reads": run.batch.context})
        with watched("Classifier", out, run.plan.steps) as (bar, hooks):
            result = train(
                run, model, batches, objective, out, evaluate=evaluate, best_of=badness, export=writer.export,
                after_step=hooks, asked=asked, started=started, track=track, say=bar.say,
            )  # fmt: skip
        ranks.only_first()
        best = writer.best(machine.device)
        with on_machine(machine):
            methods, difference, sentence = self.measured(best, test, run.batch.context, rivals)
        score = methods[-1].score
        writer.save(
            best,
            {
                "validation": result.validation,
                "test": {"accuracy": to_json(score.accuracy), "macro_f1": to_json(score.macro_f1)},
                "verdict": sentence,
            },
        )
        done = Classified(
            str(out), result.steps, result.tokens, result.seconds, result.validation, names, methods, difference, sentence
        )  # fmt: skip
        classified_page(done, out).write(out / "run" / "report.html")
        return done

    def planned(self, machine: Machine, settings: dict[str, str]) -> Run:
        """The run: batches of 16 texts, as long as the model and 99 % of the texts need."""
        from fledge.train.plan import finetuning_optimizer
        from fledge.train.run import Batch, Data, Plan, Run, Save, Stable
        from fledge.weights.families import classifier

        training = self.parts[0]
        words = self.parent.tokenizer
        lengths = sorted(len(words.framed(tokens)) for tokens in words.encode_batch(list(training.texts)))
        context = min(self.parent.arch.context, max(8, lengths[int(0.99 * (len(lengths) - 1))]))
        arch = replace(self.parent.arch, head=classifier(self.parent.arch, training.names, self.parent.facts.get("names")))
        per_epoch = max(1, round(len(training.texts) / 16))
        run = Run(
            arch, Data((), fingerprint(training), "classify"), Batch(16, 1, context), finetuning_optimizer(self.parent.optimizer),
            Stable(min(50, per_epoch), 0.5), Plan(self.epochs * per_epoch), Save(evaluate=max(1, per_epoch // 2), patience=4), machine,
        )  # fmt: skip
        return applied(run, settings)

    def predicted(self, model, rows: Labelled, context: int) -> np.ndarray:
        from fledge.evaluation.classifier import probabilities

        return probabilities(model, self.parent.tokenizer, rows.texts, context).argmax(1)

    def rivals(self, test: Labelled) -> dict[str, np.ndarray]:
        """What the baselines say to the test rows."""
        from fledge.evaluation.baselines import WordBaseline, majority

        training, validation, _ = self.parts
        words = WordBaseline.train(training.texts, training.labels, validation.texts, validation.labels)
        return {"majority vote": majority(training.labels, len(test.texts)), "TF-IDF + logistic regression": words.predict(test.texts)}

    def measured(
        self, model: Transformer, test: Labelled, context: int, rivals: dict[str, np.ndarray]
    ) -> tuple[tuple[Method, ...], Interval, str]:
        """The baselines and the model on the test rows, the paired difference to the better baseline, and a sentence."""
        import numpy as np

        from fledge.evaluation.baselines import verdict
        from fledge.evaluation.metrics import classifier_score, macro_f1
        from fledge.evaluation.statistics import paired_difference

        truth, names = np.array(test.labels), test.names
        said = {**rivals, "this model": self.predicted(model, test, context)}
        methods = tuple(Method(name, classifier_score(truth, guesses, names)) for name, guesses in said.items())
        simple = max(methods[:-1], key=lambda method: method.score.macro_f1.value).name
        difference = paired_difference(truth, said["this model"], said[simple], len(names), macro_f1)
        return methods, difference, verdict(difference, "this model", simple)


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
    started = command_began()
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
    job = InstructJob(training, held_out, parent, format or default_format(parent), everything, epochs, seconds)
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

    def run(
        self, out: Path, machine: Machine, settings: dict[str, str], asked: dict[str, Any], started: float, track: Sequence[str] = ()
    ) -> Instructed:
        """Check the conversations, train on the answers, keep the best by held-out loss, and measure before and after."""
        from fledge.data.batches import Conversations
        from fledge.data.instructions import lint, tokenized
        from fledge.evaluation.language import answer_score
        from fledge.text import FORMATS
        from fledge.train.loop import on_machine
        from fledge.train.objective import PredictTokens
        from fledge.train.parallel import ranks
        from fledge.train.training import train, validate

        form, tokenizer = FORMATS[self.format], self.parent.tokenizer
        turns = tokenized(self.training, form, tokenizer, self.everything)
        begun = begun_run(out, asked)
        run = begun or self.planned(turns, machine, settings)
        refuse_other_data(out, run, fingerprint(self.training))
        model = self.parent.with_arch(run.arch).network
        for line in lint(self.training, turns, run.batch.context, form.stop_tokens(tokenizer)).said():
            terminal.say(f"  {line}")
        batches = Conversations(turns, run.batch.context, run.batch.rows, machine.seed, run.batch.accumulate)
        checked = self.answers(form, run)
        measuring = clock.monotonic()
        with on_machine(machine):
            before = min(answer_score(model, part).perplexity.value for part in (checked, self.answers(FORMATS["plain"], run)))
        said_before = self.examples(model, None)
        objective = PredictTokens()
        if begun is None and self.seconds is not None:
            reserve = AFTER * self.seconds + clock.monotonic() - measuring
            run = within(self.seconds, reserve, started, run, model, objective, batches.batch_at)
        data = {"conversations": len(batches.kept), "held out": len(self.held_out), "format": self.format}
        writer = ModelWriter(out, tokenizer, run, data=data, parent=self.parent, chat=self.format, generation=ANSWERING, more=self.more)
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
            arch, Data((), fingerprint(self.training), "instruct"), Batch(rows, 1, context),
            finetuning_optimizer(self.parent.optimizer),
            Stable(min(20, per_epoch), 0.5), Plan(self.epochs * per_epoch), Save(patience=3), machine,
        )  # fmt: skip
        return applied(run, settings)

    def answers(self, form, run: Run) -> list:
        """The held-out conversations as batches whose labels are the answers."""
        from fledge.data.batches import Conversations
        from fledge.data.instructions import tokenized

        return list(Conversations(tokenized(self.held_out, form, self.parent.tokenizer), run.batch.context, run.batch.rows).in_order())

    def examples(self, model: Transformer, chat: str | None) -> list[str]:
        """What the model says to the first held-out questions as `chat` would: in the chat format, or after the bare question."""
        from fledge.verbs.model import Model

        speaker = Model(model, self.parent.tokenizer, {"chat": chat, "generation": ANSWERING})
        questions = [conversation.prompt for conversation in self.held_out[:EXAMPLES]]
        ask: Callable[[str], str] = (
            (lambda q: speaker.chat([{"role": "user", "content": q}], max_tokens=60, seed=0))
            if chat is not None
            else (lambda q: speaker.generate(f"{q}\n\n", max_tokens=60, seed=0))
        )
        return [ask(question) for question in questions]


def badness(scores: Mapping[str, float]) -> float:
    """What validation makes small: macro-F1 decides, and where it is equal, as on a few rows it often is, the loss."""
    return 1e-3 * scores["loss"] - scores["macro_f1"]


def freeze(model: Transformer, train: Trained) -> None:
    """Leave only the chosen part of the model to learn."""
    if train == "all":
        return
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    learning = [model.head] if train == "head" else [model.head, model.trunk.blocks[-1], model.trunk.norm_final]
    for part in learning:
        for parameter in part.parameters():
            parameter.requires_grad_(True)


def fresh_parent(arch: str, settings: dict[str, str], seed: int) -> Parent:
    """Random weights over bytes, for those who want to see what pretraining is worth."""
    from fledge.model import Transformer, initialise
    from fledge.text import Tokenizer

    tokenizer = Tokenizer.bytes()
    made = arch_of(preset_of(arch), settings, tokenizer.size)
    tokenizer = framing_for(tuple(made.stacks), tokenizer)
    made = made if made.start is None else replace(made, start=tokenizer.end_of_text)
    return Parent(arch, initialise(Transformer(made), seed), tokenizer, {})


def fingerprint(data: Labelled | Sequence[Conversation]) -> str:
    """SHA-256 of all that is learned from, in its order, as JSON."""
    import hashlib

    rows = to_json([c.messages for c in data]) if isinstance(data, Sequence) else [data.texts, data.labels, data.names]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
