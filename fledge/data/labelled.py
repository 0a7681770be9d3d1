"""Texts with labels, read from a table and split so that every part has every label and no text is in two."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fledge.data.corpus import content_hash, share
from fledge.data.files import mended
from fledge.data.tables import SAMPLE, Table, counted, guess_label, guess_text, table


@dataclass(frozen=True)
class Labelled:
    """Texts and, for each, the number of its label in `names` (sorted); `lines` are where they stood in their file."""

    texts: tuple[str, ...]
    labels: tuple[int, ...]
    names: tuple[str, ...]
    lines: tuple[int, ...]
    text_column: str
    label_column: str
    empty: int = 0
    unlabelled: int = 0
    replaced: int = 0

    def said(self) -> list[str]:
        """Sentences to print: the columns chosen, the labels with their counts, and what was left out."""
        counts = Counter(self.labels)
        said = [
            f"text: column {self.text_column!r}, label: column {self.label_column!r} (others: --text-column, --label-column)",
            f"{counted(len(self.texts), 'row')}: " + ", ".join(f"{counts[i]:,} {name}" for i, name in enumerate(self.names)),
        ]
        for count, what in ((self.empty, "without text left out"), (self.unlabelled, "without label left out")):
            said += [f"{counted(count, 'row')} {what}"] * bool(count)
        repeated = len(self.texts) - len({content_hash(text) for text in self.texts})
        said += [f"{counted(repeated, 'repeated text')}: a text and its repetitions stay on one side of a split"] * bool(repeated)
        return said + [f"{counted(self.replaced, 'invalid UTF-8 sequence')} replaced"] * bool(self.replaced)

    def part(self, rows: Sequence[int]) -> "Labelled":
        """These rows alone, with all label names."""
        pick = {field: tuple(getattr(self, field)[row] for row in rows) for field in ("texts", "labels", "lines")}
        return replace(self, **pick)


def read_labelled(path: str, text_column: str | None = None, label_column: str | None = None) -> Labelled:
    """The labelled texts of one table; columns that are not given are guessed.

    Raises `ValueError` naming the place when a row cannot be read, no column holds labels, there is one label only, a label
    has a single row (it could not be both learnt and tested), or nearly every row has a label of its own.
    """
    whole = table(path, [name for name in (text_column, label_column) if name])
    text_column, label_column = columns(whole, text_column, label_column)
    texts, labels, lines = [], [], []
    empty = unlabelled = replaced = 0
    for row in whole.rows:
        text, label = row.values.get(text_column), row.values.get(label_column)
        if text is not None and not isinstance(text, str):
            raise ValueError(f"{path}, line {row.line}: {text_column} is {text!r}, but a text is needed")
        if text is None or not text.strip():
            empty += 1
        elif label is None or not str(label).strip():
            unlabelled += 1
        else:
            text, halves = mended(text)
            replaced += row.replaced + halves
            texts.append(text)
            labels.append(mended(str(label))[0].strip())
            lines.append(row.line)
    names = tuple(sorted(set(labels)))
    _check(path, label_column, labels, lines, names)
    number = {name: i for i, name in enumerate(names)}
    return Labelled(
        tuple(texts), tuple(number[label] for label in labels), names, tuple(lines), text_column, label_column, empty, unlabelled, replaced
    )


def columns(whole: Table, text_column: str | None = None, label_column: str | None = None) -> tuple[str, str]:
    """The columns of text and label: those given, if the table has them, else guessed."""
    sample = whole.rows[:SAMPLE]
    if text_column is not None:
        whole.column(text_column, "--text-column")
    if label_column is not None:
        whole.column(label_column, "--label-column")
    text_column = text_column or guess_text(whole.path, sample, [label_column] if label_column else [])
    return text_column, label_column or guess_label(whole.path, sample, [text_column])


def _check(path: str, column: str, labels: list[str], lines: list[int], names: tuple[str, ...]) -> None:
    if not labels:
        raise ValueError(f"{path} has no row with both a text and a label in column {column!r}")
    if len(names) == 1:
        raise ValueError(f"{path} has one label only, {names[0]!r} in column {column!r}: a classifier needs at least two")
    if len(names) > 20 and len(names) > len(labels) / 2:
        raise ValueError(
            f"column {column!r} of {path} has {len(names):,} different values in {len(labels):,} rows: name another with --label-column"
        )
    counts = Counter(labels)
    once = [name for name in names if counts[name] == 1]
    if once:
        where = lines[labels.index(once[0])]
        more = f" (so are {counted(len(once) - 1, 'other')})" if len(once) > 1 else ""
        raise ValueError(
            f"{path}, line {where}: label {once[0]!r} is seen once{more} and cannot be both learnt and tested: add rows of it, or remove it"
        )


def split(data: Labelled, shares: Sequence[float] = (0.8, 0.1, 0.1), seed: int = 0) -> list[Labelled]:
    """Parts of about these shares, each with the same mix of labels; equal texts are in one part.

    Which text goes where follows from its content and the seed. A label with fewer different texts than there are parts is
    missing from the last ones, never from the first. Raises `ValueError` for shares that do not add up to 1.
    """
    if abs(sum(shares) - 1) > 1e-9 or min(shares) <= 0:
        raise ValueError(f"shares {list(shares)} must be above 0 and add up to 1")
    groups: dict[bytes, list[int]] = {}
    for row, text in enumerate(data.texts):
        groups.setdefault(content_hash(text), []).append(row)
    by_label: dict[int, list[list[int]]] = {}
    for rows in groups.values():
        by_label.setdefault(data.labels[rows[0]], []).append(rows)
    parts: list[list[int]] = [[] for _ in shares]
    for same in by_label.values():
        same.sort(key=lambda rows: share(data.texts[rows[0]], seed))
        sizes = _sizes(len(same), shares)
        for part, start, size in zip(parts, [sum(sizes[:i]) for i in range(len(sizes))], sizes, strict=True):
            part += [row for rows in same[start : start + size] for row in rows]
    return [data.part(sorted(part)) for part in parts]


def _sizes(count: int, shares: Sequence[float]) -> list[int]:
    """`count` things in parts of about these shares, none empty as long as there are enough; the first gets what is left over."""
    sizes = [round(count * part) for part in shares[1:]]
    sizes = [max(size, int(count > i + 1)) for i, size in enumerate(sizes)]
    while sum(sizes) >= count and any(sizes):
        sizes[sizes.index(max(sizes))] -= 1
    return [count - sum(sizes), *sizes]
