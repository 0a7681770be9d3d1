"""Pairs from tables and from files beside each other: which side is which is found, said, and can be set."""

import gzip
import json

import pytest

from fledge.data.parallel import read_parallel, split


@pytest.mark.parametrize(
    ("header", "sides"),
    [
        ("summary,dialogue", ("dialogue", "summary")),
        ("id,source,target", ("source", "target")),
        ("de,en", ("de", "en")),
        ("note,translation", ("note", "translation")),
    ],
)
def test_columns_are_found(tmp_path, header, sides):
    path = tmp_path / "pairs.csv"
    names = header.split(",")
    path.write_text("\n".join([header, *(",".join(f"{name} {i}" for name in names) for i in range(5))]) + "\n")
    found = read_parallel(str(path))
    assert (found.source_column, found.target_column) == sides
    assert found.sources[2] == f"{sides[0]} 2"
    assert found.targets[4] == f"{sides[1]} 4"
    assert found.lines == (2, 3, 4, 5, 6)
    turned = read_parallel(str(path), sides[1], sides[0])
    assert turned.sources == found.targets


def test_what_cannot_be_told_is_asked(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps({"a": f"{i}", "b": f"{i}", "c": f"{i}"}) + "\n" for i in range(4)))
    with pytest.raises(ValueError, match=r"a, b, c.*--source-column and --target-column"):
        read_parallel(str(path))
    assert read_parallel(str(path), "a", "c").target_column == "c"
    with pytest.raises(ValueError, match="no column 'd' for --target-column"):
        read_parallel(str(path), "a", "d")


def test_files_beside_each_other(tmp_path):
    (tmp_path / "train.de").write_text("eins\n\nzwei\r\ndrei\n")
    with gzip.open(tmp_path / "train.en.gz", "wt") as file:
        file.write("one\nempty\ntwo\nthree\n")
    for name in ("train.de", "train"):
        found = read_parallel(str(tmp_path / name))
        assert found.sources == ("eins", "zwei", "drei")
        assert found.targets == ("one", "two", "three")
        assert (found.source_column, found.target_column, found.empty, found.lines) == ("de", "en", 1, (1, 3, 4))
    assert read_parallel(str(tmp_path / "train.en.gz")).sources[0] == "one"
    assert read_parallel(str(tmp_path / "train"), "en", "de").sources[0] == "one"
    with pytest.raises(ValueError, match=r"no train\.fr"):
        read_parallel(str(tmp_path / "train"), "fr")
    with pytest.raises(ValueError, match="neither a table nor one of two files"):
        read_parallel(str(tmp_path / "test"))
    (tmp_path / "train.de").write_text("eins\n")
    with pytest.raises(ValueError, match=r"has 1 lines, but .* has 4"):
        read_parallel(str(tmp_path / "train"))


def test_equal_sources_are_on_one_side(tmp_path):
    (tmp_path / "p.a").write_text("".join(f"{i % 10}\n" for i in range(40)))
    (tmp_path / "p.b").write_text("".join(f"t{i}\n" for i in range(40)))
    train, held = split(read_parallel(str(tmp_path / "p")), 0.3, seed=1)
    assert not set(train.sources) & set(held.sources)
    assert len(held.sources) == 12
    assert sorted(train.targets + held.targets) == sorted(f"t{i}" for i in range(40))
