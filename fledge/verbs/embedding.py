"""`embed`: one vector for a text, near to those of texts that mean alike."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fledge.verbs.model import Precision, load
from fledge.verbs.session import Column, Name, Place, refuse_unknown

if TYPE_CHECKING:
    from numpy import ndarray

Pooling = Literal["mean", "first", "last"]


@dataclass(frozen=True)
class Embedded:
    """The vectors of texts, `(texts, width)`, in their order; `out` is the file they were written to, if one was named."""

    vectors: ndarray
    out: str | None = None

    def to_json(self) -> dict:
        rows, width = self.vectors.shape
        return {"rows": rows, "width": width, "out": self.out} if self.out else {"vectors": self.vectors.tolist()}

    def __str__(self) -> str:
        if self.out is not None:
            from fledge.data.tables import counted

            return f"{self.out}: {counted(len(self.vectors), 'vector')} of {self.vectors.shape[1]:,} numbers"
        return "\n".join(json.dumps([round(number, 6) for number in row]) for row in self.vectors.tolist())


def embed(
    model: Name,
    text: str | None = None,
    /,
    *,
    file: Place | None = None,
    lines: bool = False,
    text_column: Column | None = None,
    out: Place | None = None,
    pooling: Pooling | None = None,
    device: str = "auto",
    dtype: Precision = "float32",
    threads: int = 0,
) -> Embedded:
    """Turn a text, or each row of a file, into a vector.

    Args:
        model: a model folder, or a hub id, such as sentence-transformers/all-MiniLM-L6-v2.
        text: the text.
        file: instead of a text: a table, each row of which is a text, or a text file, which is one.
        lines: each line of a text file is a text of its own.
        text_column: the column of the table that holds the texts; guessed and said when not given.
        out: write the vectors there, as .npy or .jsonl; without it they go to standard output.
        pooling: what is taken of the tokens: their mean, the first or the last; by default what the folder says, else the mean.
        device: auto, cpu or cuda.
        dtype: of the weights and products; int8 holds the weights of the blocks in 8 bits.
        threads: CPU threads; 0 leaves the number to torch.
    """
    from fledge.verbs.prediction import read_rows

    if (text is None) == (file is None):
        raise ValueError("give either a text or --file FILE to embed")
    if pooling is not None:
        refuse_unknown(pooling, Pooling, "--pooling")
    place = None if out is None else Path(out)
    if place is not None and (place.suffix not in (".npy", ".jsonl") or place.exists()):
        raise ValueError(f"--out {place}{' exists: choose another' if place.exists() else ': vectors are written as .npy or .jsonl'}")
    if file is None:
        texts: Sequence[str] = [str(text)]
    else:
        rows, (column,) = read_rows(str(file), text_column, lines)
        texts = [str(row[column]) for row in rows]
    vectors = load(model, device, dtype, threads).embed(texts, pooling)
    if place is None:
        return Embedded(vectors)
    place.parent.mkdir(parents=True, exist_ok=True)
    new = place.with_name(place.name + ".new")
    with new.open("wb") as stream:
        if place.suffix == ".npy":
            import numpy as np

            np.save(stream, vectors)
        else:
            stream.writelines(json.dumps(row).encode() + b"\n" for row in vectors.tolist())
    new.replace(place)
    return Embedded(vectors, str(place))
