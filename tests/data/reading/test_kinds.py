"""Every kind of file gives the text that a person sees in it; what is broken in it is one rejection with its place."""

import bz2
import gzip
import io
import json
import lzma
import mailbox
import tarfile
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import pytest

from fledge.data.documents import Document, Item, Rejected
from fledge.data.sources import find, read_input
from tests.data.reading.making import answer, epub, mail, pdf, record, tables, word


def read(path: Path, data: bytes | None = None, **settings) -> list[Item]:
    if data is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return [item for source in find([str(path)]) for item in read_input(source, **settings)]


def texts(items: list[Item]) -> list[str]:
    return [item.text for item in items if isinstance(item, Document)]


def reasons(items: list[Item]) -> list[tuple[str, int | None]]:
    return [(item.reason, item.line) for item in items if isinstance(item, Rejected)]


def test_pdf_pages_become_paragraphs_and_a_broken_one_is_alone(tmp_path, capfd):
    items = read(tmp_path / "a.pdf", pdf(["One (page)\nof hyphen-\nated lines", None, "Third"]))
    assert texts(items) == ["One (page)\nof hyphen-\nated lines\n\nThird"]
    assert reasons(items) == [("damaged page", 2)]
    assert reasons(read(tmp_path / "blank.pdf", pdf(["", ""]))) == [("no text", None)]
    (broken,) = read(tmp_path / "cut.pdf", pdf(["page"])[:200])
    assert isinstance(broken, Rejected)
    assert (broken.reason, broken.bytes) == ("damaged", 200)
    assert capfd.readouterr() == ("", "")
    many = texts(read(tmp_path / "many.pdf", pdf(["x" * 60] * 30), limit=1000))
    assert "".join(many).count("x") == 1800
    assert all(len(text) <= 1000 for text in many)


def test_a_locked_pdf_needs_its_password(tmp_path):
    import pypdf

    for password, found in (("", ["open"]), ("secret", [])):
        writer = pypdf.PdfWriter(clone_from=io.BytesIO(pdf(["open"])))
        writer.encrypt(password, "owner", algorithm="RC4-128")
        writer.write(tmp_path / "a.pdf")
        items = read(tmp_path / "a.pdf")
        assert texts(items) == found
        assert reasons(items) == [("encrypted", None)] * (not found)


def test_word_gives_headings_paragraphs_and_tables_in_their_order(tmp_path):
    data = word("Title", ["one", "two"], [["a", "b"], ["c", "d"]])
    assert texts(read(tmp_path / "a.docx", data)) == ["Title\n\none\n\ntwo\n\na\tb\nc\td\n\nafter the table"]
    assert reasons(read(tmp_path / "cut.docx", data[:-100])) == [("damaged", None)]
    assert reasons(read(tmp_path / "empty.docx", word("", []))) == [("no text", None)]


def test_epub_gives_a_document_for_each_chapter_in_the_order_of_the_spine(tmp_path):
    sealed = '<encryption><x:CipherReference xmlns:x="http://www.w3.org/2001/04/xmlenc#" URI="OEBPS/text/d.xhtml"/></encryption>'
    chapters = {"z.xhtml": "<h1>One</h1><p>Text &amp; more</p>", "a.xhtml": "<p>two</p>", "gone.xhtml": "", "d.xhtml": "<p>x</p>"}
    items = read(tmp_path / "a.epub", epub(chapters | {"e.xhtml": "<img src='x'/>"}, {"META-INF/encryption.xml": sealed}))
    assert texts(items) == ["One\n\nText & more", "two"]
    assert [Path(item.source).name for item in items] == ["z.xhtml", "a.xhtml", "gone.xhtml", "d.xhtml", "e.xhtml"]
    assert [reason for reason, _ in reasons(items)] == ["damaged", "encrypted", "no text"]


PAGE = (
    "<title>The title</title><body><nav><a href=/>Home</a></nav><main><h1>Head</h1><p>größer €</p><p>second</p></main><footer>foot</footer>"
)


@pytest.mark.parametrize(
    ("declared", "encoding"),
    [
        ("", "utf-8"),
        ("", "utf-8-sig"),
        ("", "utf-16"),
        ("<meta charset=windows-1252>", "cp1252"),
        ('<meta http-equiv=Content-Type content="text/html; charset=ISO-8859-15">', "iso-8859-15"),
        ('<?xml version="1.0" encoding="cp1252"?>', "cp1252"),
    ],
)
def test_html_gives_title_and_main_content_in_any_declared_charset(tmp_path, declared, encoding):
    items = read(tmp_path / "a.html", f"{declared}<html>{PAGE}".encode(encoding))
    assert texts(items) == ["The title\n\nHead\n\ngrößer €\n\nsecond"]
    assert [item.replaced for item in items if isinstance(item, Document)] == [0]


def test_html_that_is_wrong_about_itself(tmp_path):
    (item,) = read(tmp_path / "a.html", b"<meta charset=utf-8><p>caf\xe9 here")
    assert item == Document("caf\ufffd here", str(tmp_path / "a.html"), replaced=1)
    assert texts(read(tmp_path / "b.html", "<meta charset=utf-16><p>größe".encode())) == ["größe"]
    assert texts(read(tmp_path / "c.html", b"<meta charset=nonsense><p>text")) == ["text"]
    assert texts(read(tmp_path / "page", b"<!DOCTYPE html><p>told by its beginning")) == ["told by its beginning"]
    assert reasons(read(tmp_path / "d.html", b"<p>" + b"x" * 2000, limit=1000)) == [("too long", None)]
    assert reasons(read(tmp_path / "e.html", b"<script>1</script>")) == [("no text", None)]


def test_mail_gives_subject_and_readable_body(tmp_path):
    plain = mail(
        "Größe\tétendue", "Hello\n\nworld ü\n", "<p>not this", [("a.png", "image/png", b"x"), ("rows.csv", "text/csv", b"a,b\n1,2\n")]
    )
    items = read(tmp_path / "a.eml", bytes(plain))
    assert texts(items) == ["Größe étendue\n\nHello\n\nworld ü"]
    assert items[1] == Rejected("attachment", str(tmp_path / "a.eml"), None, items[1].detail, 8)  # pyrefly: ignore[missing-attribute]
    assert texts(read(tmp_path / "b.eml", bytes(mail("S", None, "<p>only <b>HTML</b></p>")))) == ["S\n\nonly HTML"]
    assert reasons(read(tmp_path / "c.eml", bytes(mail("S", None, None, [("a.png", "image/png", b"x")])))) == [("no text", None)]
    latin = b"Subject: =?latin-1?q?caf=E9?=\nContent-Type: text/plain; charset=latin-1\nContent-Transfer-Encoding: 8bit\n\ncaf\xe9\n"
    assert texts(read(tmp_path / "d.eml", latin)) == ["café\n\ncafé"]
    assert texts(read(tmp_path / "e.eml", latin.replace(b"charset=latin-1", b"charset=klingon"))) == ["café\n\ncaf\ufffd"]


def test_an_mbox_is_read_as_the_standard_library_reads_it(tmp_path):
    path = tmp_path / "a.mbox"
    written = mailbox.mbox(path)
    bodies = ["From here on\nit is quoted", "second\n\nFrom me at 10:30\n", "third", "From 9:00 to 10:00\n"]
    for number, body in enumerate(bodies):
        written.add(mail(f"subject {number}", body))
    written.close()
    items = read(path)
    assert texts(items) == [f"subject {number}\n\n{body.strip()}" for number, body in enumerate(bodies)]
    lines = path.read_bytes().splitlines()
    assert all(isinstance(item, Document) and item.line and lines[item.line - 1].startswith(b"From MAILER") for item in items)
    opened = mailbox.mbox(path)
    assert [f"{one['subject']}\n\n{one.get_payload()}".replace(">From", "From").strip() for one in opened] == texts(items)
    opened.close()
    assert texts(read(tmp_path / "a.mbox.gz", gzip.compress(path.read_bytes()))) == texts(items)
    assert reasons(read(tmp_path / "b.mbox", b"no mail\n")) == [("damaged", None)]
    huge = path.read_bytes().replace(b"second", b"second" + b" more" * 1000)
    cut = read(tmp_path / "c.mbox", huge, limit=800)
    assert [text[:9] for text in texts(cut)] == [f"subject {number}" for number in range(4)]
    assert sum(map(len, texts(cut))) < 1500


def test_crawls_give_a_document_for_each_url(tmp_path):
    page = "<title>T</title><p>café here".encode("latin-1")
    crawl = [
        record("warcinfo", "", b"software: none\r\n", "application/warc-fields"),
        record("response", "http://a/1", answer(page, "text/html; charset=iso-8859-1")),
        record("response", "http://a/2", answer(gzip.compress(page), "text/html; charset=latin1", more="Content-Encoding: gzip\r\n")),
        record("response", "http://a/3", answer(b"gone", status="404 Not Found")),
        record("response", "http://a/4", answer(b"\x89PNG", "image/png")),
        record("request", "http://a/1", b"GET / HTTP/1.1\r\n\r\n", "application/http; msgtype=request"),
        record("conversion", "http://a/5", "größe\n\ntext".encode(), "text/plain"),
    ]
    for name, data in (("a.warc", b"".join(crawl)), ("a.warc.gz", b"".join(map(gzip.compress, crawl)))):
        items = read(tmp_path / name, data)
        assert [(item.source[-1], item.text) for item in items if isinstance(item, Document)] == [
            ("1", "T\n\ncafé here"), ("2", "T\n\ncafé here"), ("5", "größe\n\ntext"),
        ]  # fmt: skip
        assert [str(item) for item in items if isinstance(item, Rejected)] == [
            "http://a/3: not found (the server answered 404)",
            "http://a/4: no text (image/png)",
        ]
    assert texts(read(tmp_path / "a.warc.wet.gz", gzip.compress(crawl[-1]))) == ["größe\n\ntext"]
    cut = read(tmp_path / "cut.warc.gz", b"".join(map(gzip.compress, crawl))[:-20])
    assert texts(cut) == ["T\n\ncafé here"] * 2
    assert reasons(cut)[-1] == ("damaged", None)
    (short,) = read(tmp_path / "cut.wet", crawl[-1][:-8])
    assert isinstance(short, Rejected)
    assert short.reason == "damaged"


def test_tables_of_arrow(tmp_path):
    rows = [{"id": 1, "text": "one", "more": "deeper"}, {"id": 2, "text": None, "more": "x"}, {"id": 3, "text": "three", "more": ""}]
    for ending, data in tables(rows).items():
        name = f"a.{ending}"
        items = read(tmp_path / name, data)
        assert (texts(items), reasons(items)) == (["one", "three"], [("empty text", 2)]), name
        assert texts(read(tmp_path / name, text_column="more")) == ["deeper", "x"]
        cut = read(tmp_path / f"cut.{name}", data[: len(data) - 40])
        assert reasons(cut) == [("damaged", None)] if ending != "stream.arrow" else cut, name
        assert texts(read(tmp_path / f"{name}.gz", gzip.compress(data))) == ["one", "three"]


def test_a_column_within_another(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [{"a": {"b": "deep"}, "title": "t"}, {"a": None}, {"a": {"b": 1}}, {"a.b": "flat", "a": {"b": "not this"}}]
    items = read(path, "\n".join(map(json.dumps, rows)).encode(), text_column="a.b")
    assert texts(items) == ["deep", "flat"]
    assert reasons(items) == [("empty text", 2), ("no text", 3)]
    (missing,) = read(path, text_column="a.c")
    assert (missing.reason, missing.bytes) == ("no column", path.stat().st_size)  # pyrefly: ignore[missing-attribute]


PACKERS = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda data: __import__("zstandard").ZstdCompressor().compress(data),
}


@pytest.mark.parametrize("ending", PACKERS)
def test_compressed_files_of_one_and_several_parts_and_cut_anywhere(tmp_path, ending):
    pack = PACKERS[ending]
    text = "größe " * 50_000
    parts = pack(text[:100].encode()) + pack(b"") + pack(text[100:].encode())
    assert texts(read(tmp_path / f"a.txt.{ending}", parts)) == [text]
    for end in (1, 9, len(parts) - 9, len(parts) - 1):
        assert reasons(read(tmp_path / f"cut.txt.{ending}", parts[:end])) == [("damaged", None)], end
    assert reasons(read(tmp_path / f"b.txt.{ending}", parts + b"garbage")) == [("damaged", None)]
    assert reasons(read(tmp_path / f"c.txt.{ending}", b"no such thing")) == [("damaged", None)]


@pytest.mark.parametrize("ending", PACKERS)
def test_a_bomb_streams(tmp_path, ending):
    path = tmp_path / f"bomb.jsonl.{ending}"
    path.write_bytes(PACKERS[ending](b" " * 120_000_000))
    tracemalloc.start()
    items = read(path, limit=1 << 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert items == [Rejected("too long", str(path), 1, "120,000,000 bytes, but a row may have 1,048,576", 120_000_000)]
    assert peak < (80 if ending == "zst" else 20) << 20


def archive(files: dict[str, bytes], kind: str) -> bytes:
    out = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name, data in files.items():
                file.writestr(name, data)
    else:
        with tarfile.open(fileobj=out, mode=f"w:{kind}") as file:  # pyrefly: ignore[no-matching-overload]
            for name, data in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                file.addfile(info, io.BytesIO(data))
            link = tarfile.TarInfo("link.txt")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            file.addfile(link)
    return out.getvalue()


@pytest.mark.parametrize(("kind", "ending"), [("zip", "zip"), ("", "tar"), ("gz", "tar.gz"), ("xz", "txz"), ("bz2", "tar.bz2")])
def test_members_of_archives_are_read_like_files(tmp_path, kind, ending):
    loose = {
        "a.txt": b"plain",
        "in/rows.jsonl.gz": gzip.compress(b'{"text": "row"}\n{broken\n'),
        "in/b.pdf": pdf(["page"]),
        "in/c.parquet": tables([{"text": "cell"}])["parquet"],
        "../../out.md": b"names are only names",
        "empty.txt": b"",
        ".hidden/d.txt": b"not read",
        "__MACOSX/a.txt": b"not read",
    }
    files = {**loose, "inner.zip": archive({"e.docx": word("in a zip", [])}, "zip"), "bad.zip": b"PK no zip"}
    path = tmp_path / f"a.{ending}"
    items = read(path, archive(files, kind))
    assert texts(items) == ["plain", "row", "page", "cell", "names are only names", "in a zip"]
    assert reasons(items) == [("broken row", 2), ("empty file", None), ("damaged", None)]
    assert [item.source for item in items if isinstance(item, Document)][2] == f"{path}/in/b.pdf"
    cut = read(tmp_path / f"cut.{ending}", path.read_bytes()[: path.stat().st_size // 3])
    assert reasons(cut)
    deep = archive({"x.txt": b"deep"}, "zip")
    for _ in range(5):
        deep = archive({"n.zip": deep}, "zip")
    assert [reason for reason, _ in reasons(read(tmp_path / "deep.zip", deep))] == ["nested too deep"]


def test_a_member_that_is_sealed_or_damaged_leaves_the_others(tmp_path):
    data = bytearray(archive({"a.txt": b"first" * 50, "b.txt": b"second" * 50}, "zip"))
    at = data.index(b"a.txt") + len("a.txt") + 5
    data[at] ^= 0xFF
    items = read(tmp_path / "a.zip", bytes(data))
    assert texts(items) == ["second" * 50]
    assert reasons(items) == [("damaged", None)]
    sealed = bytearray(archive({"a.txt": b"first"}, "zip"))
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        sealed[sealed.index(mark) + offset] |= 1
    assert reasons(read(tmp_path / "b.zip", bytes(sealed))) == [("encrypted", None)]


def test_long_text_is_cut_at_paragraphs_and_nothing_is_lost(tmp_path):
    paragraphs = [f"{number} " + "größe " * (number % 40) + "\n" * (1 + number % 2) for number in range(2000)]
    text = "".join(paragraphs)
    items = read(tmp_path / "a.txt", text.encode(), limit=5000)
    assert "".join(texts(items)) == text
    assert len(items) > 20
    for item in items:
        assert isinstance(item, Document)
        assert item.line is not None
        assert item.text == "".join(text.splitlines(keepends=True)[item.line - 1 :])[: len(item.text)]
        assert len(item.text.encode()) <= 5000
    assert all(text.endswith("\n\n") for text in texts(items)[:-1])
    unbroken = "日本語" * 10_000
    assert "".join(texts(read(tmp_path / "b.txt", unbroken.encode(), limit=5000))) == unbroken
    row = json.dumps({"text": text}, ensure_ascii=False)
    cut = read(tmp_path / "c.jsonl", f"\n{row}\n".encode(), limit=len(row.encode()) - 1000)
    assert reasons(cut) == [("too long", 2)]
    (tmp_path / "d.parquet").write_bytes(tables([{"text": text}])["parquet"])
    assert "".join(texts(read(tmp_path / "d.parquet", limit=5000))) == text


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.tsv", "a.json", "a.txt", "quoted.csv"])
def test_one_line_without_end_is_not_held(tmp_path, name):
    path, limit, size = tmp_path / name, 1 << 20, 30 << 20
    with path.open("wb") as file:
        opening = {
            "a.jsonl": b'{"text": "fine"}\n{"text": "',
            "a.json": b'[{"text": "fine"},\n {"text": "',
            "quoted.csv": b'text,n\nfine,1\n"',
        }
        file.write(opening.get(name, b"text,n\nfine,1\n" if name == "a.csv" else b"text\tn\nfine\t1\n" if name == "a.tsv" else b""))
        for _ in range(size >> 16):
            file.write(b"abcdefgh" * (1 << 13))
        file.write({"a.json": b'"}]', "quoted.csv": b'"\n', "a.txt": b""}.get(name, b'"}\n' + b'{"text": "after"}\n' * (name == "a.jsonl")))
    tracemalloc.start()
    items = list(read_input(find([str(path)])[0], limit=limit))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    if name == "a.txt":
        assert [len(text) for text in texts(items)] == [limit] * 30
        items = []  # which the test held
    else:
        assert texts(items) == ["fine", "after"] if name == "a.jsonl" else ["fine"]
        (long,) = [item for item in items if isinstance(item, Rejected)]
        assert (long.reason, long.line) == ("too long", 2 if "json" in name else 3)
        assert size <= long.bytes <= size + 20
        assert peak < 8 * limit


def test_utf_16_and_32_with_their_marks(tmp_path):
    for encoding in ("utf-8-sig", "utf-16", "utf-32"):
        assert texts(read(tmp_path / "a.txt", "größe 😀\r\nx".encode(encoding))) == ["größe 😀\nx"]
        assert texts(read(tmp_path / "a.jsonl", '{"text": "größe 😀"}\r\n'.encode(encoding))) == ["größe 😀"]
        assert texts(read(tmp_path / "a.csv", "text,n\r\ngröße,1\r\n".encode(encoding))) == ["größe"]
    (half,) = read(tmp_path / "b.txt", b"\xff\xfea\0\x00\xd8b\0c")
    assert half == Document("a\ufffdb\ufffd", str(tmp_path / "b.txt"), replaced=2)


def test_a_kind_that_nobody_reads_says_what_to_do(tmp_path):
    (item,) = read(tmp_path / "a.rtf", b"{\\rtf1 text}")
    assert item == Rejected("no reader", str(tmp_path / "a.rtf"), None, "save it as .docx", 12)
