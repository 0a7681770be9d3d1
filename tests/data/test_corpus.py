"""A corpus holds every byte once, and is refused when anything in its folder changed."""

import json
import random
import shutil

import numpy as np
import pytest

from fledge.data.corpus import Corpus, Shards
from fledge.data.documents import Document, Rejected
from fledge.data.preparation import Recipe, prepare
from fledge.text.tokenizer import Tokenizer


def documents(count: int, seed: int = 0) -> list[Document]:
    dice = random.Random(seed)
    return [
        Document(f"text {i}: " + " ".join(dice.choices(["ä", "bee", "sea\n", "日本", "<|endoftext|>"], k=dice.randint(1, 40))), f"{i}.txt")
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Corpus:
    return prepare(
        [*documents(200), Rejected("binary", "a.png")],
        tmp_path_factory.mktemp("made") / "corpus",
        Recipe(Tokenizer.bytes()),
        piece_bytes=3000,
    )


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
    assert sum(row["documents"] for row in json.loads((made.folder / "corpus.json").read_text())["counts"] if not row["reason"]) == 200
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


def test_shards_of_nothing():
    empty = Shards([], [])
    assert (empty.tokens, empty.documents, empty.bytes) == (0, 0, 0)
