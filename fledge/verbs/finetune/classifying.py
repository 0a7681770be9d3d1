"""`finetune classify`: a copy of a model becomes a classifier, measured beside simple ones."""

from __future__ import annotations

import itertools
import json
import os
import re
import statistics
import time as clock
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from fledge.arch import Choice
from fledge.arch.record import did_you_mean, to_json
from fledge.train.tracking import wanted
from fledge.verbs import terminal
from fledge.verbs.finetune.adapting import Rank, adapting, refuse_adapter_of_nothing, trainee, writer_for
from fledge.verbs.finetune.repeating import Repeat, mean_of, place_of, repeated, reserve_of
from fledge.verbs.finetune.searching import Trial, searched
from fledge.verbs.machine import look
from fledge.verbs.model import Dtype
from fledge.verbs.pages import classified_page
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

    from fledge.data.framing import Long
    from fledge.data.labelled import Labelled, Text
    from fledge.evaluation.calibration import Calibration, Threshold
    from fledge.evaluation.metrics import ClassifierScore
    from fledge.evaluation.statistics import Interval
    from fledge.explanation import Deciding
    from fledge.model import Transformer
    from fledge.train.run import Machine, Run
    from fledge.train.training import Result

Trained = Annotated[str, Parameter(metavar="all|head|last-N")]
Balance = Literal["labels", "rows"]
Costs = Annotated[Sequence[str], Parameter(metavar="LABEL=COST")]
RATIOS = (1.0, 2.0, 5.0, 10.0, 0.5, 0.2)
"""How much more a miss may cost than a false alarm, in the table of a report."""
OURS = "this model"
WORDS, PROBE = "TF-IDF + logistic regression", "linear probe"
RESULTS = "test.jsonl"
"""In the folder of the run: each test row with what every method said to it."""
DECAY = 0.9  # of the steps, in which the rate falls to 0: from nearly the first on, for training may end before the last
AVERAGED, NOT_BEFORE = 0.6, 1.6  # the share of the steps, at the end, whose weights' mean is kept; epochs that come before it
EPOCHS = 4  # after which a pretrained model knows its rows by heart
TOKENS = 1024  # of a step, at most, where texts are short
WORST = 20  # mistakes that are shown
EXPLAINING = 60.0  # seconds for their words, at most


@dataclass(frozen=True)
class Method:
    """One way to classify, measured on the test rows."""

    name: str
    score: ClassifierScore


@dataclass(frozen=True)
class Mistake:
    """A test row that was called something else: the labels that it has and those that were `said`, and what decided.

    `probability` is that of the label whose words are told: of one that is wrong, or of several also one that is missing. They are
    told of as many mistakes as there is time for.
    """

    place: str
    truth: tuple[str, ...]
    said: tuple[str, ...]
    probability: float
    text: str
    deciding: Deciding | None


@dataclass(frozen=True)
class Classified:
    """A classifier's folder, how good it is beside the baselines, and which of them to use.

    `difference` is this model's macro-F1 less that of the best baseline, `chance` how probable such a difference in right rows is if
    neither is better (McNemar's exact test), `thresholds` what each label is said from.
    """

    out: str
    steps: int
    tokens: int
    seconds: float
    validation: dict[str, float]
    labels: tuple[str, ...]
    choice: Choice
    balance: Balance
    methods: tuple[Method, ...]
    difference: Interval
    chance: float
    verdict: str
    calibration: Calibration
    thresholds: tuple[float, ...]
    costs: tuple[Threshold, ...]
    mistakes: tuple[Mistake, ...]
    search: tuple[Trial, ...] = ()
    repeats: tuple[Repeat, ...] = ()

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
    second_column: Column | None = None,
    label_column: Column | None = None,
    labels: Choice | None = None,
    order: Annotated[str | None, Parameter(metavar="LABEL,...")] = None,
    test: Place | None = None,
    train: Trained = "all",
    balance: Balance = "labels",
    long: Literal["windows", "cut"] = "windows",
    cost: Costs | None = None,
    epochs: int | None = None,
    time: Duration | None = None,
    runs: int | None = None,
    search: bool = False,
    set: Settings | None = None,
    seed: int = 0,
    device: str = "auto",
    dtype: Dtype = "auto",
    threads: int = 0,
    deterministic: bool = False,
    track: Trackers | None = None,
) -> Classified:
    """Fine-tune a model to a classifier and measure it beside three baselines on the same held-out rows.

    Args:
        data: texts with labels: a table (.csv .tsv .jsonl .json .parquet, plain or .gz/.zst), or a folder that holds a folder of files
            for each label.
        out: the classifier's folder.
        from_: the pretrained model to start from.
        arch: instead of one: a preset with random weights, over bytes.
        lora: train an adapter of this rank beside the frozen model (--set adapter.targets, .alpha, .ranks, .dora, .frozen).
        text_column: the column of the texts; guessed and said when not given.
        second_column: the column of the second text, where pairs of texts are judged.
        label_column: the column of the labels; guessed and said when not given.
        labels: a text has a single label, several (a list, or a|b), or one of an order (ordinal); guessed and said when not given.
        order: the labels from the least to the most, where they are no numbers, such as bad,fair,good.
        test: rows to test on, with the same columns; without it some of the data are held out.
        train: which weights learn: all, head, or last-N, the last N blocks with the final norm and the head.
        balance: what weighs the same while learning: all labels, rare ones too, or all rows.
        long: a text that is too long is read in windows, or cut.
        cost: what missing a label costs, beside 1 for the others, such as spam=5; may be given several times.
        epochs: how often each row is seen at most: 4, but from random weights as often as --time allows; training ends earlier when
            validation gets no better.
        time: how long it may take at most, such as 5m.
        runs: how many runs from the same start, each in another order of the rows, are averaged into one model; by default as many of a
            pretrained model as --time has room for, at most 4.
        search: within that time, try several learning rates and numbers of epochs first.
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
    if not re.fullmatch(r"all|head|last-[1-9]\d*", train):
        raise ValueError(f"--train {train!r} is unknown: give all, head, or last-N such as last-2")
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if search and (seconds is None or several):
        raise ValueError("--search divides the time of one process: give it --time, such as 10m, and no torchrun")
    if runs is not None and (search or from_ is None):
        other = "--search spends its time on one of them" if search else "what random weights become lies too far apart"
        raise ValueError(f"--runs {runs} averages what several runs make of a pretrained model, but {other}: leave out --runs")
    if runs is not None and seconds is not None and several:
        raise ValueError("--runs divides the --time of one process: leave out one of them, or torchrun")
    refuse_unknown(balance, Balance, "--balance")
    refuse_unknown(long, Literal["windows", "cut"], "--long")
    refuse_adapter_of_nothing(lora, from_)
    if lora is not None and train != "all":
        raise ValueError(f"--train {train} and --lora both choose what learns: give one of them")
    begun = begun_run(out, asked)
    terminal.say(f"This machine: {look()}")
    from fledge.data import labelled
    from fledge.train.plan import this_machine

    whole = labelled.read_labelled(str(data), text_column, label_column, second_column, labels, order.split(",") if order else ())
    for line in whole.said():
        terminal.say(f"  {line}")
    costs = costs_of(cost, whole)
    given = whole.columns
    known = (text_column, label_column, None) if given == labelled.FOLDERS else (given.text, given.label, given.second)
    tested = labelled.read_rows(str(test), whole.names, whole.choice, *known) if test is not None else None
    parts = held_out(whole, tested, seed)
    machine = begun.machine if begun is not None else this_machine(device, dtype, threads, deterministic, seed)
    parent = open_parent(from_) if from_ is not None else fresh_parent(str(arch), settings, seed)
    if epochs is None and (from_ is not None or seconds is None):
        epochs = EPOCHS
    alone = search or from_ is None or (runs is None and several)
    job = ClassifierJob(parts, parent, train, balance, epochs, seconds, long, costs, search, lora, 1 if alone else runs)
    return job.run(out, machine, settings, asked, started, trackers)


def costs_of(given: Sequence[str] | None, data: Labelled) -> dict[str, float]:
    """What missing each label costs, of those given."""
    found: dict[str, float] = {}
    for pair in [given] if isinstance(given, str) else given or ():
        label, _, number = pair.rpartition("=")
        if label not in data.names:
            raise ValueError(f"--cost {pair}: {label!r} is no label{did_you_mean(label, data.names)}")
        try:
            found[label] = float(number)
        except ValueError:
            found[label] = 0.0
        if not 0 < found[label] < 1e6:
            raise ValueError(f"--cost {pair}: a cost is a number above 0, for example {label}=5")
    if found and data.choice == "ordinal":
        raise ValueError("--cost is of labels without an order: an ordinal label is the median of what is probable, whatever it costs")
    return found


def held_out(data: Labelled, test: Labelled | None, seed: int) -> tuple[Labelled, ...]:
    """Training, validation and test rows, near duplicates on one side; where test rows are given, of the others only."""
    import numpy as np

    from fledge.data.labelled import alike, split

    found = alike(data.texts)
    for line in found.said():
        terminal.say(f"  {line}")
    if test is None:
        return tuple(split(data, seed=seed, roots=found.roots))
    together = alike((*data.texts, *test.texts))
    known = np.isin(together.roots[len(data.texts) :], together.roots[: len(data.texts)]).sum()
    terminal.say(f"  {len(test.texts):,} rows to test on, of which {known:,} are like a row to learn from")
    return (*split(data, (0.9, 0.1), seed, found.roots), test)


def rows_for(lengths: Sequence[int]) -> int:
    """How many texts of these lengths in tokens a step reads: 16, or up to 64 of short ones, while an epoch has 50 steps.

    Sixteen phrases are so few tokens that most of a step's time is Muon's (docs/decisions/0026).

    >>> [rows_for([11] * 53_000), rows_for([27] * 3_500), rows_for([60] * 8_000), rows_for([11] * 900)]
    [64, 32, 16, 16]
    """
    rows, mean = 16, max(1.0, sum(lengths) / max(1, len(lengths)))
    while rows < 64 and 2 * rows * mean <= TOKENS and len(lengths) >= 100 * rows:
        rows *= 2
    return rows


@dataclass(frozen=True)
class ClassifierJob:
    """Labelled rows in three parts (train, validation, test) and the model that learns to tell them apart."""

    parts: tuple[Labelled, ...]
    parent: Parent
    train: str = "all"
    balance: Balance = "labels"
    epochs: int | None = EPOCHS
    seconds: float | None = None
    long: Long = "windows"
    costs: Mapping[str, float] = field(default_factory=dict)
    search: bool = False
    lora: int | None = None
    runs: int | None = 1  # that are averaged; as many as there is time for where it is None

    def __post_init__(self):
        """A tokenizer that puts nothing between two texts learns to, where there are pairs."""
        tokenizer = self.parent.tokenizer
        if self.parts[0].paired and not tokenizer.pairing.between:
            segments = self.parent.arch.embedding.types
            framing = tokenizer.framing(bool(tokenizer.opening), bool(tokenizer.closing), segments)
            object.__setattr__(self, "parent", replace(self.parent, tokenizer=framing))

    def run(
        self, out: Path, machine: Machine, settings: dict[str, str], asked: dict[str, Any], started: float, track: Sequence[str] = ()
    ) -> Classified:
        """Train, keep the best by validation macro-F1, and measure it on the test rows beside the baselines."""
        from fledge.train.loop import on_machine
        from fledge.train.parallel import ranks

        test = self.parts[2]
        begun = begun_run(out, asked)
        run = begun or self.planned(machine, settings)
        refuse_other_data(out, run, self.fingerprint)
        lesson = Lesson(self, run)
        for line in lesson.said():
            terminal.say(f"  {line}")
        rivals = self.rivals(lesson.trunk(), run)
        model = lesson.model()
        if begun is None and self.seconds is not None:
            reserve = reserve_of(self.seconds, 1, self.runs)
            run = within(self.seconds, reserve, started, run, model, lesson.objective, lesson.batches.batch_at)
        trials = []
        if self.search:
            plain = run if begun is None else self.planned(machine, settings)
            chosen, trials = searched(plain, out, lesson.batches.steps_per_epoch, lesson.alone, badness)
            run = begun or chosen
        writer, ready = self.writer(out, run), clock.monotonic() - started
        first = lesson.learn(run, model, out, writer, asked=asked, started=started, track=track)
        del model  # the others need its memory
        many = self.runs
        if many is None and "temperature" in (standing := writer.standing()):  # it is done, by as many as there was time for
            many = standing.get("runs", 1)
        results = repeated(run, out, first, ready, lesson.alone, many)
        ranks.only_first()
        standing = writer.standing()
        repeats = [Repeat(str(place_of(out, number)), one.steps, one.validation) for number, one in enumerate(results, 1)]
        kept, validation = writer, first.validation
        if trials and badness(trials[0].validation) < badness(validation):
            kept, validation = self.writer(Path(trials[0].folder), run), trials[0].validation
            terminal.say(f"  the best of the search stays: rate × {trials[0].factor:.3g}, {trials[0].epochs:.1f} epochs")
        best, cooled = kept.best(machine.device), kept.standing().get("temperature", 1.0)
        if len(repeats) > 1:
            if standing.get("runs") == len(repeats):
                validation = standing["scores"]["validation"]
            else:
                best, validation = self.averaged(best, repeats, lesson)
            writer.facts["runs"] = len(repeats)
        with on_machine(machine):
            known, scores = (cooled * self.scores(best, part, run.batch.context) for part in self.parts[1:])
        found = self.measured(known, scores, rivals)
        cool(best, found.calibration.temperature / cooled)
        with on_machine(machine):
            mistakes = self.mistakes(best, scores / found.calibration.temperature, found.thresholds, run.batch.context)
        writer.facts |= {"temperature": found.calibration.temperature, "thresholds": list(found.thresholds)}
        score = found.methods[-1].score
        writer.save(
            best,
            {
                "validation": validation,
                "test": {"accuracy": to_json(score.accuracy), "macro_f1": to_json(score.macro_f1)},
                "verdict": found.verdict,
            },
        )
        done = Classified(
            str(out), sum(one.steps for one in results), sum(one.tokens for one in results), results[-1].seconds, validation, test.names,
            test.choice, self.balance, found.methods, found.difference, found.chance, found.verdict, found.calibration, found.thresholds,
            found.costs, mistakes, tuple(trials), tuple(repeats) if len(repeats) > 1 else (),
        )  # fmt: skip
        self.told(out / "run" / RESULTS, found.said)
        classified_page(done, out).write(out / "run" / "report.html")
        return done

    def averaged(self, first: Transformer, repeats: Sequence[Repeat], lesson: Lesson) -> tuple[Transformer, dict[str, float]]:
        """The mean of the runs' weights, or the best of them where both its loss and its macro-F1 are worse than theirs on average."""
        from fledge.train.loop import on_machine

        machine = lesson.run.machine

        def opened(repeat: Repeat) -> Transformer:
            return self.writer(Path(repeat.folder), lesson.run).best(machine.device)

        mean = mean_of(itertools.chain([first], map(opened, repeats[1:])))
        with on_machine(machine):
            validation = lesson.validated(mean)
        score = ", ".join(f"{name} {value:.3f}" for name, value in validation.items())
        terminal.say(f"  the mean of the weights of {len(repeats)} runs: {score}")
        loss, f1 = (statistics.fmean(repeat.validation[name] for repeat in repeats) for name in ("loss", "macro_f1"))
        if validation["macro_f1"] >= f1 or validation["loss"] <= loss:
            return mean, validation
        best = min(repeats, key=lambda repeat: badness(repeat.validation))
        terminal.say(f"  which is worse than theirs on average: {best.folder} stays")
        return opened(best), best.validation

    def told(self, path: Path, said: Mapping[str, Said]) -> None:
        """Write down each test row's place and labels, and what every method said to it."""
        test = self.parts[2]
        labels = {name: listed(one.labels, test.names) for name, one in said.items()}
        with path.open("w", encoding="utf-8") as file:
            for number, (place, truth) in enumerate(zip(test.places, listed(test.truth, test.names), strict=True)):
                row = {"place": place, "truth": truth, "said": {name: found[number] for name, found in labels.items()}}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")

    @property
    def fingerprint(self) -> str:
        """Of the rows that are learned from."""
        training = self.parts[0]
        return fingerprint([training.texts, training.labels, training.names, training.choice])

    def facts(self) -> dict[str, Any]:
        """What the model's card and folder tell of its data."""
        training = self.parts[0]
        columns = {"text_column": training.columns.text, "label_column": training.columns.label}
        if training.columns.second is not None:
            columns["second_column"] = training.columns.second
        return {**columns, "rows": len(training.texts), "labels": ", ".join(training.names)}

    def writer(self, out: Path, run: Run) -> ModelWriter:
        """Of a folder that holds a model of this job."""
        return writer_for(out, self.parent.tokenizer, run, self.parent, data=self.facts(), more=self.reading(run.batch.context))

    def reading(self, context: int) -> dict[str, Any]:
        """How texts are read: their longest row, and what becomes of longer ones."""
        return {"reads": context, "long": self.long}

    def planned(self, machine: Machine, settings: dict[str, str]) -> Run:
        """The run: batches of `rows_for` texts, as long as the model and 99 % of the texts need."""
        from fledge.train.plan import finetuning_optimizer
        from fledge.train.run import Batch, Data, Plan, Run, Save, Stable
        from fledge.weights.families import classifier

        training, given = self.parts[0], self.parent.arch
        frames = self.frames(training, given.context)
        lengths = sorted(frames.length(number) for number in range(len(frames)))
        context = min(given.context, max(8, lengths[int(0.99 * (len(lengths) - 1))]))
        arch = replace(given, head=classifier(given, training.names, training.choice, self.parent.facts.get("names")))
        data = Data((), self.fingerprint, "classify")
        asked = {name: value for name, value in settings.items() if name.startswith("batch.")}
        batch = applied(Run(arch, data, Batch(rows_for(lengths), 1, context)), asked).batch
        per_epoch = max(1, round(len(training.texts) / (batch.rows * batch.accumulate)))
        steps = (self.epochs or EPOCHS) * per_epoch
        plan = Plan(steps, most=steps if self.epochs is not None and not self.search else None)
        run = Run(
            arch, data, batch, finetuning_optimizer(self.parent.optimizer, steps), Stable(min(50, per_epoch), DECAY), plan,
            Save(evaluate=max(1, per_epoch // 2), patience=4, average=AVERAGED), machine,
        )  # fmt: skip
        return applied(adapting(run, self.lora, self.parent), settings)

    def frames(self, rows: Labelled, context: int):
        from fledge.data.framing import Frames

        return Frames(rows.texts, self.parent.tokenizer, context, self.long)

    def scores(self, model: Transformer, rows: Labelled, context: int) -> np.ndarray:
        """What a model gives each label of each row, (rows, labels)."""
        from fledge.evaluation.classifier import scores_of

        return scores_of(model, self.parent.tokenizer, rows.texts, context, self.long)

    def guesses(self, scores: np.ndarray, thresholds: Sequence[float] | None = None) -> np.ndarray:
        """The labels that scores come to."""
        from fledge.evaluation.classifier import chosen, probabilities_of

        choice = self.parts[0].choice
        return chosen(probabilities_of(scores, choice), choice, thresholds)

    def rivals(self, trunk: Transformer, run: Run) -> dict[str, Said]:
        """What the baselines say to the test rows; the probe reads the model as it is before it learns, in the run's precision."""
        from fledge.evaluation.baselines import Probe, WordBaseline, majority
        from fledge.evaluation.classifier import chosen
        from fledge.evaluation.embedding import vectors
        from fledge.train.loop import on_machine, precision

        training, validation, test = self.parts
        classes, choice = len(training.names), training.choice
        rows = (training.texts, training.truth, validation.texts, validation.truth, classes, choice)

        def seen(texts: Sequence[Text]) -> np.ndarray:
            with on_machine(run.machine), precision(run.machine):
                return vectors(trunk, self.parent.tokenizer, texts, context=run.batch.context)

        found = {"majority vote": Said(majority(training.truth, len(test.texts), choice))}
        for name, baseline in ((WORDS, WordBaseline.train(*rows)), (PROBE, Probe.train(seen, *rows))):
            chances = baseline.probabilities(test.texts)
            found[name] = Said(chosen(chances, choice), chances)
        return found

    def measured(self, validation_scores: np.ndarray, scores: np.ndarray, rivals: dict[str, Said]) -> Measured:
        """The model's scores of the test rows beside the baselines; what is chosen is chosen by the validation rows."""
        from fledge.evaluation.baselines import verdict
        from fledge.evaluation.calibration import calibrated, cheapest, costs_at, temperature, thresholds
        from fledge.evaluation.classifier import HALF, probabilities_of
        from fledge.evaluation.metrics import classifier_score, f1_difference, right_rows
        from fledge.evaluation.statistics import mcnemar

        _, validation, test = self.parts
        names, choice, truth = test.names, test.choice, test.truth
        heat = temperature(validation_scores, validation.truth, choice)
        known, chances = (probabilities_of(part / heat, choice) for part in (validation_scores, scores))
        least = tuple(thresholds(known, validation.truth, names, choice, self.costs)) if self.costs else (HALF,) * len(names)
        said = {**rivals, OURS: Said(self.guesses(scores / heat, least), chances)}
        methods = tuple(Method(name, classifier_score(truth, one.labels, names, choice, one.chances)) for name, one in said.items())
        simple = max(methods[:-1], key=lambda method: method.score.macro_f1.value).name
        difference = f1_difference(truth, said[OURS].labels, said[simple].labels, len(names))
        chance = mcnemar(*(right_rows(truth, said[name].labels) for name in (OURS, simple)))
        priced = []
        if choice != "ordinal" and (choice == "several" or len(names) == 2):
            for i, name in enumerate(names if choice == "several" else names[1:], 0 if choice == "several" else 1):
                sides = [part.truth[:, i] if choice == "several" else part.truth == i for part in (validation, test)]
                ratios = RATIOS if choice == "single" else RATIOS[:1]
                priced += [
                    costs_at(name, chances[:, i], sides[1], ratio, cheapest(known[:, i], sides[0], ratio)) for ratio in sorted(ratios)
                ]
        sentence = verdict(difference, OURS, simple)
        return Measured(said, methods, difference, chance, sentence, calibrated(scores, truth, choice, heat), least, tuple(priced))

    def mistakes(self, model: Transformer, scores: np.ndarray, thresholds: Sequence[float], context: int) -> tuple[Mistake, ...]:
        """The test rows on which the model was most sure of what is wrong, with the words that decided."""
        import numpy as np

        from fledge.data.labelled import joined
        from fledge.evaluation.classifier import chosen, probabilities_of
        from fledge.evaluation.metrics import right_rows
        from fledge.explanation import deciding_label

        test = self.parts[2]
        chances = probabilities_of(scores, test.choice)
        guesses = chosen(chances, test.choice, thresholds)
        has, says = (part if test.choice == "several" else np.eye(len(test.names), dtype=bool)[part] for part in (test.truth, guesses))
        wrong = np.where(has != says, np.abs(chances - has), -1.0)  # how sure it was of each label that is said or missing wrongly
        if test.choice != "several":
            wrong[~says] = -1.0  # of one label each, what it said decides
        order = np.argsort(-wrong.max(1), kind="stable")
        frames = self.frames(test, context)
        found, until = list[Mistake](), clock.monotonic() + (EXPLAINING if self.seconds is None else AFTER / 3 * self.seconds)
        for number in order[~right_rows(test.truth, guesses)[order]][:WORST]:
            label = int(wrong[number].argmax())
            truth, said = (tuple(test.names[i] for i in np.flatnonzero(part[number])) for part in (has, says))
            row = frames.row(int(number))
            deciding = deciding_label(model, self.parent.tokenizer, row, label) if clock.monotonic() < until else None
            found.append(Mistake(test.places[number], truth, said, float(chances[number, label]), joined(test.texts[number]), deciding))
        return tuple(found)


class Lesson:
    """The rows of a job as one run reads them: what a model learns, and how it is validated."""

    def __init__(self, job: ClassifierJob, run: Run):
        from fledge.data.batches import class_weights
        from fledge.data.framing import LabelledTexts
        from fledge.train.objective import Classify

        training, self.validation, _ = job.parts
        self.job, self.run, self.truth, self.classes = job, run, self.validation.truth, len(training.names)
        frames, batch = job.frames(training, run.batch.context), run.batch
        self.batches = LabelledTexts(frames, training.truth, batch.rows, run.machine.seed, batch.accumulate)
        weights = class_weights(training.truth, self.classes).tolist() if job.balance == "labels" else [1.0] * self.classes
        self.objective = Classify(weights, training.choice)
        checked = LabelledTexts(job.frames(self.validation, batch.context), self.truth, 2 * batch.rows)
        self.checked = list(checked.in_order())

    def said(self) -> list[str]:
        """Sentences to print: what becomes of long texts."""
        frames, training = self.batches.frames, self.job.parts[0]
        become = "are read in windows" if self.job.long == "windows" and not training.paired else "lose their end"
        many = f"{frames.beyond:,} of {len(training.texts):,} texts"
        return [f"{many} are longer than {frames.context} tokens and {become} (--set batch.context=...)"] * bool(frames.beyond)

    def trunk(self) -> Transformer:
        """A copy of the model that is started from."""
        return self.job.parent.with_arch(replace(self.run.arch, head=self.job.parent.arch.head)).network

    def model(self) -> Transformer:
        """Such a copy under a new head, always the same; frozen what does not learn, an adapter on it."""
        from fledge.model import with_new_head

        model = with_new_head(self.trunk(), self.run.arch.head, self.run.machine.seed)
        leave_learning(model, self.job.train)
        return trainee(model, self.run, self.job.parent)

    def validated(self, model: Transformer) -> dict[str, float]:
        """The loss, accuracy and macro-F1 of the validation rows."""
        from fledge.evaluation.metrics import f1_of, right_rows
        from fledge.train.training import validate

        guesses = self.job.guesses(self.job.scores(model, self.validation, self.run.batch.context))
        return {
            **validate(model, self.objective, self.checked, self.run.machine),
            "accuracy": float(right_rows(self.truth, guesses).mean()),
            "macro_f1": f1_of(self.truth, guesses, self.classes),
        }

    def learn(self, run: Run, model: Transformer, out: Path, writer: ModelWriter, **more: Any) -> Result:
        """Train a model in `out`, keeping the best by `badness`; weights that have seen few epochs are not averaged."""
        from fledge.train.training import train

        late = max(0.0, 1 - NOT_BEFORE * self.batches.steps_per_epoch / run.plan.steps)
        run = replace(run, save=replace(run.save, average=min(run.save.average, late)))
        with watched("Classifier", out, run.plan.steps) as (bar, hooks):
            return train(
                run, model, self.batches, self.objective, out, evaluate=self.validated, best_of=badness, export=writer.export,
                after_step=hooks, say=bar.say, **more,
            )  # fmt: skip

    def alone(self, run: Run, out: Path, started: float | None = None) -> Result:
        """One run of several, of a model of its own; its command began at `started`, or it begins now."""
        return self.learn(run, self.model(), out, self.job.writer(out, run), started=started)


@dataclass(frozen=True)
class Said:
    """What a method says to each test row, and how probable it finds each label, if it can tell."""

    labels: np.ndarray
    chances: np.ndarray | None = None


@dataclass(frozen=True)
class Measured:
    """What `Classified` tells of the test rows, and what each method `said`."""

    said: dict[str, Said]
    methods: tuple[Method, ...]
    difference: Interval
    chance: float
    verdict: str
    calibration: Calibration
    thresholds: tuple[float, ...]
    costs: tuple[Threshold, ...]


def listed(labels: np.ndarray, names: Sequence[str]) -> list[list[str]]:
    """The names of the labels of each row: of class numbers (rows,), or of whether a row has each label (rows, labels)."""
    if labels.ndim == 1:
        return [[names[number]] for number in labels]
    return [[name for name, there in zip(names, row, strict=True) if there] for row in labels]


def badness(scores: Mapping[str, float]) -> float:
    """What validation makes small: macro-F1 decides, and where it is equal, as on a few rows it often is, the loss."""
    return 1e-3 * scores["loss"] - scores["macro_f1"]


def leave_learning(model: Transformer, train: str) -> None:
    """Freeze what does not learn: `all` weights do, the `head`, or the `last-N` blocks with the final norm and the head."""
    if train == "all":
        return
    blocks = 0 if train == "head" else int(train.removeprefix("last-"))
    if blocks > len(model.trunk.blocks):
        raise ValueError(f"--train {train}, but this model has {len(model.trunk.blocks)} blocks: give fewer, or all")
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    learning = [model.head, *([model.trunk.norm_final, *model.trunk.blocks[-blocks:]] if blocks else [])]
    for part in learning:
        for parameter in part.parameters():
            parameter.requires_grad_(True)


def cool(model: Transformer, temperature: float) -> None:
    """Divide the scores of a classifier by a temperature, in its last map, so that whoever opens the model has calibrated ones."""
    for name, parameter in model.head.named_parameters():
        if name in ("weight", "bias"):
            parameter.data /= temperature


def fresh_parent(arch: str, settings: dict[str, str], seed: int) -> Parent:
    """Random weights over bytes, for those who want to see what pretraining is worth."""
    from fledge.model import Transformer, initialise
    from fledge.text import Tokenizer

    tokenizer = Tokenizer.bytes()
    made = arch_of(preset_of(arch), settings, tokenizer.size)
    tokenizer = framing_for(tuple(made.stacks), tokenizer)
    made = made if made.start is None else replace(made, start=tokenizer.end_of_text)
    return Parent(arch, initialise(Transformer(made), seed), tokenizer, {})
