"""Examples before a question: drawn by seed, never the question itself, their order varied; how much both matter."""

import numpy as np
import pytest

from fledge.evaluation.items import Item
from fledge.evaluation.shots import Shots, Template, conversation
from fledge.text.chat import Message

ITEMS = [Item(f"q{number}", (f"a{number}",), number) for number in range(8)]


def test_draws_follow_the_seed_and_leave_out_the_question():
    shots = Shots(3, sets=2, orders=3, seed=5)
    drawn = shots.drawn(ITEMS, ITEMS)
    assert drawn == Shots(3, 2, 3, 5).drawn(ITEMS, ITEMS) != Shots(3, 2, 3, 6).drawn(ITEMS, ITEMS)
    assert (len(drawn), {len(trial) for trial in drawn}) == (shots.trials, {8}) == (6, {8})
    for trial in drawn:
        for item, own in zip(ITEMS, trial, strict=True):
            assert len(set(own)) == 3
            assert item not in own
    for first in (0, 3):  # one set in three orders
        for trial in drawn[first + 1 : first + 3]:
            assert [set(own) for own in trial] == [set(own) for own in drawn[first]]
    assert len({tuple(trial[0]) for trial in drawn[:3]}) > 1
    assert set(drawn[0][0]) != set(drawn[3][0])


def test_no_shots_and_one_shot_vary_no_order():
    assert Shots().drawn(ITEMS, ITEMS) == [[()] * 8]
    assert Shots(1, sets=3, orders=4).trials == 3


def test_spread_in_all_and_by_order():
    values = np.array([0.1, 0.3, 0.7, 0.9])
    spread, by_order = Shots(2, sets=2, orders=2).spread(values)
    assert spread == pytest.approx(values.std(ddof=1))
    assert by_order == pytest.approx(np.sqrt(0.02))
    assert Shots().spread(np.array([0.5])) == (0, 0)


def test_too_few_others_is_a_sentence():
    with pytest.raises(ValueError, match="only 7 rows that ask something else"):
        Shots(8).drawn(ITEMS, ITEMS)


def test_a_question_in_plain_text_and_in_a_conversation():
    asked = Item("{answer}?", ("no",), 1, before=(Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Hello")))
    template = Template("Q: {question}\nA: {answer}")
    assert template.prompt(asked, ITEMS[:1]) == "Be brief.\n\nQ: q0\nA: a0\n\nQ: Hi\nA: Hello\n\nQ: {answer}?\nA:"
    assert (template.gap, template.stop) == (" ", "\nQ:")
    assert [message.content for message in conversation(asked, ITEMS[:1])] == ["Be brief.", "q0", "a0", "Hi", "Hello", "{answer}?"]
    assert Template("{question}{answer}").stop == "\n\n"
    for text in ("{question}", "{question} {question} {answer}", "{question} {answer}."):
        with pytest.raises(ValueError, match=r"needs \{question\} once"):
            Template(text)
