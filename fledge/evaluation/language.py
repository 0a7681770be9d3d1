"""What a trained model makes of held-out text: bits per byte and perplexity, every token scored exactly once."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fledge.arch.record import to_json
from fledge.evaluation.clock import in_time
from fledge.evaluation.statistics import Interval, ratio
from fledge.model import Transformer

if TYPE_CHECKING:
    from fledge.data.batches import Batch

IGNORED = -100
TOKENS_AT_ONCE = 8192
SCORES_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class LanguageScore:
    """One model on one text; `nats_per_token` is the loss, `bits_per_byte` is there where the bytes of the text are known."""

    documents: int
    tokens: int
    nats_per_token: Interval
    bits_per_byte: Interval | None = None

    @property
    def perplexity(self) -> Interval:
        """e to the nats per token: among how many equally likely tokens the model would choose as badly."""
        loss = self.nats_per_token
        return Interval(float(np.exp(loss.value)), float(np.exp(loss.low)), float(np.exp(loss.high)))

    def to_json(self) -> dict:
        return {**to_json(self), "perplexity": self.perplexity.to_json()}


def document_score(
    model: Transformer,
    documents: Sequence[np.ndarray],
    sizes: Sequence[int] | np.ndarray,
    start: int | None,
    stride: int | None = None,
    seed: int = 0,
) -> LanguageScore:
    """Scores documents of `sizes` bytes each; see `document_nats` for the rest. Intervals are by document."""
    return language_score(*document_costs(model, documents, sizes, start, stride), seed=seed)


def document_costs(
    model: Transformer,
    documents: Sequence[np.ndarray],
    sizes: Sequence[int] | np.ndarray,
    start: int | None,
    stride: int | None = None,
    until: float = math.inf,
    done: Callable[[float], object] = lambda share: None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The nats, tokens and bytes of each document, all `(documents,)`; see `document_nats`.

    A document of which only a part was scored before `until` counts with so many of its bytes.
    """
    nats, counts = document_nats(model, documents, start, stride, until, done=done)
    lengths = np.array([len(document) - (start is None) for document in documents])
    return nats, counts, np.asarray(sizes) * np.divide(counts, lengths, out=np.ones(len(counts)), where=lengths > 0)


def language_score(nats: np.ndarray, counts: np.ndarray, sizes: np.ndarray, *, seed: int = 0) -> LanguageScore:
    """The score of documents with these `document_costs`."""
    return LanguageScore(len(nats), int(counts.sum()), ratio(nats, counts, seed=seed), ratio(nats / np.log(2), sizes, seed=seed))


def document_nats(
    model: Transformer,
    documents: Sequence[np.ndarray],
    start: int | None,
    stride: int | None = None,
    until: float = math.inf,
    seed: int = 0,
    done: Callable[[float], object] = lambda share: None,
) -> tuple[np.ndarray, np.ndarray]:
    """What each document costs in nats and how many of its tokens that counts, both `(documents,)`.

    `start` stands before each document as the context of its first token; with `None` that token is context and is not scored.
    Windows hold at most the model's context and move on by `stride` tokens, by default a whole context, so that they do not overlap;
    a shorter stride gives every token at least `context - stride` tokens to its left where the document has them, and costs more.
    Windows come in a random order, and when `until` comes on the clock of `time.monotonic` the rest is left out.
    `done` is told which share of them is scored.
    Raises `ValueError` for a stride that the context does not allow.
    """
    context = model.arch.context
    stride = stride or context
    if not 1 <= stride <= context:
        raise ValueError(f"a stride of {stride:,} tokens, but the context is {context:,}: use 1 to {context:,}")
    streams = [np.asarray(document) if start is None else np.concatenate([[start], document]) for document in documents]
    windows = [(number, *window) for number, stream in enumerate(streams) for window in _windows(len(stream) - 1, context, stride)]
    random = np.random.default_rng(seed)
    windows = sorted((windows[i] for i in random.permutation(len(windows))), key=lambda window: window[3] - window[1])
    groups = list(_groups(windows))
    nats, counts = np.zeros(len(documents)), np.zeros(len(documents), np.int64)
    with evaluating(model):
        for number, group in enumerate(in_time([groups[i] for i in random.permutation(len(groups))], until)):
            done(number / len(groups))
            shape = (len(group), group[-1][3] - group[-1][1])
            tokens, labels = np.zeros(shape, np.int64), np.full(shape, IGNORED)
            for row, (place, begin, scored, end) in enumerate(group):
                tokens[row, : end - begin] = streams[place][begin:end]
                labels[row, scored - begin : end - begin] = streams[place][scored + 1 : end + 1]
            rows, losses = _losses(model, tokens, labels)  # padding is to the right, where no query sees it
            owners = np.array([window[0] for window in group])[rows]
            np.add.at(nats, owners, losses)
            np.add.at(counts, owners, 1)
    return nats, counts


def _windows(length: int, context: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """(begin, first scored, end) of windows over `length` inputs, so that each is scored once."""
    scored = 0
    while scored < length:
        end = min(length, context if scored == 0 else scored + stride)
        yield max(0, scored + stride - context), scored, end
        scored = end


def _groups(windows: list[tuple[int, int, int, int]]) -> Iterator[list[tuple[int, int, int, int]]]:
    """Windows that ascend in length, as many together as `TOKENS_AT_ONCE` allows with padding."""
    group: list[tuple[int, int, int, int]] = []
    for window in windows:
        if group and (len(group) + 1) * (window[3] - window[1]) > TOKENS_AT_ONCE:
            yield group
            group = []
        group.append(window)
    if group:
        yield group


def answer_score(model: Transformer, batches: Iterable["Batch"], seed: int = 0) -> LanguageScore:
    """Scores the trained tokens (answers) of packed conversations, those whose label is not -100; intervals are by conversation.

    Raises `ValueError` where no token is trained on.
    """
    nats, counts = [], []
    with evaluating(model):
        for batch in batches:
            rows, losses = _losses(model, batch.tokens, batch.labels, batch.positions, batch.document)
            document = np.zeros_like(batch.tokens) if batch.document is None else batch.document
            key = rows * (document.max() + 1) + document[batch.labels != IGNORED]
            _, conversation = np.unique(key, return_inverse=True)
            nats.append(np.bincount(conversation, weights=losses))
            counts.append(np.bincount(conversation))
    if not sum(map(len, counts)):
        raise ValueError("there is no answer to score: no token of these conversations is trained on")
    total = np.concatenate(counts)
    return LanguageScore(len(total), int(total.sum()), ratio(np.concatenate(nats), total, seed=seed))


def _losses(
    model: Transformer, tokens: np.ndarray, labels: np.ndarray, positions: np.ndarray | None = None, document: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The row of each label that is scored and its loss in nats, both `(scored,)`; few scores exist at once."""
    device = model.embedding.weight.device

    def on(part: np.ndarray) -> Tensor:
        return torch.from_numpy(part).to(device)

    rows, columns = np.nonzero(labels != IGNORED)
    places, members = (None if part is None else on(part) for part in (positions, document))
    hidden, wanted = model.hidden(on(tokens), places, members)[on(rows), on(columns)], on(labels[rows, columns])
    at_once = max(1, SCORES_AT_ONCE // model.arch.vocabulary)
    losses: list[Tensor] = []
    for part, label in zip(hidden.split(at_once), wanted.split(at_once), strict=True):
        losses.append(F.cross_entropy(model.head(part).float(), label, reduction="none").double().cpu())
    return rows, torch.cat(losses).numpy()


@contextmanager
def evaluating(model: Transformer) -> Iterator[None]:
    """No dropout and no gradients inside; afterwards the model is in the mode that it was in."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(training)
