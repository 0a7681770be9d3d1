"""Batches as a function of the step: `batch_at(step)` needs no history and knows nothing of processes."""

import hashlib
import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from fledge.data.corpus import Shards
from fledge.text.chat import Turns
from fledge.text.tokenizer import Tokenizer

IGNORED = -100
PADDING = -1
Place = tuple[int | None, int]  # of a row: its epoch, none outside of training, and its number in it
MOST_WEIGHT = 10.0  # of a label that few rows have
MULTIPLE = 8  # of the lengths of batches that differ in it: of few shapes of products, each is prepared once and finds its memory again


@dataclass(frozen=True)
class Source:
    """What an encoder reads of each row, (rows, its length) each, as in `Batch`."""

    tokens: np.ndarray
    positions: np.ndarray | None = None
    document: np.ndarray | None = None


@dataclass(frozen=True)
class Batch:
    """Rows of one micro-batch, as numpy arrays.

    tokens: (rows, length) int64. labels: (rows, length) int64, what each token must predict, -100 where nothing is trained;
    of a classifier (rows,) class numbers, or (rows, labels) whether a row has each label. positions and document: (rows, length) int64;
    attention stays within a document; padding has document -1. Both are None when every row is one document from position 0. With a
    source the tokens are what a decoder reads beside it. types: (rows, length) int64, the segments of pairs of texts.
    """

    tokens: np.ndarray
    labels: np.ndarray
    positions: np.ndarray | None = None
    document: np.ndarray | None = None
    source: Source | None = None
    types: np.ndarray | None = None

    @property
    def size(self) -> int:
        """The tokens that are read, padding included."""
        return self.tokens.size + (0 if self.source is None else self.source.tokens.size)

    def share(self, place: int, places: int) -> "Batch | None":
        """The `place`-th of so many shares of its rows; None where there are not enough rows."""
        own = share(len(self.tokens), place, places)

        if own.start == own.stop:
            return None
        return replace(self, **{field.name: rows_at(getattr(self, field.name), own) for field in fields(self)})


def rows_at(part: Any, places: slice) -> Any:
    """These rows of an array, or of each array of a source; nothing of nothing."""
    if isinstance(part, Source):
        return replace(part, **{field.name: rows_at(getattr(part, field.name), places) for field in fields(part)})
    return None if part is None else part[places]


def share(rows: int, place: int, places: int) -> slice:
    """The `place`-th of so many shares of rows, which differ by one row at most.

    >>> [share(7, place, 3) for place in range(3)]
    [slice(0, 2, None), slice(2, 4, None), slice(4, 7, None)]
    """
    return slice(rows * place // places, rows * (place + 1) // places)


def draw(seed: int, step: int, example: int, purpose: str) -> np.random.Generator:
    """Random numbers that depend on the four arguments alone (Philox, a counter-based generator: Salmon et al., 2011)."""
    return np.random.Generator(np.random.Philox(key=_key(seed, step, example, purpose)))


def _key(*parts: int | str) -> int:
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=16).digest(), "little")


def seed_of(seed: int, group: str) -> int:
    """The seed of one of several groups of text."""
    return _key(seed, group, "group") & (2**63 - 1)


def shuffled(index: np.ndarray, size: int, seed: int, epoch: int) -> np.ndarray:
    """Where each `index` in [0, size) goes in the order of this epoch, a bijection computed without a table.

    A balanced Feistel network of six rounds over the next power of four, walked until the result lies below `size`
    (Black and Rogaway, 2002, Ciphers with Arbitrary Finite Domains).
    """
    half = max(1, (int(size - 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << half) - 1)
    keys = [np.uint64(_key(seed, epoch, i, "order") & (2**64 - 1)) for i in range(6)]
    found = np.array(index, np.uint64)
    outside = np.ones(found.shape, bool)
    while outside.any():
        left, right = found[outside] >> np.uint64(half), found[outside] & mask
        for key in keys:
            left, right = right, left ^ (_mixed(right ^ key) & mask)
        found[outside] = left << np.uint64(half) | right
        outside = found >= size
    return found.astype(np.int64)


def _mixed(x: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser (Steele et al., 2014); products wrap around on purpose."""
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return x ^ x >> np.uint64(31)


def rows_of(step: int, rows: int) -> range:
    """The numbers of the rows that `step` takes, counted from the run's start: all earlier steps' rows lie below them."""
    return range(step * rows, (step + 1) * rows)


class Batches:
    """`examples` rows per epoch, drawn in a new order each epoch: a step takes `accumulate` micro-batches of `batch` rows.

    A subclass says what its rows hold, and may choose another order.
    """

    def __init__(self, examples: int, batch: int, seed: int, accumulate: int):
        if batch < 1 or accumulate < 1:
            raise ValueError(f"batch {batch} and accumulate {accumulate} must be at least 1")
        self.examples, self.batch, self.seed, self.accumulate = examples, batch, seed, accumulate

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.examples / (self.batch * self.accumulate))

    def batch_at(self, step: int, place: int = 0, places: int = 1) -> list[Batch]:
        """The micro-batches of one step, each of `batch` rows, or of each the `place`-th of so many shares."""
        own, found = share(self.batch, place, places), self.places(rows_of(step, self.batch * self.accumulate))
        return [self.collated(found[i + own.start : i + own.stop]) for i in range(0, len(found), self.batch)]

    @property
    def fill(self) -> float:
        """The share of the places of all rows that hold something."""
        return 1.0

    def places(self, numbers: range) -> list[Place]:
        """Where the rows lie whose numbers, counted from the run's start, these are."""
        found = list[Place]()
        for epoch in range(numbers.start // self.examples, -(-numbers.stop // self.examples)):
            within = range(max(numbers.start - epoch * self.examples, 0), min(numbers.stop - epoch * self.examples, self.examples))
            found += [(epoch, int(row)) for row in self._order(epoch, np.arange(within.start, within.stop))]
        return found

    def in_order(self) -> Iterator[Batch]:
        """Every row once, in its own order: for validation."""
        for start in range(0, self.examples, self.batch):
            yield self.rows(start, self.batch)

    def rows(self, start: int, count: int) -> Batch:
        """Rows `start` to `start + count`, or as many of them as there are, in their own order."""
        return self.collated([(None, row) for row in range(start, min(start + count, self.examples))])

    def _order(self, epoch: int, numbers: np.ndarray) -> np.ndarray:
        """The rows that come at these places of an epoch."""
        return shuffled(numbers, self.examples, self.seed, epoch)

    def collated(self, places: Sequence[Place]) -> Batch:
        """The rows at these places."""
        raise NotImplementedError


class Stretches(Batches):
    """Rows of `length` tokens from a stream of documents that each end in `<|endoftext|>`; the stream is a ring.

    They follow each other without overlap, so that every token is met once per epoch. Each epoch starts at a place of its own, so that
    borders between rows move (unless not `moving`); one row comes out shorter. Outside of training they begin with the first token.
    """

    def __init__(self, shards: Shards, length: int, batch: int, seed: int, accumulate: int, moving: bool):
        if length < 1:
            raise ValueError("a context that leaves no room for any token of the text: use a larger batch.context")
        super().__init__(math.ceil(shards.tokens / length), batch, seed, accumulate)
        self.shards, self.length, self.moving = shards, length, moving

    @property
    def fill(self) -> float:
        return self.shards.tokens / (self.examples * self.length)

    def places(self, numbers: range) -> list[Place]:
        """Raises `ValueError` when the whole text is shorter than one row."""
        if self.shards.tokens < self.length:
            raise ValueError(
                f"the text has {self.shards.tokens:,} tokens, but one example needs {self.length:,}: use a smaller context, or more text"
            )
        return super().places(numbers)

    def stretch(self, epoch: int | None, row: int) -> tuple[int, int]:
        """Where the row begins in the ring, and how many tokens it has."""
        phase = int(draw(self.seed, epoch, 0, "phase").integers(self.shards.tokens)) if self.moving and epoch is not None else 0
        return row * self.length + phase, min(self.length, self.shards.tokens - row * self.length)

    def document_of(self, first: int, length: int, separate: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """Position and document of each token of a stretch, both (length,); where documents are not `separate`, it is one."""
        opens = self.shards.opens(first, length) if separate else np.zeros(length, bool)
        opens[0] = True
        place = np.arange(length)
        return place - np.maximum.accumulate(np.where(opens, place, 0)), np.cumsum(opens) - 1


class Windows(Stretches):
    """Rows of `context` labels, and for each the token before it as input.

    What comes before a document's first token is an `<|endoftext|>`: as an input it opens the next document. Every token of the stream
    is a label exactly once per epoch, the `<|endoftext|>` of each document included; the bytes of a text are therefore counted fully.
    The row that comes out shorter is padded.
    With `separate_documents` the opening `<|endoftext|>` has position 0 and the document of what follows it: no label lies in
    another document than the tokens that predict it. A document that goes on from the row before starts at position 0 too.
    """

    def __init__(
        self, shards: Shards, context: int, batch: int, seed: int = 0, separate_documents: bool = False, accumulate: int = 1,
        moving: bool = True,
    ):  # fmt: skip
        super().__init__(shards, context, batch, seed, accumulate, moving)
        self.context, self.separate_documents = context, separate_documents

    def collated(self, places: Sequence[Place]) -> Batch:
        shape = (len(places), self.context)
        tokens, labels = np.zeros(shape, np.int64), np.full(shape, IGNORED)
        positions, document = np.zeros(shape, np.int64), np.full(shape, PADDING)
        for row, place in enumerate(places):
            first, length = self.stretch(*place)
            stream = self.shards.window(first - 1, length + 1)
            tokens[row, :length], labels[row, :length] = stream[:-1], stream[1:]
            positions[row, :length], document[row, :length] = self.document_of(first, length, self.separate_documents)
        if not self.separate_documents and (document != PADDING).all():
            return Batch(tokens, labels)
        return Batch(tokens, labels, positions, document)


def padded(rows: Sequence[np.ndarray], fill: int, multiple: int = MULTIPLE) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows side by side, filled up on the right to one length: (rows, length) each, with the position of each token and its document."""
    lengths = np.array([len(row) for row in rows])
    tokens = np.full((len(rows), multiple * math.ceil(max(1, int(lengths.max())) / multiple)), fill, np.int64)
    for place, row in zip(tokens, rows, strict=True):
        place[: len(row)] = row
    place = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
    real = place < lengths[:, None]
    return tokens, np.where(real, place, 0), np.where(real, 0, PADDING)


def taught(sources: Sequence[np.ndarray], targets: Sequence[np.ndarray], start: int, pad: int, multiple: int = MULTIPLE) -> Batch:
    """Rows of a source and a target, which is what each place must predict: the decoder reads it one place later, after `start`."""
    source = padded(sources, pad, multiple)
    target = padded([np.concatenate([[start], target[:-1]]) for target in targets], pad, multiple)
    labels, _, _ = padded(targets, IGNORED, multiple)
    read, written = (side if (side[2] == PADDING).any() else side[:1] for side in (source, target))
    return Batch(written[0], labels, *written[1:], source=Source(*read))


class Bucketed(Batches):
    """Rows of `lengths` tokens, those of like length together.

    Each epoch's order is random, but sorted by length within stretches of 16 batches, whose batches are then shuffled.
    """

    STRETCH = 16

    def __init__(self, lengths: Sequence[int], batch: int, seed: int, accumulate: int):
        super().__init__(len(lengths), batch, seed, accumulate)
        self.lengths = np.array(lengths)
        self._orders: dict[int, np.ndarray] = {}

    def _order(self, epoch: int, numbers: np.ndarray) -> np.ndarray:
        if epoch not in self._orders:
            order = shuffled(np.arange(self.examples), self.examples, self.seed, epoch)
            stretch = self.STRETCH * self.batch
            parts = []
            for start in range(0, self.examples, stretch):
                part = order[start : start + stretch]
                part = part[np.argsort(self.lengths[part], kind="stable")]
                batches = [part[i : i + self.batch] for i in range(0, len(part), self.batch)]
                parts += [batches[i] for i in draw(self.seed, epoch, start, "batches").permutation(len(batches))]
            self._orders = {epoch: np.concatenate(parts)} | dict(list(self._orders.items())[-1:])
        return self._orders[epoch][numbers]


class Pairs(Bucketed):
    """Source texts with their targets: the encoder reads the one, the decoder learns to write the other, from the token `start` on.

    Both are framed as the tokenizer does, and a target always ends. A side longer than `context` tokens keeps its head; `truncated`
    counts the pairs with one, `longest_target` the tokens of the longest target.
    """

    def __init__(
        self,
        sources: Sequence[str],
        targets: Sequence[str],
        tokenizer: Tokenizer,
        start: int,
        context: int,
        batch: int,
        seed: int = 0,
        accumulate: int = 1,
    ):
        if len(sources) != len(targets) or not sources:
            raise ValueError(f"{len(sources)} sources with {len(targets)} targets: each needs one, and there must be some")
        end = [] if tokenizer.closing else [tokenizer.end_of_text]
        read, write = tokenizer.encode_batch(list(sources)), tokenizer.target.encode_batch(list(targets))
        self._sources = [np.array(tokenizer.framed(tokens, context), np.int64) for tokens in read]
        self._targets = [np.array([*tokenizer.framed(tokens, context - len(end)), *end], np.int64) for tokens in write]
        self.truncated = sum(
            len(tokenizer.framed(a)) > context or len(tokenizer.framed(b)) + len(end) > context for a, b in zip(read, write, strict=True)
        )
        self.longest_target = max(map(len, self._targets))
        lengths = [len(a) + len(b) for a, b in zip(self._sources, self._targets, strict=True)]
        super().__init__(lengths, batch, seed, accumulate)
        self._start, self._pad = start, tokenizer.pad

    def collated(self, places: Sequence[Place]) -> Batch:
        rows = [row for _, row in places]
        return taught([self._sources[row] for row in rows], [self._targets[row] for row in rows], self._start, self._pad)


def first_tokens(batches: Iterable[Batch], tokens: int) -> Iterator[Batch]:
    """As many of the batches, from the first on, as hold so many tokens."""
    for batch in batches:
        yield batch
        tokens -= batch.size
        if tokens <= 0:
            return


def class_weights(truth: np.ndarray, classes: int) -> np.ndarray:
    """(classes,) float64 weights under which every class weighs the same in all and the mean weight of a row is 1.

    Of several labels, truth (rows, classes), having a label weighs as much as not having it, up to `MOST_WEIGHT` times as much a row.
    """
    counts = truth.sum(0) if truth.ndim == 2 else np.bincount(truth, minlength=classes)
    if len(counts) > classes or not counts.all():
        raise ValueError(f"labels count {counts.tolist()} rows per class, but each of {classes} classes needs at least one")
    return np.clip(len(truth) / counts - 1, 1, MOST_WEIGHT) if truth.ndim == 2 else len(truth) / (classes * counts)


class Conversations(Batches):
    """Conversations in rows of `context`, several to a row where they fit, none of them seeing another.

    A conversation of n tokens takes n - 1 places, for its last token predicts nothing; a longer one than `context` + 1 is cut.
    Labels are -100 wherever the next token is not trained on. Conversations with nothing to train on (within `context`) are left
    out; `kept` are the numbers of the others. Which share a row follows from the seed and stays; the order of rows is new each epoch.
    """

    def __init__(self, turns: Sequence[Turns], context: int, batch: int, seed: int = 0, accumulate: int = 1):
        self.context = context
        self._turns = turns
        self.kept = [number for number, turn in enumerate(turns) if any(turn.trained[1 : context + 1])]
        if not self.kept:
            raise ValueError(f"none of {len(turns)} conversations has anything to train on within {context} tokens: use a larger context")
        order = shuffled(np.arange(len(self.kept)), len(self.kept), seed, -1)
        mixed = [self.kept[i] for i in order]
        packed = first_fit([min(len(turns[number].tokens) - 1, context) for number in mixed], context)
        self._rows = [[mixed[i] for i in row] for row in packed]
        super().__init__(len(self._rows), batch, seed, accumulate)

    def collated(self, places: Sequence[Place]) -> Batch:
        rows = [self._rows[row] for _, row in places]
        shape = (len(rows), self.context)
        tokens, labels = np.zeros(shape, np.int64), np.full(shape, IGNORED)
        positions, document = np.zeros(shape, np.int64), np.full(shape, PADDING)
        for row, numbers in enumerate(rows):
            at = 0
            for order, number in enumerate(numbers):
                whole = np.array(self._turns[number].tokens[: self.context + 1], np.int64)
                trained = np.array(self._turns[number].trained[: self.context + 1], bool)
                span = slice(at, at := at + len(whole) - 1)
                tokens[row, span] = whole[:-1]
                labels[row, span] = np.where(trained[1:], whole[1:], IGNORED)
                positions[row, span] = np.arange(len(whole) - 1)
                document[row, span] = order
        used = int((document != PADDING).sum(axis=1).max())
        return Batch(tokens[:, :used], labels[:, :used], positions[:, :used], document[:, :used])


@dataclass(frozen=True)
class Compared(Batch):
    """Rows of two answers to one question, the chosen one in document 0 and the rejected one in document 1.

    `reference`: the natural log-probability, (rows, 2), that the model gave to each answer before it learned.
    """

    reference: np.ndarray | None = None


class Comparisons(Bucketed):
    """Pairs of a chosen and a rejected answer with what they answer, each pair in one row, padded on the right.

    Each side is cut at `context` tokens; pairs of which that leaves no answer are left out, `kept` are the numbers of the others.
    The `reference` of each, (kept, 2), is put in before training.
    """

    def __init__(
        self, pairs: Sequence[tuple[Turns, Turns]], context: int, batch: int, pad: int, seed: int = 0, accumulate: int = 1
    ):  # fmt: skip
        self.kept = [number for number, pair in enumerate(pairs) if all(any(side.trained[1 : context + 1]) for side in pair)]
        if not self.kept:
            raise ValueError(f"none of {len(pairs)} pairs has both answers within {context} tokens: use a larger batch.context")
        self._sides = [[_predicted(side, context) for side in pairs[number]] for number in self.kept]
        super().__init__([sum(len(tokens) for tokens, _ in sides) for sides in self._sides], batch, seed, accumulate)
        self.truncated = sum(any(len(side.tokens) > context + 1 for side in pair) for pair in pairs)
        self._pad = pad
        self.reference: np.ndarray | None = None

    def collated(self, places: Sequence[Place]) -> Compared:
        rows = [row for _, row in places]
        sides = [self._sides[row] for row in rows]
        tokens, _, _ = padded([np.concatenate([tokens for tokens, _ in pair]) for pair in sides], self._pad)
        labels, _, _ = padded([np.concatenate([labels for _, labels in pair]) for pair in sides], IGNORED)
        positions, document = np.zeros_like(tokens), np.full_like(tokens, PADDING)
        for place, pair in enumerate(sides):
            first, second = (len(side) for side, _ in pair)
            positions[place, : first + second] = np.concatenate([np.arange(first), np.arange(second)])
            document[place, : first + second] = np.repeat([0, 1], [first, second])
        return Compared(tokens, labels, positions, document, reference=None if self.reference is None else self.reference[rows])


def _predicted(turns: Turns, context: int) -> tuple[np.ndarray, np.ndarray]:
    """The tokens that are read and their labels."""
    whole, trained = (np.array(part[: context + 1]) for part in (turns.tokens, turns.trained))
    return whole[:-1], np.where(trained[1:], whole[1:], IGNORED)


def first_fit(lengths: Collection[int], capacity: int) -> list[list[int]]:
    """Numbers of items per row, each item in the first row with room for it (Johnson, 1973).

    >>> first_fit([5, 7, 3, 2], capacity=8)
    [[0, 2], [1], [3]]
    """
    room = np.full(len(lengths), capacity)
    rows: list[list[int]] = []
    smallest, first = min(lengths, default=0), 0
    for number, length in enumerate(lengths):
        if length > capacity:
            raise ValueError(f"an item of {length} does not fit into rows of {capacity}")
        while first < len(rows) and room[first] < smallest:
            first += 1
        row = first + int(np.argmax(room[first : len(rows) + 1] >= length))
        if row == len(rows):
            rows.append([])
        rows[row].append(number)
        room[row] -= length
    return rows
