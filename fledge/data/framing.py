"""Texts and pairs of texts as rows of tokens for a model that reads them whole: framed, and cut or in windows where they are too long."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fledge.data.batches import Batch, Bucketed, Place, draw, padded
from fledge.data.labelled import Text
from fledge.text.tokenizer import Tokenizer

Long = Literal["cut", "windows"]
"""What becomes of a text that is too long: it loses its end, or it is read in windows that overlap by a quarter."""

OVERLAP = 4  # a window shares a quarter of itself with the next


@dataclass(frozen=True)
class Framed:
    """A row of tokens, of pairs with the segment of each, both (length,) int64."""

    tokens: np.ndarray
    types: np.ndarray | None = None


class Frames:
    """Texts as a tokenizer frames them, in rows of at most `context` tokens; those of a text are its windows, one where it fits.

    `beyond` counts the texts that do not fit. A pair is always cut.
    """

    def __init__(self, texts: Sequence[Text], tokenizer: Tokenizer, context: int, long: Long = "cut"):
        self.tokenizer, self.context, self.long = tokenizer, context, long
        self.room = max(1, context - len(tokenizer.framed([])))
        sides = [(text,) if isinstance(text, str) else text for text in texts]
        encoded = iter(tokenizer.encode_batch([text for side in sides for text in side]))
        self._texts = [tuple(next(encoded) for _ in side) for side in sides]
        self.beyond = sum(self._whole(text) > context for text in self._texts)

    def __len__(self) -> int:
        return len(self._texts)

    def _whole(self, text: tuple[list[int], ...]) -> int:
        return len(self.tokenizer.framed(text[0]) if len(text) == 1 else self.tokenizer.framed_pair(text[0], text[1])[0])

    def windows(self, number: int) -> int:
        """How many rows there are of a text."""
        text = self._texts[number]
        if self.long == "cut" or len(text) > 1 or len(text[0]) <= self.room:
            return 1
        return math.ceil((len(text[0]) - self.room) / (self.room - self.room // OVERLAP)) + 1

    def row(self, number: int, window: int = 0) -> Framed:
        """One window of a text; they are alike in length and lie evenly from its first token to its last."""
        text = self._texts[number]
        if len(text) > 1:
            tokens, types = self.tokenizer.framed_pair(text[0], text[1], self.context)
            return Framed(np.array(tokens, np.int64), np.array(types, np.int64))
        start = window * (len(text[0]) - self.room) // max(1, self.windows(number) - 1) if window else 0
        return Framed(np.array(self.tokenizer.framed(text[0][start:], self.context), np.int64))

    def length(self, number: int) -> int:
        """The tokens of each row of a text."""
        return min(self._whole(self._texts[number]), self.context)


def collated(rows: Sequence[Framed], labels: np.ndarray, pad: int) -> Batch:
    """Rows side by side, padded on the right to the longest."""
    tokens, positions, document = padded([row.tokens for row in rows], pad)
    types = [row.types for row in rows if row.types is not None]
    return Batch(tokens, labels, positions, document, types=padded(types, 0)[0] if types else None)


class LabelledTexts(Bucketed):
    """Texts with their labels, class numbers (rows,) or whether they have each label (rows, labels), framed as the tokenizer does.

    Of a text in windows each epoch shows another, drawn anew; outside of training it is the first.
    """

    def __init__(self, frames: Frames, truth: np.ndarray, batch: int, seed: int = 0, accumulate: int = 1):
        if len(frames) != len(truth) or not len(truth):
            raise ValueError(f"{len(frames)} texts with {len(truth)} labels: each needs one, and there must be some")
        super().__init__([frames.length(number) for number in range(len(frames))], batch, seed, accumulate)
        self.frames, self.truth = frames, truth

    def collated(self, places: Sequence[Place]) -> Batch:
        rows = [self.frames.row(number, self._window(epoch, number)) for epoch, number in places]
        return collated(rows, self.truth[[number for _, number in places]], self.frames.tokenizer.pad)

    def _window(self, epoch: int | None, number: int) -> int:
        windows = self.frames.windows(number)
        return 0 if epoch is None or windows == 1 else int(draw(self.seed, epoch, number, "window").integers(windows))
