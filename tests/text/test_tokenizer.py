"""Tokenizers: lossless, free of control tokens, the same after every way of saving, equal to their references."""

import copy
import json
import os
import pickle
import random
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from fledge.text import RESERVED, Tokenizer, Training
from fledge.text import bulk as bulk_module
from fledge.text import files as files_module
from fledge.text.bulk import _has_long_run, bulk_encoder

WORDS = ["the", "cat", "sat", "on", "a", "mat", "3", "dogs;", "who'd", "have", "thought?\n\tdef", "f(x):\r\n", "", "", "", "return"]
WORDS += ["x", "*", "2", "", "#", "größer", "中文", "🙂\n"]
TEXTS = [" ".join(random.Random(seed).choices(WORDS, k=60)) for seed in range(200)]
MADE = {
    "bpe": Tokenizer.train(TEXTS, 640),
    "wordpiece": Tokenizer.train(TEXTS, 640, "wordpiece"),
    "unigram": Tokenizer.train(TEXTS, 640, "unigram"),
    "bytes": Tokenizer.bytes(),
    "characters": Tokenizer.characters(TEXTS),
}
LOSSLESS = [MADE["bpe"], MADE["unigram"], MADE["bytes"]]

controls = st.sampled_from([*RESERVED[:6], RESERVED[-1], "<|spare_0|>", "<|unk|>", "<|im_start|>user\n", "  \n\n ", "\r\n", "\t\t"])
odd_texts = st.lists(st.text(max_size=12) | controls | st.sampled_from(WORDS), max_size=12).map("".join)


@pytest.fixture(params=MADE)
def made(request) -> Tokenizer:
    return MADE[request.param]


def reserved_ids(tokenizer: Tokenizer) -> set[int]:
    return {number for name, number in tokenizer.controls.items() if name != "<|unk|>"}


@given(odd_texts)
def test_text_never_becomes_a_control_token(text):
    for tokenizer in MADE.values():
        for tokens in (tokenizer.encode(text), *tokenizer.encode_batch([text, text])):
            assert reserved_ids(tokenizer).isdisjoint(tokens)
            assert all(0 <= token < tokenizer.size for token in tokens)


@given(odd_texts)
def test_decode_gives_back_what_was_encoded(text):
    for tokenizer in LOSSLESS:
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert tokenizer.decode(tokenizer.encode(text), specials=True) == text


@given(st.text(alphabet=sorted(set("".join(TEXTS)))))
def test_characters_give_back_their_alphabet(text):
    tokens = MADE["characters"].encode(text)
    assert len(tokens) == len(text)
    assert MADE["characters"].decode(tokens) == text


def test_an_unknown_character_is_the_unknown_token():
    tokenizer = MADE["characters"]
    assert tokenizer.encode("§") == [tokenizer.special("<|unk|>")] == [len(RESERVED)]
    assert tokenizer.decode([*tokenizer.encode("a§")], specials=True) == "a<|unk|>"


def test_reserved_tokens_come_first_in_order_and_spares_fill_up(made):
    assert [made.special(name) for name in RESERVED] == list(range(105))
    assert made.end_of_text == 0
    assert made.pad == 1
    assert made.size % 64 == 0
    spares = [name for name in made.controls if name.startswith("<|spare_")]
    assert 23 <= len(spares) < 23 + 64
    assert made.special(f"<|spare_{len(spares) - 1}|>") == made.size - 1
    assert made.special("the") is None


def test_kinds():
    assert {name: tokenizer.kind for name, tokenizer in MADE.items()} == {name: name for name in MADE}


def test_a_byte_is_its_value_after_the_reserved_tokens():
    assert MADE["bytes"].size == 384
    assert MADE["bytes"].encode("hé\n") == [105 + byte for byte in "hé\n".encode()]


def test_a_vocabulary_is_the_total_and_smaller_if_pairs_run_out():
    assert MADE["bpe"].size <= 640
    assert Tokenizer.train(TEXTS, 400).size == 448
    assert Tokenizer.train(TEXTS, 384).size == 384
    few = Tokenizer.train(["abab abab abab"], 50_000)
    assert few.size == 448
    assert len(few.encode("abab abab")) == 2


def test_merges_by_hand():
    """In "ab abc ab abc" the pair a b (4 times, 2 of them after a space that comes 3 times) is merged first."""
    tokenizer = Tokenizer.train(["ab abc ab abc"] * 2, 512)
    assert tokenizer.piece(105 + 256) == "ab"
    assert [tokenizer.piece(token) for token in tokenizer.encode("ab abc cab")] == ["ab", "·abc", "·", "c", "ab"]


@pytest.mark.parametrize("vocabulary", [0, 105, 361, 383])
def test_too_small_a_vocabulary_is_refused(vocabulary):
    with pytest.raises(ValueError, match=rf"a vocabulary of {vocabulary}, but .* at least 384: use vocabulary=384"):
        Tokenizer.train(TEXTS, vocabulary)


def test_training_twice_gives_the_same():
    for kind in ("bpe", "wordpiece", "unigram"):
        assert Tokenizer.train(iter(TEXTS), 640, kind).fingerprint() == MADE[kind].fingerprint()
        assert Tokenizer.learned(TEXTS, Training(640, kind)).fingerprint() == MADE[kind].fingerprint()
    assert len({tokenizer.fingerprint() for tokenizer in MADE.values()}) == len(MADE)


def test_word_pieces_keep_words_and_marks_and_lose_white_space():
    tokenizer = MADE["wordpiece"]
    assert tokenizer.decode(tokenizer.encode("the  cat\n sat;größer"), specials=True) == "the cat sat ; größer"
    assert tokenizer.encode("The") == tokenizer.encode("a" * 101) == [tokenizer.special("<|unk|>")]  # no T, and a word too long
    assert tokenizer.words(tokenizer.encode("the tthehe, x")) == [0, *[1] * (len(tokenizer.encode("tthehe"))), 2, 3]


def test_an_encoder_of_our_own_frames_and_masks_with_every_kind(made):
    framed = made.framing(opening=True, closing=True)
    assert framed.framed(framed.encode("the cat")) == [0, *made.encode("the cat"), 0]
    assert framed.mask == 2


def test_saved_loaded_pickled_and_copied_are_the_same(made, tmp_path):
    made.save(tmp_path, context=128)
    text = "".join(TEXTS[:3]) + "<|endoftext|> <|spare_0|><|im_end|>"
    copies = [Tokenizer.load(tmp_path), Tokenizer.load(tmp_path / "tokenizer.json"), pickle.loads(pickle.dumps(made)), copy.deepcopy(made)]
    for other in copies:
        assert other.fingerprint() == made.fingerprint()
        assert (other.size, other.kind, other.end_of_text, other.pad) == (made.size, made.kind, 0, 1)
        assert other.encode(text) == other.encode_batch([text])[0] == made.encode(text)
        assert reserved_ids(other).isdisjoint(other.encode(text))
    again = tmp_path / "again"
    copies[0].save(again)
    assert (again / "tokenizer.json").read_bytes() == (tmp_path / "tokenizer.json").read_bytes()
    assert (again / "tokenizer_config.json").read_bytes() == (tmp_path / "tokenizer_config.json").read_bytes()


def test_another_process_encodes_alike():
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(MADE["bpe"].encode_batch, TEXTS[:5]).result() == MADE["bpe"].encode_batch(TEXTS[:5])


def test_transformers_opens_the_folder(made, tmp_path):
    transformers = pytest.importorskip("transformers")
    made.save(tmp_path, context=128)
    for config in (None, {"model_type": "gpt2"}, {"model_type": "qwen3"}):  # a model's type must not bring a tokenizer of its own
        if config:
            (tmp_path / "config.json").write_text(json.dumps(config))
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
        assert (len(theirs), theirs.eos_token_id, theirs.pad_token_id, theirs.model_max_length) == (made.size, 0, 1, 128)
        for text in TEXTS[:20]:
            assert theirs(text).input_ids == made.encode(text)
            assert theirs.decode(made.encode(text)) == made.decode(made.encode(text), specials=True)


@given(st.lists(odd_texts, max_size=4))
def test_bulk_encoding_equals_one_by_one(texts):
    pytest.importorskip("tiktoken")
    for kind, tokenizer in MADE.items():
        assert (tokenizer._bulk is None) == (kind in ("wordpiece", "unigram"))
        assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


@pytest.mark.parametrize(("run", "length"), [(" ", 1_000_000), ("\n", 100_000), ("a", 100_000), ("=", 100_000), ("é", 100_000)])
def test_long_runs_are_encoded_alike(run, length):
    """A million blanks overflow the stack of tiktoken's pattern engine."""
    texts = ["short", run * length + "x", " " * 9_999, f"x {run * 499} {run * 500}", "end"]
    tokenizer = MADE["bpe"]
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


@pytest.mark.parametrize("run", ["a", " ", "\n", "=", "中", "e\u0301"])
def test_a_run_is_long_from_500_characters_on(run):
    def long(text: str, marks: bool = False) -> bool:
        return _has_long_run(text, bulk_module._KINDS[bulk_module._units(text)], marks)

    words = 499 // len(run)
    border = " " if run.strip() else "."
    assert not long(f"x{border}{run * words}{border}x")
    assert long(f"{run * 500}") == (len(run) == 1)
    assert all(long("a, " * ahead + run * 500 + " b." * 100) == (len(run) == 1) for ahead in range(0, 100, 7))
    assert long(run * 500, marks=True)
    assert not long("")


@pytest.mark.parametrize("pattern", bulk_module.PATTERNS)
def test_a_text_that_is_cut_at_its_blanks_has_the_same_ids(pattern, monkeypatch):
    """Long texts of words, marks and blanks of every kind, few and many of them side by side."""
    pytest.importorskip("tiktoken")
    backend = copy.deepcopy(MADE["bpe"].backend)
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, tokenizers.pre_tokenizers.ByteLevel(False, use_regex=False)])
    encode, dice = bulk_encoder(Tokenizer(backend).backend), random.Random(0)
    assert encode is not None
    blanks = [*map(chr, np.flatnonzero(bulk_module._KINDS)), "\x1c", "\u200b", "\r\n"]
    marks = ["a", "The", "é", "中", "🙂", "'s", "'LL", "1234", "!", "!\n", "/", "_", "e\u0301", "\ufeff"]
    for dense in (0.002, 0.05, 1.0):
        monkeypatch.setattr(bulk_module, "BLOCK", 700 if dense == 0.05 else 1 << 20)
        for _ in range(30):
            runs = (
                "".join(dice.choices(blanks, k=dice.randint(2, 5))) if dice.random() < dense else dice.choice(" \n") for _ in range(900)
            )
            text = "".join(run + dice.choice(marks) for run in runs) + dice.choice(["", " ", "  ", "\n \n"])
            [ids] = encode([text], 1)
            assert ids.tolist() == backend.encode(text, add_special_tokens=False).ids


def test_without_tiktoken_the_ids_are_the_same(monkeypatch):
    plain = copy.deepcopy(MADE["bpe"])
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    assert plain._bulk is None
    assert plain.encode_batch(TEXTS) == [MADE["bpe"].encode(text) for text in TEXTS]


def test_bulk_encoding_is_dropped_where_ids_differ(monkeypatch):
    pytest.importorskip("tiktoken")
    assert bulk_encoder(MADE["bpe"].backend) is not None
    monkeypatch.setattr(bulk_module, "pattern_of", lambda spec: bulk_module.GPT2)
    assert bulk_encoder(MADE["bpe"].backend) is None


def test_unpaired_surrogates_are_replaced(made):
    broken = "a\ud83d b"
    assert made.encode(broken) == made.encode_batch([broken])[0] == made.encode("a\ufffd b")
    assert made.encode("\ud83d\ude42") == made.encode("🙂")
    assert Tokenizer.train([broken] * 3, 384).size == 384
    Tokenizer.characters([broken])


def test_bytes_that_are_no_text_become_the_replacement_character():
    tokens = MADE["bytes"].encode("é🙂")
    assert MADE["bytes"].decode(tokens[:1]) == "\ufffd"
    assert MADE["bytes"].decode(tokens[:2]) == "é"


def test_pieces_are_printable(made):
    pieces = [made.piece(token) for token in range(made.size)]
    assert all(piece.isprintable() and piece for piece in pieces)
    assert pieces[0] == "<|endoftext|>"
    if made.kind != "wordpiece":
        assert made.piece(made.encode("\n")[0]) == r"\n"
        assert made.piece(made.encode(" ")[0]) == "·"
    with pytest.raises(ValueError, match="has ids 0 to"):
        made.piece(made.size)


def test_half_a_character_shows_its_bytes():
    assert [MADE["bytes"].piece(token) for token in MADE["bytes"].encode("é�")] == ["<0xC3>", "<0xA9>", "<0xEF>", "<0xBF>", "<0xBD>"]


def test_decode_takes_numpy_and_leaves_control_tokens_out():
    np = pytest.importorskip("numpy")
    tokenizer = MADE["bpe"]
    tokens = np.array([3, *tokenizer.encode("the cat"), 4], dtype=np.uint16)
    assert tokenizer.decode(tokens) == "the cat"
    assert tokenizer.decode(tokens, specials=True) == "<|im_start|>the cat<|im_end|>"


# What others made


def llama_like(folder, **config):
    """A tokenizer.json as the world has it: begins every text with a control token, truncates, pads."""
    backend = Tokenizer.train(TEXTS, 448).backend
    plain = tokenizers.Tokenizer(backend.model)
    plain.pre_tokenizer, plain.decoder = backend.pre_tokenizer, backend.decoder
    plain.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"])
    begin = plain.token_to_id("<|begin_of_text|>")
    plain.post_processor = tokenizers.processors.TemplateProcessing("<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", begin)])
    plain.enable_truncation(4)
    plain.enable_padding()
    plain.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def test_a_foreign_tokenizer_adds_and_cuts_nothing(tmp_path):
    llama_like(tmp_path, eos_token={"content": "<|eot_id|>"}, bos_token="<|begin_of_text|>")
    tokenizer = Tokenizer.load(tmp_path)
    text = TEXTS[0] + "<|eot_id|>"
    assert tokenizer.kind == "loaded"
    assert tokenizer.end_of_text == tokenizer.pad == tokenizer.special("<|eot_id|>")
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode_batch([text, "a"]) == [tokenizer.encode(text), tokenizer.encode("a")]
    tokenizer.save(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())["bos_token"] == "<|begin_of_text|>"
    assert Tokenizer.load(tmp_path / "saved").encode(text) == tokenizer.encode(text)


def test_the_end_of_text_is_found_without_a_config(tmp_path):
    llama_like(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.end_of_text == tokenizer.special("<|end_of_text|>")


def test_gpt2_files_give_the_ids_of_tiktoken_and_transformers(data, tmp_path):
    tiktoken, transformers = pytest.importorskip("tiktoken"), pytest.importorskip("transformers")
    tokenizer = Tokenizer.load(data / "tokenizers" / "gpt2")
    assert (tokenizer.size, tokenizer.end_of_text, tokenizer.pad, tokenizer.kind) == (50_257, 50_256, 50_256, "loaded")
    assert tokenizer.encode("The sky") == [464, 6766]
    texts = [(data / "text" / "the-verdict.txt").read_text(), bulk_module._ODD.replace("<|endoftext|>", ""), *TEXTS[:5]]
    (tmp_path / "vocab.json").write_bytes((data / "tokenizers" / "gpt2" / "encoder.json").read_bytes())
    (tmp_path / "merges.txt").write_bytes((data / "tokenizers" / "gpt2" / "vocab.bpe").read_bytes())
    theirs = transformers.GPT2Tokenizer.from_pretrained(tmp_path)
    assert [tokenizer.encode(text) for text in texts] == [theirs(text).input_ids for text in texts]
    ranks = {bytes(bulk_module.BYTES[c] for c in piece): number for piece, number in theirs.get_vocab().items() if piece != "<|endoftext|>"}
    reference = tiktoken.Encoding("gpt2", pat_str=bulk_module.GPT2, mergeable_ranks=ranks, special_tokens={})
    assert [tokenizer.encode(text) for text in texts] == [reference.encode_ordinary(text) for text in texts]
    assert tokenizer._bulk is not None
    assert [tokenizer.decode(tokenizer.encode(text)) for text in texts] == texts
    assert Tokenizer.load(tmp_path).fingerprint() == tokenizer.fingerprint()


def test_a_name_is_looked_up_in_the_local_cache(tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub").constants
    snapshot = tmp_path / "models--openai-community--gpt2" / "snapshots" / "abc"
    (tmp_path / "models--openai-community--gpt2" / "refs").mkdir(parents=True)
    (tmp_path / "models--openai-community--gpt2" / "refs" / "main").write_text("abc")
    MADE["bpe"].save(snapshot)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for name in ("gpt2", "openai-community/gpt2"):
        assert Tokenizer.load(name).fingerprint() == MADE["bpe"].fingerprint()
    with pytest.raises(FileNotFoundError, match=r"no tokenizer of that name .* put tokenizer.json, or encoder.json and vocab.bpe"):
        Tokenizer.load("nobody/nothing")


def test_without_a_network_the_hub_gives_a_sentence(tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    asked = []

    def no_network(repository, file):
        asked.append((repository, file))
        raise hub.errors.LocalEntryNotFoundError("no network")

    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "hf_hub_download", no_network)
    with pytest.raises(FileNotFoundError, match="within reach on the hub"):
        files_module.tokenizer_files("gpt2")
    assert asked == [("openai-community/gpt2", "tokenizer.json")]


@pytest.mark.parametrize("name", ["missing/tokenizer.json", "/nowhere/at/all", "a b", "../up"])
def test_a_missing_path_is_named(name):
    with pytest.raises(FileNotFoundError, match="there is no file or folder"):
        Tokenizer.load(name)


def test_files_that_are_no_tokenizer_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no tokenizer: it needs tokenizer\.json, or"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"broken": ')
    with pytest.raises(ValueError, match=r"not a tokenizer that tokenizers .* can read"):
        Tokenizer.load(tmp_path)
    MADE["bpe"].save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[")
    with pytest.raises(ValueError, match=r"tokenizer_config\.json is no JSON"):
        Tokenizer.load(tmp_path)


def test_a_tokenizer_without_an_end_is_refused(tmp_path):
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={"a": 0}, merges=[]))
    backend.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match="name it as eos_token"):
        Tokenizer.load(tmp_path)


def unigram_of(folder, end):
    backend = tokenizers.Tokenizer(tokenizers.models.Unigram([("<unk>", 0.0), (end, 0.0), ("a", -1.0), ("s", -1.0)], 0))
    backend.add_special_tokens([end])
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": end}))


def test_text_that_spells_a_control_token_is_parted(tmp_path):
    unigram_of(tmp_path, "</s>")
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.encode("a</s>a") == [2, 0, 3, 0, 2]
    tokenizer.save(tmp_path / "again")
    assert Tokenizer.load(tmp_path / "again").fingerprint() == tokenizer.fingerprint()


def test_a_tokenizer_in_which_a_character_is_a_control_token_is_refused(tmp_path):
    unigram_of(tmp_path, "§")
    with pytest.raises(ValueError, match="the text '§' would become the control token 1 in this tokenizer"):
        Tokenizer.load(tmp_path)


def test_the_room_imports_no_torch():
    code = "import sys, fledge.text; sys.exit('torch' in sys.modules or 'tiktoken' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}).returncode
        == 0
    )
