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
    from fledge.report import Page
    from fledge.train.loop import State
    from fledge.verbs.demonstration import Demonstrated
    from fledge.verbs.finetune.classifying import Classified
    from fledge.verbs.finetune.distilling import Distilled, DistillJob
    from fledge.verbs.finetune.instructing import Example, Instructed, InstructJob
    from fledge.verbs.finetune.pairing import Paired
    from fledge.verbs.finetune.preferring import Prefers
    from fledge.verbs.finetune.rewarding import Rewarded
    from fledge.verbs.pretraining import Pretrained

LIVE_EVERY = 5.0  # seconds between two writings of a live page, at least
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
    page.heading("Curves")
    curves(page, out / "run")
    return page


def classified_parts(page: Page, done: Classified) -> None:
    page.paragraph(done.verdict)
    rows = [(m.name, m.score.accuracy, m.score.macro_f1) for m in done.methods]
    page.table(f"{done.score.rows:,} test rows, the same for each method", ["method", "accuracy", "macro-F1"], rows, best=("macro-F1", max))
    page.intervals("Macro-F1", [(name, macro) for name, _, macro in rows], "macro-F1", chosen=rows[-1][0])
    page.table(
        "This model, label by label",
        ["label", "rows", "precision", "recall", "F1"],
        [(c.label, c.rows, c.precision, c.recall, c.f1) for c in done.score.classes],
    )
    page.confusion("What it takes for what", done.labels, done.score.confusion)


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
    page.heading("Curves")
    told_curves(page, out / "run", [("Mean reward", "reward", "reward")])
    curves(page, out / "run")
    conversed(page, done.examples)
    return page


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
