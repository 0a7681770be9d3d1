"""Exact duplicates: as a dictionary finds them, whatever the pieces and buckets."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.data.corpus import content_hash
from fledge.data.unique import exact
from fledge.data.unique.exact import digests, exact_duplicates, kept_masks
from fledge.data.unique.paragraphs import paragraph_digests, without
from fledge.data.unique.rows import Rows


def cut(rows: np.ndarray, at: list[int]) -> Rows:
    return Rows(tuple(np.split(rows, sorted(place % (len(rows) + 1) for place in at))))


def by_dictionary(texts: list[str], among: np.ndarray) -> list[tuple[int, int]]:
    first: dict[str, int] = {}
    found = [(number, first.setdefault(text, number)) for number, text in enumerate(texts) if among[number]]
    return [(number, original) for number, original in found if number != original]


@given(st.lists(st.sampled_from("abcdefgh")), st.lists(st.integers(0, 50), max_size=4), st.integers(1, 6), st.randoms())
def test_as_a_dictionary_finds_them(texts, at, bucket, random):
    among = np.array([random.random() < 0.8 for _ in texts], bool)
    hashes = digests(content_hash(text) for text in texts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "BUCKET", bucket)
        found = exact_duplicates(cut(hashes, at), cut(among, at), lambda function, items: reversed([function(item) for item in items]))
        assert [tuple(pair) for pair in found.tolist()] == by_dictionary(texts, among)
    masks = kept_masks(found, cut(hashes, at))
    assert np.concatenate(masks).sum() == len(texts) - len(found)
    assert not np.concatenate(masks)[found[:, 0]].any()


def test_hashes_lie_in_files_of_which_some_are_empty(tmp_path):
    hashes = digests(content_hash(text) for text in ("a", "b", "a ", "b\n", "caf\u00e9", "cafe\u0301"))
    for number, part in enumerate((hashes[:3], hashes[3:3], hashes[3:])):
        np.save(tmp_path / f"{number}.npy", part)
    rows = Rows(tuple(tmp_path / f"{number}.npy" for number in range(3)))
    assert exact_duplicates(rows).tolist() == [[2, 0], [3, 1], [5, 4]]
    assert [mask.tolist() for mask in kept_masks(exact_duplicates(rows), rows)] == [[True, True, False], [], [False, True, False]]
    assert np.array_equal(rows.at(np.array([5, 0, 3])), hashes[[5, 0, 3]])
    assert np.array_equal(rows.columns(1, 2), hashes[:, 1:])


def test_nothing_has_no_duplicates():
    assert exact_duplicates(Rows((digests([]), digests([])))).shape == (0, 2)
    assert exact_duplicates(Rows(())).shape == (0, 2)


def once(parts: list[tuple[str, str]]) -> list[str]:
    """Short ones stay wherever they stand, of the others the first."""
    seen, left = set(), []
    for paragraph, _ in parts:
        if paragraph == "x" or paragraph not in seen:
            left.append(paragraph)
        seen.add(paragraph)
    return left


@given(st.lists(st.tuples(st.sampled_from(["one", "two", "three words here", "x"]), st.sampled_from(["\n\n", "\n \t\n\n", "\n\n\n"]))))
def test_paragraphs_that_stood_before_are_taken_out(parts):
    text = "".join(paragraph + border for paragraph, border in parts)
    hashes = paragraph_digests(text, least=3)
    repeated = np.zeros(len(hashes), bool)
    repeated[exact_duplicates(Rows((hashes,)))[:, 0]] = True
    left = without(text, repeated, least=3)
    assert left.split() == " ".join(once(parts)).split()
    assert without(text, np.zeros(len(hashes), bool), least=3) == text


def test_a_text_without_blank_lines_is_of_lines():
    assert without("first line\nsecond line\nthird line", np.array([False, True, False]), least=5) == "first line\nthird line"
    assert without("wrapped\nat seventy\n\nnext", np.array([True]), least=5) == "next"
    with pytest.raises(ValueError, match="2 paragraphs of 5 characters or more, but 1 were compared"):
        without("first line\nsecond line", np.array([True]), least=5)
