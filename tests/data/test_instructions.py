"""Instruction data in every layout, linted before it is trained on."""

import csv
import gzip
import itertools
import json
import os
from pathlib import Path

import pytest

from fledge.data.batches import IGNORED, Conversations
from fledge.data.instructions import Conversation, lint, read_instructions, split, tokenized
from fledge.text.chat import FORMATS, Message
from fledge.text.templates import chat_format
from fledge.text.tokenizer import Tokenizer

TOKENIZER, CHATML = Tokenizer.bytes(), FORMATS["chatml"]
ENDS = CHATML.stop_tokens(TOKENIZER)


def write(tmp_path, rows, name="a.jsonl") -> str:
    path = tmp_path / name
    match path.suffix:
        case ".json":
            path.write_text(json.dumps(rows, indent=1))
        case ".jsonl":
            path.write_text("\n".join(map(json.dumps, rows)))
        case ".csv":
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, rows[0])
                writer.writeheader()
                writer.writerows({key: cell if isinstance(cell, str) else json.dumps(cell) for key, cell in row.items()} for row in rows)
        case ".parquet":
            # Arrow has one type for a column, so what a message calls stands as text there, as on the hub
            rows = [{key: cell if isinstance(cell, str) else json.dumps(cell) for key, cell in row.items()} for row in rows]
            pyarrow_parquet = pytest.importorskip("pyarrow.parquet")
            pyarrow_parquet.write_table(pytest.importorskip("pyarrow").Table.from_pylist(rows), path)
    return str(path)


def talk(question: str, answer: str, row: int = 1) -> Conversation:
    return Conversation((Message("user", question), Message("assistant", answer)), row)


TOOLS = [
    {"role": "user", "content": "3 + 4, and 5 + 6?"},
    {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "add", "arguments": '{"a": 3, "b": 4}'}}]},
    {"role": "tool", "content": "7"},
    {"role": "tool", "content": {"sum": 11}},
    {"role": "assistant", "content": [{"type": "text", "text": "7 and 11"}]},
]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv", "a.parquet"])
@pytest.mark.parametrize(
    ("row", "layout", "said"),
    [
        ({"instruction": "add", "input": "1 2", "output": "3"}, "Alpaca", [("user", "add\n\n1 2"), ("assistant", "3")]),
        ({"instruction": "add", "input": "", "output": "3"}, "Alpaca", [("user", "add"), ("assistant", "3")]),
        ({"instruction": "add", "output": "3"}, "Alpaca", [("user", "add"), ("assistant", "3")]),
        ({"instruction": "add", "context": "1 2", "response": "3"}, "Dolly", [("user", "add\n\n1 2"), ("assistant", "3")]),
        (
            {"system_prompt": "be", "question": "q", "response": "a"},
            "OpenOrca",
            [("system", "be"), ("user", "q"), ("assistant", "a")],
        ),
        ({"prompt": "p", "completion": "c", "id": "4"}, "prompt and completion", [("user", "p"), ("assistant", "c")]),
        ({"Prompt": "p", "Answer": "c"}, "prompt and answer", [("user", "p"), ("assistant", "c")]),
        ({"question": "q", "answer": "a\n#### 4"}, "GSM8K (question and answer)", [("user", "q"), ("assistant", "a\n#### 4")]),
        (
            {"messages": [{"role": "system", "content": " "}, {"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]},
            "messages",
            [("user", "u"), ("assistant", "a")],
        ),
        (
            {"messages": TOOLS, "prompt": "3 + 4"},
            "messages",
            [
                ("user", "3 + 4, and 5 + 6?"),
                ("assistant", '<tool_call>\n{"name": "add", "arguments": {"a": 3, "b": 4}}\n</tool_call>'),
                ("user", '<tool_response>\n7\n</tool_response>\n<tool_response>\n{"sum": 11}\n</tool_response>'),
                ("assistant", "7 and 11"),
            ],
        ),
        (
            {"conversations": [{"from": r, "value": r} for r in ("system", "human", "gpt", "human", "gpt")]},
            "ShareGPT",
            [("system", "system"), ("user", "human"), ("assistant", "gpt"), ("user", "human"), ("assistant", "gpt")],
        ),
        (
            {"conversations": [{"from": r, "value": r} for r in ("human", "function_call", "observation", "gpt")]},
            "ShareGPT",
            [
                ("user", "human"),
                ("assistant", "<tool_call>\nfunction_call\n</tool_call>"),
                ("user", "<tool_response>\nobservation\n</tool_response>"),
                ("assistant", "gpt"),
            ],
        ),
    ],
)
def test_layouts_are_told_apart(tmp_path, name, row, layout, said):
    found = read_instructions(write(tmp_path, [row], name))
    assert (found.layout, found.others) == (layout, ())
    assert [(message.role, message.content) for message in found.conversations[0].messages] == said
    assert f"in the layout of {layout}" in found.said()[0]


def test_columns_that_fit_twice_are_said_and_others_can_be_named(tmp_path):
    path = write(tmp_path, [{"question": "q", "answer": "a", "prompt": "p", "completion": "c", "title": "t"}])
    found = read_instructions(path)
    assert (found.layout, found.columns, found.others) == (
        "GSM8K (question and answer)",
        ("question", "answer"),
        ("prompt and completion",),
    )
    assert "prompt and completion" in found.said()[1]
    chosen = read_instructions(path, "title", "completion")
    assert chosen.conversations[0].messages == talk("t", "c").messages
    with pytest.raises(ValueError, match="no column 'titel' for --prompt-column: did you mean title"):
        read_instructions(path, "titel", "completion")
    with pytest.raises(ValueError, match="belong together"):
        read_instructions(path, "title")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"a": "b"}], "columns a, but instructions need one of: messages; .*instruction and output"),
        ([{"instruction": "x", "output": "y"}, {"instruction": 3, "output": "y"}], "row 2: instruction is 3"),
        ([{"messages": "hello"}], "row 1: messages is 'hello'"),
        ([{"messages": [{"role": "wizard", "content": "x"}]}], "row 1: message 1 has the role 'wizard'"),
        ([{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}], "row 1: message 1 holds a part of type 'image_url'"),
        ([{"messages": [{"role": "user", "content": 4}]}], "row 1: message 1 has the content 4"),
        ([{"messages": [{"role": "assistant", "tool_calls": ["x"]}]}], "row 1: message 1 calls 'x'"),
        ([{"messages": ["x"]}], "row 1: message 1 is 'x'"),
    ],
)
def test_rows_that_do_not_fit_are_named(tmp_path, rows, said):
    with pytest.raises(ValueError, match=said):
        read_instructions(write(tmp_path, rows))


def test_messages_out_of_order_are_named(tmp_path):
    rows = [{"messages": [{"role": role, "content": "x"} for role in roles]} for roles in (("user", "assistant"), ("assistant", "user"))]
    with pytest.raises(ValueError, match=r"a\.jsonl, row 2: message 1 is the assistant's"):
        read_instructions(write(tmp_path, rows))
    with pytest.raises(ValueError, match=r"a.json, row 2 \(line \d+\): message 1 is the assistant's"):
        read_instructions(write(tmp_path, rows, "a.json"))


def test_lint_counts_every_fault_with_its_lines():
    rows = [
        talk("q", "a", 1),
        talk("q", "", 2),
        talk(" ", "a", 3),
        talk("q", "a ", 4),
        talk("q", "long " * 50, 5),
        Conversation((Message("user", "q"),), 6),
        talk("long " * 50, "a", 7),
    ]
    turns = tokenized(rows, CHATML, TOKENIZER)
    found = lint(rows, turns, 100, ENDS, longest=200)
    assert (found.rows, found.unanswered, found.empty, found.truncated, found.emptied) == (7, (2, 6), (3,), (5, 7), (7,))
    assert (found.overlong, found.duplicated, found.unended) == ((5, 7), (4,), (5, 7))
    assert lint(rows, turns, 100, ENDS, longest=400).overlong == ()
    packed = Conversations(turns, 100, 2)
    left_out = {*found.unanswered, *found.empty, *found.emptied}
    assert {rows[number].row for number in packed.kept} == {row.row for row in rows} - left_out
    assert found.trained == sum((batch.labels != IGNORED).sum() for batch in packed.in_order())
    said = "\n".join(found.said())
    assert "2 without an answer, left out (rows 2, 6)" in said
    assert "1 longer than the model's" not in said
    with pytest.raises(ValueError, match=r"in none of 7 conversations an end of turn is trained on within 5 tokens, .* larger context"):
        lint(rows, turns, 5, ENDS, 400)
    endless = chat_format("{% for message in messages %}{{ message.role ~ ': ' ~ message.content ~ '\n' }}{% endfor %}", TOKENIZER)
    with pytest.raises(ValueError, match="ends no answer with a token of its own"):
        lint(rows, tokenized(rows, endless, TOKENIZER), 400, endless.stop_tokens(TOKENIZER), 400)


def test_end_of_turn_is_the_last_label_of_every_answer():
    rows = [talk(f"question {i}", f"answer {i}", i) for i in range(20)]
    for name in ("chatml", "alpaca", "plain"):
        form = FORMATS[name]
        turns = tokenized(rows, form, TOKENIZER)
        lint(rows, turns, 400, form.stop_tokens(TOKENIZER), 400)
        labels = [label for batch in Conversations(turns, 400, 4).in_order() for label in batch.labels[batch.labels != IGNORED]]
        assert sum(label in form.stop_tokens(TOKENIZER) for label in labels) == 20


def test_everything_is_trained_on_if_asked():
    rows = [talk(f"question {i}", f"answer {i}", i) for i in range(20)]
    for name in ("chatml", "alpaca", "plain"):
        form = FORMATS[name]
        answers, all_of_it = (tokenized(rows, form, TOKENIZER, everything=everything) for everything in (False, True))
        assert [turn.tokens for turn in answers] == [turn.tokens for turn in all_of_it]
        assert all(all(turn.trained) for turn in all_of_it)
        found = [lint(rows, turns, 400, form.stop_tokens(TOKENIZER), 400) for turns in (answers, all_of_it)]
        assert found[0].unended == found[1].unended == ()
        assert found[0].trained < found[1].trained == found[1].tokens


def test_split_keeps_equal_questions_together():
    rows = [talk(f"question {i % 30}", f"answer {i}", i) for i in range(100)]
    train, held = split(rows, 0.2, seed=1)
    assert sorted([row.row for row in [*train, *held]]) == list(range(100))
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
    assert (len(book.conversations), book.layout) == (1100, "Alpaca")
    turns = tokenized(book.conversations, CHATML, TOKENIZER)
    found = lint(book.conversations, turns, 1024, ENDS, 1024)
    assert (found.rows, found.unanswered, found.empty, found.unended) == (1100, (), (), ())
    packed = Conversations(turns, 1024, 4)
    assert len(packed.kept) == 1100
    train, held = split(book.conversations)
    assert len(train) + len(held) == 1100
    with gzip.open(data / "alpaca.jsonl.gz", "rt", encoding="utf-8") as lines:
        (tmp_path / "alpaca.jsonl").write_text("".join(itertools.islice(lines, 500)), encoding="utf-8")
    alpaca = read_instructions(str(tmp_path / "alpaca.jsonl"))
    assert len(alpaca.conversations) == 500
    lint(alpaca.conversations, tokenized(alpaca.conversations, FORMATS["alpaca"], TOKENIZER), 512, [TOKENIZER.end_of_text], 512)
