"""The reports: what a run, or the whole demo, came to, as one HTML page."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fledge.verbs import terminal

if TYPE_CHECKING:
    from fledge.data.corpus import Corpus
    from fledge.explanation import Looked
    from fledge.report import Page
    from fledge.train.loop import State
    from fledge.verbs.demonstration import Demonstrated
    from fledge.verbs.explaining import Explained
    from fledge.verbs.finetune.classifying import Classified
    from fledge.verbs.finetune.distilling import Distilled, DistillJob
    from fledge.verbs.finetune.instructing import Example, Instructed, InstructJob
    from fledge.verbs.finetune.pairing import Paired
    from fledge.verbs.finetune.preferring import Prefers
    from fledge.verbs.finetune.rewarding import Rewarded
    from fledge.verbs.pretraining import Pretrained
    from fledge.verbs.scoring.results import Forgotten

LIVE_EVERY = 5.0  # seconds between two writings of a live page, at least
WORDS = 40  # in a table of those that decided
ATTENDED = 40  # tokens whose attention is shown
LIVE_SHARE = 0.01  # of the time goes into them, at most
NOW: tuple[tuple[str, str, Callable[[Any], str | float]], ...] = (  # what a live page says of the last step
    ("loss", "nats per token", float),
    ("bits_per_byte", "bits per byte", float),
    ("gradient_norm", "norm of the gradient", float),
    ("learning_rate", "learning rate", "{:.2g}".format),
    ("tokens", "tokens read", int),
    ("tokens_per_second", "tokens a second", round),
    ("mfu", "share of the matrix rate (MFU)", "{:.1%}".format),
    ("memory", "memory", terminal.memory),
    ("peak_memory", "memory at most", terminal.memory),
    ("seconds", "time", terminal.duration),
)


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file; none where it does not exist."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def curves(page: Page, run: Path) -> None:
    """The loss, the norm of the gradient, the learning rate and the speed of a run over its tokens."""
    from fledge.report import Line

    rows = lines_of(run / "metrics.jsonl")
    steps = [row for row in rows if "loss" in row]
    checks = [row for row in rows if "loss" in row.get("validation", {})]
    drawn = [Line("training", [row["tokens"] for row in steps], [row["loss"] for row in steps])]
    if checks:
        drawn.append(Line("held out", [row["tokens"] for row in checks], [row["validation"]["loss"] for row in checks]))
    page.lines("Loss while training", drawn, "tokens read", "nats per token", log_x=True)
    for title, name, unit in (
        ("Norm of the gradient", "gradient_norm", "norm"),
        ("Learning rate", "learning_rate", "rate"),
        ("Speed", "tokens_per_second", "tokens a second"),
    ):
        page.lines(title, [Line(title.lower(), [row["tokens"] for row in steps], [row[name] for row in steps])], "tokens read", unit)


def samples(page: Page, run: Path, most: int = 12) -> None:
    """What the model wrote from time to time, or filled in."""
    from fledge.report import Sample

    rows = lines_of(run / "samples.jsonl")
    shown = rows[:: max(1, -(-len(rows) // most))]
    if not shown:
        return
    written = [Sample(f"step {r['step']:,}", r["text"], r["prompt"], terminal.duration(r["seconds"])) for r in shown]
    if whole := shown[0].get("whole"):
        page.timeline("The same text, its gaps filled in as the model learns", [Sample("the text", whole), *written])
    else:
        page.timeline("The same prompt, completed as the model learns", written)


class LivePage:
    """The report of a run while it lasts: a hook that rewrites `run/report.html` as often as a small share of the time allows.

    The page reads itself anew, so that it ends as the report that takes its place; `stop` writes one that stays as it is.
    """

    def __init__(self, title: str, run: Path):
        self.title, self.run = title, run
        self.written, self.cost = -math.inf, 0.0  # clock and seconds of the last writing
        self.state: State | None = None

    def __call__(self, state: State) -> None:
        self.state = state
        every = max(LIVE_EVERY, self.cost / LIVE_SHARE)
        if time.monotonic() - self.written >= every:
            self.write(state, math.ceil(every))

    def stop(self) -> None:
        if self.state is not None:
            self.write(self.state, None)

    def write(self, state: State, reload: int | None) -> None:
        began = time.monotonic()
        live_page(self.title, state.step, state.total, self.run, reload).write(self.run / "report.html")
        self.written = time.monotonic()
        self.cost = self.written - began


def live_page(title: str, step: int, total: int, run: Path, reload: int | None) -> Page:
    """What is known of a run that is not over, or was stopped."""
    from fledge.report import Page

    rows = lines_of(run / "metrics.jsonl")
    now = next((row for row in reversed(rows) if "loss" in row), {})
    checked = next((row["validation"] for row in reversed(rows) if "validation" in row), {})
    left = f"; {terminal.duration(now['seconds_left'])} left" if now and reload else ""
    page = Page(title, f"{'Under way' if reload else 'Stopped'} at step {step:,} of {total:,}{left}.", reload)
    page.heading("Now")
    known = [(name, written(now[key])) for key, name, written in NOW if key in now]
    page.facts([*known, *((f"held out: {name.replace('_', ' ')}", value) for name, value in checked.items())])
    page.heading("Curves")
    curves(page, run)
    if (run / "samples.jsonl").is_file():
        page.heading("Samples")
        samples(page, run)
    return page


def pretrained_page(done: Pretrained, out: Path) -> Page:
    """The report of `fledge pretrain`."""
    from fledge.report import Page

    page = Page(f"Pretraining {Path(done.out).name}", str(done))
    page.heading("Result")
    pretrained_facts(page, done)
    page.heading("Curves")
    curves(page, out / "run")
    if lines_of(out / "run" / "samples.jsonl"):
        page.heading("Samples")
        samples(page, out / "run")
    return page


def pretrained_facts(page: Page, done: Pretrained) -> None:
    from fledge.evaluation.statistics import Interval
    from fledge.verbs.pretraining import Validation

    found = done.validation
    if not isinstance(found, Validation):
        page.facts(
            [
                ("parameters", done.parameters), ("steps", done.steps), ("tokens read", done.tokens),
                ("time", terminal.duration(done.seconds)), ("nats per hidden word", found.loss),
                ("share guessed", Interval(found.accuracy, *found.interval)),
                ("share of the commonest word", found.commonest),
            ]
        )  # fmt: skip
        return
    page.facts(
        [
            ("parameters", done.parameters), ("steps", done.steps), ("tokens read", done.tokens), ("time", terminal.duration(done.seconds)),
            ("nats per held-out token", found.loss), ("bits per held-out byte", Interval(found.bits_per_byte, *found.interval)),
        ]
    )  # fmt: skip


def classified_page(done: Classified, out: Path) -> Page:
    """The report of `fledge finetune classify`."""
    from fledge.report import Page

    page = Page(f"Classifier {Path(done.out).name}", done.verdict)
    page.heading("Result")
    classified_parts(page, done)
    page.heading("Calibration")
    calibrated_parts(page, done)
    if done.costs:
        page.heading("What mistakes cost")
        priced_parts(page, done)
    if done.mistakes:
        page.heading("Mistakes")
        mistaken_parts(page, done)
    page.heading("Curves")
    if done.search:
        page.table(
            "What the search tried",
            ["learning rate", "epochs", *done.search[0].validation],
            [(f"× {one.factor:.3g}", one.epochs, *one.validation.values()) for one in done.search],
        )
    if done.repeats:
        page.table(
            "Runs from one start, in other orders, whose weights were averaged",
            ["run", "steps", *done.validation],
            [
                *((number, one.steps, *one.validation.values()) for number, one in enumerate(done.repeats, 1)),
                ("what stays", sum(one.steps for one in done.repeats), *done.validation.values()),
            ],
        )
    curves(page, out / "run")
    return page


def classified_parts(page: Page, done: Classified) -> None:
    page.paragraph(done.verdict)
    ordinal, several = done.choice == "ordinal", done.choice == "several"
    right = "all labels right" if several else "accuracy"
    columns = ["method", right, "macro-F1", *(["micro-F1"] if several else []), *(["ranks off", "kappa"] if ordinal else []), "AUROC", "AP"]
    rows = [
        (m.name, m.score.accuracy, m.score.macro_f1)
        + ((m.score.micro_f1,) if several else ())
        + ((m.score.distance, m.score.kappa) if ordinal else ())
        + (m.score.auroc, m.score.average_precision)
        for m in done.methods
    ]
    page.table(f"{done.score.rows:,} test rows, the same for each method", columns, rows, best=("macro-F1", max))
    page.paragraph(
        "AUROC and AP (average precision, the area under precision and recall) are means over the labels."
        + ("" if several else " With one label each, micro-F1 is the accuracy.")
    )
    macro = [(m.name, m.score.macro_f1) for m in done.methods]
    page.intervals("Macro-F1", macro, "macro-F1", chosen=done.methods[-1].name)
    page.facts(
        [
            ("macro-F1 above the best baseline's", done.difference),
            ("chance of such a difference in right rows, were neither better (McNemar)", done.chance),
        ]
    )
    page.table(
        "This model, label by label",
        ["label", "rows", "precision", "recall", "F1", "AUROC", "AP"],
        [(c.label, c.rows, c.precision, c.recall, c.f1, c.auroc, c.average_precision) for c in done.score.classes],
    )
    if not several:
        page.confusion("What it takes for what", done.labels, done.score.confusion)


def calibrated_parts(page: Page, done: Classified) -> None:
    """Whether its probabilities can be believed, before and after the temperature."""
    from fledge.report import Line

    found = done.calibration
    page.facts(
        [
            ("calibration error as trained", found.error_before), ("at the temperature", found.error_after),
            ("temperature, chosen on validation rows", found.temperature),
        ]
    )  # fmt: skip
    drawn = [Line("what would be right", [0.0, 1.0], [0.0, 1.0])]
    for name, bins in (("as trained", found.before), ("at the temperature", found.after)):
        drawn.append(Line(name, [one.probability for one in bins], [one.share for one in bins]))
    page.lines("Of what it finds so probable, how much is right", drawn, "probability", "share that is right")
    page.paragraph(
        "The weights that are saved are those at the temperature: whoever opens the model reads probabilities as calibrated here."
    )
    page.table(
        "How often a label is there, and how probable it is found on average",
        ["label", "share of rows", "mean probability"],
        [(label, share, probability) for label, (share, probability) in zip(done.labels, found.shares, strict=True)],
    )
    if done.balance == "labels":
        page.paragraph(
            "While learning, all labels weighed the same (--balance labels), which serves macro-F1. So rare labels are found more probable "
            "than they are, which no temperature takes back. Where probabilities have to be those of data like these, use --balance rows."
        )


def priced_parts(page: Page, done: Classified) -> None:
    """From which probability on a label is said, for several prices of missing it."""
    page.paragraph(
        "A label is missed, or said where it is wrong. The threshold at which both together cost least on the validation rows follows from "
        "how many times dearer a miss is; its cost and its rates are those on the test rows. To choose one: --cost LABEL=COST."
    )
    page.table(
        "Thresholds",
        ["label", "a miss costs", "said from", "precision", "recall", "cost a row"],
        [(one.label, f"{one.ratio:g} ×", one.probability, one.precision, one.recall, one.cost) for one in done.costs],
    )


def mistaken_parts(page: Page, done: Classified) -> None:
    """The worst mistakes, with the words that decided."""
    from fledge.report import Weighed

    page.paragraph(
        "The test rows on which it was most sure of what is wrong. The words that spoke for what it said, or against it, are told by "
        "integrated gradients and by taking each away, the mean of both."
    )
    page.words(
        "The worst mistakes",
        [
            Weighed(
                f"{', '.join(one.truth) or 'no label'}, called {', '.join(one.said) or 'nothing'}",
                tuple((word.text, word.gradient + word.occlusion) for word in one.deciding.words) if one.deciding else ((one.text, 0.0),),
                f"{one.place}; {one.probability:.0%} "
                + (f"for {one.deciding.said}" if one.deciding else "sure, its words not told for want of time"),
            )
            for one in done.mistakes
        ],
    )


def explained_page(done: Explained, name: str, layers: list[Looked], pieces: list[str]) -> Page:
    """What `fledge explain` shows."""
    from fledge.report import Page, Weighed

    page = Page(f"Why {name} says so", f"{done.said}: {done.probability:.1%}")
    found = done.deciding
    page.heading("Words that decided")
    page.facts(
        [
            ("said", done.said), ("probability", f"{done.probability:.1%}"), ("log-odds, in nats", found.odds),
            ("without any word", found.without), ("agreement of both measures (rank correlation)", found.agreement),
        ]
    )  # fmt: skip
    for title, weight in (("By gradient and occlusion together", (1, 1)), ("By integrated gradients", (1, 0)), ("By occlusion", (0, 1))):
        weighed = tuple((word.text, weight[0] * word.gradient + weight[1] * word.occlusion) for word in found.words)
        page.words(title, [Weighed(done.said, weighed)])
    page.table(
        "What each word adds to the log-odds, in nats",
        ["word", "by its gradient", "without it"],
        [(word.text.strip(), word.gradient, word.occlusion) for word in found.strongest[:WORDS]],
    )
    if done.surprises:
        page.heading("Surprise")
        surprise_parts(page, done)
    page.heading("Attention")
    page.paragraph(
        "Each row is a token that looks, each column one that is looked at; the deeper, the more. Above the mean of a layer's heads, below "
        "each head by itself." + (f" The first {ATTENDED} of {len(pieces)} tokens are shown." if len(pieces) > ATTENDED else "")
    )
    for layer in layers:
        heads = layer.weights[:, :ATTENDED, :ATTENDED].tolist()
        rows, columns = len(heads[0]), len(heads[0][0])
        page.attention(layer.name, pieces[:rows] if rows > 1 else ["start"], pieces[:columns], heads)
    return page


def surprise_parts(page: Page, done: Explained) -> None:
    """What each token cost, and what would rather have stood there."""
    from fledge.report import Weighed

    tokens = tuple((one.piece.replace("·", " "), one.bits or 0.0) for one in done.surprises)
    page.words("The deeper, the more surprising", [Weighed("bits of each token", tokens)], ("surprising", ""))
    page.table(
        "Token by token",
        ["token", "bits", "guess", "rather"],
        [(one.piece, one.bits, one.rank, one.rather()) for one in done.surprises if one.bits is not None],
    )


def instructed_page(done: Instructed, job: InstructJob, out: Path) -> Page:
    """The report of `fledge finetune instruct`."""
    from fledge.report import Page

    page = Page(f"Assistant {Path(done.out).name}", str(done).partition("\n")[0])
    page.heading("Result")
    instructed_parts(page, done, job)
    page.heading("Curves")
    curves(page, out / "run")
    return page


def instructed_parts(page: Page, done: Instructed, job: InstructJob) -> None:
    from fledge.data.instructions import is_whole
    from fledge.verbs.lens import lit

    page.facts(
        [("conversations learned from", done.conversations), ("held out to measure with", done.held_out), ("chat format", done.format)]
    )
    page.table(
        f"Held-out answers, before and after; its own were written to {done.after.written:,} questions",
        ["measure", "before", "after"],
        list(done.compared),
    )
    forgotten_part(page, done.forgotten)
    first = next(conversation for conversation in job.training if is_whole(conversation))
    page.tokens("Which tokens are trained on", lit(job.parent.tokenizer, job.form.encode(job.parent.tokenizer, list(first.messages))))
    conversed(page, done.examples)


def paired_page(done: Paired, out: Path) -> Page:
    """The report of `fledge finetune pairs`."""
    from fledge.report import Page

    page = Page(f"Pairs {Path(done.out).name}", str(done))
    page.heading("Result")
    page.facts([("pairs learned from", done.pairs), *((score.measure, score.interval) for score in done.scores)])
    page.heading("Curves")
    curves(page, out / "run")
    page.heading("Held-out sources")
    for example in done.examples:
        page.code(f"{example.source}\n\n— its own target\n{example.target}\n\n— written\n{example.written}")
    return page


def preferred_page(done: Prefers, out: Path) -> Page:
    """The report of `fledge finetune prefer`."""
    from fledge.report import Page

    page = Page(f"Preferences {Path(done.out).name}", str(done))
    page.heading("Result")
    page.facts(
        [
            ("pairs learned from", done.pairs), ("reward accuracy on held-out pairs", done.accuracy), ("reward margin", done.margin),
            ("loss of chosen answers before", done.loss_before), ("after", done.loss_after),
        ]
    )  # fmt: skip
    forgotten_part(page, done.forgotten)
    page.heading("Curves")
    told_curves(
        page, out / "run", [("Reward accuracy", "reward_accuracy", "share of pairs"), ("Reward margin", "reward_margin", "rewards")]
    )
    curves(page, out / "run")
    conversed(page, done.examples)
    return page


def distilled_page(done: Distilled, job: DistillJob, out: Path) -> Page:
    """The report of `fledge finetune distill`."""
    from fledge.report import Page

    page = Page(f"Distilled {Path(done.out).name}", str(done).partition("\n")[0])
    page.heading("Result")
    page.facts([("the teacher's perplexity of held-out answers", done.teacher)])
    instructed_parts(page, done, job)
    page.heading("Curves")
    rows = [("Divergence from the teacher", "divergence", "nats per token"), ("Loss of the words", "words", "nats per token")]
    told_curves(page, out / "run", rows)
    curves(page, out / "run")
    return page


def rewarded_page(done: Rewarded, out: Path) -> Page:
    """The report of `fledge finetune reward`."""
    from fledge.report import Page

    page = Page(f"Reward {Path(done.out).name}", str(done))
    page.heading("Result")
    page.facts(
        [("questions learned from", done.questions), ("mean reward of held-out answers before", done.before), ("after", done.after)]
    )  # fmt: skip
    forgotten_part(page, done.forgotten)
    page.heading("Curves")
    told_curves(page, out / "run", [("Mean reward", "reward", "reward")])
    curves(page, out / "run")
    conversed(page, done.examples)
    return page


def forgotten_part(page: Page, found: Forgotten | None) -> None:
    """What a fine-tuned model forgot of its parent's text, where that was measured."""
    if found is not None:
        caption = f"Bits per byte of {found.documents:,} documents that the corpus of {found.parent} held out: {found.verdict}"
        page.table(caption, ["before", "after", "difference"], [(found.before, found.after, found.difference)])


def told_curves(page: Page, run: Path, rows: Sequence[tuple[str, str, str]]) -> None:
    """A curve for each (title, name, unit) that is told beside the loss, in training and of what is held out."""
    from fledge.report import Line

    lines = lines_of(run / "metrics.jsonl")
    for title, name, unit in rows:
        steps = [line for line in lines if name in line]
        checks = [line for line in lines if name in line.get("validation", {})]
        drawn = [Line("training", [line["tokens"] for line in steps], [line[name] for line in steps])]
        if checks:
            drawn.append(Line("held out", [line["tokens"] for line in checks], [line["validation"][name] for line in checks]))
        page.lines(title, drawn, "tokens read", unit)


def conversed(page: Page, examples: Sequence[Example]) -> None:
    """Held-out questions with their own answers and those of the model before and after."""
    page.heading("Held-out questions", 3)
    for example in examples:
        page.code(f"{example.question}\n\n— its own answer\n{example.answer}\n\n— before\n{example.before}\n\n— after\n{example.after}")


def demo_page(done: Demonstrated, corpus: Corpus, out: Path, assistant: InstructJob) -> Page:
    """The report of `fledge demo`: one page for the whole life of the model."""
    from fledge.report import Page
    from fledge.verbs.pretraining import Validation

    bits = done.base.validation
    assert isinstance(bits, Validation)
    page = Page(
        "The life of a model", f"Raised from the text of Python's own library in {terminal.duration(done.seconds)}, on this machine alone."
    )
    page.heading("Text")
    found = corpus.summary
    page.facts(
        [
            ("files", found.files), ("bytes", found.bytes), ("duplicates removed", found.duplicates),
            ("rejected", sum(found.rejected.values())), ("vocabulary", found.vocabulary), ("bytes per token", found.bytes_per_token),
            ("tokens to train on", found.train_tokens), ("tokens held out", found.validation_tokens),
        ]
    )  # fmt: skip
    if found.rejected:
        page.table("What was rejected", ["reason", "files"], list(found.rejected.items()))
    page.heading("Pretraining")
    pretrained_facts(page, done.base)
    rows = sorted(
        [("this model", bits.bits_per_byte), *((rival.name, rival.bits_per_byte.value) for rival in done.rivals)], key=lambda row: row[1]
    )
    page.bars("Bits per byte of held-out modules: less is better", rows, "bits per byte", chosen="this model")
    page.paragraph(
        "The n-grams count the same tokens of all the same training text; the compressors see each held-out file alone. A method that "
        "needs fewer bits predicts the text better."
    )
    curves(page, out / "base" / "run")
    samples(page, out / "base" / "run")
    page.heading("Classifier")
    page.paragraph(
        "Which part of the library does a piece of code belong to? "
        "Imports and every mention of the part's own name are masked, for each method."
    )
    classified_parts(page, done.classifier)
    page.heading("Assistant")
    instructed_parts(page, done.assistant, assistant)
    page.heading("Next")
    page.code("\n".join(done.next()))
    return page
