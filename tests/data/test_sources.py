"""Whatever lies in a folder, kept + rejected = in, and what a person names must be readable."""

import gzip
import json
import os
import random
from collections import Counter
from pathlib import Path

import pytest

from fledge.data.documents import Document, Rejected, noted, remarks
from fledge.data.files import opened
from fledge.data.sources import find, read, read_input

WORDS = ["the", "cat", "sat", "größe", "日本", "don't", "<|endoftext|>", "3.14"]


def ugly_file(folder: Path, number: int, dice: random.Random) -> tuple[int, int]:
    """Writes one file; returns how many documents and how many rejections it must give."""
    text = " ".join(dice.choices(WORDS, k=dice.randint(3, 60)))
    rows = [{"id": i, "text": f"{text} {i}", "tag": "x"} for i in range(dice.randint(1, 5))]
    where = folder / dice.choice(["", "deep", "deep/er"])
    where.mkdir(parents=True, exist_ok=True)
    kind = number % 15

    def put(ending: str, data: bytes) -> Path:
        path = where / f"{number:03}{ending}"
        path.write_bytes(data)
        return path

    lines = [json.dumps(row) for row in rows]
    match kind:
        case 0:
            put(".md", b"\xef\xbb\xbf" + text.replace(" ", "\r\n").encode())
        case 1:
            put(".txt", b"")
            return 0, 1
        case 2:
            put(".png", b"\x89PNG" + text.encode() + b"\0\0")
            return 0, 1
        case 3:
            put(".txt", text.encode() + b"\xff\xfe broken \xe9")
        case 4:
            put(".jsonl", ("\n\n".join(lines) + "\n").encode())
            return len(rows), 0
        case 5:
            put(".jsonl", "\n".join([*lines, '{"text": "cut', '{"text": ""}', '{"text": 7}', "[1]"]).encode())
            return len(rows), 4
        case 6:
            put(".json", json.dumps(rows, indent=1).encode())
            return len(rows), 0
        case 7:
            put(".json", (json.dumps(rows)[:-2] + ",,]").encode())
            return len(rows) - 1, 1
        case 8:
            put(
                ".csv", ("text,tag\n" + "".join(f'"{text}, ""{i}""\nnext line",x\n' for i in range(len(rows))) + "one,two,three\n").encode()
            )
            return len(rows), 1
        case 9:
            put(".tsv", "".join(f'{i}\t"{text}\n' for i in range(len(rows))).encode())
            return len(rows), 0
        case 10:
            put(".txt.gz", gzip.compress(text.encode()))
        case 11:
            put(".txt.gz", gzip.compress(dice.randbytes(500))[:200])
            return 0, 1
        case 12:
            put(".txt", b"text and then\0" + text.encode())
            return 0, 1
        case 13:
            put(".jsonl.gz", gzip.compress("\n".join([*lines, json.dumps({"text": "half \ud800 pair"})]).encode()))
            return len(rows) + 1, 0
        case _:
            put(".txt", ("\ufeff" + text).encode("utf-16-le"))
    return 1, 0


def test_kept_and_rejected_add_up_on_ugly_files(tmp_path):
    dice = random.Random(5)
    expected = [ugly_file(tmp_path, number, dice) for number in range(300)]
    (tmp_path / ".hidden.txt").write_text("never read")
    (tmp_path / "deep" / "loop").symlink_to(tmp_path)
    items = list(read([str(tmp_path)]))
    documents = [item for item in items if isinstance(item, Document)]
    rejected = [item for item in items if isinstance(item, Rejected)]
    assert len(documents) == sum(kept for kept, _ in expected)
    (loop,) = [item for item in rejected if item.reason == "circular link"]
    assert loop.source == str(tmp_path / "deep" / "loop")
    rejected.remove(loop)
    assert len(rejected) == sum(out for _, out in expected)
    assert all(item.reason and Path(item.source).is_file() for item in rejected)
    assert sum(document.replaced for document in documents) == 20 * (3 + 1)  # kind 3: 3 each; kind 13: 1 each
    assert not any("\r\n" in document.text or document.text.startswith("\ufeff") for document in documents)
    for document in documents:
        document.text.encode()
    found = Counter((Path(item.source).name[:3], isinstance(item, Document)) for item in items)
    for number, (kept, out) in enumerate(expected):
        assert (found[f"{number:03}", True], found[f"{number:03}", False]) == (kept, out), number


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("empty.txt", b"", "empty.txt: empty file"),
        ("blank.txt", b" \n ", "blank.txt: empty file"),
        ("photo.txt", b"ab\0c", "photo.txt: binary"),
        ("rows.jsonl", b'{"text": "a"}\n\n{"text": \n', "rows.jsonl, line 3: broken row .*breaks at column"),
        ("rows.json", b'[{"text": "a"},\n{"text": "b"}\n{"text": "c"}]', "rows.json, line 3: broken row .*comma"),
        ("rows.csv", b'text,label\na,b\n"never closed,b\n', "rows.csv, line 3: broken row .*never closed"),
        ("numbers.jsonl", b'{"a": 1}\n', "no column of text among a"),
        ("cut.jsonl.gz", gzip.compress(b'{"text": "row"}\n' * 3000)[:-9], "not a whole .gz file"),
        ("fake.txt.gz", b"no gzip", "not a whole .gz file"),
    ],
)
def test_a_named_file_must_be_readable(tmp_path, name, data, said):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=said):
        list(read([str(tmp_path / name)]))
    items = list(read([str(tmp_path)]))
    assert remarks(*noted(items))[-1].startswith(f"  {tmp_path / name}")
    (tmp_path / "good.txt").write_text("good")
    kept = [item for item in read([str(tmp_path)]) if isinstance(item, Document)]
    assert "good" in [document.text for document in kept]


def test_missing_sources_are_named_with_the_nearest(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    for source, said in (
        ("note.txt", "note.txt does not exist: did you mean notes.txt"),
        ("no/where", "there is no folder"),
        ("*.md", "no files"),
    ):
        with pytest.raises(ValueError, match=said):
            list(read([str(tmp_path / source)]))
    with pytest.raises(ValueError, match="no text was given"):
        list(read([]))


def test_each_file_is_read_once(tmp_path):
    for name in ("a.txt", "b.txt", "sub/c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    found = find([str(tmp_path), str(tmp_path / "a.txt"), str(tmp_path / "**" / "*.txt")])
    assert [(Path(one.path).name, one.named) for one in found] == [("a.txt", True), ("b.txt", False), ("c.txt", False)]


def test_text_column_is_guessed_and_settable(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"title": "short", "story": "a long text", "Body": "b"}) + "\n")
    (guessed,) = read([str(path)])
    (chosen,) = read([str(path)], text_column="title")
    assert isinstance(guessed, Document)
    assert (guessed.text, guessed.column, guessed.line) == ("b", "Body", 1)
    assert isinstance(chosen, Document)
    assert chosen.text == "short"
    with pytest.raises(ValueError, match="no column 'titel' for --text-column: did you mean title"):
        list(read([str(path)], text_column="titel"))


def test_zstandard_and_parquet(tmp_path):
    zstandard, arrow = pytest.importorskip("zstandard"), pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    frames = [zstandard.ZstdCompressor().compress(part) for part in (b"first " * 1000, b"second")]
    (tmp_path / "two.txt.zst").write_bytes(b"".join(frames))
    (two,) = read([str(tmp_path / "two.txt.zst")])
    assert isinstance(two, Document)
    assert two.text == "first " * 1000 + "second"
    for cut in (b"".join(frames)[:-3], frames[0][:9], b"no frame at all"):
        (tmp_path / "cut.txt.zst").write_bytes(cut)
        with pytest.raises(ValueError, match=r"not a whole \.zst file"), opened(str(tmp_path / "cut.txt.zst")) as stream:
            stream.read()
    parquet.write_table(arrow.table({"n": [1, 2], "text": ["one", None]}), tmp_path / "rows.parquet")
    kept, empty = read([str(tmp_path / "rows.parquet")])
    assert kept == Document("one", str(tmp_path / "rows.parquet"), 1, "text")
    assert isinstance(empty, Rejected)
    assert empty.line == 2
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "rows.parquet").read_bytes()[:-20])
    with pytest.raises(ValueError, match="not a whole parquet file"):
        list(read([str(tmp_path / "cut.parquet")]))


def test_a_missing_extra_says_what_to_type(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"a.parquet needs pyarrow, which is not installed: pip install 'fledge\[data\]'"):
        read([str(tmp_path)])


def test_groups_are_named_and_a_path_that_is_there_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("wiki/a.txt", "wiki/b.txt", "fed=1.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    found = find(["general=wiki/", "fed=1.txt", "my-own.2=~/wiki/a.txt"])
    assert [(one.path, one.group, one.named) for one in found] == [
        ("wiki/a.txt", "general", True),
        ("wiki/b.txt", "general", False),
        ("fed=1.txt", "", True),
    ]
    assert [item.group for one in found for item in read_input(one) if isinstance(item, Document)] == ["general", "general", ""]
    with pytest.raises(ValueError, match=r"^wik does not exist: did you mean wiki"):
        find(["general=wik"])


def test_patterns_go_into_folders_and_out_of_circles(tmp_path):
    for name in ("a.txt", "in/b.txt", "in/deep/c.txt", "in/deep/d.md", "in/.hidden/e.txt", "other/f.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    for link in ("in/deep/up", "in/deep/up2", "other/up", "other/up2"):
        (tmp_path / link).symlink_to(tmp_path)

    def names(pattern: str) -> list[str]:
        return [os.path.relpath(one.path, tmp_path) for one in find([f"{tmp_path}/{pattern}"])]

    assert names("**/*.txt") == ["a.txt", "in/b.txt", "in/deep/c.txt", "other/f.txt"]
    assert names("in/**/d*") == ["in/deep/d.md"]
    assert names("i[n]/**/deep/*.txt") == ["in/deep/c.txt"]
    links = ["in/deep/up", "in/deep/up2", "other/up", "other/up2"]
    assert names("**") == sorted(["a.txt", "in/b.txt", "in/deep/c.txt", "in/deep/d.md", "other/f.txt", *links])
    assert names("*/?.txt") == ["in/b.txt", "other/f.txt"]


def test_what_changes_in_an_input_changes_its_fingerprint(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.txt").write_text("one")
    first, same = find([str(tmp_path)])
    assert first.fingerprint() == same.fingerprint()
    (tmp_path / "a.txt").write_text("two")
    assert first.fingerprint() != same.fingerprint()
