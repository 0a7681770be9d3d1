"""A test of one's own: every layout gives the same items, and a broken row is named."""

import json

import pytest

from fledge.evaluation.items import Item, asks, read_items
from fledge.text.chat import Message


def written(tmp_path, rows: list, name: str = "test.jsonl") -> str:
    path = tmp_path / name
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return str(path)


CHOICES = ["red", "green", "blue"]


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Which?", "choices": CHOICES, "answer": 2},
        {"prompt": "Which?", "options": CHOICES, "label": "2"},
        {"ctx": "Which?", "endings": CHOICES, "label": "C"},
        {"question": "Which?", "choices": json.dumps(CHOICES), "answer": "blue"},
        {"question": "Which?", "choices": {"text": CHOICES, "label": ["1", "2", "3"]}, "answerKey": "3"},
    ],
)
def test_choices(tmp_path, row):
    path = written(tmp_path, [row])
    assert asks(path)
    [item] = read_items(path).items
    assert item == Item("Which?", ("blue",), 1, ("red", "green", "blue"))
    assert item.right == 2


def test_answers_and_conversations(tmp_path):
    accepted = written(tmp_path, [{"question": "When?", "answers": ["1905", "in 1905", "1905"]}, {"question": "Q", "answers": ["a"]}])
    assert read_items(accepted).items == (Item("When?", ("1905", "in 1905"), 1), Item("Q", ("a",), 2))
    number = written(tmp_path, [{"question": "How many?", "answer": 3}])
    assert read_items(number).items == (Item("How many?", ("3",), 1),)
    squad = written(tmp_path, [{"question": "When?", "answers": {"text": ["1905"], "answer_start": [3]}}])
    assert read_items(squad).items == (Item("When?", ("1905",), 1),)
    csv = written(tmp_path, ["question,answer", "When?,1905"], "test.csv")
    assert read_items(csv).items == (Item("When?", ("1905",), 2),)
    alpaca = written(tmp_path, [{"instruction": "Add.", "input": "1 and 2", "output": "3"}])
    assert read_items(alpaca).items == (Item("Add.\n\n1 and 2", ("3",), 1),)
    said = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Bye"), ("assistant", "Goodbye")]
    chat = written(tmp_path, [{"messages": [{"role": role, "content": content} for role, content in said]}])
    [item] = read_items(chat).items
    assert (item.question, item.answers) == ("Bye", ("Goodbye",))
    assert item.before == (Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Hello"))


def turns(*roles: str) -> dict:
    return {"messages": [{"role": role, "content": "x"} for role in roles]}


GOOD = {"question": "Q", "choices": ["a", "b"], "answer": 0}


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([{"text": "t", "kind": 1}], "has columns text, kind, but a test needs a question and an answer"),
        ([GOOD, '{"question": "Q", "cho'], "line 2: the JSON breaks"),
        ([GOOD, GOOD | {"answer": 2}], r"line 2: answer is 2, but one of 2 choices is needed: .* \(A, B\)"),
        ([GOOD, GOOD | {"answer": None}], "line 2: answer is None"),
        ([GOOD, GOOD | {"choices": ["a"]}], "line 2: choices is .* a list of two texts or more"),
        ([GOOD, GOOD | {"choices": ["a", "a"]}], "line 2: choices holds the same text twice: 'a'"),
        ([GOOD, GOOD | {"question": " "}], "line 2: question is ' ', but a question is needed"),
        ([{"question": "Q", "answers": ["a"]}, {"question": "Q", "answers": []}], "line 2: answers is"),
        ([{"question": "Q", "answer": "A"}, {"question": "Q", "answer": " "}], "line 2: answer is ' ', but an answer is needed"),
        ([{"question": "Q", "answer": "A"}, {"question": "", "answer": "A"}], "line 2: question is '', but a question is needed"),
        (
            [turns("user", "assistant"), turns("assistant", "user", "assistant")],
            "row 2: message 1 is the assistant's, but it is the user's",
        ),
        ([{"instruction": "Add.", "output": "3"}, {"instruction": "Add.", "output": ""}], "row 2: the answer is empty"),
        ([turns("user", "assistant"), turns("user")], "row 2: the last message is the user's"),
    ],
)
def test_a_bad_row_is_named(tmp_path, rows, sentence):
    with pytest.raises(ValueError, match=sentence):
        read_items(written(tmp_path, rows))


def test_text_and_labels_are_no_test(tmp_path):
    assert not asks(written(tmp_path, [{"text": "a story", "label": "x"}]))
    assert not asks(written(tmp_path, ["id,story", "1,Once"], "a.csv"))
