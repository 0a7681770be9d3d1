"""`predict`: the label of a text, or of every row of a file; a model that learned to mend text fills in its gaps."""

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from fledge.verbs import terminal
from fledge.verbs.model import Precision, load
from fledge.verbs.session import Column, Name, Place

if TYPE_CHECKING:
    from fledge.data.labelled import Text
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
class Tagged:
    """Those of several labels that a text has, and the probability of each label."""

    labels: list[str]
    scores: dict[str, float]

    def __str__(self) -> str:
        best = sorted(self.scores.items(), key=lambda item: -item[1])
        return "\n".join(f"{chance:6.1%} {'*' if label in self.labels else ' '} {label}" for label, chance in best)


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
    second: str | None = None,
    text_column: Column | None = None,
    second_column: Column | None = None,
    out: Place | None = None,
    device: str = "auto",
    dtype: Precision = "float32",
    threads: int = 0,
) -> Prediction | Tagged | Filled | Predictions:
    """Classify a text, or each row of a file; an encoder, or a model that learned to denoise, fills in its gaps.

    A gap is written ___ or [MASK], as in "The ___ is blue."

    Args:
        model: the folder of a classifier or of a model that fills in gaps, or a hub id.
        text: the text.
        file: instead of a text: a table, each row of which is a text, or a text file, which is one.
        lines: each line of a text file is a text of its own.
        second: the second text, for a classifier that judges pairs.
        text_column: the column of the table that holds the texts; by default as the model learned, else guessed, and said.
        second_column: the column of the second texts, for a classifier that judges pairs.
        out: write the rows with their labels there, as .csv or .jsonl; without it labels go to standard output.
        device: auto, cpu or cuda.
        dtype: of the weights and products; int8 holds the weights of the blocks in 8 bits.
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
        kind = Filled if opened.fills else Tagged if opened.arch.choice == "several" else Prediction
        return kind(**opened.predict(text if second is None else (text, second)))
    opened = load(model, device, dtype, threads)
    rows, columns = read_rows(str(file), text_column, lines, second_column, opened.facts.get("data") or {})
    if out is None:
        return classified(opened, rows, columns)
    out.parent.mkdir(parents=True, exist_ok=True)
    new = out.with_name(out.name + ".new")
    try:
        with new.open("w", encoding="utf-8", newline="") as place:  # before the work: it may not be allowed
            done = classified(opened, rows, columns, place, out.suffix)
        new.replace(out)
    finally:
        new.unlink(missing_ok=True)
    return replace(done, out=str(out))


def read_rows(
    file: str, text_column: str | None, lines: bool, second_column: str | None = None, learned: Mapping[str, Any] | None = None
) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """The rows of a table and the columns of their texts; a text file is one row, or has a row for each `lines` that is not empty.

    Columns that are not given are those that the model `learned` from, where the table has them. Raises `ValueError` naming the line of
    a row without text.
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
        return [{"text": text} for whole in texts for text in (whole.splitlines() if lines else [whole]) if text.strip()], ("text",)
    named = {"--text-column": text_column, "--second-column": second_column}
    whole = table(file, [name for name in named.values() if name])
    columns = [whole.column(name, flag) for flag, name in named.items() if name]
    if not columns:
        columns = [name for key in ("text_column", "second_column") if (name := (learned or {}).get(key)) in whole.columns]
    columns = columns or [guess_text(whole.path, whole.rows[:SAMPLE], [])]
    terminal.say(f"  text: column {' and '.join(map(repr, columns))} of {counted(len(whole.rows), 'row')}")
    for row in whole.rows:
        for column in columns:
            if not str(row.values.get(column) or "").strip():
                raise ValueError(f"{file}, line {row.line}: column {column!r} is empty, so there is nothing to read")
    return [row.values for row in whole.rows], tuple(columns)


def classified(
    model: "Model", rows: list[dict[str, Any]], columns: tuple[str, ...], out: TextIO | None = None, suffix: str = ".csv"
) -> Predictions:
    """The labels of the rows; with `out` the rows are written there with their labels, as lines of JSON or as CSV.

    Several labels stand in one cell (`a|b`), each with a column of its probability.
    """
    first, *second = columns
    texts: list[Text] = [(str(row[first]), str(row[second[0]])) if second else str(row[first]) for row in rows]
    found = model.predict(texts)
    if model.fills:
        said = [([one["text"]], {"probability": math.prod(max(chances.values()) for chances in one["masks"])}) for one in found]
    elif model.arch.choice == "several":
        said = [(one["labels"], {f"probability of {label}": chance for label, chance in one["scores"].items()}) for one in found]
    else:
        said = [([one["label"]], {"probability": one["scores"][one["label"]]}) for one in found]
    counts = {label: sum(label in labels for labels, _ in said) for label in model.arch.labels}
    names = tuple("|".join(labels) for labels, _ in said)
    if out is None:
        return Predictions(len(rows), counts, names)
    full = [
        {**row, "predicted": name, **{key: round(chance, 4) for key, chance in chances.items()}}
        for row, name, (_, chances) in zip(rows, names, said, strict=True)
    ]
    if suffix == ".jsonl":
        out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in full)
    else:
        writer = csv.DictWriter(out, dict.fromkeys(name for row in full for name in row))
        writer.writeheader()
        writer.writerows(full)
    return Predictions(len(rows), counts, names)
