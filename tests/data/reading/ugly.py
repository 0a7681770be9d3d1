"""Files as nobody should write them, each made by kind and seed of text that is known, with what reading must give of it."""

import bz2
import gzip
import io
import json
import lzma
import os
import random
import socket
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fledge.data.documents import Document, Item, Rejected
from fledge.data.sources import find, read_input
from tests.data.reading.making import answer, epub, mail, pdf, record, tables, word
from tests.faults import Trial

WORDS = ["the", "cat", "sat", "größe", "日本語", "don't", "<|endoftext|>", "3.14", "😀", "e\u0301", "naïve", "\ufffd", "&amp;"]
LIMIT = 4096
Lost = tuple[str, int | None, int | None]  # reason, line, bytes (None: whatever)


@dataclass(frozen=True)
class Made:
    """What reading must give: texts and what is lost, both in their order; of `any` file whatever it likes, but something."""

    texts: Sequence[str] = ()
    lost: Sequence[Lost] = ()
    replaced: int = 0
    any: bool = False


Maker = Callable[[Path, random.Random], Made]


def phrase(dice: random.Random, least: int = 1, plain: bool = False) -> str:
    return " ".join(dice.choices(WORDS[:3] if plain else WORDS, k=dice.randint(least, 40)))


def rows_of(dice: random.Random, least: int = 1) -> list[dict]:
    return [{"id": number, "text": f"{phrase(dice)} {number}"} for number in range(dice.randint(least, 6))]


def lines_of(rows: Sequence[dict]) -> list[str]:
    return [json.dumps(row, ensure_ascii=row["id"] % 2 == 0) for row in rows]


def put(room: Path, name: str, data: bytes | str) -> int:
    (room / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return (room / name).stat().st_size


def invalid(room: Path, dice: random.Random) -> Made:
    raw = phrase(dice, 5).encode()
    for _ in range(dice.randint(1, 5)):
        at = dice.randrange(1, len(raw))
        raw = raw[:at] + bytes([dice.choice([0x80, 0xBF, 0xC3, 0xED, 0xFE, 0xFF])]) + raw[at:]
    put(room, "a.txt", raw)
    text = raw.decode("utf-8", "replace")
    return Made([text], replaced=text.count("\ufffd") - raw.count("\ufffd".encode()))


def surrogates(room: Path, dice: random.Random) -> Made:
    text = phrase(dice)
    put(room, "a.jsonl", json.dumps({"text": f"{text}\ud800 {text}\udc00"}) + '\n{"text": "\\ud83d\\ude00"}')
    return Made([f"{text}\ufffd {text}\ufffd", "😀"], replaced=2)


def nul(room: Path, dice: random.Random) -> Made:
    name = dice.choice(["a.txt", "a.py", "a", "a.jsonl", "a.csv", "a.json", "a.html"])
    return Made(lost=[("binary", None, put(room, name, f"{phrase(dice)}\0{phrase(dice)}"))])


def nul_escaped(room: Path, dice: random.Random) -> Made:
    text = f"{phrase(dice)}\0"
    put(room, "a.jsonl", json.dumps({"text": text}))
    return Made([text])


def marked(room: Path, dice: random.Random) -> Made:
    lines = [phrase(dice) for _ in range(dice.randint(1, 5))]
    encoding = dice.choice(["utf-8-sig", "utf-16", "utf-32"])
    put(room, "a.md", "\r\n".join(lines).encode(encoding))
    return Made(["\n".join(lines)])


def marked_table(room: Path, dice: random.Random) -> Made:
    rows = rows_of(dice)
    put(room, "a.jsonl", "\r\n".join(lines_of(rows)).encode(dice.choice(["utf-8-sig", "utf-16", "utf-32"])))
    return Made([row["text"] for row in rows])


def cut_wide(room: Path, dice: random.Random) -> Made:
    text = phrase(dice)
    put(room, "a.txt", text.encode("utf-16") + b"x")
    return Made([f"{text}\ufffd"], replaced=1)


def wide_unmarked(room: Path, dice: random.Random) -> Made:
    return Made(lost=[("binary", None, put(room, "a.txt", phrase(dice).encode("utf-16-le") + b"a\0"))])


def empty(room: Path, dice: random.Random) -> Made:
    name = dice.choice(
        ["a.txt", "a.jsonl", "a.pdf", "a.docx", "a.epub", "a.zip", "a.tar", "a.gz", "a.txt.xz", "a.parquet", "a.html", "a.warc"]
    )
    return Made(lost=[("empty file", None, put(room, name, b""))])


def blank(room: Path, dice: random.Random) -> Made:
    return Made(
        lost=[("empty file", None, put(room, dice.choice(["a.txt", "a.jsonl", "a.csv", "a.json"]), dice.choice(["\n", "\n \n", "  "])))]
    )


PACK: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


def cut_packed(room: Path, dice: random.Random) -> Made:
    kind = dice.choice([*PACK, "zst"])
    raw = phrase(dice, 20).encode()
    packed = __import__("zstandard").compress(raw) if kind == "zst" else PACK[kind](raw)
    return Made(lost=[("damaged", None, put(room, f"a.txt.{kind}", packed[: dice.randrange(1, len(packed))]))])


def false_packed(room: Path, dice: random.Random) -> Made:
    return Made(lost=[("damaged", None, put(room, f"a.txt.{dice.choice([*PACK, 'zst'])}", phrase(dice)))])


def padded_packed(room: Path, dice: random.Random) -> Made:
    kind, text = dice.choice(["gz", "xz"]), phrase(dice)
    put(room, f"a.txt.{kind}", PACK[kind](text.encode()) + bytes(4) + PACK[kind](text.encode()) + bytes(8))
    return Made([text + text])


def broken_lines(room: Path, dice: random.Random) -> Made:
    texts, lost, lines = list[str](), list[Lost](), list[str]()
    end = dice.choice(["\n", "\r\n"])
    for line in [
        *lines_of(rows_of(dice, 2)),
        '{"text": "' + phrase(dice),
        '{"text": ""}',
        "{}",
        '{"text": 7}',
        "[1]",
        "{'text': 'x'}",
        "nonsense",
    ]:
        lines.append(line)
    dice.shuffle(lines)
    lines.insert(0, '{"text": "first"}')
    for number, line in enumerate(lines, 1):
        size = len((line + end).encode())
        try:
            row = json.loads(line)
        except ValueError:
            lost.append(("broken row", number, size))
            continue
        match row:
            case {"text": str(text)} if text:
                texts.append(text)
            case {"text": int()}:
                lost.append(("no text", number, size))
            case dict():
                lost.append(("empty text", number, size))
            case _:
                lost.append(("broken row", number, size))
    put(room, "a.jsonl", end.join([*lines, ""]))
    return Made(texts, lost)


def unended(room: Path, dice: random.Random) -> Made:
    rows = rows_of(dice)
    put(room, "a.jsonl", "\n\n".join(lines_of(rows)))
    return Made([row["text"] for row in rows])


def broken_list(room: Path, dice: random.Random) -> Made:
    rows = rows_of(dice)
    good, tail = ",\n".join(lines_of(rows)), '{"text": ' + dice.choice(['"' + phrase(dice), "}]", "nothing"]) + "\n"
    put(room, "a.json", f"[{good},\n{tail}")
    return Made(
        [row["text"] for row in rows],
        [("broken row", len(rows) + 1, len(tail.encode()))],
    )


def broken_cells(room: Path, dice: random.Random) -> Made:
    rows, end = rows_of(dice), dice.choice(["\n", "\r\n"])
    lines = ["text,n", *(f'"{row["text"]}",{row["id"]}' for row in rows), "one,two,three", '"never closed,1', "lost,2"]
    put(room, "a.csv", end.join([*lines, ""]))
    size = [len((line + end).encode()) for line in lines]
    return Made(
        [row["text"] for row in rows], [("broken row", len(rows) + 2, size[-3]), ("broken row", len(rows) + 3, size[-2] + size[-1])]
    )


def tabs(room: Path, dice: random.Random) -> Made:
    rows = rows_of(dice, 2)
    put(room, "a.tsv", "text\tid\n" + "".join(f'"{row["text"]}\t{row["id"]}\n' for row in rows) + "alone\n")
    return Made([f'"{row["text"]}' for row in rows], [("broken row", len(rows) + 2, 6)])


def folder_like_a_file(room: Path, dice: random.Random) -> Made:
    folder = room / f"a.{dice.choice(['txt', 'jsonl', 'pdf', 'zip', 'txt.gz'])}"
    folder.mkdir()
    text = phrase(dice)
    put(folder, "b.txt", text)
    return Made([text])


def circle(room: Path, dice: random.Random) -> Made:
    deep = room / "in" / "deep"
    deep.mkdir(parents=True)
    text = phrase(dice)
    put(deep, "b.txt", text)
    (deep / "c").symlink_to(dice.choice([room, room / "in", deep]))
    (room / "on").symlink_to(room / "in")
    return Made([text], [("circular link", None, 0)])


def broken_link(room: Path, dice: random.Random) -> Made:
    (room / "a.txt").symlink_to(dice.choice(["a.txt", "nowhere.txt"]))
    return Made(lost=[("broken link", None, 0)])


def no_file(room: Path, dice: random.Random) -> Made:
    if dice.random() < 0.5:
        os.mkfifo(room / "a.txt")
    else:
        (room / "a.txt").symlink_to("/dev/zero")
    return Made(lost=[("no file", None, 0)])


def port(room: Path, dice: random.Random) -> Made:
    here = os.open(room, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(f"/proc/self/fd/{here}/a.txt")  # whose own path may be too long for one
    os.close(here)
    return Made(lost=[("no file", None, 0)])


def locked(room: Path, dice: random.Random) -> Made:
    text = phrase(dice)
    size = put(room, "a.txt", text)
    (room / "a.txt").chmod(0)
    return Made([text]) if os.access(room / "a.txt", os.R_OK) else Made(lost=[("unreadable", None, size)])


def strange_name(room: Path, dice: random.Random) -> Made:
    text = phrase(dice)
    name = dice.choice(
        [b"caf\xe9.txt", b"new\nline.txt", b"quo'te\".txt", b"a=b.txt", b"[a]*.txt", b"\xff\xfe", b"-x.md", "日本.txt".encode(), b"a.txt."]
    )
    put(room, os.fsdecode(name), text)
    return Made([text])


def cut_pdf(room: Path, dice: random.Random) -> Made:
    data = pdf([phrase(dice, plain=True) for _ in range(3)])
    put(room, "a.pdf", data[: dice.randrange(1, len(data))])
    return Made(any=True)


def broken_page(room: Path, dice: random.Random) -> Made:
    pages = [phrase(dice, plain=True) for _ in range(3)]
    at = dice.randrange(4)
    put(room, "a.pdf", pdf([*pages[:at], None, *pages[at:]]))
    return Made(["\n\n".join(pages)], [("damaged page", at + 1, 0)])


def cut_word(room: Path, dice: random.Random) -> Made:
    data = word(phrase(dice), [phrase(dice)])
    return Made(lost=[("damaged", None, put(room, "a.docx", data[: dice.randrange(1, len(data) - 22)]))])


def zip_of(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in files.items():
            file.writestr(name, data)
    return out.getvalue()


def false_word(room: Path, dice: random.Random) -> Made:
    return Made(lost=[("damaged", None, put(room, f"a.{dice.choice(['docx', 'epub'])}", zip_of({"word/document.xml": b"<broken"})))])


def broken_book(room: Path, dice: random.Random) -> Made:
    text = phrase(dice, plain=True)
    put(room, "a.epub", epub({"a.xhtml": f"<p>{text}</p>", "gone.xhtml": "", "b.xhtml": f"<p>{text} b</p>"}))
    return Made([text, f"{text} b"], [("damaged", None, 0)])


def cut_columns(room: Path, dice: random.Random) -> Made:
    name, data = dice.choice(sorted((name, data) for name, data in tables(rows_of(dice)).items() if name != "stream.arrow"))
    return Made(lost=[("damaged", None, put(room, f"a.{name}", data[: dice.randrange(1, len(data))]))])


def cut_zip(room: Path, dice: random.Random) -> Made:
    data = zip_of({"a.txt": phrase(dice).encode()})
    return Made(lost=[("damaged", None, put(room, "a.zip", data[: dice.randrange(1, len(data) - 22)]))])


def broken_member(room: Path, dice: random.Random) -> Made:
    first, second = (phrase(dice, 20) for _ in range(2))
    data = bytearray(zip_of({"a.txt": first.encode(), "b.txt": second.encode()}))
    data[14] ^= 1 << dice.randrange(8)  # of the local header's checksum, which zipfile does not read
    central = data.index(b"PK\x01\x02") + 16
    data[central] ^= 1 << dice.randrange(8)
    put(room, "a.zip", bytes(data))
    return Made([second], [("damaged", None, len(first.encode()))])


def cut_tar(room: Path, dice: random.Random) -> Made:
    texts = [phrase(dice, 5) for _ in range(4)]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as file:
        for number, text in enumerate(texts):
            info = tarfile.TarInfo(f"{number}.txt")
            info.size = len(text.encode())
            file.addfile(info, io.BytesIO(text.encode()))
    at = dice.randrange(4)
    put(room, "a.tar", out.getvalue()[: at * 1024 + dice.randrange(1, 512)])  # in the header of one
    return Made(texts[:at], [("damaged", None, None)])


def nest(room: Path, dice: random.Random) -> Made:
    data = zip_of({"a.txt": b"deep"})
    for _ in range(dice.randint(4, 12)):
        data = zip_of({"in.zip": data})
    put(room, "a.zip", data)
    return Made(lost=[("nested too deep", None, None)])


def broken_mail(room: Path, dice: random.Random) -> Made:
    text = phrase(dice, plain=True)
    good, bad = bytes(mail("s", text)), b"Content-Type: multipart/mixed; boundary=x\nSubject: t\n\n--x\nContent-Type: image/png\n\n!!\n"
    lines, size = (b"From a@b Sat Jan  1 00:00:00 2026\n" + good + b"\n").count(b"\n") + 1, len(bad) + 1
    head = b"From a@b Sat Jan  1 00:00:00 2026\n"
    put(room, "a.mbox", head + good + b"\n" + head + bad + b"\n" + head + good)
    return Made([f"s\n\n{text}"] * 2, [("no text", lines, size)])


def broken_crawl(room: Path, dice: random.Random) -> Made:
    text = phrase(dice, plain=True)
    kinds = [
        (record("response", "http://a/", answer(f"<p>{text}".encode())), True),
        (record("response", "http://b/", answer(b"\xff" * 9, "image/png")), False),
        (record("conversion", "http://c/", text.encode(), "text/plain"), True),
        (record("response", "http://d/", answer(b"x", status="500 Oh")), False),
    ]
    dice.shuffle(kinds)
    put(room, "a.warc.gz", b"".join(gzip.compress(data) for data, _ in kinds))
    lost: list[Lost] = [("no text" if b"image" in data else "not found", None, None) for data, good in kinds if not good]
    return Made([text] * 2, lost)


def wrong_charset(room: Path, dice: random.Random) -> Made:
    text = phrase(dice, plain=True)
    put(room, "a.html", f"<meta charset={dice.choice(['utf-8', 'klingon', 'utf-16', ''])}><p>{text} ".encode() + b"caf\xe9 here")
    return Made([f"{text} caf\ufffd here"], replaced=1)


def long_row(room: Path, dice: random.Random) -> Made:
    rows = rows_of(dice)
    long = json.dumps({"text": "x" * dice.randint(LIMIT, 9 * LIMIT)}) + "\n"
    put(room, "a.jsonl", "".join(f"{line}\n" for line in lines_of(rows)) + long + '{"text": "after"}')
    return Made([*(row["text"] for row in rows), "after"], [("too long", len(rows) + 1, len(long))])


def long_text(room: Path, dice: random.Random) -> Made:
    paragraphs = [f"{phrase(dice)}\n\n" for _ in range(400)]
    texts, held = list[str](), ""
    for paragraph in paragraphs:
        if len((held + paragraph).encode()) > LIMIT:
            texts, held = [*texts, held], ""
        held += paragraph
    put(room, "a.txt", "".join(paragraphs))
    return Made([*texts, held])


ENDINGS = (
    "txt",
    "pdf",
    "docx",
    "epub",
    "eml",
    "mbox",
    "html",
    "jsonl",
    "json",
    "csv",
    "tsv",
    "parquet",
    "arrow",
    "warc",
    "wet",
    "zip",
    "tar",
    "gz",
    "zst",
)


def noise(room: Path, dice: random.Random) -> Made:
    put(room, f"a.{dice.choice(ENDINGS)}", dice.randbytes(dice.randint(1, 3000)))
    return Made(any=True)


def flipped(room: Path, dice: random.Random) -> Made:
    texts = [phrase(dice, plain=True) for _ in range(3)]
    rows = [{"id": number, "text": text} for number, text in enumerate(texts)]
    made = {
        "a.pdf": pdf(texts), "a.docx": word("h", texts), "a.epub": epub({f"{i}.xhtml": f"<p>{text}" for i, text in enumerate(texts)}),
        "a.eml": bytes(mail("s", texts[0], f"<p>{texts[1]}")), "a.html": f"<title>t</title><p>{texts[0]}".encode(),
        "a.warc": record("response", "http://a/", answer(texts[0].encode())), "a.zip": zip_of({"a.txt": texts[0].encode()}),
        "a.json": json.dumps(rows).encode(), "a.csv": b"text,n\na,1\n", **{f"a.{name}": data for name, data in tables(rows).items()},
    }  # fmt: skip
    name = dice.choice(sorted(made))
    data = bytearray(made[name])
    for _ in range(dice.randint(1, 4)):
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    put(room, name, bytes(data))
    return Made(any=True)


def untouched(room: Path, dice: random.Random) -> Made:
    text = phrase(dice)
    put(room, "a.txt", text)
    return Made([text])


MAKERS: dict[str, Maker] = {
    maker.__name__.replace("_", " "): maker
    for maker in (
        invalid, surrogates, nul, nul_escaped, marked, marked_table, cut_wide, wide_unmarked, empty, blank, cut_packed, false_packed,
        padded_packed, broken_lines, unended, broken_list, broken_cells, tabs, folder_like_a_file, circle, broken_link, no_file,
        port, locked, strange_name, cut_pdf, broken_page, cut_word, false_word, broken_book, cut_columns, cut_zip, broken_member,
        cut_tar, nest, broken_mail, broken_crawl, wrong_charset, long_row, long_text, noise, flipped,
    )
}  # fmt: skip


class Ugly(Trial):
    """A folder of one ugly file is read: every text is there, every loss is counted with its reason, line and bytes; twice alike."""

    KINDS = tuple(MAKERS)

    def complaint(self, kind: str, dice: random.Random, seed: int) -> str | None:
        self.room.mkdir()
        made = MAKERS.get(kind, untouched)(self.room, dice)
        found, again = (self.read() for _ in range(2))
        if found != again:
            return f"first {found}, then {again}"
        for item in found:
            for text in (item.source, item.text if isinstance(item, Document) else item.detail):
                text.encode()
        if made.any:
            return None if found else "nothing was said of it"
        texts = [item.text for item in found if isinstance(item, Document)]
        lost = [(item.reason, item.line, item.bytes) for item in found if isinstance(item, Rejected)]
        replaced = sum(item.replaced for item in found if isinstance(item, Document))
        known = [(reason, line, size if size is not None else real[2]) for (reason, line, size), real in zip(made.lost, lost, strict=False)]
        if (texts, lost, replaced) != (list(made.texts), known, made.replaced) or len(lost) != len(made.lost):
            return f"expected {made}, but found {found}"
        return None

    def read(self) -> list[Item]:
        return [item for source in find([str(self.room)]) for item in read_input(source, limit=LIMIT)]
