"""`finetune classify`: a copy of a model becomes a classifier, measured beside simple ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fledge.arch.record import to_json
from fledge.train.tracking import wanted
from fledge.verbs import terminal
from fledge.verbs.finetune.adapting import Rank, adapting, refuse_adapter_of_nothing, trainee, writer_for
from fledge.verbs.machine import look
from fledge.verbs.model import Dtype
from fledge.verbs.pages import classified_page
from fledge.verbs.session import (
    AFTER,
    Column,
    Duration,
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
    fingerprint,
    framing_for,
    open_parent,
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

    from fledge.data.labelled import Labelled
    from fledge.evaluation.metrics import ClassifierScore
    from fledge.evaluation.statistics import Interval
    from fledge.model import Transformer
    from fledge.train.run import Machine, Run

Trained = Literal["all", "last-block", "head"]
Balance = Literal["labels", "rows"]


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
    lora: Rank | None = None,
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
        lora: train an adapter of this rank beside the frozen model (--set adapter.targets, .alpha, .ranks, .dora, .frozen).
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
    refuse_adapter_of_nothing(lora, from_)
    if lora is not None and train != "all":
        raise ValueError(f"--train {train} and --lora both choose what learns: give one of them")
    begun = begun_run(out, asked)
    terminal.say(f"This machine: {look()}")
    from fledge.data import labelled
    from fledge.train.plan import this_machine

    whole = labelled.read_labelled(str(data), text_column, label_column)
    for line in whole.said():
        terminal.say(f"  {line}")
    machine = begun.machine if begun is not None else this_machine(device, dtype, threads, deterministic, seed)
    parent = open_parent(from_) if from_ is not None else fresh_parent(str(arch), settings, seed)
    job = ClassifierJob(tuple(labelled.split(whole, seed=seed)), parent, train, balance, epochs, seconds, lora)
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
    lora: int | None = None

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
        refuse_other_data(out, run, fingerprint([training.texts, training.labels, training.names]))
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
        model = trainee(model, run, self.parent)
        rivals = self.rivals(test)
        if begun is None and self.seconds is not None:
            run = within(self.seconds, AFTER * self.seconds, started, run, model, objective, batches.batch_at)
        facts = {
            "text_column": training.text_column,
            "label_column": training.label_column,
            "rows": len(training.texts),
            "labels": ", ".join(names),
        }
        writer = writer_for(out, tokenizer, run, self.parent, data=facts, more={"reads": run.batch.context})
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
        data = Data((), fingerprint([training.texts, training.labels, training.names]), "classify")
        run = Run(
            arch, data, Batch(16, 1, context), finetuning_optimizer(self.parent.optimizer),
            Stable(min(50, per_epoch), 0.5), Plan(self.epochs * per_epoch), Save(evaluate=max(1, per_epoch // 2), patience=4), machine,
        )  # fmt: skip
        return applied(adapting(run, self.lora, self.parent), settings)

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
