"""Scorers of written answers: each counts something on every item, from which its value, interval and differences follow."""

import importlib.util
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path

import numpy as np

from fledge.arch.record import did_you_mean
from fledge.evaluation.generated import bleu_tally, chrf_tally, rouge_tallies
from fledge.evaluation.items import Item
from fledge.evaluation.statistics import Tally

Score = Callable[[str, Item], float]
Trials = Sequence[Sequence[str]]
"""What was written for each item in each trial: (trials, items)."""


@dataclass(frozen=True)
class Scorer:
    """A name, and what it counts on answers (trials, items) to items; some have several measures."""

    name: str
    tallies: Callable[[Trials, Sequence[Item]], Sequence[Tally]]


def scorer(name: str, score: Score, signature: str | None = None) -> Scorer:
    """The mean of a number for each answer."""

    def tallies(trials: Trials, items: Sequence[Item]) -> list[Tally]:
        counts = [[(score(answer, item), 1) for answer, item in zip(written, items, strict=True)] for written in trials]
        return [Tally(name, np.array(counts, np.float64), signature=signature)]

    return Scorer(name, tallies)


def exact(answer: str, item: Item, lowercase: bool = False) -> float:
    """1 where the answer is one of those accepted, white space between words aside."""
    fold = str.lower if lowercase else str
    return float(any(_spaced(fold(answer)) == _spaced(fold(accepted)) for accepted in item.answers))


def f1(answer: str, item: Item) -> float:
    """F1 of the words that the answer shares with the accepted one that is nearest, as SQuAD counts them (Rajpurkar et al., 2016)."""
    return max(_overlap(squad_words(answer), squad_words(accepted)) for accepted in item.answers)


def squad_words(text: str) -> list[str]:
    """Lower-cased words without punctuation and English articles.

    >>> squad_words("The Eiffel-Tower, in Paris.")
    ['eiffeltower', 'in', 'paris']
    """
    letters = "".join(character for character in text.lower() if character not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", letters).split()


def _overlap(one: list[str], other: list[str]) -> float:
    if not one or not other:
        return float(one == other)
    return 2 * sum((Counter(one) & Counter(other)).values()) / (len(one) + len(other))


def _spaced(text: str) -> str:
    return " ".join(text.split())


def matching(pattern: str) -> Scorer:
    """1 where what the pattern finds last in the answer (its first group, if it has one) is what it finds so in an accepted answer, or is
    that answer.

    Raises `ValueError` for what is no pattern.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"--regex {pattern!r} is no pattern: {error}") from None

    def found(text: str) -> str | None:
        matches = list(compiled.finditer(text))
        return matches[-1][1 if compiled.groups else 0] if matches else None

    def score(answer: str, item: Item) -> float:
        given = found(answer)
        if given is None:
            return 0.0
        wanted = [accepted if (one := found(accepted)) is None else one for accepted in item.answers]
        return float(_spaced(given) in map(_spaced, wanted))

    return scorer(f"match of {pattern}", score)


def from_python(place: str) -> Scorer:
    """The function `score(answer, item)` of a Python file, or another one of it by `FILE.py:NAME`; its numbers are averaged.

    Raises `ValueError` where there is no such function, and naming the line of an item for which it fails or gives no number.
    """
    file, _, name = place.rpartition(":") if place.rpartition(":")[0].endswith(".py") else (place, "", "score")
    if not Path(file).is_file():
        raise ValueError(f"--scorer {place}: {file} is no file; give FILE.py with a function score(answer, item), or FILE.py:NAME")
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    if spec is None or spec.loader is None:
        raise ValueError(f"--scorer {place}: {file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"--scorer {place}: {file} fails with {type(error).__name__}: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(f"--scorer {place}: {file} has no function {name}(answer, item)")

    def score(answer: str, item: Item) -> float:
        try:
            value = function(answer, item)
        except Exception as error:
            raise ValueError(f"--scorer {place} fails on line {item.line} with {type(error).__name__}: {error}") from error
        if not isinstance(value, Real | np.bool_) or not np.isfinite(float(value)):
            raise ValueError(f"--scorer {place} gives {value!r} for line {item.line}, but a number is needed")
        return float(value)

    return scorer(name if name != "score" else Path(file).stem, score)


SCORERS = ("exact", "f1", "bleu", "chrf", "rouge")


def named(name: str, lowercase: bool = False) -> Scorer:
    """One of `SCORERS`; raises `ValueError` with the nearest for another name."""
    match name:
        case "exact":
            return scorer("exact match", lambda answer, item: exact(answer, item, lowercase))
        case "f1":
            return scorer("F1", f1)
        case "bleu":
            return Scorer("BLEU", lambda trials, items: [bleu_tally(trials, _answers(items), lowercase)])
        case "chrf":
            return Scorer("chrF", lambda trials, items: [chrf_tally(trials, _answers(items), lowercase)])
        case "rouge":
            return Scorer("ROUGE", lambda trials, items: rouge_tallies(trials, _answers(items)))
    raise ValueError(f"--score {name!r} is unknown{did_you_mean(name, SCORERS)}")


def _answers(items: Sequence[Item]) -> list[tuple[str, ...]]:
    return [item.answers for item in items]
