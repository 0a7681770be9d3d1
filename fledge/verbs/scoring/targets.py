"""Targets that are written for sources, beside those of a file of pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fledge.verbs import terminal
from fledge.verbs.model import Model, Settings
from fledge.verbs.scoring.questions import each
from fledge.verbs.scoring.results import Answered, Evaluated, Score, compared

if TYPE_CHECKING:
    from fledge.data.parallel import Parallel
    from fledge.evaluation.statistics import Tally


def pair_scores(
    names: Sequence[str], models: Sequence[Model], on: str, source: str | None, target: str | None, beams: int | None, scorers: str,
    lowercase: bool,
) -> Evaluated:  # fmt: skip
    """What the scorers say of the targets of every model, by default BLEU, chrF and ROUGE."""
    from fledge.data.parallel import read_parallel
    from fledge.data.tables import counted
    from fledge.evaluation.items import Item
    from fledge.evaluation.scorers import named

    chosen = [named(name, lowercase) for name in scorers.split(",")]
    scores: list[Score] = []
    answered: list[Answered] = []
    tallies: list[list[Tally]] = []
    read: list[Parallel] = []
    for name, model in zip(names, models, strict=True):
        learned = model.facts.get("data") or {}
        columns = (source or learned.get("source_column"), target or learned.get("target_column"))
        pairs = read_parallel(on, *columns)
        read.append(pairs)
        for line in pairs.said():
            terminal.say(f"  {line}")
        more: Settings = {"beams": beams} if beams is not None else {}
        written = model.targets(pairs.sources, **more)
        items = [Item(*row) for row in zip(pairs.sources, ((text,) for text in pairs.targets), pairs.lines, strict=True)]
        found = [tally for one in chosen for tally in one.tallies([written], items)]
        scores += [Score.of(name, tally) for tally in found]
        answered += each(name, items, [written], found, 0)
        tallies.append(found)
    alike = all(pairs.targets == read[0].targets for pairs in read)
    differences = compared(names, tallies) if alike else []  # models of two directions write different texts
    return Evaluated(on, counted(len(read[0].sources), "pair"), tuple(scores), tuple(differences), items=tuple(answered))
