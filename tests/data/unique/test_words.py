"""Words and their n-grams: hashed by numpy as the plain reading of the definition would."""

import re
import unicodedata

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fledge.data.unique import words as module
from fledge.data.unique.words import grams, grams_at, words

SCRIPTS = st.text(st.sampled_from("aBcé9_- .,\n\u0301ßΣ日本語テกา한국हिन\U00020000😀"), max_size=40)


def plain(text: str) -> list[str]:
    """The same definition, character by character."""
    found, running = [], False
    for character in unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold()):
        alone = any(first <= ord(character) <= last for first, last in module.SPACELESS) and (
            unicodedata.category(character)[0] in "LNM" or ord(character) >= 0x20000
        )
        if not alone and unicodedata.category(character)[0] not in "LNM":
            running = False
        elif alone or not running:
            found.append(character)
            running = not alone
        else:
            found[-1] += character
    return found


def said(texts: list[str]) -> list[list[str]]:
    found = words(texts)
    return [
        [found.said(number, word, word) for word in range(found.offsets[number], found.offsets[number + 1])] for number in range(len(texts))
    ]


@given(st.lists(SCRIPTS, max_size=5))
def test_words_are_those_of_the_definition(texts):
    assert said(texts) == [plain(text) for text in texts]


@given(st.lists(SCRIPTS, min_size=1, max_size=5))
def test_equal_words_and_only_they_have_equal_hashes(texts):
    found, every = words(texts).hashes, [word for text in texts for word in plain(text)]
    assert len(set(found.tolist())) == len(set(every))
    assert len(set(zip(found.tolist(), every, strict=True))) == len(set(every))


@given(st.lists(SCRIPTS, max_size=5), st.integers(1, 4))
def test_shingles_are_the_grams_of_each_text_alone(texts, size):
    together, offsets = words(texts).shingles(size)
    for number, text in enumerate(texts):
        count = len(plain(text))
        assert offsets[number + 1] - offsets[number] == (count - size + 1 if count >= size else count > 0)
        alone, _ = words([text]).shingles(size)
        assert np.array_equal(together[offsets[number] : offsets[number + 1]], alone)


def test_a_shingle_knows_its_order_and_its_length():
    grams = [words([text]).shingles(3)[0].tolist() for text in ("a b c", "c b a", "a b", "a", "a a a")]
    assert len({tuple(some) for some in grams}) == 5


@given(st.integers(0, 30), st.sets(st.integers(1, 6), min_size=1))
def test_grams_at_some_words_are_some_of_all_grams(count, sizes):
    hashes = np.random.default_rng(count).integers(0, 2**64, count, dtype=np.uint64)
    for size, every in grams(hashes, sizes):
        assert np.array_equal(every, grams_at(hashes, np.arange(max(0, count - size + 1)), size))


def test_what_does_not_matter_and_what_does():
    (one,), (other,) = said(["Straße_café, 12!"]), said(["STRASSE cafe\u0301 12"])
    assert one == other == ["strasse", "café", "12"]
    assert said(["if x_1 != y: return None"]) == [["if", "x", "1", "y", "return", "none"]]
    assert said(["日本語です", "สวัสดี", "안녕 세상", "हिन्दी"])[0] == list("日本語です")
    assert said(["한국어 문장", "हिन्दी भाषा"]) == [["한국어", "문장"], ["हिन्दी", "भाषा"]]
    assert said(["", "...", " \n"]) == [[], [], []]


def test_words_that_lie_across_chunks(monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 16)
    text = "one twenty-three a " + "long" * 3 + " b " * 30 + "日本語 " * 9 + "end"
    assert said([text, "x", text])[0] == re.findall(r"[a-z]+|[日本語]", text)
    wide = words([text])
    monkeypatch.undo()
    assert np.array_equal(words([text]).hashes, wide.hashes)


def test_a_word_longer_than_a_chunk_takes_linear_time():
    assert 1 <= len(words(["a" * 1_000_000]).hashes) <= 1_000_000 / module.CHUNK + 1
