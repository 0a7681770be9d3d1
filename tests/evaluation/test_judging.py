"""Judges: what they say is read as it stands, and those that cannot be trusted are found out."""

import re

import numpy as np
import pytest

from fledge.evaluation import endpoint
from fledge.evaluation.endpoint import Endpoint
from fledge.evaluation.items import Item
from fledge.evaluation.judging import Judge, number_in, preference, rating, trust_in_choices, trust_in_ratings
from tests.evaluation.serving import serving

ITEMS = [Item(f"What is {n}+1? {{answer}}", (str(n + 1),), n + 1) for n in range(10)]
RIGHT = [item.answers[0] for item in ITEMS]
WRONG = ["zero"] * 10


def part(prompt: str, title: str) -> str:
    found = re.search(rf"{title}:\n(.*?)\n\n", prompt, re.DOTALL)
    assert found
    return found[1]


def knowing(prompt: str) -> str:
    """Rates by equality with the accepted answer, and prefers what is equal to it."""
    if "Answer A" not in prompt:
        return f"{100 * (part(prompt, 'An answer that is accepted') == part(prompt, 'The answer that you judge'))}/100"
    return "A" if part(prompt, "Answer A") == part(prompt, "An answer that is accepted") else "**B**"


def of(reply) -> Judge:
    return Judge("j", lambda prompts: [reply(prompt) for prompt in prompts])


def values(tallies) -> dict[str, float]:
    return {tally.name: tally.interval().value for tally in tallies}


def test_a_judge_that_knows():
    judge = of(knowing)
    assert values(rating(judge).tallies([RIGHT, WRONG], ITEMS)) == {"judge's score": 50}
    preferred, swayed = preference(judge, ITEMS, RIGHT, WRONG)
    assert preferred.interval().value == 1
    assert values(swayed) == {"swayed by the order": 0}
    understood = {"replies understood": 1, "agreement with known answers": 1, "the same again": 1}
    assert values(trust_in_ratings(judge, ITEMS)) == {**understood, "difference when asked again": 0}
    assert values(trust_in_choices(judge, ITEMS)) == understood


def test_one_that_sees_the_order_alone_is_found_out():
    judge = of(lambda prompt: "A")
    preferred, swayed = preference(judge, ITEMS, RIGHT, WRONG)
    assert preferred.interval().value == 0.5
    assert values(swayed) == {"swayed by the order": 1}
    assert values(trust_in_choices(judge, ITEMS))["agreement with known answers"] == 0


def test_one_that_guesses_is_found_out():
    draw = np.random.default_rng(0)
    told = values(trust_in_ratings(of(lambda prompt: str(draw.integers(101))), ITEMS))
    assert told["agreement with known answers"] < 0.9
    assert told["the same again"] < 0.2
    assert told["difference when asked again"] > 15


def test_pairs_that_are_judged_in_one_order_only_are_refused():
    half = Judge("half", lambda prompts: ["A" if n < len(prompts) / 2 else "neither" for n in range(len(prompts))])
    with pytest.raises(ValueError, match=f"in both orders to none of {len(ITEMS)} pairs"):
        preference(half, ITEMS, RIGHT, WRONG)


def test_what_is_no_reply_is_left_out_or_refused():
    some = of(lambda prompt: "80" if "3+1" in prompt else "I would rather not.")
    [tally] = rating(some).tallies([RIGHT], ITEMS)
    assert tally.interval().value == 80
    assert values(trust_in_ratings(some, ITEMS))["replies understood"] == 0.1
    with pytest.raises(ValueError, match="never replies with a number from 0 to 100, but with such as 'no'"):
        rating(of(lambda prompt: "no")).tallies([RIGHT], ITEMS)
    with pytest.raises(ValueError, match="no answer is known to be wrong"):
        trust_in_ratings(of(knowing), [Item("q", ("a",), 1), Item("p", ("a",), 2)])
    assert [number_in(reply) for reply in ("85", "**7.5**", "a score of 100.", "Score: 40/100")] == [85, 7.5, 100, 40]
    assert np.isnan([number_in(reply) for reply in ("101", "none", "-3")]).all()


def test_an_endpoint_is_spoken_to_in_openais_form(monkeypatch):
    monkeypatch.setenv("FLEDGE_JUDGE_KEY", "sesame")
    with serving(knowing) as (url, seen):
        judge = Judge("j", Endpoint(url).ask)
        assert judge.ratings(ITEMS, RIGHT).tolist() == [100] * 10
    assert {(one["path"], one["key"], one["model"], one["temperature"]) for one in seen} == {
        ("/v1/chat/completions", "Bearer sesame", "first", 0)
    }
    assert sorted(part(one["messages"][0]["content"], "Question") for one in seen) == sorted(item.question for item in ITEMS)


def test_a_busy_endpoint_is_asked_again_and_a_lost_one_named(monkeypatch):
    monkeypatch.setattr(endpoint, "PATIENCE", (0.0, 0.0))
    with serving(knowing, refusals=2) as (url, seen):
        judge = Judge("j", Endpoint(url, "second").ask)
        assert judge.ratings(ITEMS[:1], RIGHT[:1]).tolist() == [100]
        assert len(seen) == 3
        assert seen[0]["key"] is None
    with pytest.raises(OSError, match="cannot be reached"):
        judge.ratings(ITEMS[:1], RIGHT[:1])
    with serving(knowing, refusals=9) as (url, _), pytest.raises(OSError, match=r"refuses with 503: .*busy"):
        Judge("j", Endpoint(url, "m").ask).ratings(ITEMS[:1], RIGHT[:1])
    with pytest.raises(ValueError, match="is no address of an endpoint"):
        Endpoint("ftp://x")
