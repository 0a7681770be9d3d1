"""Judges of written answers: a model here, or one behind an endpoint; and what is known of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING, Literal

from fledge.verbs.model import load
from fledge.verbs.scoring.results import Score

if TYPE_CHECKING:
    from fledge.evaluation.items import Item
    from fledge.evaluation.judging import Judge
    from fledge.evaluation.statistics import Tally

Judging = Literal["score", "pairs"]
REPLY = 32  # tokens of a local judge's reply


def judge_of(name: str, model: str | None, device: str) -> Judge:
    """The judge at a URL, or the model of a folder or hub id.

    Raises `ValueError` for a model that does not go on from text.
    """
    from fledge.evaluation.judging import Judge

    if name.startswith(("http://", "https://")):
        from fledge.evaluation.endpoint import Endpoint

        endpoint = Endpoint(name, model)
        return Judge(f"{endpoint.model} at {endpoint.url}", endpoint.ask)
    if model is not None:
        raise ValueError(f"--judge-model names a model of an endpoint, but --judge {name} is none")
    opened = load(name, device)
    if opened.arch.labels or not opened.arch.writes or len(opened.arch.stacks) == 2:
        raise ValueError(f"{name} does not go on from text and cannot judge: take an assistant, or the URL of an endpoint")

    def ask(prompts: Sequence[str]) -> list[str]:
        from fledge.text import Message

        tokenizer, form = opened.tokenizer, opened.chat_format
        if form is not None:
            read = [form.encode(tokenizer, [Message("user", prompt)], answer=True).tokens for prompt in prompts]
        else:
            read = [[*tokenizer.opening, *tokenizer.encode(f"{prompt}\n\n")] for prompt in prompts]
        longest = max(map(len, read))
        if longest >= opened.arch.context:
            raise ValueError(f"the judge {name} reads {opened.arch.context:,} tokens, but what it is asked has {longest:,}: take another")
        return [done.text for done in opened.continued(read, max_tokens=REPLY, temperature=0.0)]

    return Judge(name, ask)


def judge_scores(
    judge: Judge, judging: Judging, names: Sequence[str], items: Sequence[Item], answers: Sequence[Sequence[str]], seed: int
) -> tuple[list[Score], list[Score]]:
    """With `pairs` how often the judge prefers each model's answers (models, items) to each other's; and how far it can be trusted."""
    from fledge.evaluation.judging import preference, trust_in_choices, trust_in_ratings

    scores: list[Score] = []
    known: list[Tally] = []
    if judging == "pairs":
        for a, b in combinations(range(len(names)), 2):
            preferred, swayed = preference(judge, items, answers[a], answers[b])
            scores.append(Score.of(names[a], replace(preferred, name=f"preferred to {names[b]} by the judge")))
            known += [replace(tally, name=f"{tally.name}, {names[a]} and {names[b]}") for tally in swayed]
    trust = trust_in_choices if judging == "pairs" else trust_in_ratings
    return scores, [Score.of(judge.name, tally) for tally in (*known, *trust(judge, items, seed))]
