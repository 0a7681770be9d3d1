"""What decides how a corpus is made of its sources."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from fledge.arch.record import to_json
from fledge.data.cleaning.settings import Cleaning
from fledge.data.documents import Document
from fledge.data.sources import find
from fledge.data.unique.near import Near
from fledge.text.tokenizer import Tokenizer, Training

OFF = Cleaning.off()
Choice = Tokenizer | Training | Literal["characters"] | int | None


@dataclass(frozen=True)
class Recipe:
    """All that decides what a corpus of given sources holds.

    `tokenizer`: one that stands, or how many ids a byte-level BPE trained on the train part shall have, or another kind with
    that number, or `"characters"` (of it);
    by default a BPE as large as the text suggests. `validation`: the share of documents held out, chosen by their contents, or a
    function that says which (of documents in memory). Each group is
    split for itself. Of a single document, and where few or uneven ones would make the held-out part more than three times too large or
    small, the end of the longest is cut off, at the end of a line if there is one near.
    `near`: by what near duplicates are found, if they are; of each group the first is kept, or all, on one side of the split.
    `paragraphs`: those that stood before are taken out. `without`: evaluation files, with which no document may share 13 words in a row.
    `licence`: of the text, as it is told to those who get the corpus or a model trained on it.
    """

    tokenizer: Choice = None
    validation: float | Callable[[Document], bool] = 0.1
    seed: int = 0
    text_column: str | None = None
    cleaning: Cleaning = OFF
    near: Near | None = None
    near_duplicates: Literal["remove", "keep"] = "remove"
    paragraphs: bool = False
    without: tuple[str, ...] = ()
    licence: str = ""

    def __post_init__(self) -> None:
        if not callable(self.validation) and not 0 < self.validation < 1:
            raise ValueError(f"the validation share is {self.validation}, but it lies between 0 and 1: for example 0.1")
        if isinstance(self.tokenizer, str) and self.tokenizer != "characters":
            raise ValueError(f"tokenizer {self.tokenizer!r}: give a number of ids for a trained one, or 'characters', or a Tokenizer")

    def told(self) -> dict[str, Any]:
        """The recipe as JSON, a tokenizer by its hash."""
        chosen = Training(self.tokenizer) if isinstance(self.tokenizer, int) else self.tokenizer
        training = chosen if isinstance(chosen, Training) else None
        return {
            "tokenizer": chosen.fingerprint() if isinstance(chosen, Tokenizer) else training.kind if training else chosen or "bpe",
            "vocabulary": training.vocabulary if training else None,
            "validation": "chosen by the caller" if callable(self.validation) else self.validation,
            "seed": self.seed,
            "near_duplicates": self.near_duplicates if self.near else "off",
            "without": sorted({given.fingerprint() for given in find(self.without)}) if self.without else [],
            "licence": self.licence,
            **self.reading(),
        }

    def reading(self) -> dict[str, Any]:
        """What decides how a piece is read, as JSON."""
        near = {**to_json(self.near), **self.near.facts()} if self.near else None
        return {"text_column": self.text_column, "cleaning": to_json(self.cleaning), "near": near, "paragraphs": self.paragraphs}


def vocabulary_for(size: int) -> int:
    """A vocabulary for so many bytes of text: the power of two nearest to their root, from 512 to 32,768.

    The number of different words grows about as the root of a text's length (Heaps, 1978).
    """
    return 2 ** min(15, max(9, round(math.log2(max(1, size)) / 2)))
