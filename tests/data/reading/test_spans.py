"""A large file that is taken apart gives the documents, rejections and lines that it gives as a whole."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from fledge.data.documents import Document, Item
from fledge.data.files import format_of
from fledge.data.reading.part import LIMIT
from fledge.data.reading.spans import spans
from fledge.data.sources import find, read_input

SPAN = 2000  # bytes


def apart(path: Path, size: int = SPAN, column: str | None = None) -> tuple[list[Item], int]:
    """What the spans of a file give one after another, and how many they are."""
    [given] = find([str(path)])
    found = spans(given.path, format_of(given.path), given.size, size)
    assert [0, *(span.end for span in found[:-1])] == [span.start for span in found]
    assert found[-1].end == given.size
    each = (replace(given, size=span.end - span.start, span=span) for span in found)
    return [item for one in each for item in read_input(one, column)], len(found)


def whole(path: Path, column: str | None = None) -> list[Item]:
    return list(read_input(find([str(path)])[0], column))


@pytest.mark.parametrize("seed", range(8))
def test_lines_of_json(tmp_path, seed):
    """Rows of all lengths, blank lines, broken ones, invalid bytes, marks of byte order in the midst, and no line end at the end."""
    dice, path = random.Random(seed), tmp_path / "rows.jsonl"
    odd = [
        b"",
        b"  ",
        b"{broken",
        b'{"note": "no text"}',
        b'{"text": 7}',
        b'{"text": "\xff"}',
        b"\xff\xfe",
        b'\xef\xbb\xbf{"text": "marked"}',
    ]
    lines = []
    for number in range(300):
        text = json.dumps({"note": "x" * dice.randint(0, 3), "text": f"row {number} " + "é word" * int(2 ** dice.uniform(0, 8))})
        lines.append(dice.choice(odd) if number and dice.random() < 0.2 else text.encode())
    path.write_bytes(dice.choice([b"\n", b"\r\n"]).join(lines))
    found, count = apart(path)
    assert found == whole(path)
    assert count > 20


def test_a_column_is_chosen_by_the_first_rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    early, late = {"title": "short", "prose": "longer than that"}, {"title": "a title that is by far the longest", "prose": "p"}
    path.write_text("".join(json.dumps(row) + "\n" for row in [early] * 250 + [late] * 250))
    assert apart(path)[0] == whole(path)
    assert {item.column for item in apart(path)[0] if isinstance(item, Document)} == {"prose"}
    assert apart(path, column="nowhere")[0] == whole(path, "nowhere")
    assert len(whole(path, "nowhere")) == 1


def test_a_long_text_is_taken_apart_where_it_is_cut(tmp_path):
    path = tmp_path / "long.txt"
    line = "é line of a text that goes on,\r\n" + "and on. " * 500 + "\n\n"
    path.write_bytes(line.encode() * (2 * LIMIT // len(line) + 500) + b" " * LIMIT + b"x" * (LIMIT + 10) + b"\n \n")
    found, count = apart(path)
    assert found == whole(path)
    assert count == 5


def test_small_packed_binary_and_marked_files_stay_whole(tmp_path):
    row = b'{"text": "a row"}\n'
    cases = {
        "small.jsonl": row * 100,
        "a.jsonl.gz": row * 1000,
        "a.csv": row * 1000,
        "a.txt": row * 1000,
        "a.json": row * 1000,
        "nul.jsonl": b"\0" + row * 1000,
        "bom.jsonl": b"\xef\xbb\xbf" + row * 1000,
        "wide.jsonl": (row * 1000).decode().encode("utf-16"),
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        assert not spans(str(tmp_path / name), format_of(name), len(content), SPAN)
    (tmp_path / "rows.jsonl").write_bytes(row * 1000)
    assert apart(tmp_path / "rows.jsonl")[1] > 5
