"""Instruction data in every layout, linted before it is trained on."""

import gzip
import itertools
import json
import os
from pathlib import Path

import pytest

from fledge.data.batches import IGNORED, Conversations
from fledge.data.instructions import Conversation, lint, read_instructions, split, tokenized
from fledge.text.chat import FORMATS, Message
from fledge.text.tokenizer import Tokenizer

TOKENIZER, CHATML = Tokenizer.bytes(), FORMATS["chatml"]
ENDS = CHATML.stop_tokens(TOKENIZER)


def write(tmp_path, rows, name="a.jsonl") -> str:
    text = json.dumps(rows, indent=1) if name.endswith(".json") else "\n".join(map(json.dumps, rows))
    (tmp_path / name).write_text(text)
    return str(tmp_path / name)


def talk(question: str, answer: str, line: int = 1) -> Conversation:
    return Conversation((Message("user", question), Message("assistant", answer)), line)


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize(
    ("rows", "layout", "said"),
    [
        (
            [{"instruction": "add", "input": "1 2", "output": "3"}],
            "instruction + input + output",
            [("user", "add\n\n1 2"), ("assistant", "3")],
        ),
        ([{"instruction": "add", "output": "3"}], "instruction + output", [("user", "add"), ("assistant", "3")]),
        ([{"prompt": "p", "completion": "c", "id": 4}], "prompt + completion", [("user", "p"), ("assistant", "c")]),
        ([{"question": "q", "answer": "a"}], "question + answer", [("user", "q"), ("assistant", "a")]),
        (
            [{"messages": [{"role": "system", "content": " "}, {"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]}],
            "messages",
            [("user", "u"), ("assistant", "a")],
        ),
        (
            [{"conversations": [{"from": r, "value": r} for r in ("system", "human", "gpt", "human", "gpt")]}],
            "conversations",
            [("system", "system"), ("user", "human"), ("assistant", "gpt"), ("user", "human"), ("assistant", "gpt")],
        ),
    ],
)
def test_layouts_are_told_apart(tmp_path, name, rows, layout, said):
    found = read_instructions(write(tmp_path, rows, name))
    assert found.layout == layout
    assert [(message.role, message.content) for message in found.conversations[0].messages] == said


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"a": "b"}], "columns a, but instructions need instruction and output"),
        ([{"instruction": "x", "output": "y"}, {"instruction": 3, "output": "y"}], "line 2: instruction is 3"),
        ([{"messages": "hello"}], "line 1: messages is 'hello'"),
        ([{"messages": [{"role": "wizard", "content": "x"}]}], "line 1: role 'wizard' is unknown"),
        ([{"messages": ["x"]}], "line 1: a message is 'x'"),
    ],
)
def test_rows_that_do_not_fit_are_named(tmp_path, rows, said):
    with pytest.raises(ValueError, match=said):
        read_instructions(write(tmp_path, rows))


def test_messages_out_of_order_are_named(tmp_path):
    rows = [talk("a", "b", 1), Conversation((Message("assistant", "b"), Message("user", "a")), 2)]
    with pytest.raises(ValueError, match="line 2: message 1 is the assistant's"):
        tokenized(rows, CHATML, TOKENIZER)


def test_lint_counts_every_fault_with_its_lines():
    rows = [
        talk("q", "a", 1),
        talk("q", "", 2),
        talk(" ", "a", 3),
        talk("q", "a ", 4),
        talk("q", "long " * 50, 5),
        Conversation((Message("user", "q"),), 6),
    ]
    turns = tokenized(rows, CHATML, TOKENIZER)
    found = lint(rows, turns, 100, ENDS)
    assert (found.rows, found.empty, found.truncated, found.duplicated, found.unended) == (6, (2, 3, 6), (5,), (4,), (5,))
    batches = list(Conversations(turns, 100, 2).in_order())
    assert found.trained == sum((batch.labels != IGNORED).sum() for batch in batches)
    said = "\n".join(found.said())
    assert "3 without a question or an answer, left out (lines 2, 3, 6)" in said
    assert "1 longer than the context, cut (line 5)" in said
    with pytest.raises(ValueError, match="in none of 6 conversations an end of turn is trained on within 5 tokens"):
        lint(rows, turns, 5, ENDS)


def test_end_of_turn_is_the_last_label_of_every_answer():
    rows = [talk(f"question {i}", f"answer {i}", i) for i in range(20)]
    for name in ("chatml", "alpaca", "plain"):
        form = FORMATS[name]
        turns = tokenized(rows, form, TOKENIZER)
        lint(rows, turns, 400, form.stop_tokens(TOKENIZER))
        labels = [label for batch in Conversations(turns, 400, 4).in_order() for label in batch.labels[batch.labels != IGNORED]]
        assert sum(label in form.stop_tokens(TOKENIZER) for label in labels) == 20


def test_everything_is_trained_on_if_asked():
    rows = [talk(f"question {i}", f"answer {i}", i) for i in range(20)]
    for name in ("chatml", "alpaca", "plain"):
        form = FORMATS[name]
        answers, all_of_it = (tokenized(rows, form, TOKENIZER, everything=everything) for everything in (False, True))
        assert [turn.tokens for turn in answers] == [turn.tokens for turn in all_of_it]
        assert all(all(turn.trained) for turn in all_of_it)
        found = [lint(rows, turns, 400, form.stop_tokens(TOKENIZER)) for turns in (answers, all_of_it)]
        assert found[0].unended == found[1].unended == ()
        assert found[0].trained < found[1].trained == found[1].tokens


def test_split_keeps_equal_questions_together():
    rows = [talk(f"question {i % 30}", f"answer {i}", i) for i in range(100)]
    train, held = split(rows, 0.2, seed=1)
    assert sorted([row.line for row in [*train, *held]]) == list(range(100))
    assert len({row.prompt for row in held}) == 6
    assert not {row.prompt for row in train} & {row.prompt for row in held}
    assert split(rows[::-1], 0.2, seed=1) == (train, held)
    assert split(rows, 0.2, seed=2) != (train, held)
    with pytest.raises(ValueError, match="ask 1 different things"):
        split([talk("q", "a"), talk("q", "b")])


@pytest.mark.skipif("FLEDGE_DATA" not in os.environ, reason="FLEDGE_DATA is not set")
def test_real_instructions(tmp_path):
    data = Path(os.environ["FLEDGE_DATA"]) / "instruct"
    book = read_instructions(str(data / "instruction-data.json"))
    assert (len(book.conversations), book.layout) == (1100, "instruction + input + output")
    turns = tokenized(book.conversations, CHATML, TOKENIZER)
    found = lint(book.conversations, turns, 1024, ENDS)
    assert (found.rows, found.empty, found.unended) == (1100, (), ())
    packed = Conversations(turns, 1024, 4)
    assert len(packed.kept) == 1100
    train, held = split(book.conversations)
    assert len(train) + len(held) == 1100
    with gzip.open(data / "alpaca.jsonl.gz", "rt", encoding="utf-8") as lines:
        (tmp_path / "alpaca.jsonl").write_text("".join(itertools.islice(lines, 500)), encoding="utf-8")
    alpaca = read_instructions(str(tmp_path / "alpaca.jsonl"))
    assert len(alpaca.conversations) == 500
    lint(alpaca.conversations, tokenized(alpaca.conversations, FORMATS["alpaca"], TOKENIZER), 512, [TOKENIZER.end_of_text])
