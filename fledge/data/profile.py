"""What a corpus holds, in sums that can be checked: by source, language and length, what repeats, what is unlike the rest.

All of it is summed up part after part in their order, so that it is the same for any number of workers; what grows with the
corpus are whole numbers of its documents, never their texts.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from fledge.arch.record import from_json
from fledge.data.corpus import PROFILE, Corpus, Summary
from fledge.data.documents import EXAMPLES, SHOWN
from fledge.data.fates import CUT, DUPLICATE, REASONS, TRAIN, VALIDATION, Fates, Shortened, TextOf
from fledge.data.pieces import Staged
from fledge.data.unique.near import Near, jaccard

MOST = 8  # examples of a kind
BEGINNING = 200  # characters of a text that an example shows
LEAST = 256  # bytes of a document below which its tokens per byte say little
BITS = 64


@dataclass(frozen=True)
class Tally:
    """Of one group, source and language the documents that came in and were kept (`reason` is "") or left out for one reason.

    `bytes_in` are theirs as they came, `bytes` as they are kept; `tokens` count the one that ends each document.
    """

    group: str = ""
    source: str = ""
    language: str = ""
    reason: str = ""
    documents: int = 0
    bytes_in: int = 0
    bytes: int = 0
    characters: int = 0
    words: int = 0
    tokens: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return replace(self, **{name: getattr(self, name) + getattr(other, name) for name in COUNTS})


COUNTS = ("documents", "bytes_in", "bytes", "characters", "words", "tokens")


@dataclass(frozen=True)
class Length:
    """Of the documents of `least` bytes or more, as they came, and less than twice that: how many came and were kept."""

    least: int
    documents_in: int
    bytes_in: int
    documents: int
    bytes: int


@dataclass(frozen=True)
class Tokens:
    """The documents kept that have `least` tokens or more and less than twice that."""

    least: int
    documents: int
    tokens: int


@dataclass(frozen=True)
class Seen:
    """One document as a report shows it: where it comes from, how long it is, how it begins."""

    place: str
    bytes: int
    tokens: int
    language: str
    text: str


@dataclass(frozen=True)
class Groups:
    """The groups of `least` to `most` documents that are equal."""

    least: int
    most: int
    groups: int
    documents: int


@dataclass(frozen=True)
class Largest:
    """A group of equal documents, by its first."""

    documents: int
    place: str
    text: str


@dataclass(frozen=True)
class Pair:
    """A document that repeats an `original`; of near duplicates the Jaccard similarity of both."""

    place: str
    original: str
    similarity: float | None
    text: str
    original_text: str


@dataclass(frozen=True)
class Copies:
    """Documents that are equal, exactly or nearly: their groups by size, the largest of them, some documents beside their originals."""

    groups: tuple[Groups, ...] = ()
    largest: tuple[Largest, ...] = ()
    examples: tuple[Pair, ...] = ()


@dataclass(frozen=True)
class Leak:
    """A document that shares `words` with an evaluation file."""

    place: str
    file: str
    words: str


@dataclass(frozen=True)
class Profile:
    """What the corpus holds and what was left out of it; `tallies` add up to all that came in.

    `dense` and `sparse`: the documents of `LEAST` bytes or more with the most and the fewest tokens for each byte: the text least and
    most like what the tokenizer was made for. `leaks`: contaminated documents by the evaluation file;
    `rejections`: for each reason for which reading or cleaning gave no text, the first that it held for.
    """

    tallies: tuple[Tally, ...]
    lengths: tuple[Length, ...]
    tokens: tuple[Tokens, ...]
    longest: tuple[Seen, ...]
    dense: tuple[Seen, ...]
    sparse: tuple[Seen, ...]
    exact: Copies
    near: Copies | None
    shortened: Shortened
    leaks: dict[str, int]
    leaked: tuple[Leak, ...]
    rejections: dict[str, tuple[str, ...]]

    @classmethod
    def of(cls, corpus: Corpus) -> "Profile":
        """The profile that was stored with a corpus."""
        return from_json(cls, json.loads((corpus.folder / PROFILE).read_text(encoding="utf-8")), "profile")

    def sums(self, *names: str) -> list[Tally]:
        """The tallies added up by these fields, the most bytes first."""
        found: dict[tuple[str, ...], Tally] = {}
        for tally in self.tallies:
            key = tuple(getattr(tally, name) for name in names)
            found[key] = found.get(key, Tally(**dict(zip(names, key, strict=True)))) + tally
        return sorted(found.values(), key=lambda tally: (-tally.bytes_in, -tally.documents))


def profiled(
    read: Sequence[Staged], staged: Sequence[Staged], fates: Fates, counts: Iterable[Mapping[str, np.ndarray]], near: Near | None
) -> tuple[Profile, Summary]:
    """The profile of a corpus and its summary, but for tokens.

    `read`: the pieces as they were compared with each other; `staged`: without repeated paragraphs; `counts`: of each part and split
    the tokens of its documents.
    """
    tallies: dict[tuple[str, ...], Tally] = {}
    came, kept = np.zeros((BITS, 2), np.int64), np.zeros((BITS, 2), np.int64)
    sized = np.zeros((BITS, 2), np.int64)
    tops = {name: _Top() for name in ("longest", "dense", "sparse")}
    start = 0

    def add(tally: Tally) -> None:
        key = (tally.group, tally.source, tally.language, tally.reason)
        tallies[key] = tallies[key] + tally if key in tallies else tally

    each = zip(fates.of, counts, strict=True)
    for stage in staged:
        for reason, (documents, size) in stage.rejected.items():
            add(Tally(stage.group, stage.origin, "", reason, documents, size))
        came[: len(stage.lengths)] += np.array(stage.lengths, np.int64).reshape(-1, 2)
        for part in stage.parts:
            (fate, shards), records, languages = next(each), part.records(), part.names["languages"]
            tokens = _tokens(fate, shards)
            for tally in _tallied(records, fate, tokens, languages):
                add(replace(tally, group=stage.group, source=stage.origin))
            here, bits = fate <= CUT, _bits(records["before"])
            _count(came, bits, records["before"])
            _count(kept, bits[here], records["bytes"][here])
            _count(sized, _bits(tokens[here]), tokens[here])
            chosen = np.flatnonzero(here)
            sizes, ends = records["bytes"], 1 + (fate == CUT)
            rates = (tokens - ends) / np.maximum(1, sizes)
            large = np.flatnonzero(here & (sizes >= LEAST))
            for name, values, among in (("longest", sizes, chosen), ("dense", rates, large), ("sparse", -rates, large)):
                tops[name].take(values, among, start, lambda at, r=records, t=tokens, e=ends, names=languages: (
                    int(r["bytes"][at]), int(t[at] - e[at]), names[r["language"][at]]
                ))  # fmt: skip
            start += len(fate)
    compared, texts = (TextOf(tuple(part for stage in some for part in stage.parts)) for some in (read, staged))
    leaks: dict[str, int] = {}
    for shared in fates.contaminated.values():
        leaks[shared.file] = leaks.get(shared.file, 0) + 1
    profile = Profile(
        tallies=tuple(tallies.values()),
        lengths=_lengths(came, kept),
        tokens=tuple(Tokens(_least(bits), *row) for bits, row in enumerate(sized.tolist()) if row[0]),
        exact=_exact(fates, compared),
        near=_near(fates, compared, near) if near is not None else None,
        shortened=fates.shortened,
        leaks=dict(sorted(leaks.items())),
        leaked=tuple(_leaks(fates, compared)),
        rejections=_shown(staged),
        **{name: tuple(top.seen(texts)) for name, top in tops.items()},
    )
    return profile, _summary(staged, profile)


def _shown(staged: Sequence[Staged]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for stage in staged:
        for reason, lines in stage.shown.items():
            found[reason] = (*found.get(reason, ()), *lines)[:SHOWN]
    return found


def _summary(staged: Sequence[Staged], profile: Profile) -> Summary:
    by_reason = {tally.reason: tally for tally in profile.sums("reason")}
    kept = by_reason.pop("", Tally())
    every = [kept, *by_reason.values()]
    first = {tally.reason: None for tally in profile.tallies if tally.reason}  # in the order in which they came
    rejected = {reason: by_reason[reason].documents for reason in first}
    return Summary(
        files=sum(stage.files for stage in staged),
        items=sum(tally.documents for tally in every),
        documents=kept.documents,
        duplicates=rejected.pop(REASONS[DUPLICATE], 0),
        rejected=rejected,
        rejections=tuple(islice((example for stage in staged for example in stage.examples), EXAMPLES)),
        replaced=sum(stage.replaced for stage in staged),
        columns=dict(islice(((name, column) for stage in staged for name, column in stage.columns.items()), EXAMPLES)),
        bytes_in=sum(tally.bytes_in for tally in every),
        bytes=kept.bytes,
        bytes_rejected=sum(tally.bytes_in for tally in by_reason.values()),
        train_tokens=0,
        validation_tokens=0,
        vocabulary=0,
    )


def _tallied(records: np.ndarray, fate: np.ndarray, tokens: np.ndarray, languages: Sequence[str]) -> Iterator[Tally]:
    """The tallies of a part."""
    for number, language in enumerate(languages):
        spoken = records["language"] == number
        if (here := spoken & (fate <= CUT)).any():
            came, size, characters, words = (int(records[name][here].sum()) for name in ("before", "bytes", "characters", "words"))
            yield Tally("", "", language, "", int(here.sum()), came, size, characters, words, int(tokens[here].sum()))
        for value, reason in REASONS.items():
            if (here := spoken & (fate == value)).any():
                yield Tally("", "", language, reason, int(here.sum()), int(records["before"][here].sum()))


def _tokens(fate: np.ndarray, shards: Mapping[str, np.ndarray]) -> np.ndarray:
    """(documents,) int64: the tokens of each, 0 of those that are left out."""
    tokens = np.zeros(len(fate), np.int64)
    for split, own in (("train", TRAIN), ("validation", VALIDATION)):
        if split in shards:
            tokens[(fate == own) | (fate == CUT)] += shards[split]
    return tokens


def _bits(values: np.ndarray) -> np.ndarray:
    """`int.bit_length` of each."""
    return np.frexp(values)[1]


def _least(bits: int) -> int:
    """The least number of so many bits."""
    return 1 << bits >> 1


def _count(table: np.ndarray, bits: np.ndarray, values: np.ndarray) -> None:
    np.add.at(table[:, 0], bits, 1)
    np.add.at(table[:, 1], bits, values)


def _lengths(came: np.ndarray, kept: np.ndarray) -> tuple[Length, ...]:
    found = np.flatnonzero(came[:, 0]).tolist()
    return tuple(Length(_least(bits), *came[bits].tolist(), *kept[bits].tolist()) for bits in found)


class _Top:
    """The documents with the largest values; of equal ones the first."""

    def __init__(self) -> None:
        self.found: list[tuple[float, int, tuple[int, int, str]]] = []

    def take(self, values: np.ndarray, among: np.ndarray, start: int, about: Callable[[int], tuple[int, int, str]]) -> None:
        """Of a part whose first document has the number `start`; `about` tells of a document there what is to be kept."""
        best = among[np.argsort(-values[among], kind="stable")[:MOST]]
        found = [(-float(values[at]), start + at, about(at)) for at in best.tolist()]
        self.found = sorted([*self.found, *found], key=lambda one: one[:2])[:MOST]

    def seen(self, texts: TextOf) -> Iterator[Seen]:
        for _, number, (size, tokens, language) in self.found:
            yield Seen(texts.place(number), size, tokens, language, texts.beginning(number, BEGINNING))


def _exact(fates: Fates, texts: TextOf) -> Copies:
    fate = np.concatenate([np.zeros(0, np.uint8), *fates.of])
    pairs = fates.originals[fate[fates.originals[:, 0]] == DUPLICATE]
    return _copies(pairs, texts, lambda pair: None)


def _near(fates: Fates, texts: TextOf, near: Near) -> Copies:
    assert fates.groups is not None
    copies = np.flatnonzero((fates.groups >= 0) & (fates.groups != np.arange(len(fates.groups))))

    def similarity(pair: Sequence[int]) -> float:
        first, second = near.shingles([texts(number) for number in pair])
        return jaccard(first, second)

    return _copies(np.stack([copies, fates.groups[copies]], 1), texts, similarity)


def _copies(pairs: np.ndarray, texts: TextOf, similarity: Callable[[Sequence[int]], float | None]) -> Copies:
    """Of (document, original)."""
    firsts, others = np.unique(pairs[:, 1], return_counts=True)
    sizes = others + 1
    bits = _bits(others)  # groups of 2, 3 to 4, 5 to 8, 9 to 16, ... documents: `sizes - 1` has one bit more each time
    groups = []
    for bit in np.unique(bits).tolist():
        here = bits == bit
        groups.append(Groups(_least(bit) + 1, 2 * _least(bit), int(here.sum()), int(sizes[here].sum())))
    order = np.lexsort((firsts, -sizes))[:MOST]
    largest = [Largest(int(sizes[at]), texts.place(int(firsts[at])), texts.beginning(int(firsts[at]), BEGINNING)) for at in order.tolist()]
    chosen = pairs[_spread(len(pairs))]
    examples = [
        Pair(
            texts.place(copy),
            texts.place(first),
            similarity((copy, first)),
            texts.beginning(copy, BEGINNING),
            texts.beginning(first, BEGINNING),
        )
        for copy, first in chosen.tolist()
    ]
    return Copies(tuple(groups), tuple(largest), tuple(examples))


def _leaks(fates: Fates, texts: TextOf) -> Iterator[Leak]:
    numbers = sorted(fates.contaminated)
    for at in _spread(len(numbers)).tolist():
        shared = fates.contaminated[numbers[at]]
        file = shared.file if shared.line is None else f"{shared.file}, line {shared.line}"
        yield Leak(texts.place(numbers[at]), file, shared.words[:BEGINNING])


def _spread(count: int) -> np.ndarray:
    """Some places of so many, from the first to the last."""
    return np.unique(np.linspace(0, max(0, count - 1), min(count, MOST)).astype(np.int64))
