"""What is told of a corpus is what was put in, number by number, whoever reads it: on the page, in the terminal, as JSON, in a card."""

import gzip
import json
import mailbox
import random
import re
import tempfile
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge.data import pieces
from fledge.data.corpus import Corpus, content_hash
from fledge.data.documents import Document, Rejected
from fledge.data.preparation import Recipe, prepare
from fledge.data.profile import MOST, Profile
from fledge.data.sources import read
from fledge.data.unique.near import Near
from fledge.text import Tokenizer
from fledge.verbs.corpora import Described, data_card, describe, page_of, shortened, told
from fledge.verbs.terminal import memory
from tests.data.reading.making import pdf

WORDS = ("sun", "rain", "wind", "cloud", "river", "stone", "grass", "tree", "bird", "fish", "wolf", "moon", "star", "snow", "leaf", "sand")
EVIL = "<script>alert('1')</script><img src=x onerror=y> | `code` *bold* [link](https://evil.example) </td>\x1b[31m"

items = st.one_of(
    st.builds(
        Document, st.text("ab \n\u00e9\u65e5", min_size=1, max_size=60).map(lambda text: text + "."), st.sampled_from(["a", "b"]),
        group=st.sampled_from(["", "g"]), language=st.sampled_from(["", "en", "de"]),
    ),
    st.builds(Rejected, st.sampled_from(["binary", "empty file"]), st.just("c"), bytes=st.integers(0, 5000)),
)  # fmt: skip


def prose(seed: int, words: int = 60) -> str:
    """Sentences that no other seed has."""
    dice = random.Random(seed)
    return " ".join(f"{dice.choice(WORDS)}{dice.randrange(50)}" for _ in range(words)) + "."


class Tables(HTMLParser):
    """The tables of a page by their captions: rows of cells as text."""

    def __init__(self, html: str):
        super().__init__()
        self.found: dict[str, list[list[str]]] = {}
        self.tags: list[str] = []
        self.caption, self.row, self.into = "", list[str](), ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "caption":
            self.caption, self.into = "", tag
        elif tag == "tr":
            self.row = []
        elif tag in ("th", "td"):
            self.row.append("")
            self.into = tag

    def handle_endtag(self, tag):
        if tag in ("caption", "th", "td"):
            self.into = ""
        elif tag == "tr":
            self.found.setdefault(self.caption, []).append(self.row)

    def handle_data(self, data):
        if self.into == "caption":
            self.caption += data
        elif self.into:
            self.row[-1] += data

    def numbers(self, caption: str) -> dict[str, list[float | None]]:
        """The numbers of each row by its first cell."""
        return {name: [number(cell) for cell in cells] for name, *cells in self.found[caption][1:]}


def number(cell: str) -> float | None:
    return None if cell == "–" else float(cell.replace(",", "").replace("−", "-")) if re.fullmatch(r"−?[\d,.]+", cell) else None


@pytest.fixture(scope="module")
def messy(tmp_path_factory) -> Path:
    """A folder with one of everything that is left out, beside an evaluation that one document holds."""
    pytest.importorskip("pypdf")
    folder = tmp_path_factory.mktemp("messy")
    notes = folder / "notes"
    notes.mkdir()
    for seed in range(30):
        (notes / f"{seed:02}.txt").write_text(prose(seed))
    (notes / "again.txt").write_text("\n" + prose(3) + "\n")
    (notes / "and-again.md").write_text(prose(3))
    (notes / "nearly.txt").write_text(prose(4).replace("sun", "son"))
    (notes / "leak.txt").write_text(f"{prose(100, 20)} {prose(200, 15)} {prose(101, 20)}")
    (notes / "empty.txt").touch()
    (notes / "picture.png").write_bytes(b"\x89PNG\0\0\0\0\0")
    (notes / "broken.txt.gz").write_bytes(gzip.compress(prose(5).encode())[:40])
    (notes / "rows.jsonl").write_text(json.dumps({"text": prose(6, 10)}) + '\n{"text": \n{"text": ""}\n')
    (notes / "page.pdf").write_bytes(pdf([prose(300)]))
    letters = mailbox.mbox(notes / "letters.mbox")
    for seed in (400, 401):
        letters.add(f"From: a@example.org\nSubject: letter {seed}\n\n{prose(seed)}\n".encode())
    letters.close()
    (folder / "test.jsonl").write_text(json.dumps({"question": prose(200, 15)}) + "\n")
    return folder


def test_every_number_of_the_page_is_what_was_put_in(messy, tmp_path, command):
    said = [
        command(
            "prepare", f"notes={messy / 'notes'}", "--out", tmp_path / name / "corpus", "--tokenizer", "bytes",
            "--near-duplicates", "remove", "--without", messy / "test.jsonl", "--workers", workers, "--json",
        )
        for name, workers in (("one", 1), ("two", 2))
    ]  # fmt: skip
    assert [one.code for one in said] == [0, 0], said[0].err
    one, two = (tmp_path / name / "corpus" for name in ("one", "two"))
    assert {path.name: path.read_bytes() for path in one.iterdir()} == {path.name: path.read_bytes() for path in two.iterdir()}
    notes = messy / "notes"
    size = {path.name: path.stat().st_size for path in notes.iterdir()}
    tables = Tables((one / "corpus.html").read_text(encoding="utf-8"))
    others = [item.text for item in read([str(notes / "page.pdf"), str(notes / "letters.mbox")]) if isinstance(item, Document)]
    assert len(others) == 3
    left_out = {
        "duplicate": [-2, -size["again.txt"] - size["and-again.md"]],
        "near duplicate": [-1, -size["nearly.txt"]],
        "contaminated": [-1, -size["leak.txt"]],
        "damaged": [-1, -40],
        "empty text": [-1, -len('{"text": ""}\n')],
        "broken row": [-1, -len('{"text": \n')],
        "binary": [-1, -9],
        "empty file": [-1, 0],
    }
    texts = [prose(seed) for seed in range(30)] + [prose(6, 10), *others]
    kept = [len(texts), sum(len(text.encode()) for text in texts)]
    came = [kept[0] - sum(row[0] for row in left_out.values()), kept[1] - sum(row[1] for row in left_out.values())]
    assert tables.numbers("The sum") == {"came in": came, **left_out, "kept": kept}
    tokens = kept[1] + kept[0]
    for caption, name in (("By group", "notes"), ("By source", shortened(str(notes), 44))):
        assert tables.numbers(caption) == {name: [came[0], kept[0], came[0] - kept[0], came[1], kept[1], tokens]}
    lengths = tables.numbers("By bytes, as they came in").values()
    assert [sum(column) for column in zip(*lengths, strict=True)] == [came[0], kept[0], came[0] - kept[0], came[1], kept[1]]
    assert sum(row[1] or 0 for row in tables.numbers("By tokens, as they are kept: what a context holds").values()) == tokens
    split = list(tables.numbers("The split").values())
    assert [sum(column) for column in zip(*split, strict=True)] == [*kept, tokens]
    words = sum(len(text.split()) for text in texts)
    assert tables.numbers("All of the text")["bytes"] == [256, kept[1], 1, round(kept[1] / words, 3), 1]
    assert tables.numbers("Exact duplicates: groups by size") == {"3 to 4": [1, 3, 2]}
    assert tables.numbers("Near duplicates: groups by size") == {"2": [1, 2, 1]}
    assert tables.numbers("By evaluation file") == {shortened(str(messy / "test.jsonl"), 44): [1]}
    log = (one / "rejected.log").read_text().splitlines()
    assert len(log) == came[0] - kept[0]
    assert all(line.startswith(str(notes)) for line in log)


def test_the_terminal_and_json_tell_the_same(messy, tmp_path, command):
    out = tmp_path / "c"
    assert command("prepare", messy / "notes", "--out", out, "--tokenizer", "bytes", "--licence", "mine").code == 0
    found = Described.of(Corpus.open(out))
    said, shown = command("show", out, "--json").json, command("show", out).out
    assert said == {"kind": "corpus", "name": str(out), **json.loads(json.dumps(found.to_json()))}
    assert sum(tally["documents"] for tally in said["profile"]["tallies"]) == said["items"]
    tables = Tables(page_of(found).html())
    for caption, (_, *rows) in tables.found.items():
        assert caption in shown
        for row in rows:
            assert re.search(r"\s+".join(re.escape(cell.split("/")[-1]) for cell in row[1:] if len(cell) < 30), shown), (caption, row)
    assert "Licence of the text: mine" in data_card(found.corpus)


def test_a_page_that_is_missing_is_written_again(messy, tmp_path, command):
    out = tmp_path / "c"
    first = command("prepare", messy / "notes", "--out", out, "--tokenizer", "bytes")
    page = (out / "corpus.html").read_bytes()
    (out / "corpus.html").unlink()
    again = command("prepare", messy / "notes", "--out", out, "--tokenizer", "bytes")
    assert (first.code, again.code) == (0, 0)
    assert (out / "corpus.html").read_bytes() == page


def test_other_tokenizers_are_compared_on_the_same_text(data, messy, tmp_path, command):
    gpt2, out = data / "tokenizers" / "gpt2", tmp_path / "c"
    assert command("prepare", messy / "notes", "--out", out, "--vocab", 512).code == 0
    assert command("prepare", messy / "notes", "--out", out, "--vocab", 512, "--compare", gpt2).code == 0
    corpus = Corpus.open(out)
    documents = [corpus.train.document(n)[0].tolist() for n in range(corpus.train.documents)]
    texts = [corpus.tokenizer.decode(tokens) for tokens in documents]
    rows = Tables((out / "corpus.html").read_text(encoding="utf-8")).found[
        f"Beside other tokenizers, on {memory(corpus.train.bytes)} of the text to train on"
    ]
    counts = [sum(map(len, documents)), sum(map(len, Tokenizer.load(gpt2).encode_batch(texts))), sum(map(len, texts)), corpus.train.bytes]
    assert [number(row[2]) for row in rows[1:]] == counts
    assert rows[2][0] == "gpt2"
    assert (
        "characters stand in the report anyway"
        in command("prepare", messy / "notes", "--out", out, "--vocab", 512, "--compare", "characters").err
    )


@settings(max_examples=8, deadline=None)
@given(st.lists(items, min_size=4, max_size=40), st.integers(20, 2000))
def test_sums_are_exact(found, limit):
    """Over documents with duplicates among them, and rejections: against plain loops."""
    plain = (("", "one two three"), ("", "four five six"), ("g", "seven eight nine"), ("g", "ten eleven twelve"))
    found = [*(Document(text, text, group=group) for group, text in plain), *found]
    with tempfile.TemporaryDirectory() as place:
        corpus = prepare(
            found, Path(place) / "c", Recipe(Tokenizer.bytes(), near=Near(), near_duplicates="keep"), piece_bytes=limit, workers=1
        )
        profile = Profile.of(corpus)
        log = (corpus.folder / "rejected.log").read_text().splitlines()
    first, wanted, came, kept = set[bytes](), Counter[tuple[str, str]](), Counter[int](), list[tuple[int, Document]]()
    for at, item in enumerate(found):
        reason, size = (item.reason, item.bytes) if isinstance(item, Rejected) else ("", len(item.text.encode()))
        if isinstance(item, Document):
            reason = "duplicate" if content_hash(item.text) in first else ""
            first.add(content_hash(item.text))
            kept += [(at, item)] if not reason else []
        wanted["documents", reason] += 1
        wanted["bytes", reason] += size
        came[size.bit_length()] += 1
    assert len(log) == len(found) - len(kept)
    sums = {tally.reason: tally for tally in profile.sums("reason")}
    assert {reason: tally.documents for reason, tally in sums.items()} == {r: n for (kind, r), n in wanted.items() if kind == "documents"}
    assert {reason: tally.bytes_in for reason, tally in sums.items()} == {r: n for (kind, r), n in wanted.items() if kind == "bytes"}
    assert {length.least.bit_length(): length.documents_in for length in profile.lengths} == came
    texts = [item.text for _, item in kept]
    assert sums[""].bytes == sum(len(text.encode()) for text in texts) == sum(length.bytes for length in profile.lengths)
    assert sums[""].characters == sum(map(len, texts))
    assert sums[""].words == sum(len(text.encode().split()) for text in texts)
    tokens = corpus.summary.train_tokens + corpus.summary.validation_tokens
    assert sums[""].tokens == tokens == sum(size.tokens for size in profile.tokens)
    by_language = Counter(item.language for _, item in kept)
    languages = {tally.language: tally.documents for tally in profile.sums("language", "reason") if not tally.reason}
    assert languages == by_language
    longest = sorted(kept, key=lambda one: (-len(one[1].text.encode()), one[0]))[:MOST]
    assert [seen.bytes for seen in profile.longest] == [len(item.text.encode()) for _, item in longest]
    assert corpus.summary.items == len(found)


@given(st.text("ab \t\n\v\f\r\x85\xa0é", max_size=300), st.integers(0, 40), st.integers(1, 9))
def test_words_are_counted_as_splitting_counts_them(text, few, block):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pieces, "FEW", few)
        patched.setattr(pieces, "BLOCK", block)
        assert pieces.word_count(text.encode()) == len(text.encode().split())


def test_the_strangest_are_those_that_the_tokenizer_was_not_made_for(tmp_path):
    plain = [Document("the sun and the moon " * 40 + str(n), f"plain{n}") for n in range(40)]
    odd = Document("".join(chr(0x4E00 + 7 * n) for n in range(200)), "odd")
    profile = Profile.of(prepare([*plain, odd], tmp_path / "c", Recipe(512)))
    assert (profile.dense[0].place, profile.dense[0].bytes) == ("odd", 600)
    assert profile.sparse[0].place.startswith("plain")


def test_the_card_of_a_model_tells_of_its_corpus_and_of_its_parents(base, classifier):
    card = (base / "README.md").read_text(encoding="utf-8")
    corpus = Corpus.open(base / "run" / "corpus")
    assert data_card(corpus) in card
    assert corpus.contents["train"] in card
    assert "Licence of the text: unknown" in card
    assert card.count("## Data\n") == card.count("## Scores\n") == 1
    child = (classifier / "README.md").read_text(encoding="utf-8")
    assert child.count("## Data\n") == child.count("## Data of base\n") == 1
    assert corpus.contents["train"] in child
    assert child.index("## Data\n") < child.index("## Data of base\n") < child.index("## Training\n")


def test_hostile_text_stays_text(tmp_path):
    documents = [Document(f"{EVIL} {prose(n)}", f"{EVIL}{n}", group=EVIL, language=EVIL) for n in range(9)]
    twice = Document(documents[0].text + " ", EVIL, group=EVIL)
    corpus = prepare([*documents, twice, Rejected(EVIL, EVIL, 3, EVIL, 5)], tmp_path / "c", Recipe(Tokenizer.bytes(), licence=EVIL))
    describe(corpus)
    html = (corpus.folder / "corpus.html").read_text(encoding="utf-8")
    assert not {"script", "img"} & set(Tables(html).tags)
    assert html.count("&lt;script&gt;") > 20
    card = data_card(corpus)
    assert "<script>" not in card
    assert "[link]" not in card
    assert "\x1b" not in card + told(Described.of(corpus))
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in card.splitlines() if line.startswith("|")} <= {3, 4, 7, 8}
