"""Labelled texts: what is guessed, what is refused, and splits without leakage."""

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge.data import labelled
from fledge.data.corpus import content_hash
from fledge.data.files import MissingLibrary
from fledge.data.labelled import Columns, Labelled, alike, read_labelled, read_rows, split
from fledge.data.unique.near import Near


def write(tmp_path, text: str, name: str = "a.csv") -> str:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return str(tmp_path / name)


def rows(tmp_path, found: list[dict], name: str = "a.jsonl") -> str:
    return write(tmp_path, "".join(json.dumps(row) + "\n" for row in found), name)


def test_reads_counts_and_says(tmp_path):
    path = write(tmp_path, "review,sentiment\nfine,good\nbad,poor\n,good\nso so,\n fine ,good\nawful,poor\n")
    data = read_labelled(path)
    assert (data.texts, data.labels, data.names) == (("fine", "bad", " fine ", "awful"), ((0,), (1,), (0,), (1,)), ("good", "poor"))
    assert data.places == ("line 2", "line 3", "line 6", "line 7")
    assert data.truth.tolist() == [0, 1, 0, 1]
    said = "\n".join(data.said())
    for part in (
        "text: column 'review', label: column 'sentiment'",
        "one label each: 2 good, 2 poor",
        "1 row without text left out, the first at line 4",
        "1 row without label left out, the first at line 5",
    ):
        assert part in said


def test_several_labels_are_lists_or_cells_with_separators(tmp_path):
    found = [{"text": f"t {i}", "tags": tags} for i, tags in enumerate([["b", "a"], [], ["a"], ["b"], None, ["a", "b"]])]
    data = read_labelled(rows(tmp_path, found), label_column="tags")
    assert (data.choice, data.names) == ("several", ("a", "b"))
    assert data.labels == ((0, 1), (), (0,), (1,), (0, 1))
    assert data.truth.tolist() == [[True, True], [False, False], [True, False], [False, True], [True, True]]
    assert "1 row without label left out, the first at line 5" in "\n".join(data.said())
    for separator in ("|", ";", ", "):
        cells = [f"b{separator}a", "", "a", "b"]
        path = write(tmp_path, "text\ttags\n" + "".join(f"t {i}\t{cell}\n" for i, cell in enumerate(cells)), "a.tsv")
        assert read_labelled(path, label_column="tags", choice="several").labels == ((0, 1), (), (0,), (1,))
    with pytest.raises(ValueError, match="seen once"):
        read_labelled(path, label_column="tags")


def test_an_order_is_that_of_numbers_or_as_given(tmp_path):
    path = write(tmp_path, "text,stars\n" + "".join(f"t {i},{stars}\n" for i, stars in enumerate([10, 9, 10, 9, 1, 1])))
    data = read_labelled(path, label_column="stars", choice="ordinal")
    assert data.names == ("1", "9", "10")
    assert "from 1 up to 10" in data.said()[1]
    words = write(tmp_path, "text,label\n" + "".join(f"t {i},{word}\n" for i, word in enumerate(["good", "bad", "fair"] * 2)))
    assert read_labelled(words, order=("bad", "fair", "good")).names == ("bad", "fair", "good")
    assert read_labelled(words, order=("bad", "fair", "good")).choice == "ordinal"
    with pytest.raises(ValueError, match="are no numbers: say which follows which, as in --order"):
        read_labelled(words, choice="ordinal")
    with pytest.raises(ValueError, match="label 'fair' of column 'label' is not in --order bad,good"):
        read_labelled(words, order=("bad", "good"))


def test_pairs_are_two_columns(tmp_path):
    found = [{"premise": f"p {i}", "hypothesis": f"h {i}" if i else " ", "label": "xy"[i % 2]} for i in range(7)]
    data = read_labelled(rows(tmp_path, found))
    assert data.columns == Columns("premise", "label", "hypothesis")
    assert data.texts[0] == ("p 1", "h 1")
    assert data.left_out[0].first == "line 1"
    named = read_labelled(rows(tmp_path, found), text_column="hypothesis", second_column="premise")
    assert named.texts[0] == ("h 1", "p 1")
    assert read_labelled(rows(tmp_path, found), text_column="premise").texts[0] == "p 0"
    with pytest.raises(ValueError, match="no column 'premis' for --second-column: did you mean premise"):
        read_labelled(rows(tmp_path, found), second_column="premis")


def test_folders_of_classes(tmp_path):
    for label, texts in (("neg", ["awful", "bad", ""]), ("pos", ["good", "fine"]), (".hidden", ["x"])):
        (tmp_path / label).mkdir()
        for i, text in enumerate(texts):
            (tmp_path / label / f"{i}.txt").write_text(text)
    data = read_labelled(str(tmp_path))
    assert (data.names, data.texts) == (("neg", "pos"), ("awful", "bad", "good", "fine"))
    assert data.places == ("neg/0.txt", "neg/1.txt", "pos/0.txt", "pos/1.txt")
    assert data.left_out[0].first == "neg/2.txt"
    with pytest.raises(ValueError, match="holds no folders: give a table, or a folder with a folder of texts"):
        read_labelled(str(tmp_path / "pos"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "text,n\n" + "".join(f"a {i},{i}\n" for i in range(30)),
            "no column that looks like labels among text, n: name it with --label-column",
        ),
        ("text,label\na,x\nb,x\n", "one label only, 'x' in column 'label'"),
        ("text,label\na,x\nb,x\nc,y\n", "line 4: label 'y' is seen once"),
        ("text,label\na,\n,x\n", "no row with both"),
        ("text,label\n" + "".join(f"a {i},{i}\n" for i in range(30)), "30 different values in 30 rows"),
        ("text,label\na,x\nb\n", "line 3: 1 column, but the first line has 2"),
        ("", "has no rows"),
    ],
)
def test_what_cannot_be_learnt_is_refused(tmp_path, text, said):
    with pytest.raises(ValueError, match=said):
        read_labelled(write(tmp_path, text))


def test_a_label_of_every_row_tells_nothing(tmp_path):
    found = [{"text": f"t {i}", "label": ["x", "ab"[i % 2]]} for i in range(6)]
    with pytest.raises(ValueError, match=r"every row of .* has the label 'x'"):
        read_labelled(rows(tmp_path, found))


def test_columns_that_are_not_there_get_the_nearest(tmp_path):
    path = write(tmp_path, "text,label\na,x\nb,x\nc,y\nd,y\n")
    with pytest.raises(ValueError, match="no column 'labl' for --label-column: did you mean label"):
        read_labelled(path, label_column="labl")
    with pytest.raises(ValueError, match="no column 'txt' for --text-column: did you mean text"):
        read_labelled(path, text_column="txt")
    number = write(tmp_path, '{"text": "a", "label": 1}\n{"text": 2, "label": 1}\n', "b.jsonl")
    with pytest.raises(ValueError, match="line 2: text is 2"):
        read_labelled(number)


def test_rows_to_test_on_know_the_labels(tmp_path):
    path = write(tmp_path, "text,label\na,y\nb,y\n")
    assert read_rows(path, ("x", "y"), "single").labels == ((1,), (1,))
    with pytest.raises(ValueError, match=r"a\.csv, line 3: label 'yy' was never seen in training: did you mean y\?"):
        read_rows(write(tmp_path, "text,label\na,y\nb,yy\n"), ("x", "y"), "single")
    with pytest.raises(ValueError, match="no row with both"):
        read_rows(write(tmp_path, "text,label\n,y\n"), ("x", "y"), "single")


def check_split(data, parts, shares):
    assert sorted(place for part in parts for place in part.places) == sorted(data.places)
    hashes = [{content_hash(text) for text in part.texts} for part in parts]
    for i, one in enumerate(hashes):
        assert not any(one & other for other in hashes[i + 1 :])
    whole = Counter(data.labels)
    for part, size in zip(parts, shares, strict=True):
        for label, count in whole.items():
            assert abs(Counter(part.labels)[label] - size * count) <= 0.05 * count + 2


def test_split_is_stratified_and_without_leakage(tmp_path):
    found = [f"text {i % 240},{'abc'[(i % 240) % 7 % 3]}" for i in range(300)]
    data = read_labelled(write(tmp_path, "text,label\n" + "\n".join(found)))
    shares = (0.7, 0.1, 0.2)
    parts = split(data, shares, seed=1)
    check_split(data, parts, shares)
    assert split(data, shares, seed=1) == parts
    assert split(data, shares, seed=2) != parts
    with pytest.raises(ValueError, match="add up to 1"):
        split(data, (0.5, 0.4))


@pytest.mark.parametrize("count", range(2, 12))
def test_rare_labels_are_learnt_before_they_are_tested(tmp_path, count):
    found = [f"common {i},c" for i in range(40)] + [f"rare {i},r" for i in range(count)]
    data = read_labelled(write(tmp_path, "text,label\n" + "\n".join(found)))
    parts = split(data)
    found = [Counter(part.labels)[(1,)] for part in parts]
    assert sum(found) == count
    assert found[0] >= 1
    assert all(found[: min(3, count)]), found


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5))
def test_groups_stay_together_and_several_labels_are_dealt_evenly(seed, size):
    dice = np.random.default_rng(seed)
    truth = dice.random((240, 3)) < (0.5, 0.25, 0.1)
    labels = tuple(tuple(np.flatnonzero(row).tolist()) for row in truth)
    roots = np.arange(240) // size * size
    places = tuple(map(str, range(240)))
    data = Labelled(tuple(f"text {i}" for i in range(240)), labels, ("a", "b", "c"), places, Columns("text", "label"), "several")
    shares = (0.6, 0.2, 0.2)
    parts = split(data, shares, seed=seed, roots=roots)
    sides = {place: side for side, part in enumerate(parts) for place in part.places}
    assert len(sides) == 240
    assert all(sides[str(root)] == sides[str(row)] for row, root in enumerate(roots))
    for part, share in zip(parts, shares, strict=True):
        assert (np.abs(part.truth.sum(0) - share * truth.sum(0)) <= 0.12 * truth.sum(0) + size + 1).all()


def test_too_few_rows_are_refused(tmp_path):
    data = read_labelled(write(tmp_path, "text,label\na,x\nb,x\nc,y\nd,y\n"))
    with pytest.raises(ValueError, match="4 different texts cannot be split into 3 parts"):
        split(data)


def test_near_duplicates_are_alike(monkeypatch):
    said = "you have won a free prize call this number now to claim it"
    texts = [said, "see you later at the usual place", said.replace("now", "today"), " " + said, ("a", "pair")]
    found = alike(texts)
    assert found.near
    assert found.roots.tolist() == [0, 1, 0, 0, 4]
    assert "2 texts equal or nearly equal to another" in found.said()[0]

    def missing(self, texts):
        raise MissingLibrary("no rensa")

    monkeypatch.setattr(Near, "signatures", missing)
    found = alike(texts)
    assert found.roots.tolist() == [0, 1, 2, 0, 4]
    assert "pip install 'fledge[data]'" in found.said()[1]


def test_a_pair_is_one_text_for_what_reads_words():
    assert labelled.joined(("a", "b")) == "a\nb"


@pytest.mark.skipif("FLEDGE_DATA" not in os.environ, reason="FLEDGE_DATA is not set")
def test_real_tables():
    data = Path(os.environ["FLEDGE_DATA"]) / "classify"
    spam = read_labelled(str(data / "sms-spam.tsv"))
    assert (len(spam.texts), spam.names, spam.columns) == (4459, ("ham", "spam"), Columns("2", "1"))
    check_split(spam, split(spam), (0.8, 0.1, 0.1))
    assert len(read_labelled(str(data / "ag-news.tsv.gz")).names) == 4
    assert read_labelled(str(data / "sst2-validation.tsv.gz")).columns.text == "sentence"
    assert read_labelled(str(data / "imdb-validation.jsonl.gz")).columns.label == "label"
