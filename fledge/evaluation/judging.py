"""A judge of answers, from 0 to 100 or A against B with the order swapped; and how far it can be trusted."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fledge.evaluation.items import Item
from fledge.evaluation.scorers import Scorer, Trials
from fledge.evaluation.statistics import Tally

KNOWN = 30  # items on which a judge is judged
RATE = """You judge an answer to a question.

Question:
{question}

An answer that is accepted:
{accepted}

The answer that you judge:
{answer}

How good is the answer that you judge? 0 is wrong or useless, 100 is as good as the accepted one. Reply with the number alone."""
COMPARE = """You judge two answers to a question.

Question:
{question}

An answer that is accepted:
{accepted}

Answer A:
{a}

Answer B:
{b}

Which of the answers A and B is better? Reply with A or B alone."""
NUMBER = re.compile(r"(?<![\d.-])\d+(?:\.\d+)?")
LETTER = re.compile(r"\b[AB]\b")


@dataclass(frozen=True)
class Judge:
    """Whoever replies to each of several prompts."""

    name: str
    ask: Callable[[Sequence[str]], Sequence[str]]

    def ratings(self, items: Sequence[Item], answers: Sequence[str]) -> np.ndarray:
        """A number from 0 to 100 for each answer, (items,); no number where the reply holds none. Raises `ValueError` where none does."""
        prompts = [
            _filled(RATE, question=item.question, accepted=item.answers[0], answer=answer)
            for item, answer in zip(items, answers, strict=True)
        ]
        replies = self.ask(prompts)
        return self._understood(np.array([number_in(reply) for reply in replies]), replies, "a number from 0 to 100")

    def choices(self, items: Sequence[Item], first: Sequence[str], second: Sequence[str]) -> np.ndarray:
        """How often the first answer is the better one when each stands first once: (items, 2) of 1, 0, or no number for no A or B."""
        orders = [
            [
                _filled(COMPARE, question=item.question, accepted=item.answers[0], a=a, b=b)
                for item, a, b in zip(items, *pair, strict=True)
            ]
            for pair in ((first, second), (second, first))
        ]  # fmt: skip
        replies = self.ask([prompt for prompts in orders for prompt in prompts])
        letters = [found[0] if (found := LETTER.search(reply)) else None for reply in replies]
        chosen = [[letters[number], letters[len(items) + number]] for number in range(len(items))]
        worth = {"A": (1.0, 0.0), "B": (0.0, 1.0), None: (np.nan, np.nan)}
        return self._understood(np.array([[worth[one][0], worth[other][1]] for one, other in chosen]), replies, "A or B")

    def _understood(self, values: np.ndarray, replies: Sequence[str], what: str) -> np.ndarray:
        if np.isnan(values).all():
            raise ValueError(f"the judge {self.name} never replies with {what}, but with such as {replies[0][:80]!r}: take another judge")
        return values


def _filled(form: str, **texts: str) -> str:
    """The form with texts in its places, in which nothing is read as a place."""
    return re.sub(r"\{(\w+)\}", lambda place: texts[place[1]], form)


def number_in(reply: str) -> float:
    """The first number of a reply, if it is from 0 to 100.

    >>> number_in("Score: 85/100"), number_in("none")
    (85.0, nan)
    """
    found = NUMBER.search(reply)
    value = float(found[0]) if found else np.nan
    return value if 0 <= value <= 100 else np.nan


def rating(judge: Judge) -> Scorer:
    """The judge's mean number from 0 to 100; replies without one are left out."""

    def tallies(trials: Trials, items: Sequence[Item]) -> list[Tally]:
        return [Tally("judge's score", np.stack([_counted(judge.ratings(items, written)) for written in trials]))]

    return Scorer("judge's score", tallies)


def preference(judge: Judge, items: Sequence[Item], first: Sequence[str], second: Sequence[str]) -> tuple[Tally, list[Tally]]:
    """How often the judge prefers the first answers, each pair in both orders; and how often it takes another side in another order.

    Raises `ValueError` where it judges no pair in both.
    """
    chosen = judge.choices(items, first, second)
    if np.isnan(chosen).any(1).all():
        raise ValueError(f"the judge {judge.name} replies with A or B in both orders to none of {len(items)} pairs: take another judge")
    swayed = np.where(np.isnan(chosen).any(1), np.nan, chosen[:, 0] != chosen[:, 1])
    preferred = Tally("preferred by the judge", _counted(chosen.mean(1))[None])
    return preferred, _some(Tally("swayed by the order", _counted(swayed)[None], lower=True))


def trust_in_ratings(judge: Judge, items: Sequence[Item], seed: int = 0) -> list[Tally]:
    """Of known answers (each item's own, and another item's) how often the right one is rated higher; how often a second asking gives the
    same number, and by how much the two differ."""
    chosen, right, wrong = _known(items, seed)
    once, again = (judge.ratings([*chosen, *chosen], [*right, *wrong]) for _ in range(2))
    higher = _both(once[: len(chosen)], once[len(chosen) :], np.greater)
    apart = np.abs(once - again)
    return _some(
        Tally("replies understood", _counted(1.0 - np.isnan(once))[None]),
        Tally("agreement with known answers", _counted(higher)[None]),
        Tally("the same again", _counted(np.where(np.isnan(apart), np.nan, apart == 0))[None]),
        Tally("difference when asked again", _counted(apart)[None], lower=True),
    )


def trust_in_choices(judge: Judge, items: Sequence[Item], seed: int = 0) -> list[Tally]:
    """Of known answers how often the right one is chosen in both orders, and how often a second asking gives the same letter."""
    chosen, right, wrong = _known(items, seed)
    once, again = (judge.choices(chosen, right, wrong) for _ in range(2))
    return _some(
        Tally("replies understood", _counted(1.0 - np.isnan(once.ravel()))[None]),
        Tally("agreement with known answers", _counted(_both(once[:, 0], once[:, 1], lambda a, b: (a == 1) & (b == 1)))[None]),
        Tally("the same again", _counted(_both(once.ravel(), again.ravel(), np.equal))[None]),
    )


def _some(*tallies: Tally) -> list[Tally]:
    """Those that count anything."""
    return [tally for tally in tallies if tally.counts[..., 1].any()]


def _both(one: np.ndarray, other: np.ndarray, true: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    return np.where(np.isnan(one) | np.isnan(other), np.nan, true(one, other))


def _counted(values: np.ndarray) -> np.ndarray:
    """(items, 2): the value and 1, or nothing where there is no number."""
    known = ~np.isnan(values)
    return np.stack([np.where(known, values, 0), known], 1).astype(np.float64)


def _known(items: Sequence[Item], seed: int) -> tuple[list[Item], list[str], list[str]]:
    """Some items drawn by seed, an accepted answer of each, and one that another item accepts and this one does not.

    Raises `ValueError` where all items have the same answers.
    """
    order = np.random.default_rng(seed).permutation(len(items)).tolist()
    chosen, wrong = [], []
    for place, number in enumerate(order):
        others = (items[other].answers[0] for other in (*order[place + 1 :], *order[:place]))
        if (stranger := next((answer for answer in others if answer not in items[number].answers), None)) is not None:
            chosen.append(items[number])
            wrong.append(stranger)
        if len(chosen) == KNOWN:
            break
    if not chosen:
        raise ValueError("all items accept the same answers, so that no answer is known to be wrong and the judge cannot be judged")
    return chosen, [item.answers[0] for item in chosen], wrong
