"""What `evaluate` found: scores with intervals, differences, and what each model did with each item; as JSON, lines, and a page."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fledge.arch.record import to_json
from fledge.evaluation.statistics import Interval
from fledge.verbs import terminal
from fledge.verbs.sections import Content, Section, Table, draw, lines_of

if TYPE_CHECKING:
    from fledge.evaluation.shots import Shots
    from fledge.evaluation.statistics import Tally
    from fledge.report.text import Cell


@dataclass(frozen=True)
class Score:
    """One measure of one model, its 95 % bootstrap interval, and for some the signature that says how it was counted.

    With examples before the question (`shots`) the value is the mean over `trials` that differ in which they were and in their order;
    `spread` is the standard deviation of these, `by_order` what of it the order alone makes.
    """

    model: str
    measure: str
    value: float
    interval: tuple[float, float]
    signature: str | None = None
    shots: int | None = None
    trials: tuple[float, ...] = ()
    spread: float | None = None
    by_order: float | None = None

    @classmethod
    def of(cls, model: str, tally: Tally, shots: Shots | None = None) -> Score:
        found = tally.interval()
        score = cls(model, tally.name, found.value, (found.low, found.high), tally.signature)
        if shots is None:
            return score
        score = replace(score, shots=shots.count)
        if shots.trials == 1:
            return score
        spread, by_order = shots.spread(tally.trials)
        return replace(score, trials=tuple(tally.trials.tolist()), spread=spread, by_order=by_order if shots.count > 1 else None)


@dataclass(frozen=True)
class Difference:
    """A measure of the first model less that of the second on the same items, with its paired 95 % bootstrap interval."""

    first: str
    second: str
    measure: str
    value: float
    interval: tuple[float, float]
    lower: bool = False
    shots: int | None = None

    @property
    def verdict(self) -> str:
        """Which is better, or that no difference was seen."""
        low, high = self.interval
        if low <= 0 <= high:
            return "no difference seen"
        return f"{self.first if (high < 0) == self.lower else self.second} is better"

    @classmethod
    def of(cls, first: str, second: str, measure: str, found: Interval, lower: bool = False, shots: int | None = None) -> Difference:
        return cls(first, second, measure, found.value, (found.low, found.high), lower, shots)

    def to_json(self) -> dict[str, Any]:
        return {**to_json(self), "verdict": self.verdict}


@dataclass(frozen=True)
class Answered:
    """What a model answered to the item at a line of the file in one trial, and its value by every measure."""

    model: str
    line: int
    answer: str
    scores: dict[str, float | None]
    shots: int = 0
    trial: int = 0


@dataclass(frozen=True)
class Speed:
    """How fast a model reads and writes on this machine, in tokens a second, and the bytes of its weights and of the process at most
    (0 where that is not told)."""

    model: str
    reading: float
    writing: float
    weights: int
    peak: int


@dataclass(frozen=True)
class Sample:
    """How a model goes on from the beginning of a held-out text, and how that goes on itself."""

    model: str
    prompt: str
    written: str
    truth: str


@dataclass(frozen=True)
class Forgotten:
    """Bits per byte of a fine-tuned model and of its parent on what the parent's corpus held out, and the paired difference."""

    model: str
    parent: str
    documents: int
    before: Interval
    after: Interval
    difference: Interval

    @property
    def verdict(self) -> str:
        if self.difference.low <= 0 <= self.difference.high:
            return "no difference seen"
        return "forgot some of it" if self.difference.low > 0 else "is better than its parent there"

    def __str__(self) -> str:
        return f"bits per byte of text that its parent's corpus held out: before {self.before}, after {self.after}; {self.verdict}"

    def to_json(self) -> dict[str, Any]:
        return {**to_json(self), "verdict": self.verdict}


@dataclass(frozen=True)
class Verbatim:
    """The share of passages of a text of which a model, after `prompt` tokens, goes on with at least `tokens` word for word."""

    model: str
    text: str
    prompt: int
    tokens: int
    share: Interval


@dataclass(frozen=True)
class Echoed:
    """How much of the personal data of one kind that was looked for a model writes out after what stands before it."""

    model: str
    kind: str
    looked_for: int
    written: int
    share: Interval


@dataclass(frozen=True)
class Exposed:
    """How exposed the planted secret at a line of a file is, in bits of `most`: its rank among so many guesses of the same form."""

    model: str
    line: int
    bits: float
    most: float
    rank: int
    guesses: int


@dataclass(frozen=True)
class Evaluated:
    """What models scored on the same data; what was not asked for is empty.

    `trust` is what is known of the judge, `notes` are sentences on how it was measured.
    """

    on: str
    size: str
    scores: tuple[Score, ...] = ()
    differences: tuple[Difference, ...] = ()
    trust: tuple[Score, ...] = ()
    items: tuple[Answered, ...] = ()
    forgotten: tuple[Forgotten, ...] = ()
    speeds: tuple[Speed, ...] = ()
    samples: tuple[Sample, ...] = ()
    verbatim: tuple[Verbatim, ...] = ()
    echoed: tuple[Echoed, ...] = ()
    exposed: tuple[Exposed, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {**to_json(self), **{name: [one.to_json() for one in getattr(self, name)] for name in ("differences", "forgotten")}}

    def __str__(self) -> str:
        return lines_of(self.sections())

    def write(self, path: Path | str) -> None:
        """Put all of it on an HTML page that opens offline."""
        from fledge.report import Page

        page = Page("How good is it?", f"On {self.on} ({self.size}).")
        draw(page, self.sections())
        page.write(path)

    def sections(self) -> list[Section]:
        """What there is, each kind under its heading."""
        parts: list[tuple[str, list[Content]]] = [
            ("Scores", self._scores()),
            ("The judge", self._trust()),
            ("Differences", self._differences()),
            ("What was forgotten", self._forgotten()),
            ("Speed and memory", self._speeds()),
            ("Samples", self._samples()),
            ("Word for word", self._verbatim()),
            ("Personal data", self._echoed()),
            ("Planted secrets", self._exposed()),
            ("Notes", [] if self.scores else list(self.notes)),
        ]
        return [Section(title, tuple(content)) for title, content in parts if content]

    def _scores(self) -> list[Content]:
        if not self.scores:
            return []
        shots, spread = (any(getattr(score, name) is not None for score in self.scores) for name in ("shots", "spread"))
        columns = ("model", "measure", *(("shots",) if shots else ()), "value (95 %)", *(("spread", "by order") if spread else ()))
        rows = [
            (
                score.model, score.measure, *((score.shots,) if shots else ()), interval_of(score),
                *((score.spread, score.by_order) if spread else ()),
            )
            for score in self.scores
        ]  # fmt: skip
        said = []
        if spread:
            trials = max(len(score.trials) for score in self.scores)
            said.append(
                f"Spread: the standard deviation of {trials} trials, whose examples and order differ; by order: of the order alone."
            )
        signatures = {f"{score.measure}: {score.signature}" for score in self.scores if score.signature}
        return [tabled(f"On {self.on} ({self.size})", columns, rows), *said, *self.notes, *sorted(signatures)]

    def _trust(self) -> list[Content]:
        rows = [(score.model, score.measure, interval_of(score)) for score in self.trust]
        return [tabled("Measured on the same items", ("judge", "measure", "value (95 %)"), rows)] if rows else []

    def _differences(self) -> list[Content]:
        shots = any(one.shots is not None for one in self.differences)
        known = brief({name for one in self.differences for name in (one.first, one.second)})
        shown = [replace(one, first=known[one.first], second=known[one.second]) for one in self.differences]
        rows = [(f"{one.first} less {one.second}", one.measure, *((one.shots,) if shots else ()), interval_of(one)) for one in shown]
        columns = ("models", "measure", *(("shots",) if shots else ()), "difference (95 %)")
        said = [f"{one.measure}{f', {one.shots} shots' if shots else ''}: {one.verdict}." for one in shown]
        return [Table("Paired: on the same items, resampled together", columns, rows), *said] if rows else []

    def _forgotten(self) -> list[Content]:
        if not self.forgotten:
            return []
        rows = [(one.model, one.parent, one.before, one.after, one.difference, one.verdict) for one in self.forgotten]
        columns = ("model", "parent", "before", "after", "difference (95 %)", "verdict")
        return [tabled("Bits per byte of documents that the parent's corpus held out", columns, rows)]

    def _speeds(self) -> list[Content]:
        rows = [
            (
                one.model, round(one.reading), round(one.writing), terminal.memory(one.weights),
                terminal.memory(one.peak) if one.peak else None,
            )
            for one in self.speeds
        ]  # fmt: skip
        columns = ("model", "tokens read a second", "tokens written a second", "weights", "process at most")
        return [tabled("On this machine, one text at a time", columns, rows)] if rows else []

    def _verbatim(self) -> list[Content]:
        """A row for each model, text and prompt, a column for each number of tokens."""
        lengths = sorted({one.tokens for one in self.verbatim})
        rows: dict[tuple[str, str, int], dict[int, Interval]] = {}
        for one in self.verbatim:
            rows.setdefault((one.model, one.text, one.prompt), {})[one.tokens] = one.share
        cells = [(*key, *(found.get(length) for length in lengths)) for key, found in rows.items()]
        columns = ("model", "text", "prompt", *(f"{length} tokens" for length in lengths))
        said = f"Of passages of {self.on} ({self.size}), how many are gone on with word for word after so many tokens of them."
        return [said, tabled("Share of passages (95 %)", columns, cells)] if rows else []

    def _echoed(self) -> list[Content]:
        rows = [(one.model, one.kind, one.looked_for, one.written, one.share) for one in self.echoed]
        columns = ("model", "kind", "looked for", "written out", "share (95 %)")
        return [tabled("After what stands before it in the training text", columns, rows)] if rows else []

    def _exposed(self) -> list[Content]:
        rows = [(one.model, one.line, one.bits, one.most, one.rank, one.guesses + 1) for one in self.exposed]
        columns = ("model", "line", "exposure (bits)", "at most", "rank", "of")
        said = "Exposure: 0 bits where the secret is as probable as any other of its form, the most where the model knows it."
        return [said, tabled("Secrets among others of their form", columns, rows)] if rows else []

    def _samples(self) -> list[Content]:
        from fledge.report.page import Example
        from fledge.verbs.sections import Examples

        shown = [
            Example(sample.model, (f"{sample.prompt} ⟶ {sample.written}", f"held-out text: {sample.prompt} ⟶ {sample.truth}"))
            for sample in self.samples
        ]
        return [Examples("Beginnings of held-out texts, gone on with", shown)] if shown else []


def brief(names: Collection[str]) -> dict[str, str]:
    """Paths by as many of their last parts as tell all of them apart.

    >>> sorted(brief({"runs/a/base", "runs/b/base"}).values())
    ['a/base', 'b/base']
    """
    most = max((len(Path(name).parts) for name in names), default=1)
    tails = ({name: "/".join(Path(name).parts[-count:]) for name in names} for count in range(1, most + 1))
    return next((tail for tail in tails if len(set(tail.values())) == len(names)), dict(zip(names, names, strict=True)))


def tabled(caption: str, columns: tuple[str, ...], rows: Sequence[tuple[Cell, ...]]) -> Table:
    """A table; where all rows are of one model, it stands in the caption."""
    models = {row[0] for row in rows}
    if len(models) > 1:
        return Table(caption, columns, rows)
    return Table(f"{models.pop()}: {caption[0].lower()}{caption[1:]}", columns[1:], [row[1:] for row in rows])


def interval_of(found: Score | Difference) -> Interval:
    return Interval(found.value, *found.interval)


def compared(names: Sequence[str], tallies: Sequence[Sequence[Tally]], shots: int | None = None) -> list[Difference]:
    """The paired differences of each two models by each measure; `tallies` are (models, measures)."""
    return [
        Difference.of(names[a], names[b], one.name, one.difference(other), one.lower, shots)
        for a, b in combinations(range(len(names)), 2)
        for one, other in zip(tallies[a], tallies[b], strict=True)
    ]
