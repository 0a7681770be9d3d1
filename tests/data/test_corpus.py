"""A corpus holds every byte once, splits without leakage, and is refused when anything in its folder changed."""

import json
import random
import shutil
from typing import Any

import numpy as np
import pytest

from fledge.data.corpus import Corpus, Shards, prepare
from fledge.data.documents import Document, Rejected
from fledge.text.tokenizer import Tokenizer


def documents(count: int, seed: int = 0) -> list[Document]:
    dice = random.Random(seed)
    return [
        Document(f"text {i}: " + " ".join(dice.choices(["ä", "bee", "sea\n", "日本", "<|endoftext|>"], k=dice.randint(1, 40))), f"{i}.txt")
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Corpus:
    return prepare(documents(200), tmp_path_factory.mktemp("made") / "corpus", Tokenizer.bytes(), shard_tokens=3000)


def test_every_document_is_there_once(made):
    found = [
        (tokens.tolist(), size)
        for shards in (made.train, made.validation)
        for tokens, size in map(shards.document, range(shards.documents))
    ]
    texts = sorted(made.tokenizer.decode(tokens) for tokens, _ in found)
    assert texts == sorted(document.text for document in documents(200))
    assert all(len(made.tokenizer.decode(tokens).encode()) == size for tokens, size in found)
    assert made.summary.bytes == made.train.bytes + made.validation.bytes
    assert sum(json.loads((made.folder / "corpus.json").read_text())["sources"].values()) == 200
    assert made.train.tokens == made.summary.train_tokens == made.train.bytes + made.train.documents
    assert len(list(made.folder.glob("train-*.bin"))) > 2
    assert 5 < made.validation.documents < 40


def test_window_is_a_slice_of_the_ring(made):
    whole = np.concatenate([[*made.train.document(i)[0], made.tokenizer.end_of_text] for i in range(made.train.documents)])
    owner = np.concatenate([[i] * (len(made.train.document(i)[0]) + 1) for i in range(made.train.documents)])
    assert len(whole) == made.train.tokens
    dice = random.Random(1)
    for _ in range(200):
        start, length = dice.randint(-len(whole), 2 * len(whole)), dice.randint(0, len(whole))
        at = (start + np.arange(length)) % len(whole)
        assert np.array_equal(made.train.window(start, length), whole[at])
        assert np.array_equal(made.train.document_at(start, length), owner[at])
        assert np.array_equal(made.train.opens(start, length), whole[at - 1] == made.tokenizer.end_of_text)


def test_duplicates_and_rejections_add_up(tmp_path):
    items = [
        Document("a b", "1"),
        Document("a  b\n", "2"),
        Document("caf\u00e9", "3"),
        Document("cafe\u0301", "4"),
        Document("c", "5", 7, "body", 2),
    ]
    rejected = [Rejected("binary", "6"), Rejected("broken row", "7", 3, "why"), Rejected("binary", "8")]
    summary = prepare([*items, *rejected], tmp_path / "c", Tokenizer.bytes()).summary
    assert (summary.items, summary.documents, summary.duplicates, summary.rejected) == (8, 3, 2, {"binary": 2, "broken row": 1})
    assert summary.items == summary.documents + summary.duplicates + sum(summary.rejected.values())
    assert summary.rejections == ("6: binary", "7, line 3: broken row (why)", "8: binary")
    assert (summary.columns, summary.replaced) == ({"5": "body"}, 2)


def test_split_follows_from_content_alone(tmp_path):
    def held(name: str, texts: list[Document], seed: int = 0) -> set[str]:
        shards = prepare(texts, tmp_path / name, Tokenizer.bytes(), seed=seed).validation
        return {Tokenizer.bytes().decode(shards.document(i)[0].tolist()) for i in range(shards.documents)}

    texts = documents(100)
    first = held("a", texts)
    assert held("b", texts[::-1]) == first
    assert held("c", texts[:50]) == first & {document.text for document in texts[:50]}
    assert held("d", texts, seed=1) != first
    assert len(held("e", texts[:2])) == 1


def test_single_document_is_cut_at_a_line(tmp_path):
    for text, train in (("0123456\n" * 1000, 7200), ("x" * 1000, 900), ("x" * 890 + "\n" + "x" * 109, 891)):
        corpus = prepare([Document(text, "one")], tmp_path / str(train), Tokenizer.bytes())
        assert (corpus.train.bytes, corpus.validation.bytes, corpus.summary.documents) == (train, len(text) - train, 1)


def test_tokenizer_is_trained_on_the_train_part_only(tmp_path):
    items = [Document("abc abc " * 50, "train"), Document("xyz " * 500, "held")]
    corpus = prepare(items, tmp_path / "c", "characters", validation=lambda document: document.source == "held")
    assert corpus.tokenizer.decode(corpus.train.document(0)[0].tolist()) == "abc abc " * 50
    assert "x" not in corpus.tokenizer.decode(corpus.validation.document(0)[0].tolist())
    assert prepare(items, tmp_path / "d", 512).tokenizer.kind == "bpe"


def test_standing_corpus_is_returned_or_refused(tmp_path):
    out = tmp_path / "c"
    first = prepare(documents(20), out, 512)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert not first.reused
    assert prepare(documents(20), out, 512).reused
    for changed, said in (
        (lambda: prepare(documents(20), out, 640), "vocabulary: 512 -> 640"),
        (lambda: prepare(documents(21), out, 512), "documents: 20 -> 21"),
        (lambda: prepare(documents(20), out, 512, seed=3), "seed: 0 -> 3"),
        (lambda: prepare(documents(20), out, Tokenizer.bytes()), "tokenizer: "),
    ):
        with pytest.raises(ValueError, match=said):
            changed()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("dear")
    for replace_other in (False, True):
        with pytest.raises(ValueError, match="exists and is no corpus"):
            prepare(documents(20), tmp_path / "other", replace_other=replace_other)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "other"]


def test_another_corpus_is_replaced_if_asked(tmp_path):
    prepare(documents(30), tmp_path / "c", 512)
    assert prepare(documents(30), tmp_path / "c", 512, replace_other=True).reused
    for damaged in (False, True):
        if damaged:
            (tmp_path / "c" / "train-00000.bin").write_bytes(b"")
        replaced = prepare(documents(20 + damaged), tmp_path / "c", Tokenizer.bytes(), replace_other=True)
        clean = prepare(documents(20 + damaged), tmp_path / f"clean{damaged}", Tokenizer.bytes())
        assert not replaced.reused
        assert {path.name: path.read_bytes() for path in replaced.folder.iterdir()} == {
            path.name: path.read_bytes() for path in clean.folder.iterdir()
        }


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(Tokenizer, "save", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        prepare(documents(20), tmp_path / "c", 512)
    assert list(tmp_path.iterdir()) == []


def test_bad_arguments_are_refused(tmp_path):
    cases: list[tuple[list, dict[str, Any], str]] = [
        ([], {}, "no text to prepare"),
        ([Rejected("binary", "a.png")], {}, "a.png: binary"),
        (documents(3), {"validation": 1.5}, "between 0 and 1"),
        (documents(3), {"validation": lambda _: False}, "0 are held out"),
        ([Document("x", "a")], {}, "too short"),
    ]
    for items, settings, said in cases:
        with pytest.raises(ValueError, match=said):
            prepare(items, tmp_path / "c", **settings)
    assert not (tmp_path / "c").exists()


def test_every_changed_file_is_refused(made, tmp_path):
    names = sorted(path.name for path in made.folder.iterdir())
    dice = random.Random(2)
    for number in range(40):
        copy = tmp_path / f"copy{number}"
        shutil.copytree(made.folder, copy)
        name = names[number % len(names)]
        path = copy / name
        data = bytearray(path.read_bytes())
        kind = ("flip", "cut", "grow", "gone")[number // len(names) % 4]
        if kind == "flip":
            data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
            path.write_bytes(data)
        elif kind == "cut":
            path.write_bytes(data[: dice.randrange(len(data))])
        elif kind == "grow":
            path.write_bytes(bytes(data) + b"}")
        else:
            path.unlink()
        with pytest.raises(ValueError, match=r"damaged|missing|manifest") as refusal:
            Corpus.open(copy)
        assert name in str(refusal.value) or name == "manifest.json"
        shutil.rmtree(copy)
    assert Corpus.open(made.folder).train.tokens == made.train.tokens


def test_manifest_must_name_what_is_used_and_stay_inside(made, tmp_path):
    shutil.copytree(made.folder, tmp_path / "c")
    path = tmp_path / "c" / "manifest.json"
    whole = json.loads(path.read_text())
    for name in ("train-00000.bin", "validation-00000.idx", "tokenizer.json", "corpus.json"):
        path.write_text(json.dumps({"files": {other: entry for other, entry in whole["files"].items() if other != name}}))
        with pytest.raises(ValueError, match=f"does not name {name}"):
            Corpus.open(tmp_path / "c")
    path.write_text(json.dumps({"files": {**whole["files"], "../secret": {"sha256": "0", "bytes": 1}}}))
    with pytest.raises(ValueError, match="outside its folder"):
        Corpus.open(tmp_path / "c")
    for folder, said in ((tmp_path / "none", "does not exist"), (tmp_path, "no manifest.json")):
        with pytest.raises(ValueError, match=said):
            Corpus.open(folder)


def test_progress_reaches_the_total(tmp_path):
    seen = []
    prepare(documents(50), tmp_path / "c", 512, progress=lambda *report: seen.append(report))
    assert [stage for stage, done, total in seen if done == total] == ["tokenizer", "tokenize", "tokenize"]


def test_large_vocabularies_take_four_bytes(tmp_path):
    tokenizer = Tokenizer.characters([chr(i) for i in range(0x4E00, 0x4E00 + 68_000) if not 0xD800 <= i < 0xE000])
    corpus = prepare([Document("一丁\U00015000", "a"), Document("七", "b")], tmp_path / "c", tokenizer)
    assert tokenizer.size > 65_536
    assert json.loads((corpus.folder / "corpus.json").read_text())["dtype"] == "<u4"
    every = [shards.document(i)[0].tolist() for shards in (corpus.train, corpus.validation) for i in range(shards.documents)]
    assert sorted(map(tokenizer.decode, every)) == ["一丁\U00015000", "七"]


def test_shards_of_nothing():
    empty = Shards([], [])
    assert (empty.tokens, empty.documents, empty.bytes) == (0, 0, 0)
