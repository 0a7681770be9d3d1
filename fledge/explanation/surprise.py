"""How surprised a language model is at each token of a text, and what it would rather have said."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fledge.arch import Words
from fledge.model import Transformer
from fledge.text.tokenizer import Tokenizer

AT_ONCE = 32  # rows with another token masked each
ALTERNATIVES = 5


@dataclass(frozen=True)
class Surprise:
    """A token: what it cost in bits, the how-manieth guess it was, and the best guesses with their probabilities.

    The first token of a text has no cost where nothing stands before it.
    """

    piece: str
    bits: float | None
    rank: int | None
    alternatives: tuple[tuple[str, float], ...] = ()

    def rather(self, most: int = ALTERNATIVES) -> str:
        """The best guesses in one line."""
        return ", ".join(f"{piece} {chance:.0%}" for piece, chance in self.alternatives[:most])


def surprises(model: Transformer, tokenizer: Tokenizer, tokens: Sequence[int], most: int = ALTERNATIVES) -> list[Surprise]:
    """For each token what the model thought of it: a decoder from what stands before it, an encoder from all others, it being masked.

    `tokens` are as the tokenizer frames them; a decoder that no control token opens for reads the one that ends a text first, where
    there is room. An encoder's bits are those of pseudo-log-likelihood (Salazar et al., 2020, arXiv:1910.14659).
    Raises `ValueError` for a model that scores no words, or has an encoder and a decoder.
    """
    if len(model.arch.stacks) == 2 or not isinstance(model.arch.head, Words):
        raise ValueError("this model scores no words of the text that it reads")
    controls = set(tokenizer.controls.values())
    row = torch.tensor(list(tokens), device=model.embedding.weight.device)
    with torch.inference_mode():
        return _before(model, tokenizer, row, controls, most) if model.arch.writes else _around(model, tokenizer, row, controls, most)


def _before(model: Transformer, tokenizer: Tokenizer, row: Tensor, controls: set[int], most: int) -> list[Surprise]:
    opened = bool(len(row)) and int(row[0]) in controls
    if not opened and len(row) < model.arch.context:
        row, opened = torch.cat((row.new_tensor([tokenizer.end_of_text]), row)), True
    chances = model(row[None])[0].float().log_softmax(-1)
    first = [] if opened else [Surprise(tokenizer.piece(int(row[0])), None, None)]
    found = [_judged(tokenizer, chances[at], int(token), most) for at, token in enumerate(row[1:].tolist()) if token not in controls]
    return first + found


def _around(model: Transformer, tokenizer: Tokenizer, row: Tensor, controls: set[int], most: int) -> list[Surprise]:
    if tokenizer.mask is None:
        raise ValueError("the tokenizer of this encoder has no mask, so that it cannot be asked for a word")
    places = [at for at, token in enumerate(row.tolist()) if token not in controls]
    found = []
    for start in range(0, len(places), AT_ONCE):
        part = places[start : start + AT_ONCE]
        rows = row.repeat(len(part), 1)
        rows[torch.arange(len(part)), part] = tokenizer.mask
        chances = model(rows)[torch.arange(len(part)), part].float().log_softmax(-1)
        found += [_judged(tokenizer, one, int(row[at]), most) for one, at in zip(chances, part, strict=True)]
    return found


def _judged(tokenizer: Tokenizer, chances: Tensor, token: int, most: int) -> Surprise:
    own = float(chances[token])
    best = chances[: tokenizer.size].topk(min(most, tokenizer.size))
    guesses = tuple((tokenizer.piece(number), math.exp(chance)) for chance, number in zip(*map(Tensor.tolist, best), strict=True))
    return Surprise(tokenizer.piece(token), -own / math.log(2), int((chances > own).sum()) + 1, guesses)
