"""Which words decided: by integrated gradients, and by what changes when a word is taken away."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fledge.arch import Choice, Words
from fledge.arch.record import to_json
from fledge.data.framing import Framed
from fledge.explanation.pieces import Piece, word_pieces
from fledge.model import Transformer
from fledge.text.tokenizer import Tokenizer

STEPS = 32  # between nothing and the text, of integrated gradients
AT_ONCE = 16  # rows side by side
OCCLUDED = 128  # rows with something taken away, at most


@dataclass(frozen=True)
class Word:
    """A word with what it adds to the log-odds of what was said, in nats: by its gradients, and by what is lost without it."""

    text: str
    gradient: float
    occlusion: float


@dataclass(frozen=True)
class Deciding:
    """The words of a text and how they spoke for what was `said`, whose log-odds are `odds` (nats) with them and `without` any.

    `agreement` is the rank correlation of both measures over the words; None where there are too few to tell.
    """

    said: str
    odds: float
    without: float
    words: tuple[Word, ...]
    agreement: float | None

    @property
    def strongest(self) -> list[Word]:
        """The words from the most decisive on, for or against, by the mean of both measures."""
        return sorted((word for word in self.words if word.text.strip()), key=lambda word: -abs(word.gradient + word.occlusion))

    def to_json(self) -> dict[str, Any]:
        return to_json(self)


Score = Callable[[Tensor], Tensor]
"""The log-odds (rows,) of what was said, of the vectors of all tokens of rows (rows, length, width)."""


def deciding_label(model: Transformer, tokenizer: Tokenizer, row: Framed, label: int) -> Deciding:
    """The words of a text that decided for or against a label of a classifier."""
    choice: Choice = model.arch.choice

    def odds(scores: Tensor) -> Tensor:
        return scores[:, label] if choice == "several" else log_odds(scores, label)

    return _deciding(model, tokenizer, row, model.arch.labels[label], odds)


def deciding_next(model: Transformer, tokenizer: Tokenizer, tokens: Sequence[int], token: int | None = None) -> Deciding:
    """The words that decided for or against the next `token` of a text, by default the most probable one.

    Of a model with an encoder and a decoder it is the first token of the target that the text is a source of.
    """
    assert isinstance(model.arch.head, Words)
    row = Framed(np.array(tokens, np.int64))
    if token is None:
        with torch.no_grad():
            token = int(_forward(model, row, model.embedding(_row(model, row)))[0].argmax())
    best = token
    return _deciding(model, tokenizer, row, tokenizer.piece(best), lambda scores: log_odds(scores, best))


def log_odds(scores: Tensor, number: int) -> Tensor:
    """`log p / (1 - p)` of one of the probabilities that scores (rows, numbers) come to: its score less the others' log-sum-exp."""
    others = torch.cat((scores[:, :number], scores[:, number + 1 :]), 1)
    return scores[:, number] - others.logsumexp(-1)


def _deciding(model: Transformer, tokenizer: Tokenizer, row: Framed, said: str, odds: Callable[[Tensor], Tensor]) -> Deciding:
    pieces = word_pieces(tokenizer, row.tokens)
    frozen = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        whole = model.embedding(_row(model, row)).detach()
        empty = whole.clone()
        empty[:, [place for piece in pieces for place in piece.places]] = nothing(model, tokenizer).to(whole.dtype)

        def score(vectors: Tensor) -> Tensor:
            return odds(_forward(model, row, vectors))

        with torch.no_grad():
            full, bare = float(score(whole)), float(score(empty))
            occlusion = occlusions(score, whole, empty, pieces)
        gradient = integrated_gradients(score, whole, empty, pieces)
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
    words = tuple(Word(piece.text, float(g), float(o)) for piece, g, o in zip(pieces, gradient, occlusion, strict=True))
    return Deciding(said, full, bare, words, rank_correlation(gradient, occlusion))


def integrated_gradients(score: Score, whole: Tensor, empty: Tensor, pieces: Sequence[Piece], steps: int = STEPS) -> np.ndarray:
    """What each piece adds on the straight way from `empty` to `whole` vectors (1, length, width), (pieces,); in all what the score gains.

    Sundararajan et al., 2017, arXiv:1703.01365, equation 3, by the midpoint rule; steps are short near `empty`, where a norm before
    attention turns a small change into a large one.
    """
    total, marks = torch.zeros_like(whole), torch.arange(2 * steps + 1, dtype=whole.dtype, device=whole.device) / (2 * steps)
    edges, middles = (marks**3)[::2], (marks**3)[1::2]
    for at, share in zip(middles.split(AT_ONCE), edges.diff().split(AT_ONCE), strict=True):
        between = (empty + at[:, None, None] * (whole - empty)).requires_grad_()
        (gradient,) = torch.autograd.grad(score(between).sum(), between)
        total += (share[:, None, None] * gradient).sum(0, keepdim=True)
    each = (total * (whole - empty)).sum(-1)[0].double().cpu().numpy()
    return np.array([each[list(piece.places)].sum() for piece in pieces])


def occlusions(score: Score, whole: Tensor, empty: Tensor, pieces: Sequence[Piece], most: int = OCCLUDED) -> np.ndarray:
    """What the score loses when each piece's vectors are those of `empty`, (pieces,).

    Of more than `most` pieces neighbours are taken away together and share what is lost.
    """
    full, groups = score(whole), np.array_split(np.arange(len(pieces)), min(len(pieces), most) or 1)
    lost = np.zeros(len(pieces))
    for start in range(0, len(groups), AT_ONCE):
        part = groups[start : start + AT_ONCE]
        rows = whole.repeat(len(part), 1, 1)
        for vectors, group in zip(rows, part, strict=True):
            places = [place for number in group for place in pieces[number].places]
            vectors[places] = empty[0, places]
        for group, loss in zip(part, (full - score(rows)).tolist(), strict=True):
            lost[group] = loss / max(1, len(group))
    return lost


def nothing(model: Transformer, tokenizer: Tokenizer) -> Tensor:
    """The vector of no word, (width,): an encoder's mask, which it learned to read as a gap, else the mean of all tokens' vectors."""
    weight = model.embedding.weight.detach()
    return weight[tokenizer.mask] if model.arch.decoder is None and tokenizer.mask is not None else weight.mean(0)


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float | None:
    """Spearman's: the correlation of the ranks, ties sharing theirs; None for fewer than three values, or all alike."""
    if len(first) < 3:
        return None
    ranks = []
    for values in (first, second):
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts - 1) / 2)[inverse])
    spread = np.std(ranks[0]) * np.std(ranks[1])
    return float(np.mean((ranks[0] - np.mean(ranks[0])) * (ranks[1] - np.mean(ranks[1]))) / spread) if spread else None


def _row(model: Transformer, row: Framed) -> Tensor:
    return torch.from_numpy(row.tokens)[None].to(model.embedding.weight.device)


def _forward(model: Transformer, row: Framed, vectors: Tensor) -> Tensor:
    """The scores (rows, labels or words) of rows of these tokens with these vectors; of words those that follow the last token."""
    tokens = _row(model, row).expand(len(vectors), -1)
    types = None if row.types is None or model.types is None else torch.from_numpy(row.types).to(tokens.device).expand_as(tokens)
    both = len(model.arch.stacks) == 2
    with _vectors(model, vectors):
        if not isinstance(model.arch.head, Words):
            return model(tokens, types=types)
        if not both:
            return model(tokens)[:, -1]
        start = torch.full_like(tokens[:, :1], model.arch.start or 0)
        return model(start, memory=model.encode(tokens))[:, -1]


@contextmanager
def _vectors(model: Transformer, vectors: Tensor) -> Iterator[None]:
    """The embedding gives these for the tokens; a decoder that reads the same one place later gets them one place later."""
    calls = 0

    def give(module: Any, tokens: Any, found: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 1:
            return vectors
        return found if isinstance(model.arch.head, Words) else torch.cat((found[:, :1], vectors[:, :-1]), 1)

    handle = model.embedding.register_forward_hook(give)
    try:
        yield
    finally:
        handle.remove()
