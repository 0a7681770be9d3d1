"""Rows with their lines, headers told from data, and quotes that mean what the format says."""

import json

import pytest

from fledge.data.tables import guess_label, guess_text, table


def values(path, data: str, named=()):
    path.write_bytes(data.encode())
    return [(row.line, row.values) for row in table(str(path), named).rows]


def test_csv_header_is_told_from_data(tmp_path):
    path = tmp_path / "a.csv"
    assert values(path, "text,label\nhi,1\n") == [(2, {"text": "hi", "label": "1"})]
    assert values(path, "\ufeffkommentar,art\r\nguter Film,gut\r\nnaja,schlecht\r\n") == [
        (2, {"kommentar": "guter Film", "art": "gut"}),
        (3, {"kommentar": "naja", "art": "schlecht"}),
    ]
    assert values(path, "ham,hi there you\nspam,win\nham,lo\n")[0] == (1, {"1": "ham", "2": "hi there you"})
    assert values(path, "ham,one\nspam,two\n", named=["ham"]) == [(2, {"ham": "spam", "one": "two"})]
    quoted = 'text;label\n"a;\n""b""";x\n\n;\nc;y\n'
    assert values(path, quoted) == [(2, {"text": 'a;\n"b"', "label": "x"}), (6, {"text": "c", "label": "y"})]
    assert values(path, "text\n" + "x" * 200_000 + "\n")[0][1]["text"] == "x" * 200_000


def test_tab_files_use_no_quotes(tmp_path):
    rows = values(tmp_path / "a.tsv", 'ham\tsay "hi\nspam\t"win"\nham\tok\n')
    assert rows == [(1, {"1": "ham", "2": 'say "hi'}), (2, {"1": "spam", "2": '"win"'}), (3, {"1": "ham", "2": "ok"})]


def test_json_lists_and_lines(tmp_path):
    rows = [{"text": "a\nb"}, {"text": "c"}]
    assert values(tmp_path / "a.json", json.dumps(rows, indent=2)) == [(2, rows[0]), (5, rows[1])]
    assert values(tmp_path / "a.json", "\n".join(map(json.dumps, rows))) == [(1, rows[0]), (2, rows[1])]
    assert values(tmp_path / "a.json", '["just", "strings"]') == [(1, {"text": "just"}), (1, {"text": "strings"})]
    assert values(tmp_path / "a.jsonl", '\n{"text": "a\u2028b"}\n') == [(2, {"text": "a\u2028b"})]


@pytest.mark.parametrize(
    ("name", "data", "line"),
    [
        ("a.jsonl", '{"a": 1}\n{"a": }\n', 2),
        ("a.json", '[{"a": 1},\n\n {"a": }]', 3),
        ("a.json", '[{"a": 1},\n {"a": 2}\n', 3),
        ("a.json", '[{"a": 1}]\n more', 2),
        ("a.jsonl", '{"a": ' + "1" * 5000 + "}\n", 1),
        ("a.jsonl", '{"a": 1}\n' + "[" * 100_000 + "\n", 2),
        ("a.csv", "text,b\n1,2\n3\n", 3),
        ("a.csv", 'text,b\n"x\ny",2\n"open\n\n1,2\n', 4),
        ("a.csv", 'text,b\n"x"y,2\n', 2),
        ("a.tsv", "text\tb\n1\t2\t3\n", 2),
    ],
)
def test_a_broken_row_names_file_and_line(tmp_path, name, data, line):
    (tmp_path / name).write_text(data)
    with pytest.raises(ValueError, match=f"{name}, line {line}: "):
        table(str(tmp_path / name))


def test_no_table_and_no_rows(tmp_path):
    for name, data, said in (
        ("a.txt", "x", "is no table"),
        ("a.csv", "", "no rows"),
        ("a.csv", "text,label\n", "no rows"),
        ("a.json", "[]", "no rows"),
    ):
        (tmp_path / name).write_text(data)
        with pytest.raises(ValueError, match=said):
            table(str(tmp_path / name))


def test_columns_are_guessed(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [{"id": str(i), "long": f"row number {i} " * 9, "mood": "good" if i % 3 else "bad"} for i in range(30)]
    path.write_text("\n".join(map(json.dumps, rows)))
    read = table(str(path))
    assert guess_text("a", read.rows) == "long"
    assert guess_label("a", read.rows, ["long"]) == "mood"
    with pytest.raises(ValueError, match="looks like labels among id, long, mood: name it with --label-column"):
        guess_label("a", read.rows, ["mood"])
