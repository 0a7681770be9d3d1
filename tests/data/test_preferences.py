"""Preferences in every layout, as rows of two answers."""

import csv
import json

import numpy as np
import pytest

from fledge.data.batches import IGNORED, PADDING, Compared, Comparisons
from fledge.data.preferences import answers, divided, read_preferences
from fledge.text.chat import FORMATS, Message
from fledge.text.templates import chat_format
from fledge.text.tokenizer import Tokenizer

TOKENIZER, CHATML = Tokenizer.bytes(), FORMATS["chatml"]
ASKED = [Message("user", "Hi?"), Message("assistant", "Yes?"), Message("user", "Why?")]
GOOD, BAD = Message("assistant", "So."), Message("assistant", "Bah!")


def turns(*messages: Message) -> list[dict]:
    return [{"role": message.role, "content": message.content} for message in messages]


def spoken(*messages: Message) -> list[dict]:
    """As ShareGPT writes them."""
    return [{"from": {"user": "human", "assistant": "gpt"}[message.role], "value": message.content} for message in messages]


@pytest.mark.parametrize("name", ["rows.json", "rows.csv"])
@pytest.mark.parametrize(
    ("row", "before"),
    [
        ({"prompt": "Why?", "chosen": "So.", "rejected": "Bah!"}, ASKED[2:]),
        ({"instruction": "Why?", "input": "", "output": "x", "chosen": "So.", "rejected": "Bah!"}, ASKED[2:]),
        ({"system": "Be brief.", "question": "Why?", "chosen": "So.", "rejected": "Bah!"}, [Message("system", "Be brief."), ASKED[2]]),
        ({"prompt": turns(*ASKED), "chosen": turns(GOOD), "rejected": turns(BAD)}, ASKED),
        ({"prompt": spoken(*ASKED), "chosen": spoken(GOOD), "rejected": spoken(BAD)}, ASKED),
        ({"chosen": turns(*ASKED, GOOD), "rejected": turns(*ASKED, BAD)}, ASKED),
        (
            {
                "chosen": "\n\nHuman: Hi?\n\nAssistant: Yes?\n\nHuman: Why?\n\nAssistant: So.",
                "rejected": "\n\nHuman: Hi?\n\nAssistant: Yes?\n\nHuman: Why?\n\nAssistant: Bah!",
            },
            ASKED,
        ),
    ],
)
def test_each_layout_gives_the_same_messages(tmp_path, row, before, name):
    path, rows = tmp_path / name, [row, {**row, "rejected": row["chosen"]}]
    if name.endswith(".json"):
        path.write_text(json.dumps(rows))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, row)
            writer.writeheader()
            writer.writerows({key: cell if isinstance(cell, str) else json.dumps(cell) for key, cell in row.items()} for row in rows)
    found = read_preferences(str(path))
    assert found.left_out == 1
    [pair] = found.pairs
    assert pair.chosen.messages == (*before, GOOD)
    assert pair.rejected.messages == (*before, BAD)
    assert found.said()[1].startswith("1 row left out")


def test_the_column_of_the_questions_can_be_named(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"prompt": "Hm?", "title": "Why?", "chosen": "So.", "rejected": "Bah!"}]))
    assert read_preferences(str(path)).columns == ("prompt",)
    [pair] = read_preferences(str(path), "title").pairs
    assert pair.chosen.messages == (ASKED[2], GOOD)
    with pytest.raises(ValueError, match="no column 'titel' for --prompt-column: did you mean title"):
        read_preferences(str(path), "titel")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "a", "chosen": "b"}, "chosen and rejected"),
        ({"chosen": "b", "rejected": "c"}, "no question"),
        ({"chosen": turns(*ASKED, GOOD), "rejected": turns(ASKED[0], BAD)}, "differ before"),
        ({"chosen": turns(*ASKED), "rejected": turns(*ASKED)}, "assistant"),
        ({"chosen": turns(*ASKED[1:], GOOD), "rejected": turns(*ASKED[1:], BAD)}, r"row 1: message 1 is the assistant's"),
        ({"prompt": "a", "chosen": ["b"], "rejected": "c"}, r"row 1: chosen is \['b'\]"),
        ({"prompt": "a", "chosen": [{"role": "wizard", "content": "b"}], "rejected": "c"}, "row 1: message 1 has the role 'wizard'"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "two different answers"),
    ],
)
def test_what_fits_no_layout_is_one_sentence(tmp_path, row, words):
    (tmp_path / "rows.json").write_text(json.dumps([row]))
    with pytest.raises(ValueError, match=words):
        read_preferences(str(tmp_path / "rows.json"))


@pytest.fixture
def pairs(tmp_path):
    rows = [{"prompt": f"Say {i // 2}.", "chosen": "good " * (i + 1), "rejected": "bad"} for i in range(12)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    return read_preferences(str(tmp_path / "rows.json")).pairs


def test_a_question_is_on_one_side_of_the_split(pairs):
    training, held_out = divided(pairs, 0.3)
    assert len(training) + len(held_out) == len(pairs)
    assert not {p.chosen.prompt for p in training} & {p.chosen.prompt for p in held_out}


def test_a_row_holds_both_answers_as_documents(pairs):
    batches = Comparisons([answers(pair, CHATML, TOKENIZER) for pair in pairs], 64, 3, TOKENIZER.pad)
    batches.reference = np.arange(24.0).reshape(12, 2)
    batch = batches.rows(3, 2)
    assert isinstance(batch, Compared)
    assert batch.reference is not None
    assert batch.positions is not None
    assert batch.document is not None
    assert batch.reference.tolist() == [[6, 7], [8, 9]]
    for row, pair in enumerate(pairs[3:5]):
        for side, words in enumerate(("good " * (4 + row), "bad")):
            here = batch.document[row] == side
            read, labels = batch.tokens[row, here], batch.labels[row, here]
            assert batch.positions[row, here].tolist() == list(range(here.sum()))
            assert TOKENIZER.decode(list(read), specials=True).startswith(f"<|im_start|>user\n{pair.chosen.prompt}<|im_end|>")
            learned = TOKENIZER.decode([int(token) for token in labels[labels != IGNORED]], specials=True)
            assert learned == f"{words.strip()}<|im_end|>"
    assert (batch.labels[batch.document == PADDING] == IGNORED).all()
    first, second = batch.share(0, 2), batch.share(1, 2)
    assert isinstance(first, Compared)
    assert second is not None
    assert first.reference is not None
    assert first.reference.tolist() == [[6, 7]]
    assert np.array_equal(second.tokens, batch.tokens[1:])


def test_a_pair_without_an_answer_within_the_context_is_left_out(pairs):
    sides = [answers(pair, CHATML, TOKENIZER) for pair in pairs]
    longest = len(CHATML.encode(TOKENIZER, list(pairs[0].chosen.messages[:1]), answer=True).tokens)
    assert Comparisons(sides, longest, 3, TOKENIZER.pad).kept == list(range(12))
    with pytest.raises(ValueError, match="use a larger"):
        Comparisons(sides, longest - 1, 3, TOKENIZER.pad)


def test_the_last_answer_alone_is_learned_in_a_template_of_others_too(tmp_path):
    (tmp_path / "rows.json").write_text(json.dumps([{"chosen": turns(*ASKED, GOOD), "rejected": turns(*ASKED, BAD)}]))
    template = (
        "{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ ': ' ~ m.content ~ '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant: {% endif %}"
    )
    [pair] = read_preferences(str(tmp_path / "rows.json")).pairs
    for side, said in zip(answers(pair, chat_format(template, TOKENIZER), TOKENIZER), ("So.", "Bah!"), strict=True):
        learned = [token for token, on in zip(side.tokens, side.trained, strict=True) if on]
        assert TOKENIZER.decode(learned, specials=True) == f"{said}<|im_end|>"
