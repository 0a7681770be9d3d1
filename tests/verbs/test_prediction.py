"""`predict` on a text, a file, its lines and tables."""

import csv
import json

import pytest

import fledge
from fledge.verbs.prediction import Prediction


def test_a_text(classifier, command):
    said = command("predict", classifier, "9 free prize", "--json")
    assert said.json["label"] == "spam"
    assert sum(said.json["scores"].values()) == pytest.approx(1)
    assert command("predict", classifier, "9 free prize").out.splitlines()[0].endswith("spam")


def test_a_file_its_lines_and_tables(classifier, messages, tmp_path, command):
    (tmp_path / "a.txt").write_bytes(b"9 free prize\n3 \xff see you\n\n")
    assert command("predict", classifier, "--file", tmp_path / "a.txt").out.count("\n") == 1
    lines = command("predict", classifier, "--file", tmp_path / "a.txt", "--lines")
    assert lines.out == "spam\nham\n"
    assert "1 invalid UTF-8 sequence replaced" in lines.err
    for name in ("out.csv", "out.jsonl"):
        said = command("predict", classifier, "--file", messages, "--out", tmp_path / name, "--json")
        assert said.code == 0
        assert said.json["rows"] == 80
        assert sum(said.json["counts"].values()) == 80
    below = command("predict", classifier, "--file", messages, "--out", tmp_path / "new" / "folder" / "out.jsonl")
    assert below.code == 0
    assert (tmp_path / "new" / "folder" / "out.jsonl").read_bytes() == (tmp_path / "out.jsonl").read_bytes()
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["out.jsonl"]
    with (tmp_path / "out.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["predicted"] for row in table] == [row["predicted"] for row in rows]
    assert sum(row["predicted"] == row["label"] for row in rows) > 70
    again = command("predict", classifier, "--file", messages, "--out", tmp_path / "out.csv")
    assert again.code == 2
    assert "exists" in again.err


@pytest.mark.parametrize(
    ("name", "content", "flags", "words"),
    [
        ("no.txt", None, [], "no.txt does not exist"),
        ("empty.txt", b"", [], "empty"),
        ("binary.txt", b"\0\1\2", [], "binary"),
        ("rows.csv", b"text,n\nhello,1\n,2\n", ["--text-column", "text"], "line 3"),
        ("rows.csv", b"text,n\nhello,1\n", ["--text-column", "txt"], "did you mean text"),
        ("a.txt", b"hello", ["--out", "x.html"], ".jsonl"),
        ("a.txt", b"hello", ["and a text"], "either a text or --file"),
    ],
)
def test_bad_files_are_one_sentence(classifier, tmp_path, command, name, content, flags, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    said = command("predict", classifier, *flags, "--file", tmp_path / name)
    assert said.code == 2
    assert words in said.err
    assert not said.out


def test_a_language_model_is_no_classifier(base, messages, tmp_path, command):
    for words in (["hello"], ["--file", messages, "--out", tmp_path / "out.csv"]):
        said = command("predict", base, *words)
        assert said.code == 2
        assert "fledge finetune classify" in said.err
    assert list(tmp_path.iterdir()) == []


def test_the_function_takes_paths_and_texts(classifier, messages):
    assert fledge.predict(str(classifier), "5 see you") == Prediction(**fledge.load(classifier).predict("5 see you"))
    assert fledge.predict(classifier, file=str(messages)) == fledge.predict(classifier, file=messages)
