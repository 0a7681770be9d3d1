"""Tokens as the words that people read."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fledge.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Piece:
    """A stretch of a text: its words as they stand there, and the `places` of its tokens in the row."""

    text: str
    places: tuple[int, ...]


def word_pieces(tokenizer: Tokenizer, tokens: Sequence[int] | np.ndarray) -> list[Piece]:
    """The words of a row of tokens, with what stands between them; control tokens, which nobody wrote, are left out.

    Where they part two texts a new line begins.
    """
    row = [int(token) for token in tokens]
    controls = set(tokenizer.controls.values())
    groups: dict[int, list[int]] = {}
    for place, number in enumerate(tokenizer.words(row)):
        if row[place] not in controls:
            groups.setdefault(number, []).append(place)
    pieces, before, said = [], list[int](), ""
    for places in groups.values():
        before += [row[place] for place in places]
        whole = tokenizer.decode(before)
        parted = bool(pieces) and row[places[0] - 1] in controls
        pieces.append(Piece("\n" * parted + whole[len(said) :], tuple(places)))
        said = whole
    return pieces
