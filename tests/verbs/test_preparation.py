"""`prepare`: every kind of file gives the same corpus, and bad input a sentence."""

import gzip
import json
import resource
from dataclasses import replace

import pytest

import fledge
from fledge.data.corpus import Corpus

DOCUMENTS = [f"Document {i} tells of {'rain and ' * (i % 5)}sun: Grüße, {i * i}." for i in range(60)]


def write(path, kind: str):
    rows = [{"id": i, "text": text} for i, text in enumerate(DOCUMENTS)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    match kind:
        case "jsonl":
            path.write_text(lines, encoding="utf-8")
        case "jsonl.gz":
            path.write_bytes(gzip.compress(lines.encode()))
        case "jsonl.zst":
            path.write_bytes(pytest.importorskip("zstandard").compress(lines.encode()))
        case "json":
            path.write_text(json.dumps(rows), encoding="utf-8")
        case "csv":
            path.write_text("id,text\n" + "".join(f'{row["id"]},"{row["text"]}"\n' for row in rows), encoding="utf-8")
        case "tsv":
            path.write_text("id\ttext\n" + "".join(f"{row['id']}\t{row['text']}\n" for row in rows), encoding="utf-8")
        case "parquet":
            arrow = pytest.importorskip("pyarrow")
            import pyarrow.parquet

            pyarrow.parquet.write_table(arrow.Table.from_pylist(rows), path)


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "jsonl.zst", "json", "csv", "tsv", "parquet"])
def test_every_kind_of_file_gives_the_corpus_of_plain_files(tmp_path, kind):
    folder = tmp_path / "plain"
    folder.mkdir()
    for i, text in enumerate(DOCUMENTS):
        (folder / f"{i}.md").write_text(text, encoding="utf-8")
    plain = fledge.prepare(str(folder), out=tmp_path / "a", tokenizer="bytes")
    write(tmp_path / f"table.{kind}", kind)
    made = fledge.prepare([str(tmp_path / f"table.{kind}")], out=str(tmp_path / "b"), tokenizer="bytes")
    assert replace(made, out=plain.out) == plain
    assert plain.documents == len(DOCUMENTS)


def test_globs_folders_and_what_is_rejected(tmp_path, command):
    (tmp_path / "sub").mkdir()
    for i in range(20):
        (tmp_path / f"{i}.txt").write_text(DOCUMENTS[i] * 20, encoding="utf-8")
    (tmp_path / "sub" / "latin.txt").write_bytes("café \xff! ".encode("latin-1") * 9 + b"the rest is kept")
    (tmp_path / "sub" / "picture.png").write_bytes(b"\x89PNG\0\0\0")
    (tmp_path / "sub" / "empty.txt").touch()
    (tmp_path / "sub" / "again.txt").write_text(DOCUMENTS[0] * 20, encoding="utf-8")
    said = command("prepare", tmp_path / "*.txt", tmp_path / "sub", "--out", tmp_path / "c", "--vocab", 500, "--json")
    assert said.code == 0
    assert said.json["documents"] == 21
    assert said.json["duplicates"] == 1
    assert said.json["rejected"] == {"binary": 1, "empty file": 1}
    assert "18 invalid UTF-8 sequences replaced" in said.err
    assert f"{tmp_path / 'sub' / 'picture.png'}: binary" in said.err


@pytest.mark.parametrize("name", ["bytes", "characters", "gpt2"])
def test_tokenizers_that_stand(tmp_path, text, name, request):
    given = name if name != "gpt2" else str(request.getfixturevalue("data") / "tokenizers" / "gpt2")
    made = fledge.prepare([str(text)], out=tmp_path / "c", tokenizer=given)
    assert made.vocabulary == {"bytes": 384, "gpt2": 50257}.get(name, made.vocabulary)
    assert (tmp_path / "c" / "tokenizer.json").is_file()


def test_again_and_otherwise(tmp_path, text, command):
    first = command("prepare", text, "--out", tmp_path / "c", "--vocab", 512)
    again = command("prepare", text, "--out", tmp_path / "c", "--vocab", 512)
    assert (first.code, again.code) == (0, 0)
    assert "holds this text already" in again.err
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "c").iterdir()}
    other = command("prepare", text, "--out", tmp_path / "c", "--vocab", 640)
    assert other.code == 2
    assert "vocabulary: 512 -> 640" in other.err
    assert before == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "c").iterdir()}


BROKEN = '{"text": "fine"}\n{"text": "fine too"}\n{"text": broken\n'


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("nothing.txt", None, "nothing.txt does not exist"),
        ("empty.txt", b"", "empty"),
        ("program.txt", b"\x7fELF\0\0\0\0", "binary"),
        ("rows.jsonl", BROKEN.encode(), "line 3"),
        ("rows.json", b'[{"text": "a"},\n {"text": }]', "line 2"),
        ("text.txt.gz", b"no gzip at all", "gz"),
        ("short.txt", b"x", "too short"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(tmp_path, command, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    said = command("prepare", tmp_path / name, "--out", tmp_path / "c", "--tokenizer", "bytes", "--strict")
    assert said.code == 2
    assert words in said.err
    assert "Traceback" not in said.err
    assert not said.out
    assert not (tmp_path / "c").exists()


def test_a_few_uneven_notes_are_split_by_size(tmp_path, text):
    for name, content in (("a.txt", text.read_text(encoding="utf-8")), ("b.md", "A title."), ("c.txt", "A short note.")):
        (tmp_path / name).write_text(content, encoding="utf-8")
    for seed in range(4):
        made = fledge.prepare([str(tmp_path / "*.*")], out=tmp_path / f"corpus-{seed}", tokenizer="bytes", seed=seed)
        assert made.documents == 3
        assert made.validation_tokens == pytest.approx(0.1 * made.bytes, rel=0.6)


def test_a_full_disk_is_said_and_the_next_run_goes_on(tmp_path, text, command):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, before[1]))  # the shards are larger
    try:
        full = command("prepare", text, "--out", tmp_path / "c", "--tokenizer", "bytes")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert full.code == 1
    assert "the disk is full" in full.err
    assert not (tmp_path / "c").exists()
    assert command("prepare", text, "--out", tmp_path / "c", "--tokenizer", "bytes").code == 0


def test_a_corpus_is_not_prepared_again(tmp_path, text, command):
    fledge.prepare(str(text), out=tmp_path / "c", tokenizer="bytes")
    said = command("prepare", tmp_path / "c", "--out", tmp_path / "d")
    assert said.code == 2
    assert f"fledge pretrain {tmp_path / 'c'}" in said.err


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_other_kinds_of_tokenizers_are_trained(kind, tmp_path, text, command):
    said = command("prepare", text, "--out", tmp_path / "c", "--tokenizer", kind, "--vocab", 640)
    assert said.code == 0
    assert Corpus.open(tmp_path / "c").tokenizer.kind == kind
    again = command("prepare", text, "--out", tmp_path / "c", "--tokenizer", kind, "--vocab", 640)
    assert "holds this text already" in again.err
    lost = command("prepare", text, "--out", tmp_path / "d", "--tokenizer", kind)
    assert lost.code == 2
    assert "say how many ids" in lost.err


def test_wrong_flags(tmp_path, text, command):
    both = command("prepare", text, "--out", tmp_path / "c", "--vocab", 500, "--tokenizer", "bytes")
    column = command("prepare", text, "--out", tmp_path / "c", "--validation", 2)
    under = command("prepare", text, "--out", text / "c", "--tokenizer", "bytes")
    assert (both.code, column.code, under.code) == (2, 2, 2)
    assert "give one of them" in both.err
    assert "between 0 and 1" in column.err
    assert "a file stands there" in under.err
