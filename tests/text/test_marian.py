"""Marian's tokenizer: the ids of `transformers` for sources and for targets, its texts, and a folder that it opens."""

import copy
import gzip
import json
import pickle
import random

import pytest

from fledge.text import Tokenizer
from tests.text.trials import MADE

pytest.importorskip("sentencepiece")
transformers = pytest.importorskip("transformers")
from tests.text.translators import FOREIGN, TAGS, write_marian  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
ODD = [
    "", " ", "中文 中 文x 文中 x中y", "</s> a<pad>", "<unk>", "<s>a", ">>fra<< Ein Hund", ">>fra<<Ein", ">>xyz<< Ein", " >>fra<< Ein", ">>",
    ">><<", "<<", "a >>fra<< b", ">>fra", "▁", "größer ﬁn  a\u3000b", "x" * 200,
]  # fmt: skip


@pytest.fixture(scope="module")
def sides(data):
    def lines(name: str) -> list[str]:
        return gzip.decompress((data / "translate" / f"multi30k-val.{name}.gz").read_bytes()).decode().splitlines()

    return lines("de"), lines("en")


@pytest.fixture(scope="module")
def folder(sides, tmp_path_factory):
    path = tmp_path_factory.mktemp("marian")
    vocabulary = write_marian(path, sides[0][:300], sides[1][:300], 700)
    unused = sorted(vocabulary)[40:50]  # as of a vocabulary that was counted in other texts
    kept = [piece for piece in vocabulary if piece not in unused]
    (path / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(kept)}))
    (path / "tokenizer_config.json").write_text('{"source_lang": "de", "target_lang": "en", "model_max_length": 512}')
    return path


@pytest.fixture(scope="module")
def texts(sides):
    dice = random.Random(0)
    made = [draw(dice) for draw in MADE.values() for _ in range(20)]
    whole = [text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for text in made]
    return [*ODD, *whole, *(line for side in sides for line in side[-100:])]


def ids(theirs, texts, target=False):
    """Theirs, without the tokens that they make of a text that spells a control token."""
    return [theirs(**{"text_target" if target else "text": text}, split_special_tokens=True).input_ids for text in texts]


def test_sources_and_targets_have_the_ids_of_transformers(folder, texts):
    ours, theirs = Tokenizer.load(folder), transformers.MarianTokenizer.from_pretrained(folder)
    for target, reader in ((False, ours), (True, ours.target)):
        expected = ids(theirs, texts, target)
        assert [reader.framed(tokens) for tokens in reader.encode_batch(texts)] == expected
        assert [reader.framed(reader.encode(text)) for text in texts[:40]] == expected[:40]
    assert ours.target.target.encode_batch(texts) == ours.encode_batch(texts) != ours.target.encode_batch(texts)
    assert (ours.opening, ours.closing, ours.end_of_text, ours.size) == ([], [0], 0, theirs.vocab_size)
    assert (ours.pad, ours.controls["<unk>"]) == (theirs.pad_token_id, theirs.unk_token_id)


def test_what_is_in_the_vocabulary_alone(folder):
    ours, vocabulary = Tokenizer.load(folder), json.loads((folder / "vocab.json").read_text())
    assert ours.encode(">>fra<< Ein Hund") == [vocabulary[TAGS[1]], *ours.encode("Ein Hund")]
    assert set(map(vocabulary.get, FOREIGN[:3])) <= set(ours.encode("中 文 中文"))
    assert not {vocabulary[name] for name in ("</s>", "<pad>", "<s>")}.intersection(ours.encode("</s> <pad> <s> 中</s>文"))


def test_texts_are_written_as_by_transformers(folder, sides):
    ours, theirs = Tokenizer.load(folder), transformers.MarianTokenizer.from_pretrained(folder)
    dice = random.Random(0)
    drawn = [dice.choices(range(ours.size), k=12) for _ in range(200)] + ours.target.encode_batch(sides[1][:50])
    for tokens in drawn:  # a blank at the end may be followed by a word in a stream, and is kept
        assert ours.decode(tokens).rstrip(" ") == ours.target.decode(tokens).rstrip(" ") == theirs.decode(tokens, skip_special_tokens=True)


def test_the_folder_that_is_written_opens_with_the_same_ids(folder, texts, tmp_path):
    ours = Tokenizer.load(folder)
    ours.save(tmp_path, context=128)
    assert {path.name for path in tmp_path.iterdir()} == {"source.spm", "target.spm", "vocab.json", "tokenizer_config.json"}
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (type(theirs).__name__, theirs.model_max_length, theirs.target_lang) == ("MarianTokenizer", 128, "en")
    copies = [Tokenizer.load(tmp_path), pickle.loads(pickle.dumps(ours)), copy.deepcopy(ours)]
    for again in copies:
        assert again.fingerprint() == ours.fingerprint() != ours.target.fingerprint()
        for target, reader in ((False, again), (True, again.target)):
            assert [reader.framed(tokens) for tokens in reader.encode_batch(texts[:40])] == ids(theirs, texts[:40], target)


def test_the_folder_that_transformers_writes_is_read(folder, texts, tmp_path):
    transformers.MarianTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    assert Tokenizer.load(tmp_path).encode_batch(texts) == Tokenizer.load(folder).encode_batch(texts)


REFUSED = {
    "no <unk>": ("vocab.json", b'{"</s>": 0, "<pad>": 1}', r"vocab\.json has no piece <unk>"),
    "two alike": ("vocab.json", b'{"</s>": 0, "<unk>": 1, "<pad>": 1}', r"number each piece, from 0 on, and no two alike"),
    "no number": ("vocab.json", b'{"</s>": "0"}', r"number each piece"),
    "a list": ("vocab.json", b"[]", r"vocab\.json holds a list, but a JSON object is needed"),
    "no JSON": ("vocab.json", b"{", r"vocab\.json is no JSON"),
    "no model": ("target.spm", b"\x0a\xff\x01", r"target\.spm: no model of SentencePiece"),
    "two vocabularies": ("tokenizer_config.json", b'{"separate_vocabs": true}', r"separate_vocabs is true, but a model of fledge has one"),
    "a token more": ("tokenizer_config.json", b'{"added_tokens_decoder": {"9999": {"content": "[x]"}}}', r"has no piece \[x\]"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_folder_that_says_otherwise_is_refused(case, folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    name, contents, sentence = REFUSED[case]
    (tmp_path / name).write_bytes(contents)
    with pytest.raises(ValueError, match=sentence):
        Tokenizer.load(tmp_path)


def test_pieces_that_are_merged_are_refused(tmp_path):
    write_marian(tmp_path, ["ab abc bc"], ["ab abc bc"], 20, model_type="bpe")
    with pytest.raises(ValueError, match=r"source\.spm merges its pieces \(BPE\)"):
        Tokenizer.load(tmp_path)
