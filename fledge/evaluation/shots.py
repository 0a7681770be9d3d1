"""Worked examples before a question: drawn by seed, in several orders; and how a question stands in plain text."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fledge.evaluation.items import Item
from fledge.text.chat import Message

SEPARATOR = "\n\n"


@dataclass(frozen=True)
class Shots:
    """How many examples stand before a question, of how many `sets` and in how many `orders` of each: sets × orders trials.

    Raises `ValueError` for fewer than none, and for fewer than one set or order.
    """

    count: int = 0
    sets: int = 2
    orders: int = 2
    seed: int = 0

    def __post_init__(self):
        if self.count < 0:
            raise ValueError(f"{self.count} shots, but a number from 0 on is needed")
        if self.sets < 1 or self.orders < 1:
            raise ValueError(f"{self.sets} sets of shots in {self.orders} orders, but at least 1 of each is needed")

    @property
    def trials(self) -> int:
        """One where nothing varies."""
        return self.sets * (self.orders if self.count > 1 else 1) if self.count else 1

    def drawn(self, items: Sequence[Item], pool: Sequence[Item]) -> list[list[tuple[Item, ...]]]:
        """For each trial and each item its examples from the pool, (trials, items), one set after another; none asks what the item asks.

        Raises `ValueError` where the pool is too small.
        """
        if not self.count:
            return [[() for _ in items]]
        orders = self.trials // self.sets
        found = []
        for number in range(self.sets):
            order = np.random.default_rng((self.seed, number)).permutation(len(pool))
            chosen = [self._others(item, [pool[place] for place in order]) for item in items]
            for turn in range(orders):
                ways = np.random.default_rng((self.seed, number, turn)).permutation(self.count) if turn else np.arange(self.count)
                found.append([tuple(own[place] for place in ways) for own in chosen])
        return found

    def _others(self, item: Item, pool: Sequence[Item]) -> list[Item]:
        others = []
        for one in pool:
            if one.question != item.question:
                others.append(one)
            if len(others) == self.count:
                return others
        raise ValueError(
            f"{self.count} shots for the question of line {item.line}, but there are only {len(others)} rows that ask something else: "
            "use fewer shots, or another file with --shots-from"
        )

    def spread(self, values: np.ndarray) -> tuple[float, float]:
        """The standard deviation of trials (trials,) in all, and within sets, by order alone; 0 where there is one."""
        sets = values.reshape(self.sets if self.count else 1, -1)
        within = float(np.sqrt(sets.var(1, ddof=1).mean())) if sets.shape[1] > 1 else 0.0
        return float(values.std(ddof=1)) if len(values) > 1 else 0.0, within


@dataclass(frozen=True)
class Template:
    """How a question and its answer stand in plain text, such as `Question: {question}\\nAnswer: {answer}`.

    Raises `ValueError` where one of the two places is missing, or where text follows the answer.
    """

    text: str = "Question: {question}\nAnswer: {answer}"

    def __post_init__(self):
        if self.text.count("{question}") != 1 or self.text.count("{answer}") != 1 or not self.text.endswith("{answer}"):
            raise ValueError(f"--template {self.text!r} needs {{question}} once, and {{answer}} once at its end")

    def prompt(self, item: Item, shots: Sequence[Item]) -> str:
        """All up to where the answer begins, without the blank before it."""
        system, turns = worked(item, shots)
        before, between = self.text.removesuffix("{answer}").split("{question}")
        blocks = [f"{before}{question}{between}{answer}" for question, answer in turns]
        blocks.append(f"{before}{item.question}{between}".rstrip(" "))
        return SEPARATOR.join([system, *blocks] if system else blocks)

    @property
    def gap(self) -> str:
        """The blank before an answer, if there is one."""
        return " " if self.text.endswith(" {answer}") else ""

    @property
    def stop(self) -> str:
        """Where an answer ends: the next question begins."""
        return "\n" + (self.text.partition("{question}")[0].strip() or "\n")


def worked(item: Item, shots: Sequence[Item]) -> tuple[str, list[tuple[str, str]]]:
    """The system's message, and the questions with answers that stand before an item: shots, then its own conversation."""
    before = [message for message in item.before if message.role != "system"]
    own = [(ask.content, answer.content) for ask, answer in zip(before[::2], before[1::2], strict=True)]
    system = item.before[0].content if item.before and item.before[0].role == "system" else ""
    return system, [*((shot.question, shot.answers[0]) for shot in shots), *own]


def conversation(item: Item, shots: Sequence[Item]) -> list[Message]:
    """The same as messages, the last of which asks."""
    system, turns = worked(item, shots)
    messages = [Message("system", system)] if system else []
    for question, answer in turns:
        messages += [Message("user", question), Message("assistant", answer)]
    return [*messages, Message("user", item.question)]
