"""Groups of text in given shares: which group each row of a run is taken from, a function of the row's number alone."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from fledge.arch.record import did_you_mean
from fledge.data.batches import IGNORED, PADDING, Batch, Batches, Source, rows_of, share

PARTS = 10_000  # shares are whole numbers of these


def shares_of(text: str) -> dict[str, float]:
    """What `general=0.7,domain=0.3` says, as shares that add up to one.

    >>> shares_of("general=2,domain=2")
    {'general': 0.5, 'domain': 0.5}
    """
    found: dict[str, float] = {}
    for pair in text.split(","):
        name, _, number = pair.rpartition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not name or not 0 <= weight < math.inf:
            raise ValueError(f"--mix {text}: {pair!r} is no share: give one for each group, such as --mix general=0.7,domain=0.3")
        if name in found:
            raise ValueError(f"--mix {text}: {name} has two shares: give one")
        found[name] = weight
    if not any(found.values()):
        raise ValueError(f"--mix {text}: all shares are 0: give at least one group more")
    return {name: weight / sum(found.values()) for name, weight in found.items()}


def tempered(tokens: Mapping[str, int], temperature: float) -> dict[str, float]:
    """Shares in proportion to tokens^temperature: 1 is as much of each as there is, 0 equally much of all, between favours the small.

    Conneau and Lample, 2019, arXiv:1901.07291, section 3.1.
    """
    if not 0 <= temperature <= 1:
        raise ValueError(f"a temperature of {temperature:g}: it lies from 0 (equally much of each group) to 1 (as much as there is)")
    weights = {name: count**temperature for name, count in tokens.items() if count}
    return {name: weight / sum(weights.values()) for name, weight in weights.items()}


def among(shares: Mapping[str, float], groups: Mapping[str, int]) -> dict[str, float]:
    """The shares of all `groups`, which have so many tokens each: 0 where none is given.

    Raises `ValueError` for a group that is not there, with the nearest, and for one that has nothing to train on.
    """
    for name, wanted in shares.items():
        if name not in groups:
            known = [one for one in groups if one]
            if not known:
                raise ValueError(f"--mix names {name}, but this text has no groups: name its sources, such as {name}=PATH")
            raise ValueError(f"--mix names {name}, which is no group of this text{did_you_mean(name, known)}")
        if wanted and not groups[name]:
            raise ValueError(f"--mix takes from {name}, which has nothing to train on: give it more text, that no other group has")
    return {name: shares.get(name, 0.0) for name in groups}


def within_epochs(shares: Mapping[str, float], tokens: Mapping[str, int], total: int, epochs: float) -> dict[str, float]:
    """The shares of `total` tokens under which no group is read more than so many `epochs`; what is over goes to the others.

    About four epochs are nearly as good as new text: Muennighoff et al., 2023, arXiv:2305.16264. Raises `ValueError` where all
    together hold less.
    """
    most = {name: epochs * tokens[name] / total for name, wanted in shares.items() if wanted}
    if sum(most.values()) < 1:
        there = math.floor(sum(most.values()) * total)
        raise ValueError(
            f"{total:,} tokens are to be read, but {epochs:g} epochs of each source are {there:,}: "
            f"give more text, train on at most {there:,} tokens, or set a larger --epochs-per-source"
        )
    found, full = dict(shares), set[str]()
    while over := {name for name in most if name not in full and found[name] > most[name]}:
        full |= over
        left = 1 - sum(most[name] for name in full)
        open_ = sum(shares[name] for name in most if name not in full)
        found = {name: most[name] if name in full else wanted * left / open_ if wanted else 0.0 for name, wanted in shares.items()}
    return found


def in_parts(weights: Sequence[float], parts: int = PARTS) -> list[int]:
    """Whole numbers in proportion to the weights that add up to `parts`, in lowest terms (the largest remainders, Hamilton, 1792).

    >>> in_parts([0.7, 0.3])
    [7, 3]
    """
    exact = np.asarray(weights, np.float64) / sum(weights) * parts
    whole = np.floor(exact + 1e-9).astype(np.int64)
    whole[np.argsort(whole - exact, kind="stable")[: parts - whole.sum()]] += 1
    return (whole // np.gcd.reduce(whole)).tolist()


def turns(parts: Sequence[int]) -> np.ndarray:
    """(sum of parts,): whose turn it is, so that after any number of turns each has had its share, to less than one turn.

    The chairman assignment of Tijdeman, 1980: of those far enough behind, the one that is first too late otherwise.

    >>> turns([2, 1])
    array([0, 1, 0])
    """
    whole, slack = sum(parts), 2 * max(2, len(parts)) - 2
    had, found = [0] * len(parts), []
    for turn in range(1, whole + 1):
        behind = [part * turn - count * whole for part, count in zip(parts, had, strict=True)]
        due = [one for one, lag in enumerate(behind) if parts[one] and slack * lag >= whole]
        found.append(min(due, key=lambda one: ((slack - 1) * whole - slack * behind[one]) / parts[one]))
        had[found[-1]] += 1
    assert had == list(parts)
    return np.array(found)


class Mixture:
    """Batches whose rows are taken from several others in turns, in each of which they come in its own order.

    `shares` are of tokens; where the rows of a group are not full, it gets more of them. After any number of rows each group has had its
    share of them to less than one row.
    """

    def __init__(self, groups: Sequence[Batches], shares: Sequence[float], batch: int, accumulate: int = 1):
        if len(groups) != len(shares) or not all(wanted > 0 for wanted in shares):
            raise ValueError(f"{len(groups)} groups with shares {list(shares)}: each needs one above 0")
        self.groups, self.batch, self.accumulate = groups, batch, accumulate
        self.parts = np.array(in_parts([wanted / one.fill for wanted, one in zip(shares, groups, strict=True)]))
        self._turns = turns(self.parts.tolist())
        self._before = np.zeros((len(self._turns) + 1, len(groups)), np.int64)  # how often it was whose turn
        np.cumsum(self._turns[:, None] == np.arange(len(groups)), axis=0, out=self._before[1:])

    def before(self, number: int) -> np.ndarray:
        """(groups,): how many of the first `number` rows are of each group."""
        rounds, turn = divmod(number, len(self._turns))
        return rounds * self.parts + self._before[turn]

    def batch_at(self, step: int, place: int = 0, places: int = 1) -> list[Batch]:
        """The micro-batches of one step, each of `batch` rows, or of each the `place`-th of so many shares."""
        numbers = rows_of(step, self.batch * self.accumulate)
        first, last = self.before(numbers.start).tolist(), self.before(numbers.stop).tolist()
        rows = [iter(group.places(range(*span))) for group, *span in zip(self.groups, first, last, strict=True)]
        found = [(whose := int(self._turns[number % len(self._turns)]), next(rows[whose])) for number in numbers]
        own = share(self.batch, place, places)
        return [self._collated(found[i + own.start : i + own.stop]) for i in range(0, len(found), self.batch)]

    def _collated(self, found: Sequence[tuple[int, tuple[int | None, int]]]) -> Batch:
        whose = np.array([group for group, _ in found])
        taken = np.unique(whose)
        made = [self.groups[group].collated([place for one, place in found if one == group]) for group in taken]
        return beside(made, np.argsort(np.concatenate([np.flatnonzero(whose == group) for group in taken])))


def beside(parts: Sequence[Batch], order: np.ndarray) -> Batch:
    """The rows of several batches in one, in this order of all of them; shorter ones are padded on the right."""
    tokens, labels = (_stacked([getattr(part, name) for part in parts], order, fill) for name, fill in (("tokens", 0), ("labels", IGNORED)))
    sources = [part.source for part in parts if part.source is not None]
    source = None
    if sources:
        source = Source(_stacked([one.tokens for one in sources], order, 0), *_places(sources, order))
    return Batch(tokens, labels, *_places(parts, order), source=source)


def _places(parts: Sequence[Batch] | Sequence[Source], order: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Positions and documents, where not every row is one document of the same length."""
    shapes = [part.tokens.shape for part in parts]
    if all(part.document is None for part in parts) and len({length for _, length in shapes}) == 1:
        return None, None
    positions = [
        np.broadcast_to(np.arange(shape[1]), shape) if part.positions is None else np.broadcast_to(part.positions, shape)
        for part, shape in zip(parts, shapes, strict=True)
    ]
    documents = [
        np.zeros(shape, np.int64) if part.document is None else np.broadcast_to(part.document, shape)
        for part, shape in zip(parts, shapes, strict=True)
    ]
    return _stacked(positions, order, 0), _stacked(documents, order, PADDING)


def _stacked(parts: Sequence[np.ndarray], order: np.ndarray, fill: int) -> np.ndarray:
    length = max(part.shape[1] for part in parts)
    return np.concatenate([np.pad(part, ((0, 0), (0, length - part.shape[1])), constant_values=fill) for part in parts])[order]
