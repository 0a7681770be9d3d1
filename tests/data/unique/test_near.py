"""Near duplicates: every edge is a true one, nothing depends on order, pieces or workers, and what is near is found."""

import os
import random
import sys
from itertools import combinations

import numpy as np
import pytest
from datasketch import MinHash
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge.data.unique import near as module
from fledge.data.unique.near import EMPTY, Near, band_pairs, jaccard, join, near_groups, representatives
from fledge.data.unique.rows import Rows

VOCABULARY = [f"w{number}" for number in range(2000)]


def damaged(text: str, draw: random.Random, share: float = 0.1) -> str:
    words = text.split()
    for place in draw.sample(range(len(words)), round(share * len(words))):
        words[place] = draw.choice(VOCABULARY)
    return " ".join(words)


def families(seed: int, families: int, size: int, words: int = 60) -> list[str]:
    """Texts of which `size` each are alike more or less, in a mixed order."""
    draw = random.Random(seed)
    texts = []
    for _ in range(families):
        first = " ".join(draw.choices(VOCABULARY, k=words))
        texts += [first] + [damaged(first, draw, draw.choice([0.02, 0.1, 0.25])) for _ in range(size - 1)]
    draw.shuffle(texts)
    return texts


def plain_groups(texts: list[str], near: Near) -> np.ndarray:
    """Connected components of all pairs whose exact similarity is high enough, by comparing every two."""
    roots = list(range(len(texts)))
    sets = [{tuple(text.split()[at : at + near.shingle]) for at in range(len(text.split()) - near.shingle + 1)} for text in texts]
    for a, b in combinations(range(len(texts)), 2):
        if len(sets[a] & sets[b]) >= near.threshold * len(sets[a] | sets[b]):
            low, high = sorted((roots[a], roots[b]))
            roots = [low if root == high else root for root in roots]
    return np.array(roots)


def grouped(texts: list[str], near: Near, **more) -> np.ndarray:
    return near_groups(Rows((near.signatures(texts),)), texts.__getitem__, near, **more)


@pytest.mark.parametrize("seed", range(4))
def test_groups_are_those_of_comparing_every_two(seed):
    texts, near = families(seed, families=12, size=5), Near(recall=0.999, permutations=400)
    assert np.array_equal(grouped(texts, near), plain_groups(texts, near))


@settings(max_examples=25)
@given(st.integers(0, 1000), st.floats(0.3, 0.8))
def test_what_is_joined_is_joined_by_comparing_every_two_also(seed, threshold):
    texts, near = families(seed, families=5, size=4, words=30), Near(threshold, permutations=256)
    found, every = grouped(texts, near), plain_groups(texts, near)
    assert (every == every[found]).all()  # each found group lies inside a true one
    assert (found[found] == found).all()
    assert (found <= np.arange(len(texts))).all()


@settings(max_examples=10)
@given(st.integers(0, 1000), st.permutations(range(20)), st.lists(st.integers(0, 20), max_size=3))
def test_order_pieces_and_workers_do_not_matter(seed, order, at):
    texts, near = families(seed, families=5, size=4, words=40), Near()
    groups = grouped(texts, near)
    moved = [texts[number] for number in order]
    pieces = Rows(tuple(np.split(near.signatures(moved), sorted(at))))

    def backwards(function, items):
        return reversed([function(item) for item in reversed(list(items))])

    other = near_groups(pieces, moved.__getitem__, near, spread=backwards)
    assert {frozenset(np.flatnonzero(groups == root).tolist()) for root in groups} == {
        frozenset(np.array(order)[other == root].tolist()) for root in other
    }


def test_a_thousand_copies_of_one_form_are_joined_by_few_comparisons(monkeypatch):
    draw, compared = random.Random(0), 0
    forms = [" ".join(draw.choices(VOCABULARY, k=100)) for _ in range(3)]
    texts = [damaged(forms[number % 3], draw, 0.03) for number in range(1500)] + ["of its own " + " ".join(VOCABULARY[:50])]

    def counting(a, b):
        nonlocal compared
        compared += 1
        return jaccard(a, b)

    monkeypatch.setattr(module, "jaccard", counting)
    near = Near()
    groups = grouped(texts, near)
    assert groups.tolist() == [number % 3 for number in range(1500)] + [1500]
    assert compared < 20 * len(texts)


def test_a_bucket_of_many_strangers_does_not_go_quadratic(monkeypatch):
    """Texts that share a band but are not alike, as a common header makes them: in a large bucket neighbours only are compared."""
    near, count = Near(), 3000
    signatures = np.random.default_rng(0).integers(0, EMPTY, (count, near.bands * near.rows), dtype=np.uint32)
    signatures[:, : near.rows] = 7
    monkeypatch.setattr(module, "DOUBT", 100)  # no pair is spared by its signatures
    roots, every = np.arange(count), np.arange(count)
    star, rest = (band_pairs(Rows((signatures,)), near, roots, every, first, 0) for first in (True, False))
    assert len(star) == count - 1
    assert len(rest) <= module.REACH * count


def test_texts_that_are_short_or_hold_no_words():
    texts = ["Yes!", "yes", "no", "", "...", "", "Yes, no", "yes no.", "a b c", "A b, c!", "日本語の文", "日本語の文。"]
    assert grouped(texts, Near()).tolist() == [0, 0, 2, 3, 4, 5, 6, 6, 8, 8, 10, 10]
    assert (Near().signatures(["", "?!"]) == EMPTY).all()
    assert grouped([], Near()).tolist() == []


def test_what_was_joined_before_stays_so_and_is_not_asked_for():
    texts = ["one two three four five", "One two three four five", "one  two three four five", "something else is here"]
    asked = []
    near = Near()
    found = near_groups(Rows((near.signatures(texts),)), lambda number: asked.append(number) or texts[number], near, np.array([0, 1, 0, 3]))
    assert found.tolist() == [0, 0, 0, 3]
    assert set(asked) == {0, 1}


def test_the_first_or_the_longest_stands_for_its_group():
    roots, lengths = np.array([0, 1, 0, 1, 0, 5]), np.array([3, 9, 7, 9, 7, 1])
    assert representatives(roots, lengths).tolist() == roots.tolist()
    assert representatives(roots, lengths, "longest").tolist() == [2, 1, 2, 1, 2, 5]


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=60))
def test_joined_are_the_connected_ones(pairs):
    roots, plain = np.arange(31), list(range(31))
    join(roots, np.array(pairs, np.int64).reshape(-1, 2))
    for a, b in pairs:
        low, high = sorted((plain[a], plain[b]))
        plain = [low if root == high else root for root in plain]
    assert roots.tolist() == plain


def test_signatures_estimate_the_similarity_as_those_of_datasketch_do():
    draw, near = random.Random(1), Near(threshold=0.5, permutations=256)
    width = near.bands * near.rows
    exact, ours, theirs = [], [], []
    for _ in range(60):
        text = " ".join(draw.choices(VOCABULARY, k=80))
        pair = [text, damaged(text, draw, draw.random() * 0.3)]
        sets = near.shingles(pair)
        one, other = near.signatures(pair)
        exact.append(jaccard(*sets))
        ours.append((one == other).mean())
        sketches = [MinHash(width) for _ in pair]
        for sketch, grams in zip(sketches, sets, strict=True):
            sketch.update_batch([gram.tobytes() for gram in grams])
        theirs.append(sketches[0].jaccard(sketches[1]))
    error = [np.abs(np.array(some) - exact).mean() for some in (ours, theirs)]
    assert error[0] < 1.3 * error[1]
    assert error[0] < (0.25 / width) ** 0.5


@pytest.mark.parametrize("similarity", [0.45, 0.6])
def test_bands_find_what_was_computed(similarity):
    near, count, size = Near(), 1500, 100
    hashes = np.random.default_rng(2).integers(0, 2**64, (count, 2 * size), dtype=np.uint64)
    common = round(2 * size * similarity / (1 + similarity))
    digest = module._rensa().RMinHash.digest_matrix_from_flat_token_hashes
    sides = []
    for part in (hashes[:, :size], np.concatenate([hashes[:, :common], hashes[:, size : 2 * size - common]], axis=1)):
        offsets = np.arange(0, count * size + 1, size, dtype=np.uint64)
        sides.append(np.array(digest(np.ascontiguousarray(part).ravel(), offsets, near.bands * near.rows, 0).to_rows(), np.uint32))
    found = (sides[0] == sides[1]).reshape(count, near.bands, near.rows).all(2).any(1).mean()
    assert found > near.found(common / (2 * size - common)) - 0.02


def test_a_long_text_is_signed_in_parts_and_no_threads_are_started(monkeypatch):
    near, text = Near(), " ".join(random.Random(3).choices(VOCABULARY, k=3000))
    whole = near.signatures([text])
    tasks = "/proc/self/task"
    before = len(os.listdir(tasks)) if os.path.isdir(tasks) else 0
    near.signatures(["a few words"] * 1000 + [text * 30])
    assert before == (len(os.listdir(tasks)) if os.path.isdir(tasks) else 0)
    monkeypatch.setattr(module, "QUIET", 700)
    assert np.array_equal(near.signatures([text]), whole)


def test_pairs_of_long_texts_are_verified_with_few_held_at_once(monkeypatch):
    texts, near = families(5, families=6, size=4), Near()
    whole = grouped(texts, near)
    monkeypatch.setattr(module, "HELD", 100)
    assert np.array_equal(grouped(texts, near), whole)


def test_bands_and_rows_follow_from_the_recall():
    near = Near()
    assert (near.bands, near.rows) == (49, 3)
    assert near.found(0.45) >= 0.99
    said = (
        "3-word shingles, exact Jaccard similarity of 0.45 or more; MinHash with 49 bands × 3 rows, which finds 99.07% at 0.45, 100.00% at"
    )
    assert said in near.said()
    assert Near(permutations=440).rows == 4
    assert (Near(recall=0.95).bands, Near(recall=0.95).rows) == (32, 3)
    with pytest.raises(
        ValueError, match=r"4 permutations do not find 99% of pairs of similarity 0\.45: take 8 or more, or a smaller recall"
    ):
        Near(permutations=4)
    with pytest.raises(ValueError, match=r"the threshold of near duplicates is 1\.5, but it lies between 0 and 1"):
        Near(threshold=1.5)


def test_without_rensa_what_to_type_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "rensa", None)
    with pytest.raises(ValueError, match=r"finding near duplicates needs rensa, which is not installed: pip install 'fledge\[data\]'"):
        Near().signatures(["some text"])
