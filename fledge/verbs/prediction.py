"""`predict`: the label of a text, or of every row of a file; a model that learned to mend text fills in its gaps."""

import csv
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from fledge.verbs import terminal
from fledge.verbs.model import Dtype, load
from fledge.verbs.session import Column, Name, Place

if TYPE_CHECKING:
    from fledge.verbs.model import Model


@dataclass(frozen=True)
class Prediction:
    """A text's label and the probability of each label."""

    label: str
    scores: dict[str, float]

    def __str__(self) -> str:
        best = sorted(self.scores.items(), key=lambda item: -item[1])
        return "\n".join(f"{chance:6.1%}  {label}" for label, chance in best)


@dataclass(frozen=True)
class Filled:
    """A text with its gaps filled in, and for each of them the most probable texts."""

    text: str
    masks: list[dict[str, float]]

    def __str__(self) -> str:
        rows = ["  ".join(f"{chance:6.1%} {word}" for word, chance in words.items()) for words in self.masks]
        return "\n".join([self.text, *rows])


@dataclass(frozen=True)
class Predictions:
    """The labels of a file's rows, or the filled-in texts, in their order; `out` is the file they were written to, if one was named."""

    rows: int
    counts: dict[str, int]
    labels: tuple[str, ...]
    out: str | None = None

    def __str__(self) -> str:
        if self.out is None:
            return "\n".join(self.labels)
        return f"{self.out}: {self.rows:,} rows; " + ", ".join(f"{count:,} {label}" for label, count in self.counts.items())


def predict(
    model: Name,
    text: str | None = None,
    /,
    *,
    file: Place | None = None,
    lines: bool = False,
    text_column: Column | None = None,
    out: Place | None = None,
    device: str = "auto",
    dtype: Dtype = "float32",
    threads: int = 0,
) -> Prediction | Filled | Predictions:
    """Classify a text, or each row of a file; an encoder, or a model that learned to denoise, fills in its gaps.

    A gap is written ___ or [MASK], as in "The ___ is blue."

    Args:
        model: the folder of a classifier or of a model that fills in gaps, or a hub id.
        text: the text.
        file: instead of a text: a table, each row of which is a text, or a text file, which is one.
        lines: each line of a text file is a text of its own.
        text_column: the column of the table that holds the texts; guessed and said when not given.
        out: write the rows with their labels there, as .csv or .jsonl; without it labels go to standard output.
        device: auto, cpu or cuda.
        dtype: of the weights and products.
        threads: CPU threads; 0 leaves the number to torch.
    """
    if (text is None) == (file is None):
        raise ValueError("give either a text or --file FILE to predict from")
    out = None if out is None else Path(out)
    if out is not None and (file is None or out.suffix not in (".csv", ".jsonl")):
        raise ValueError(f"--out {out} takes the rows of a --file, as .csv or .jsonl")
    if out is not None and out.exists():
        raise ValueError(f"{out} exists: choose another --out")
    if file is None:
        assert text is not None
        opened = load(model, device, dtype, threads)
        return (Filled if opened.fills else Prediction)(**opened.predict(text))
    rows, column = read_rows(str(file), text_column, lines)
    if out is None:
        return classified(load(model, device, dtype, threads), rows, column)
    out.parent.mkdir(parents=True, exist_ok=True)
    new = out.with_name(out.name + ".new")
    try:
        with new.open("w", encoding="utf-8", newline="") as opened:  # before the work: it may not be allowed
            done = classified(load(model, device, dtype, threads), rows, column, opened, out.suffix)
        new.replace(out)
    finally:
        new.unlink(missing_ok=True)
    return replace(done, out=str(out))


def read_rows(file: str, text_column: str | None, lines: bool) -> tuple[list[dict[str, Any]], str]:
    """The rows of a table and the column of their texts; a text file is one row, or has a row for each `lines` that is not empty.

    Raises `ValueError` naming the line of a row without text.
    """
    from fledge.data.documents import Document, noted, remarks
    from fledge.data.sources import read
    from fledge.data.tables import SAMPLE, counted, guess_text, is_table, table

    if Path(file).is_dir():
        raise ValueError(f"{file} is a folder: give a table or a text file")
    if not is_table(file):
        items = list(read([file]))
        for line in remarks(*noted(items)):
            terminal.say(f"  {line}")
        texts = [item.text for item in items if isinstance(item, Document)]
        return [{"text": text} for whole in texts for text in (whole.splitlines() if lines else [whole]) if text.strip()], "text"
    whole = table(file, [text_column] if text_column else [])
    column = whole.column(text_column, "--text-column") if text_column else guess_text(whole.path, whole.rows[:SAMPLE], [])
    terminal.say(f"  text: column {column!r} of {counted(len(whole.rows), 'row')}")
    for row in whole.rows:
        if not str(row.values.get(column) or "").strip():
            raise ValueError(f"{file}, line {row.line}: column {column!r} is empty, so there is nothing to read")
    return [row.values for row in whole.rows], column


def classified(model: "Model", rows: list[dict[str, Any]], column: str, out: TextIO | None = None, suffix: str = ".csv") -> Predictions:
    """The labels of the rows; with `out` the rows are written there with their labels, as lines of JSON or as CSV."""
    found = model.predict([str(row[column]) for row in rows])
    labels = tuple(row["text" if model.fills else "label"] for row in found)
    counts = {label: labels.count(label) for label in model.arch.labels}
    if out is None:
        return Predictions(len(rows), counts, labels)
    scores = [one["masks"] if model.fills else [one["scores"]] for one in found]
    full = [
        {**row, "predicted": label, "probability": round(math.prod(max(chances.values()) for chances in parts), 4)}
        for row, label, parts in zip(rows, labels, scores, strict=True)
    ]
    if suffix == ".jsonl":
        out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in full)
    else:
        writer = csv.DictWriter(out, dict.fromkeys(name for row in full for name in row))
        writer.writeheader()
        writer.writerows(full)
    return Predictions(len(rows), counts, labels)
