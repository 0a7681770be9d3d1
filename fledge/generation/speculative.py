"""Speculative decoding: a draft guesses what follows, the model reads all guesses at once and keeps those it might have drawn.

Leviathan et al., 2023 (arXiv:2211.17192): what comes out has the model's own distribution, whatever the draft guesses.
"""

from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from fledge.generation.engine import Completion, Engine, Request, Row, check, inference, log_softmax, marks
from fledge.generation.sampling import NOTHING, draw, probabilities, settle, uniform
from fledge.model import Memory, Transformer

AHEAD = 4  # guesses at a time
# Added to a token's index, so that what a draft draws and whether it is kept have uniform numbers of their own.
GUESSING, KEEPING = 1 << 48, 2 << 48


class Guess(NamedTuple):
    """A token that may follow, drawn from `chances` (vocabulary,)."""

    token: int
    chances: Tensor


def certain(token: int, row: Row) -> Guess:
    """A guess that was not drawn."""
    return Guess(token, torch.zeros_like(row.may, dtype=torch.float32).index_fill(0, torch.tensor(token, device=row.may.device), 1.0))


class Draft(Protocol):
    """What guesses ahead."""

    def guess(self, row: Row, count: int) -> list[Guess]:
        """Up to `count` tokens that may follow what a row has so far, one after the other."""
        ...


class Reader:
    """A model that reads one text, of up to `capacity` tokens, and does not read a beginning again that it has read before."""

    def __init__(self, model: Transformer, capacity: int, source: Sequence[int] | None = None):
        self.model, self.capacity = model, capacity
        self._device = model.embedding.weight.device
        self._cache = model.cache(1, capacity)
        self._read: list[int] = []
        self._memory: Memory | None = None
        if source is not None:
            with inference(model):
                self._memory = model.encode(torch.tensor([list(source)], device=self._device))

    def scores(self, tokens: Sequence[int], last: int) -> Tensor:
        """Scores in fp32 after each of the `last` tokens of a text, (last, vocabulary)."""
        known = next((place for place, (a, b) in enumerate(zip(self._read, tokens, strict=False)) if a != b), len(self._read))
        known = min(known, len(tokens) - last)
        if known < len(self._read):
            self._cache.keep(0, known)
        self._read = list(tokens)
        with inference(self.model):
            new = torch.tensor([self._read[known:]], device=self._device)
            hidden = self.model.hidden(new, None, None, self._cache, None, self._memory)
            return self.model.head(hidden[0, -last:]).float()


class DraftModel:
    """A smaller model that guesses by drawing from its own distribution."""

    def __init__(self, model: Transformer, engine: Engine):
        """Raises `ValueError` for a model that cannot write the engine's tokens, or that reads otherwise than the engine's."""
        check(model, engine.tokenizer)
        ours, theirs = model.arch, engine.model.arch
        if len(ours.stacks) != len(theirs.stacks) or (len(ours.stacks) == 2 and ours.start != theirs.start):
            raise ValueError("the draft is a model of another family: it has to read and begin as the model does that it drafts for")
        self.model = model
        self._reader: Reader | None = None
        self._row: Row | None = None

    def guess(self, row: Row, count: int) -> list[Guess]:
        if self._reader is None or row is not self._row:
            capacity = min(len(row.prompt) + row.most, self.model.arch.context)
            self._row, self._reader = row, Reader(self.model, capacity, row.source)
        tokens, guesses = [*row.prompt, *row.tokens], []
        never, sampling = ~row.may, replace(row.sampling, logit_bias=())  # which need not be the row's in everything
        for place in range(min(count, self._reader.capacity - len(tokens) + 1)):
            scores = fitted(self._reader.scores(tokens, 1), len(never)).masked_fill(never, -torch.inf)
            chances = probabilities(scores, sampling)
            number = uniform(row.seed, GUESSING + len(row.tokens) + place)
            token = int(draw(chances, torch.tensor([number], dtype=torch.float64)))
            guesses.append(Guess(token, chances[0]))
            if token in row.stop_tokens:
                break
            tokens = [*tokens, token]
        return guesses


class Lookup:
    """Guesses that what followed the last few tokens before follows them again (prompt look-up; LLMA, arXiv:2304.04487).

    The latest place counts at which as many as `longest` of the last tokens stood, or else fewer.
    """

    def __init__(self, longest: int = 3):
        self.longest = longest

    def guess(self, row: Row, count: int) -> list[Guess]:
        tokens = [*row.prompt, *row.tokens]
        for length in range(min(self.longest, len(tokens) - 1), 0, -1):
            last = tokens[-length:]
            for start in range(len(tokens) - length - 1, -1, -1):
                if tokens[start : start + length] == last:
                    return [certain(token, row) for token in tokens[start + length : start + length + count]]
        return []


def speculate(engine: Engine, request: Request, draft: Draft, ahead: int = AHEAD) -> Generator[str, None, Completion]:
    """The text in pieces, as `Engine.stream` has them, with a draft that guesses `ahead` tokens at a time.

    Greedy it is the same text; otherwise the same seed draws another one, from the same distribution. It reads in a cache of its own and
    takes no slot. Raises `ValueError` for what cannot be answered.
    """
    if ahead < 1:
        raise ValueError(f"a draft that guesses {ahead} tokens ahead saves nothing: at least 1 is needed")
    return _speculate(engine, Row(request, engine), draft, ahead)


def _speculate(engine: Engine, row: Row, draft: Draft, ahead: int) -> Generator[str, None, Completion]:
    reader = Reader(engine.model, min(len(row.prompt) + row.most - 1, engine.capacity), row.source)
    while not row.reason:
        guesses = draft.guess(row, min(ahead, row.most - len(row.tokens) - 1))
        tokens = [*row.prompt, *row.tokens, *(guess.token for guess in guesses)]
        scores, before = reader.scores(tokens, len(guesses) + 1), len(row.text)
        for guess, after in zip([*guesses, None], scores, strict=True):
            kept = _accept(row, after, guess)
            if row.reason or not kept:
                break
        if piece := row.text[before:]:
            yield piece
    return row.completion()


def _accept(row: Row, scores: Tensor, guess: Guess | None) -> bool:
    """The row's next token, by scores (vocabulary,); whether it is the guess, so that the next guess counts."""
    logprobs = log_softmax(scores)
    possible = scores.masked_fill(~row.allowed(), -torch.inf)[None]
    if bool((possible == -torch.inf).all()):
        row.accept(row.choice(NOTHING, logprobs))
        return False
    chances = probabilities(possible, row.sampling, *marks([row]))
    number = torch.tensor([row.uniform()], dtype=torch.float64)
    if guess is None:
        token = int(draw(chances, number))
    else:
        keeping = torch.tensor([uniform(row.seed, KEEPING + len(row.tokens))])
        token = int(settle(chances, torch.tensor([guess.token], device=chances.device), guess.chances[None], keeping, number))
    row.accept(row.choice(token, logprobs))
    return guess is not None and token == guess.token


def fitted(scores: Tensor, vocabulary: int) -> Tensor:
    """Scores of another model's vocabulary, as many as this one has; what is missing is impossible."""
    missing = vocabulary - scores.shape[-1]
    return pad(scores, (0, missing), value=-torch.inf) if missing > 0 else scores[..., :vocabulary]
