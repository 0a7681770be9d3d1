"""Texts with labels, read from a table or from folders named after them, and split so that near duplicates stay on one side."""

import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fledge.arch import Choice
from fledge.arch.record import did_you_mean
from fledge.data.corpus import content_hash, share
from fledge.data.documents import Document
from fledge.data.files import MissingLibrary, mended
from fledge.data.sources import read
from fledge.data.tables import SAMPLE, Row, Table, counted, guess_label, guess_text, table
from fledge.data.unique.near import Near, near_groups
from fledge.data.unique.rows import Rows

Text = str | tuple[str, str]
"""A text, or a pair of texts that are judged together."""

PAIRED = (
    ("sentence1", "sentence2"), ("sentence_1", "sentence_2"), ("text1", "text2"), ("text_a", "text_b"), ("question1", "question2"),
    ("premise", "hypothesis"),
)  # fmt: skip
SEPARATORS = "|;,"  # of several labels in one cell, the first that occurs
MANY = 20  # labels from which on a column may be no column of labels


@dataclass(frozen=True)
class Columns:
    """Where the texts and labels of a table stand; pairs of texts have a `second` column. Of folders of files they are `FOLDERS`."""

    text: str
    label: str
    second: str | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.text,) if self.second is None else (self.text, self.second)


FOLDERS = Columns("file", "folder")


@dataclass(frozen=True)
class LeftOut:
    """Rows that are not taken: how many, why, and where the first stands."""

    count: int
    why: str
    first: str


@dataclass(frozen=True)
class Labelled:
    """Texts, or pairs of texts, and for each the numbers of its labels in `names`: one each unless the `choice` is several.

    `names` are sorted, those of an ordinal choice from the least to the most; `places` are where the texts stood ("line 3").
    """

    texts: tuple[Text, ...]
    labels: tuple[tuple[int, ...], ...]
    names: tuple[str, ...]
    places: tuple[str, ...]
    columns: Columns
    choice: Choice = "single"
    left_out: tuple[LeftOut, ...] = ()
    replaced: int = 0

    @property
    def truth(self) -> np.ndarray:
        """The class number of each text, (rows,); of several labels whether it has each, (rows, labels)."""
        if self.choice != "several":
            return np.array([number for (number,) in self.labels], np.int64)
        found = np.zeros((len(self.labels), len(self.names)), bool)
        for row, numbers in zip(found, self.labels, strict=True):
            row[list(numbers)] = True
        return found

    @property
    def paired(self) -> bool:
        return self.columns.second is not None

    def said(self) -> list[str]:
        """Sentences to print: the columns chosen, the labels with their counts, and what was left out."""
        counts = Counter(number for numbers in self.labels for number in numbers)
        texts = " and ".join(map(repr, self.columns.texts))
        others = "--text-column, --second-column, --label-column" if self.paired else "--text-column, --label-column"
        how = {
            "single": "one label each",
            "several": "any number of labels each",
            "ordinal": f"one label each, from {self.names[0]} up to {self.names[-1]}",
        }
        where = f"text: column {texts}, label: column {self.columns.label!r} (others: {others})"
        said = [
            "texts: files, labels: the folders that they lie in" if self.columns == FOLDERS else where,
            f"{counted(len(self.texts), 'row')}, {how[self.choice]}: "
            + ", ".join(f"{counts[i]:,} {name}" for i, name in enumerate(self.names)),
        ]
        said += [f"{counted(part.count, 'row')} {part.why} left out, the first at {part.first}" for part in self.left_out]
        return said + [f"{counted(self.replaced, 'invalid UTF-8 sequence')} replaced"] * bool(self.replaced)

    def part(self, rows: Sequence[int]) -> "Labelled":
        """These rows alone, with all label names."""
        pick = {field: tuple(getattr(self, field)[row] for row in rows) for field in ("texts", "labels", "places")}
        return replace(self, **pick)


def read_labelled(
    path: str,
    text_column: str | None = None,
    label_column: str | None = None,
    second_column: str | None = None,
    choice: Choice | None = None,
    order: Sequence[str] = (),
) -> Labelled:
    """The labelled texts of a table, or of a folder that holds a folder of files for each label; what is not given is guessed.

    A column of lists holds several labels, as does one of texts (`a|b`) where `choice` says so. An ordinal choice takes the `order`
    of its labels, which numbers have by themselves. Raises `ValueError` naming the place when a row cannot be read, no column holds
    labels, there is one label only, a label has a single row (it could not be both learnt and tested) or every row, an order is
    missing or not of these labels, or nearly every row has a label of its own.
    """
    columns, cells = _cells(path, text_column, label_column, second_column)
    choice = choice or ("ordinal" if order else None) or ("several" if any(isinstance(cell, list) for _, _, cell, _ in cells) else "single")
    taken = _taken(cells, choice)
    found = {label for _, _, labels, _ in taken for label in labels}
    names = _ordered(found, tuple(order), columns.label) if choice == "ordinal" else tuple(sorted(found))
    whole = _labelled(taken, names, columns, choice, _empty(cells, choice))
    _check(path, whole)
    return whole


def read_rows(
    path: str,
    names: tuple[str, ...],
    choice: Choice,
    text_column: str | None = None,
    label_column: str | None = None,
    second_column: str | None = None,
) -> Labelled:
    """More rows of labels that were learned, such as those to test on.

    Raises `ValueError` naming the row of a label that is none of these `names`, and where there are no rows.
    """
    columns, cells = _cells(path, text_column, label_column, second_column)
    taken = _taken(cells, choice)
    if not taken:
        raise ValueError(f"{path} has no row with both a text and a label in column {columns.label!r}")
    for place, _, labels, _ in taken:
        for label in labels:
            if label not in names:
                raise ValueError(f"{path}, {place}: label {label!r} was never seen in training{did_you_mean(label, names)}")
    return _labelled(taken, names, columns, choice, _empty(cells, choice))


Cell = tuple[str, tuple[Any, ...], Any, int]
"""Where a row stands, its texts, its label, and how many characters were replaced in it: as read."""
Taken = tuple[str, Text, tuple[str, ...], int]
"""The same of a row that has both."""


def _cells(path: str, text: str | None, label: str | None, second: str | None) -> tuple[Columns, list[Cell]]:
    if Path(path).is_dir():
        return FOLDERS, list(_filed(path))
    whole = table(path, [name for name in (text, label, second) if name])
    found = columns(whole, text, label, second)
    return found, [_cell(path, row, found) for row in whole.rows]


def _cell(path: str, row: Row, found: Columns) -> Cell:
    texts = tuple(row.values.get(name) for name in found.texts)
    for name, text in zip(found.texts, texts, strict=True):
        if text is not None and not isinstance(text, str):
            raise ValueError(f"{path}, line {row.line}: {name} is {text!r}, but a text is needed")
    return f"line {row.line}", texts, row.values.get(found.label), row.replaced


def _filed(path: str) -> Iterator[Cell]:
    """The files of each folder in `path`, which is their label."""
    folders = sorted(part for part in Path(path).iterdir() if part.is_dir() and not part.name.startswith("."))
    if not folders:
        raise ValueError(f"{path} holds no folders: give a table, or a folder with a folder of texts for each label")
    for folder in folders:
        for item in read([str(folder)]):
            where = os.path.relpath(item.source, path) + (f", line {item.line}" if item.line is not None else "")
            yield where, (item.text if isinstance(item, Document) else None,), folder.name, getattr(item, "replaced", 0)


def _taken(cells: Sequence[Cell], choice: Choice) -> list[Taken]:
    found: list[Taken] = []
    for place, texts, cell, replaced in cells:
        if _why_empty(texts, cell, choice) is None:
            whole = [mended(text) for text in texts]
            first, *rest = (text for text, _ in whole)
            text = (first, rest[0]) if rest else first
            found.append((place, text, _split(cell, choice), replaced + sum(halves for _, halves in whole)))
    return found


def _why_empty(texts: Sequence[str | None], cell: Any, choice: Choice) -> str | None:
    if any(text is None or not text.strip() for text in texts):
        return "without text"
    nothing = cell is None if choice == "several" else cell is None or not str(cell).strip()
    return "without label" if nothing else None


def _empty(cells: Sequence[Cell], choice: Choice) -> tuple[LeftOut, ...]:
    places: dict[str, list[str]] = {}
    for place, texts, cell, _ in cells:
        if (why := _why_empty(texts, cell, choice)) is not None:
            places.setdefault(why, []).append(place)
    return tuple(LeftOut(len(found), why, found[0]) for why, found in sorted(places.items(), reverse=True))


def _split(cell: Any, choice: Choice) -> tuple[str, ...]:
    """The labels that a cell names."""
    if choice != "several":
        return (mended(str(cell))[0].strip(),)
    if not isinstance(cell, (list, tuple)):
        separator = next((mark for mark in SEPARATORS if mark in str(cell)), None)
        cell = str(cell).split(separator) if separator else [cell]
    labels = (mended(str(label))[0].strip() for label in cell)
    return tuple(dict.fromkeys(label for label in labels if label))


def _labelled(taken: Sequence[Taken], names: tuple[str, ...], columns: Columns, choice: Choice, left_out: tuple[LeftOut, ...]) -> Labelled:
    number = {name: i for i, name in enumerate(names)}
    labels = tuple(tuple(sorted(number[label] for label in found)) for _, _, found, _ in taken)
    places, texts = tuple(place for place, _, _, _ in taken), tuple(text for _, text, _, _ in taken)
    return Labelled(texts, labels, names, places, columns, choice, left_out, sum(replaced for _, _, _, replaced in taken))


def _ordered(found: Collection[str], order: tuple[str, ...], column: str) -> tuple[str, ...]:
    """The labels from the least to the most: as `order` says, or as the numbers that they are."""
    if order:
        for label in sorted(found):
            if label not in order:
                raise ValueError(f"label {label!r} of column {column!r} is not in --order {','.join(order)}{did_you_mean(label, order)}")
        return tuple(label for label in order if label in found)
    try:
        return tuple(sorted(found, key=float))
    except ValueError:
        raise ValueError(
            f"the labels {', '.join(sorted(found)[:5])} of column {column!r} are no numbers: "
            "say which follows which, as in --order bad,fair,good"
        ) from None


def columns(whole: Table, text: str | None = None, label: str | None = None, second: str | None = None) -> Columns:
    """The columns of texts and label: those given, if the table has them, else guessed."""
    for name, flag in ((text, "--text-column"), (label, "--label-column"), (second, "--second-column")):
        if name is not None:
            whole.column(name, flag)
    sample = whole.rows[:SAMPLE]
    if text is None and second is None:
        text, second = next((pair for pair in PAIRED if set(pair) <= set(whole.columns)), (None, None))
    given = [name for name in (label, second) if name]
    text = text or guess_text(whole.path, sample, given)
    return Columns(text, label or guess_label(whole.path, sample, [text, *given]), second)


def _check(path: str, whole: Labelled) -> None:
    names, column, rows = whole.names, whole.columns.label, len(whole.texts)
    if not names:
        raise ValueError(f"{path} has no row with both a text and a label in column {column!r}")
    if len(names) == 1:
        raise ValueError(f"{path} has one label only, {names[0]!r} in column {column!r}: a classifier needs at least two")
    if len(names) > MANY and len(names) > rows / 2:
        raise ValueError(
            f"column {column!r} of {path} has {len(names):,} different values in {rows:,} rows: name another with --label-column"
        )
    counts = Counter(number for numbers in whole.labels for number in numbers)
    once = [number for number in range(len(names)) if counts[number] == 1]
    if once:
        where = next(place for place, numbers in zip(whole.places, whole.labels, strict=True) if once[0] in numbers)
        more = f" (so are {counted(len(once) - 1, 'other')})" if len(once) > 1 else ""
        raise ValueError(
            f"{path}, {where}: label {names[once[0]]!r} is seen once{more} and cannot be both learnt and tested: "
            "add rows of it, or remove it"
        )
    if (every := next((names[number] for number, count in counts.items() if count == rows), None)) is not None:
        raise ValueError(f"every row of {path} has the label {every!r}: there is nothing to tell it from, so remove it")


@dataclass(frozen=True, eq=False)
class Alike:
    """For each text the first of those that are equal or nearly so, (texts,) int64; `near` says whether near duplicates were looked for."""

    roots: np.ndarray
    near: bool

    def said(self) -> list[str]:
        """Sentences to print."""
        repeated = len(self.roots) - len(np.unique(self.roots))
        kind = "equal or nearly equal to another" if self.near else "equal to another"
        said = [f"{counted(repeated, 'text')} {kind}, which stays on the same side of a split"] * bool(repeated)
        return said if self.near else [*said, "near duplicates were not looked for: pip install 'fledge[data]'"]


def alike(texts: Sequence[Text]) -> Alike:
    """Which texts are equal but for white space, or nearly so as `Near` says, where the library for that is installed."""
    plain, near = [joined(text) for text in texts], Near()
    roots = _equal(plain)
    try:
        return Alike(near_groups(Rows((near.signatures(plain),)), plain.__getitem__, near, roots), True)
    except MissingLibrary:
        return Alike(roots, False)


def _equal(texts: Sequence[str]) -> np.ndarray:
    first: dict[bytes, int] = {}
    return np.array([first.setdefault(content_hash(text), number) for number, text in enumerate(texts)])


def joined(text: Text) -> str:
    """A pair as one text."""
    return text if isinstance(text, str) else "\n".join(text)


def refuse_empty(texts: Sequence[Text], what: str) -> None:
    """Raise `ValueError` naming the first text without any, or the first pair of which one is."""
    for number, text in enumerate(texts, 1):
        if not all(side.strip() for side in ((text,) if isinstance(text, str) else text)):
            raise ValueError(f"text {number} of {len(texts)} is empty: there is nothing to {what}")


def split(data: Labelled, shares: Sequence[float] = (0.8, 0.1, 0.1), seed: int = 0, roots: np.ndarray | None = None) -> list[Labelled]:
    """Parts of about these shares, each with the same mix of labels; texts of one root (by default equal ones) are in one part.

    Which text goes where follows from its content and the seed. The rarest label is dealt out first (Sechidis et al., 2011, On the
    stratification of multi-label data), each group of texts to the part that lacks most of all its labels. A label with fewer different
    texts than there are parts is missing from the last ones, never from the first. Raises `ValueError` for shares that do not add up to
    1, and for too few rows.
    """
    if abs(sum(shares) - 1) > 1e-9 or min(shares) <= 0:
        raise ValueError(f"shares {list(shares)} must be above 0 and add up to 1")
    plain = [joined(text) for text in data.texts]
    members: dict[int, list[int]] = {}
    for row, root in enumerate((_equal(plain) if roots is None else roots).tolist()):
        members.setdefault(root, []).append(row)
    groups = list(members.values())
    having = np.zeros((len(groups), len(data.names) + 1), np.int64)  # rows of each label in each group, at last those without any
    for group, rows in zip(having, groups, strict=True):
        for row in rows:
            group[list(data.labels[row]) or [-1]] += 1
    drawn = np.array([share(plain[rows[0]], seed) for rows in groups])
    where = _dealt(having, drawn, np.array(shares))
    parts = [data.part(sorted(row for group in np.flatnonzero(where == part) for row in groups[group])) for part in range(len(shares))]
    if not all(part.texts for part in parts):
        raise ValueError(
            f"{counted(len(groups), 'different text')} cannot be split into {len(shares)} parts of the same labels: "
            f"give at least {len(shares)} different texts of each label"
        )
    return parts


def _dealt(having: np.ndarray, drawn: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """The part (groups,) of each group of which `having` (groups, labels) counts the rows; large ones go first, then as `drawn`."""
    where = np.full(len(having), -1)
    whole = having.sum(0)
    lacking, got = np.outer(shares, whole), np.zeros((len(shares), having.shape[1]), np.int64)
    wanted = np.maximum(lacking, 1)
    for label in np.argsort(whole, kind="stable"):
        waiting = np.flatnonzero((having[:, label] > 0) & (where < 0))
        waiting = waiting[np.lexsort((drawn[waiting], -having[waiting, label]))]
        reached = min(len(shares), len(waiting) + int((got[:, label] > 0).sum()))
        for left, group in zip(range(len(waiting), 0, -1), waiting, strict=True):
            empty = np.flatnonzero(got[:reached, label] == 0)
            more = (having[group] * (having[group] - 2 * lacking) / wanted).sum(1)  # of the squares of what is lacking, in shares of it
            part = int(empty[0] if len(empty) >= left else more.argmin())
            where[group] = part
            lacking[part] -= having[group]
            got[part] += having[group]
    return where
