"""Labelled tables: what is guessed, what is refused, and splits without leakage."""

import os
from collections import Counter
from pathlib import Path

import pytest

from fledge.data.corpus import content_hash
from fledge.data.labelled import read_labelled, split


def write(tmp_path, text: str, name: str = "a.csv") -> str:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return str(tmp_path / name)


def test_reads_counts_and_says(tmp_path):
    path = write(tmp_path, "review,sentiment\nfine,good\nbad,poor\n,good\nso so,\n fine ,good\nawful,poor\n")
    data = read_labelled(path)
    assert (data.texts, data.labels, data.names) == (("fine", "bad", " fine ", "awful"), (0, 1, 0, 1), ("good", "poor"))
    assert (data.empty, data.unlabelled, data.lines) == (1, 1, (2, 3, 6, 7))
    said = "\n".join(data.said())
    for part in ("text: column 'review', label: column 'sentiment'", "2 good, 2 poor", "1 row without text", "1 repeated text:"):
        assert part in said


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


def test_columns_that_are_not_there_get_the_nearest(tmp_path):
    path = write(tmp_path, "text,label\na,x\nb,x\nc,y\nd,y\n")
    with pytest.raises(ValueError, match="no column 'labl' for --label-column: did you mean label"):
        read_labelled(path, label_column="labl")
    with pytest.raises(ValueError, match="no column 'txt' for --text-column: did you mean text"):
        read_labelled(path, text_column="txt")
    number = write(tmp_path, '{"text": "a", "label": 1}\n{"text": 2, "label": 1}\n', "b.jsonl")
    with pytest.raises(ValueError, match="line 2: text is 2"):
        read_labelled(number)


def check_split(data, parts, shares):
    assert sorted(line for part in parts for line in part.lines) == sorted(data.lines)
    hashes = [{content_hash(text) for text in part.texts} for part in parts]
    for i, one in enumerate(hashes):
        assert not any(one & other for other in hashes[i + 1 :])
    whole = Counter(data.labels)
    for part, size in zip(parts, shares, strict=True):
        for label, count in whole.items():
            assert abs(Counter(part.labels)[label] - size * count) <= 0.05 * count + 2


def test_split_is_stratified_and_without_leakage(tmp_path):
    rows = [f"text {i % 240},{'abc'[(i % 240) % 7 % 3]}" for i in range(300)]
    data = read_labelled(write(tmp_path, "text,label\n" + "\n".join(rows)))
    shares = (0.7, 0.1, 0.2)
    parts = split(data, shares, seed=1)
    check_split(data, parts, shares)
    assert split(data, shares, seed=1) == parts
    assert split(data, shares, seed=2) != parts
    with pytest.raises(ValueError, match="add up to 1"):
        split(data, (0.5, 0.4))


@pytest.mark.parametrize("count", range(2, 12))
def test_rare_labels_are_learnt_before_they_are_tested(tmp_path, count):
    rows = [f"common {i},c" for i in range(40)] + [f"rare {i},r" for i in range(count)]
    data = read_labelled(write(tmp_path, "text,label\n" + "\n".join(rows)))
    parts = split(data)
    found = [Counter(part.labels)[1] for part in parts]
    assert sum(found) == count
    assert found[0] >= 1
    assert all(found[: min(3, count)]), found


@pytest.mark.skipif("FLEDGE_DATA" not in os.environ, reason="FLEDGE_DATA is not set")
def test_real_tables():
    data = Path(os.environ["FLEDGE_DATA"]) / "classify"
    spam = read_labelled(str(data / "sms-spam.tsv"))
    assert (len(spam.texts), spam.names, spam.text_column, spam.label_column) == (4459, ("ham", "spam"), "2", "1")
    check_split(spam, split(spam), (0.8, 0.1, 0.1))
    assert len(read_labelled(str(data / "ag-news.tsv.gz")).names) == 4
    assert read_labelled(str(data / "sst2-validation.tsv.gz")).text_column == "sentence"
    assert read_labelled(str(data / "imdb-validation.jsonl.gz")).label_column == "label"
