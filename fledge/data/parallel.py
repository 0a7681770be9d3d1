"""Pairs of a source and a target text: rows of a table with two columns, or two files of which line belongs to line."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fledge.arch.record import did_you_mean
from fledge.data.corpus import content_hash, share
from fledge.data.files import COMPRESSED, as_utf8, decoded, mended, opened, require
from fledge.data.tables import SAMPLE, counted, is_table, table

SOURCE = ("source", "src", "input", "document", "dialogue", "article", "question", "text", "prompt", "instruction")
TARGET = ("target", "tgt", "output", "summary", "translation", "highlights", "abstract", "title", "answer", "completion", "response")


@dataclass(frozen=True)
class Parallel:
    """Sources, for each its target, and the line where they stood; of two files the columns are their endings."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    lines: tuple[int, ...]
    source_column: str
    target_column: str
    empty: int = 0
    replaced: int = 0

    def said(self) -> list[str]:
        """Sentences to print: the columns chosen, how many pairs, and what was left out."""
        said = [
            f"source: {self.source_column!r}, target: {self.target_column!r} (others: --source-column, --target-column)",
            counted(len(self.sources), "pair"),
        ]
        said += [f"{counted(self.empty, 'row')} without a source or a target left out"] * bool(self.empty)
        return said + [f"{counted(self.replaced, 'invalid UTF-8 sequence')} replaced"] * bool(self.replaced)

    def part(self, rows: Sequence[int]) -> "Parallel":
        """These rows alone."""
        return replace(self, **{name: tuple(getattr(self, name)[row] for row in rows) for name in ("sources", "targets", "lines")})


def read_parallel(path: str, source: str | None = None, target: str | None = None) -> Parallel:
    """The pairs of a table, or of two files beside each other: `train.de` and `train.en` by the name of either, or `train`.

    Columns, or endings, that are not given are guessed: by their usual names, else in their order where there are just two.
    Raises `ValueError` naming the columns where that does not tell, the line of a row that cannot be read, and both
    lengths where two files do not have the same number of lines.
    """
    rows, source, target = _table(path, source, target) if is_table(path) else _files(path, source, target)
    texts, empty, replaced = [], 0, 0
    for line, one, other, count in rows:
        if not one.strip() or not other.strip():
            empty += 1
            continue
        (one, first), (other, second) = mended(one.strip()), mended(other.strip())
        replaced += count + first + second
        texts.append((one, other, line))
    if not texts:
        raise ValueError(f"{path} has no row with both a source in {source!r} and a target in {target!r}")
    sources, targets, lines = zip(*texts, strict=True)
    return Parallel(sources, targets, lines, source, target, empty, replaced)


Rows = list[tuple[int, str, str, int]]  # line, source, target, replaced


def _table(path: str, source: str | None, target: str | None) -> tuple[Rows, str, str]:
    whole = table(path, [name for name in (source, target) if name])
    for name, flag in ((source, "--source-column"), (target, "--target-column")):
        if name is not None:
            whole.column(name, flag)
    texts = [name for name in whole.columns if any(isinstance(row.values.get(name), str) for row in whole.rows[:SAMPLE])]
    source, target = _two(path, texts, source, target)
    rows = []
    for row in whole.rows:
        pair = [row.values.get(name) for name in (source, target)]
        strange = next((value for value in pair if value is not None and not isinstance(value, str)), None)
        if strange is not None:
            raise ValueError(f"{path}, line {row.line}: {strange!r} is no text")
        rows.append((row.line, pair[0] or "", pair[1] or "", row.replaced))
    return rows, source, target


def _two(path: str, names: Sequence[str], source: str | None, target: str | None) -> tuple[str, str]:
    """Which of the names are the source and the target."""

    def guess(usual: Sequence[str], other: str | None) -> str | None:
        free = [name for name in names if name != other]
        known = [name for word in usual for name in free if name.strip().lower() == word]
        return known[0] if known else free[0] if len(free) == 1 else None

    found_target = target or guess(TARGET, source)
    found_source = source or guess(SOURCE, found_target)
    if found_source is None and found_target is None and len(names) == 2:
        found_source, found_target = names
    found_target = found_target or guess(TARGET, found_source)
    if found_source is None or found_target is None or found_source == found_target:
        raise ValueError(
            f"{path} has {', '.join(names) or 'nothing'}, which does not tell the source from the target: "
            "name them with --source-column and --target-column"
        )
    return found_source, found_target


def _files(path: str, source: str | None, target: str | None) -> tuple[Rows, str, str]:
    """Two files whose names differ in their last ending (before .gz and the like)."""
    place = Path(path)
    stem, own = place.name, None
    packed = rf"(\.(?:{'|'.join(COMPRESSED)}))?"
    if place.is_file():
        stem, _, own = re.sub(rf"{packed}$", "", place.name).rpartition(".")
    beside = sorted(place.parent.iterdir()) if place.parent.is_dir() else []
    found = {match[1]: file for file in beside if (match := re.fullmatch(re.escape(stem) + rf"\.([^.]+?){packed}", file.name))}
    if not stem or len(found) < 2:
        raise ValueError(
            f"{path} is neither a table nor one of two files such as {stem or 'train'}.de and {stem or 'train'}.en: "
            "give a .csv, .tsv, .jsonl, .json or .parquet with two columns, or two such files"
        )
    for name, flag in ((source, "--source-column"), (target, "--target-column")):
        if name is not None and name not in found:
            raise ValueError(f"there is no {stem}.{name} for {flag}{did_you_mean(name, found)}")
    source, target = _two(path, sorted(found), source or (own if own != target else None), target)
    read = [_lines(str(found[name])) for name in (source, target)]
    if len(read[0]) != len(read[1]):
        raise ValueError(
            f"{found[source]} has {len(read[0]):,} lines, but {found[target]} has {len(read[1]):,}: line must belong to line, "
            "so something is missing in one of them"
        )
    rows = [(line, one, other, a + b) for line, ((one, a), (other, b)) in enumerate(zip(*read, strict=True), 1)]
    return rows, source, target


def _lines(path: str) -> list[tuple[str, int]]:
    require(path)
    with opened(path) as stream:
        return [decoded(raw) for raw in as_utf8(stream)]


def split(pairs: Parallel, validation: float = 0.1, seed: int = 0) -> tuple[Parallel, Parallel]:
    """Train and validation, chosen by the source: equal ones are on one side.

    Raises `ValueError` when there are fewer than two different sources, or the share is none.
    """
    if not 0 < validation < 1:
        raise ValueError(f"the validation share is {validation}, but it lies between 0 and 1: for example 0.1")
    groups: dict[bytes, list[int]] = {}
    for row, text in enumerate(pairs.sources):
        groups.setdefault(content_hash(text), []).append(row)
    if len(groups) < 2:
        raise ValueError(f"{counted(len(pairs.sources), 'pair')} with {len(groups)} different source: a split needs at least two")
    order = sorted(groups.values(), key=lambda rows: share(pairs.sources[rows[0]], seed))
    held = min(max(1, round(validation * len(order))), len(order) - 1)
    sides = [sorted(row for rows in part for row in rows) for part in (order[held:], order[:held])]
    return pairs.part(sides[0]), pairs.part(sides[1])
