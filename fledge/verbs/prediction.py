"""`predict`: the label of a text, or of every row of a file."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fledge.verbs import terminal
from fledge.verbs.model import Dtype, load
from fledge.verbs.session import Name, Place

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
class Predictions:
    """The labels of a file's rows, in their order; `out` is the file they were written to, if one was named."""

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
    text_column: str | None = None,
    out: Place | None = None,
    device: str = "auto",
    dtype: Dtype = "float32",
    threads: int = 0,
) -> Prediction | Predictions:
    """Classify a text, or each row of a file.

    Args:
        model: a classifier's folder, or a hub id.
        text: the text to classify.
        file: instead of a text: a table, whose rows are classified, or a text file, which is one text.
        lines: each line of a text file is a text of its own.
        text_column: the column of the table that holds the texts; guessed and said when not given.
        out: write the rows with their labels there, as .csv or .jsonl; without it labels go to standard output.
        device: auto, cpu or cuda.
        dtype: of the weights and products.
        threads: CPU threads; 0 leaves the number to torch.
    """
    if (text is None) == (file is None):
        raise ValueError("give either a text or --file FILE to classify")
    out = None if out is None else Path(out)
    if out is not None and (file is None or out.suffix not in (".csv", ".jsonl")):
        raise ValueError(f"--out {out} takes the rows of a --file, as .csv or .jsonl")
    if out is not None and out.exists():
        raise ValueError(f"{out} exists: choose another --out")
    if file is None:
        assert text is not None
        return Prediction(**load(model, device, dtype, threads).predict(text))
    rows, column = read_rows(str(file), text_column, lines)
    return classified(load(model, device, dtype, threads), rows, column, out)


def read_rows(file: str, text_column: str | None, lines: bool) -> tuple[list[dict[str, Any]], str]:
    """The rows of a table and the column of their texts; a text file is one row, or has a row for each `lines` that is not empty.

    Raises `ValueError` naming the line of a row without text.
    """
    from fledge.data.sources import Document, read
    from fledge.data.tables import SAMPLE, counted, guess_text, is_table, table

    if Path(file).is_dir():
        raise ValueError(f"{file} is a folder: give a table or a text file")
    if not is_table(file):
        texts = [item for item in read([file]) if isinstance(item, Document)]
        for item in texts:
            if item.replaced:
                terminal.say(f"  {counted(item.replaced, 'invalid UTF-8 sequence')} replaced")
        return [{"text": text} for item in texts for text in (item.text.splitlines() if lines else [item.text]) if text.strip()], "text"
    whole = table(file, [text_column] if text_column else [])
    column = whole.column(text_column, "--text-column") if text_column else guess_text(whole.path, whole.rows[:SAMPLE], [])
    terminal.say(f"  classifying column {column!r} of {len(whole.rows):,} rows")
    for row in whole.rows:
        if not str(row.values.get(column) or "").strip():
            raise ValueError(f"{file}, line {row.line}: column {column!r} is empty, so there is nothing to classify")
    return [row.values for row in whole.rows], column


def classified(model: "Model", rows: list[dict[str, Any]], column: str, out: Path | None) -> Predictions:
    found = model.predict([str(row[column]) for row in rows])
    labels = tuple(row["label"] for row in found)
    counts = {label: labels.count(label) for label in model.arch.labels}
    if out is None:
        return Predictions(len(rows), counts, labels)
    full = [
        {**row, "predicted": one["label"], "probability": round(one["scores"][one["label"]], 4)}
        for row, one in zip(rows, found, strict=True)
    ]
    new = out.with_name(out.name + ".new")
    with new.open("w", encoding="utf-8", newline="") as file:
        if out.suffix == ".jsonl":
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in full)
        else:
            writer = csv.DictWriter(file, dict.fromkeys(name for row in full for name in row))
            writer.writeheader()
            writer.writerows(full)
    new.replace(out)
    return Predictions(len(rows), counts, labels, str(out))
