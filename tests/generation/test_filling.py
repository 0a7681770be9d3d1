"""Gaps are found however they are written, and nothing else of a text is lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.generation import Gapped, marks_of
from fledge.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer.bytes()
WORDS = st.text("ab_ .<|>[]\n", max_size=8)
MARKS = st.sampled_from(["[MASK]", "___", "_____", "<|mask|>", "<extra_id_0>", "<extra_id_42>"])


@given(st.lists(st.tuples(WORDS, MARKS), min_size=1, max_size=5), WORDS)
def test_pieces_and_marks_are_the_text(parts, last):
    """Each piece ends in a full stop and begins with one, so that no mark is a part of a word."""
    pieces = [f".{piece.replace('___', '')}." for piece in (*(piece for piece, _ in parts), last)]
    marks = [mark for _, mark in parts]
    text = "".join(f"{piece} {mark}" for piece, mark in zip(pieces, marks, strict=False)) + pieces[-1]
    gapped = Gapped.marked(text, marks_of(TOKENIZER, spans=True))
    assert gapped.pieces == tuple(pieces)
    assert gapped.filled(marks).replace("⟦", "").replace("⟧", "") == text


@pytest.mark.parametrize("text", ["", "the sky", "snake___case", "__init__", "___init", "<|endoftext|>", "[mask]"])
def test_other_text_has_no_gap(text):
    with pytest.raises(ValueError, match=r"write ___ or \[MASK\]"):
        Gapped.marked(text, marks_of(TOKENIZER, spans=True))


def test_sentinels_are_characters_where_words_are_filled_in():
    assert Gapped.marked("a <extra_id_0> ___", marks_of(TOKENIZER, spans=False)).pieces == ("a <extra_id_0>", "")
