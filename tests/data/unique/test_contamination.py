"""Words of an evaluation inside a document: found whatever stands around them, and nothing else."""

import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.data.unique.contamination import Contaminated, Contamination

COUNTED = " ".join(f"word{number}" for number in range(40))
ITEMS = [("a.txt", None, [COUNTED]), ("b.jsonl", 3, ["What colour has the sky over the sea today?", "blue"]), ("b.jsonl", 4, ["yes", "no"])]


def test_names_file_line_and_words():
    looked = Contamination.of_texts(ITEMS)
    shouted = COUNTED.upper().replace(" ", ", ")[:200]
    assert looked.found(f"Before it. {shouted} and after it") == Contaminated("a.txt", None, shouted.lower()[: shouted.index("12") + 2])
    hit = looked.found("I asked: 'what COLOUR has the sky -- over the sea today'.")
    assert hit == Contaminated("b.jsonl", 3, "what colour has the sky -- over the sea today")
    assert str(hit) == "shares 'what colour has the sky -- over the sea today' with b.jsonl, line 3"
    assert looked.found("what colour has the sky over the sea this week") is None
    assert looked.found("yes, no") is None
    assert looked.said() == "3 evaluation items of 2 files: 29 13-grams to look for; 1 item too short to look for"


LETTERS = st.lists(st.sampled_from("ab"), max_size=30)


@given(st.lists(st.lists(LETTERS, min_size=1, max_size=3), min_size=1, max_size=4), st.lists(LETTERS, max_size=6), st.integers(1, 6))
def test_as_comparing_every_run_of_words_finds_it(items, documents, n):
    whole = {tuple(text[at : at + n]) for item in items for text in item for at in range(len(text) - n + 1)}
    evaluation = [("e", number, [" ".join(text) for text in item]) for number, item in enumerate(items)]
    evaluation.append(("e", len(items), [" ".join("c" * n)]))  # where there is nothing, there is nothing to look for
    # short items are taken together where none of their texts has n words
    whole |= {
        tuple(joined[at : at + n])
        for item in items
        if all(len(text) < n for text in item)
        for joined in [[word for text in item for word in text]]
        for at in range(len(joined) - n + 1)
    }
    looked = pickle.loads(pickle.dumps(Contamination.of_texts(evaluation, n)))
    found = looked.found_each([" ".join(document) for document in documents])
    for document, hit in zip(documents, found, strict=True):
        first = next((at for at in range(len(document) - n + 1) if tuple(document[at : at + n]) in whole), None)
        assert (hit is None) == (first is None)
        assert hit is None or hit.words.split() == document[first : first + n]
        assert hit == looked.found(" ".join(document))  # the same alone


def test_files_are_read_with_every_text_of_a_row(tmp_path):
    rows = [{"id": "7", "question": {"text": COUNTED}, "choices": ["short", COUNTED.replace("word", "other")]}]
    (tmp_path / "e.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    (tmp_path / "e.txt").write_text(COUNTED.replace("word", "third"), encoding="utf-8")
    looked = Contamination.of([str(tmp_path / "e.jsonl"), str(tmp_path / "e.txt")])
    for name, line, words in (
        ("e.jsonl", 1, COUNTED),
        ("e.jsonl", 1, COUNTED.replace("word", "other")),
        ("e.txt", None, COUNTED.replace("word", "third")),
    ):
        assert looked.found(words) == Contaminated(str(tmp_path / name), line, " ".join(words.split()[:13]))
    (tmp_path / "bad.jsonl").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"bad\.jsonl, line 1: the JSON breaks"):
        Contamination.of([str(tmp_path / "bad.jsonl")])
    (tmp_path / "few.txt").write_text("a few words", encoding="utf-8")
    with pytest.raises(ValueError, match="no text of 8 words or more"):
        Contamination.of([str(tmp_path / "few.txt")])
    with pytest.raises(ValueError, match="n is 0"):
        Contamination.of([str(tmp_path / "e.txt")], n=0)


def test_shared_words_do_not_reach_across_texts():
    looked = Contamination.of_texts([("a", None, [COUNTED])])
    words = COUNTED.split()
    assert looked.found_each([" ".join(words[:7]), " ".join(words[7:19]), " ".join(words[19:])])[:2] == [None, None]
