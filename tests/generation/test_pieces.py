"""However a text is cut into tokens, its pieces are whole characters and never show a part of a stop string."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge.generation.pieces import Pieces
from fledge.text.tokenizer import Tokenizer


def cut_at_first_complete(text: str, stops: list[str]) -> str:
    """Read letter by letter: the first moment a stop string is complete, and then the longest that is."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            return text[: end - len(max(complete, key=len))]
    return text


def feed(data: bytes, cuts: list[int], stops: list[str]) -> tuple[list[str], Pieces]:
    """`data` as tokens that are byte strings, cut anywhere."""
    edges = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    vocabulary = [data[a:b] for a, b in pairwise(edges)]
    pieces = Pieces(lambda tokens: b"".join(vocabulary[t] for t in tokens).decode("utf-8", "replace"), stops=stops)
    shown = []
    for token in range(len(vocabulary)):
        shown.append(pieces.add(token))
        if pieces.stopped:
            break
    return [*shown, pieces.finish()], pieces


few_letters = st.text("ab\n日🙂", max_size=30)
stops = st.lists(st.text("ab\n日🙂", min_size=1, max_size=4), max_size=3)
cuts = st.lists(st.integers(0, 200), max_size=40)
several = pytest.mark.parametrize("count", [100, pytest.param(10_000, marks=pytest.mark.slow)])


def tried(count: int) -> settings:
    return settings(max_examples=count, database=None)


@several
def test_stop_strings_never_leak(count):
    @tried(count)
    @given(few_letters, cuts, stops)
    def check(text, cuts, stops):
        shown, pieces = feed(text.encode(), cuts, stops)
        assert "".join(shown) == cut_at_first_complete(text, stops)
        assert pieces.stopped == any(stop in text for stop in stops)

    check()


@several
def test_characters_are_never_broken(count):
    @tried(count)
    @given(st.text(), cuts)
    def check(text, cuts):
        shown, _ = feed(text.encode(), cuts, [])
        assert "".join(shown) == text

    check()


@several
def test_any_bytes_end_as_the_whole_decoded(count):
    @tried(count)
    @given(st.binary(max_size=40), cuts)
    def check(data, cuts):
        shown, _ = feed(data, cuts, [])
        assert "".join(shown) == data.decode("utf-8", "replace")

    check()


@pytest.mark.parametrize("text", ["plain", "naïve café", "日本語", "🙂👨‍👩‍👧 ok", "a\ufffdb", "Ünïcödé\n\n"])
def test_bytes_tokenizer_gives_whole_characters(text):
    tokenizer = Tokenizer.bytes()
    pieces = Pieces(tokenizer.decode)
    shown = [piece for token in tokenizer.encode(text) if (piece := pieces.add(token))]
    assert "".join([*shown, pieces.finish()]) == text
    if "\ufffd" not in text:
        assert shown == list(text)


def test_words_at_the_start_of_a_text_keep_their_space():
    """Tokenizers of the SentencePiece kind drop the first space of a text, which is not where a completion begins."""
    words = ["▁The", "▁sky", "▁is"]

    def decode(tokens):
        return "".join(words[t] for t in tokens).replace("▁", " ").removeprefix(" ")

    pieces = Pieces(decode, context=[0])
    assert [pieces.add(1), pieces.add(2), pieces.finish()] == [" sky", " is", ""]


def test_context_that_ends_inside_a_character_is_left_out():
    tokenizer = Tokenizer.bytes()
    euro = tokenizer.encode("€")
    pieces = Pieces(tokenizer.decode, context=euro[:1])
    assert "".join([pieces.add(euro[1]), pieces.add(euro[2]), pieces.add(tokenizer.encode("x")[0]), pieces.finish()]) == "\ufffd\ufffdx"
