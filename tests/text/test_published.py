"""Tokenizers as others publish them: the ids of their makers' own code, and never a control token from a text."""

import json
import random
from contextlib import suppress

import pytest
import tokenizers

from fledge.text import Tokenizer
from fledge.text.sentencepiece import UNIGRAM, Charsmap, SentencePiece, guard
from tests.text.trials import tied

spm = pytest.importorskip("sentencepiece")

LETTERS = "etaoin shrdlu, cmfwyp vbgkjqxz. ETA 0123 größer naïve ﬁn 中文字 e\u0301o\u0308 \u1112\u1161\u11ab\n\t\u3000"
SPELLED = ["</s>", "<s>", "<unk>", "<pad>", "<0x41>", "<extra_id_0>", "▁", "  ", " ", "\u0301", "\x00", "🙂", "<tool>", "\n\n", "a"]


def words(seed: int, count: int = 4) -> list[str]:
    draw = random.Random(f"words {seed}")
    return ["".join(draw.choices(LETTERS[:24], k=draw.randint(1, 7))).strip() for _ in range(count)]


DICTIONARY = words(0, 400)
TEXTS = [" ".join(random.Random(seed).choices(DICTIONARY, k=30)) for seed in range(150)]


def odd(seed: int) -> str:
    draw = random.Random(seed)
    pieces = (
        draw.choice([draw.choice(DICTIONARY), draw.choice(SPELLED), "".join(draw.choices(LETTERS, k=6)), chr(draw.randrange(1, 0xD800))])
        for _ in range(12)
    )
    return "".join(piece + draw.choice(["", " "]) for piece in pieces)


ODD = ["", " ", "  \n ", "▁", *SPELLED, *map(odd, range(150))]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small model of SentencePiece's own trainer, by the options that it was given."""
    folder, made = tmp_path_factory.mktemp("trained"), dict[str, object]()

    def train(name: str, **options):
        if name not in made:
            path = folder / name
            spm.SentencePieceTrainer.train(sentence_iterator=iter(TEXTS), model_prefix=str(path), minloglevel=2, num_threads=1, **options)
            made[name] = path.with_suffix(".model")
        return made[name]

    return train


LLAMA = {
    "model_type": "bpe", "vocab_size": 600, "byte_fallback": True, "normalization_rule_name": "identity", "remove_extra_whitespaces": False,
    "allow_whitespace_only_pieces": True, "split_digits": True,
}  # fmt: skip
KINDS = {
    "llama": LLAMA,
    "gemma": {**LLAMA, "add_dummy_prefix": False, "user_defined_symbols": ["\n\n", "<tool>"], "pad_id": 0, "eos_id": 1, "bos_id": 2,
              "unk_id": 3},
    "bpe": {"model_type": "bpe", "vocab_size": 300},
    "unigram": {"model_type": "unigram", "vocab_size": 200, "bos_id": -1, "pad_id": 0, "eos_id": 1, "unk_id": 2},
    "unigram bytes": {"model_type": "unigram", "vocab_size": 460, "byte_fallback": True, "normalization_rule_name": "identity"},
    "unigram folded": {"model_type": "unigram", "vocab_size": 200, "normalization_rule_name": "nmt_nfkc_cf"},
    "across words": {"model_type": "unigram", "vocab_size": 300, "split_by_whitespace": False},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_of_sentencepiece_gives_its_ids(kind, trained):
    path = trained(kind, **KINDS[kind])
    theirs, ours = spm.SentencePieceProcessor(model_file=str(path)), Tokenizer.load(path)
    assert ours.size >= theirs.get_piece_size()
    unequal = [text for text in ODD if ours.encode(text) != theirs.encode(text)]
    model = SentencePiece.read(path)
    assert all(model.model == UNIGRAM and tied(theirs, model, text, theirs.encode(text), ours.encode(text)) for text in unequal)
    assert len(unequal) < len(ODD) / 20
    assert ours.encode_batch(ODD) == [ours.encode(text) for text in ODD]
    unknown = theirs.unk_id()
    lossless = [ids for ids in map(theirs.encode, ODD) if unknown not in ids]
    assert [ours.decode(ids) for ids in lossless] == [theirs.decode(ids) for ids in lossless]


def test_the_guarded_place_is_one_that_no_piece_reaches_over():
    backend = tokenizers.Tokenizer(tokenizers.models.Unigram([("<unk>", 0.0), ("</s>", 0.0), ("</", -2.0), ("s", -1.0), (">", -1.0)], 0))
    guard(backend, ["</s>"])
    assert backend.pre_tokenizer.pre_tokenize_str("a</s>") == [("a</", (0, 3)), ("s>", (3, 5))]


# The files that the world has


TEXTS_OF_ALL_KINDS = [*ODD[:120], "The sky is blue; SHE'LL say: don't!  naïve\n\n  12345 ΟΔΟΣ", "x" * 300]


def test_t5s_own_file(data, tmp_path):
    folder = data / "tokenizers" / "t5"
    ours, theirs = Tokenizer.load(folder), spm.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    assert [ours.encode(text) for text in TEXTS_OF_ALL_KINDS] == list(map(theirs.encode, TEXTS_OF_ALL_KINDS))
    assert (ours.size, ours.end_of_text, ours.pad, ours.opening, ours.closing) == (32_100, 1, 0, [], [1])
    assert ours.sentinels == list(range(32_099, 31_999, -1))
    assert ours.decode(ours.encode("The sky is blue.")) == "The sky is blue."


def test_berts_own_file(data, tmp_path):
    transformers = pytest.importorskip("transformers")
    folder = data / "tokenizers" / "bert-base-uncased"
    ours, theirs = Tokenizer.load(folder), transformers.BertTokenizer(str(folder / "vocab.txt"))
    assert [ours.framed(ours.encode(text)) for text in TEXTS_OF_ALL_KINDS] == [theirs(text).input_ids for text in TEXTS_OF_ALL_KINDS]
    assert (ours.size, ours.opening, ours.closing, ours.mask, ours.pad, ours.end_of_text) == (30_522, [101], [102], 103, 0, 102)
    (tmp_path / "vocab.txt").write_bytes((folder / "vocab.txt").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false, "tokenize_chinese_chars": false, "strip_accents": true}')
    plain = Tokenizer.load(tmp_path)
    assert plain.encode("näive") == ours.encode("naive")
    assert plain.encode("Sky") == [100]  # the vocabulary has no capitals
    assert plain.encode("a中") == [1037, 30272] != ours.encode("a中")  # ##中


def test_cl100ks_own_file(data):
    tiktoken, load = pytest.importorskip("tiktoken"), pytest.importorskip("tiktoken.load")
    path = data / "tokenizers" / "tiktoken" / "cl100k_base.tiktoken"
    ours = Tokenizer.load(path)
    ranks = load.load_tiktoken_bpe(str(path))
    pattern = r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"""
    theirs = tiktoken.Encoding("cl100k", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    assert [ours.encode(text) for text in TEXTS_OF_ALL_KINDS] == list(map(theirs.encode_ordinary, TEXTS_OF_ALL_KINDS))
    assert ours._bulk is not None
    assert ours.encode_batch(TEXTS_OF_ALL_KINDS) == list(map(theirs.encode_ordinary, TEXTS_OF_ALL_KINDS))
    assert (ours.size, ours.end_of_text, ours.special("<|endofprompt|>")) == (100_277, 100_257, 100_276)


@pytest.mark.parametrize("name", ["t5", "bert-base-uncased"])
def test_the_folder_that_is_written_opens_everywhere_with_the_same_ids(name, data, tmp_path):
    transformers = pytest.importorskip("transformers")
    ours = Tokenizer.load(data / "tokenizers" / name)
    ours.save(tmp_path, context=128)
    again, theirs = Tokenizer.load(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert again.fingerprint() == ours.fingerprint()
    for text in ("The sky is blue; naïve  \n\n  12345", "größer ﬁn", "中文字"):
        assert theirs(text).input_ids == ours.framed(ours.encode(text)) == again.framed(again.encode(text))
    assert all(number not in ours.encode(control) for control, number in ours.controls.items() if control not in ("<unk>", "[UNK]"))


def test_classes_frame_texts_as_theirs_do(trained, tmp_path):
    model = trained("llama", **LLAMA).read_bytes()
    frames = {
        '{"tokenizer_class": "LlamaTokenizer"}': ([1], []),
        '{"tokenizer_class": "LlamaTokenizerFast", "add_eos_token": true, "add_bos_token": false}': ([], [2]),
        '{"tokenizer_class": "T5Tokenizer", "extra_ids": 3}': ([], [2]),
        '{"tokenizer_class": "XLMRobertaTokenizer"}': ([0], [2]),
    }
    for config, (opening, closing) in frames.items():
        (tmp_path / "tokenizer.model").write_bytes(model)
        (tmp_path / "tokenizer_config.json").write_text(config)
        ours = Tokenizer.load(tmp_path)
        assert (ours.opening, ours.closing) == (opening, closing)
        assert ours.mask == (601 if "XLM" in config else None)
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "config.json").write_text('{"model_type": "mistral"}')
    assert Tokenizer.load(tmp_path).opening == [1]


def test_tokens_that_only_the_config_names_follow_on_the_pieces(trained, tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(trained("llama", **LLAMA).read_bytes())
    later = {"600": {"content": "<|user|>", "special": True}, "601": {"content": "[tool]", "special": False}}
    config = {"tokenizer_class": "LlamaTokenizer", "added_tokens_decoder": later}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    ours = Tokenizer.load(tmp_path)
    assert ours.special("<|user|>") == 600
    assert 600 not in ours.encode("a <|user|> b")
    assert 601 in ours.encode("a [tool] b")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"added_tokens_decoder": {"700": later["600"]}}))
    with pytest.raises(ValueError, match="is to be token 700, but it follows as 600"):
        Tokenizer.load(tmp_path)


def test_tokens_of_an_older_folder_follow_on_its_vocabulary(data, tmp_path):
    transformers = pytest.importorskip("transformers")
    (tmp_path / "vocab.txt").write_bytes((data / "tokenizers" / "bert-base-uncased" / "vocab.txt").read_bytes())
    (tmp_path / "added_tokens.json").write_text('{"[Tool]": 30523, "[USER]": 30522}')
    (tmp_path / "special_tokens_map.json").write_text('{"additional_special_tokens": ["[USER]"]}')
    ours, theirs = Tokenizer.load(tmp_path), transformers.BertTokenizer.from_pretrained(tmp_path)
    for text in ("The [Tool] is [tool].", "sky[TOOL]", "The sky"):
        assert ours.framed(ours.encode(text)) == theirs(text).input_ids
    assert ours.special("[USER]") == 30_522 == theirs("[USER]").input_ids[1]
    assert ours.special("[Tool]") is None
    assert not {30_522}.intersection(ours.encode("The [USER] is [user]"))
    ours.save(tmp_path / "again")
    assert Tokenizer.load(tmp_path / "again").fingerprint() == ours.fingerprint()


def test_the_sentinels_of_mt5_are_pieces_that_no_text_becomes(trained, tmp_path):
    """They stand at the end of its file as pieces of a user's, named in reverse."""
    names = [f"▁<extra_id_{n}>" for n in reversed(range(3))]
    path = trained("mt5", **KINDS["unigram"], user_defined_symbols=names)
    (tmp_path / "spiece.model").write_bytes(path.read_bytes())
    (tmp_path / "config.json").write_text('{"model_type": "mt5"}')
    ours, theirs = Tokenizer.load(tmp_path), spm.SentencePieceProcessor(model_file=str(path))
    assert ours.sentinels == [theirs.piece_to_id(name) for name in reversed(names)]
    assert ours.closing == [1]
    assert not set(ours.sentinels) & set(ours.encode("a <extra_id_0> b▁<extra_id_1><extra_id_2>"))
    assert [ours.encode(text) for text in TEXTS[:20]] == [theirs.encode(text) for text in TEXTS[:20]]


REFUSED = {
    "spiece.model": (b"\x0a\xff\x01", "no model of SentencePiece"),
    "tokenizer.model": (b"", "it has no pieces"),
    "vocab.txt": (b"[PAD]\n[UNK]\n", r"has no piece \[SEP\], \[CLS\], \[MASK\]"),
    "small.tiktoken": (b"YQ== 0\nYg== 1\n", "2 ranks, but how such a tokenizer splits a text stands in no file"),
    "broken.tiktoken": (b"not ranks at all", "holds no ranks"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_files_that_are_no_tokenizer_are_refused_by_name(name, tmp_path):
    contents, sentence = REFUSED[name]
    (tmp_path / name).write_bytes(contents)
    with pytest.raises(ValueError, match=sentence):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "kind"), [("spiece.model", "Albert"), ("sentencepiece.bpe.model", "MBart"), ("vocab.txt", "BertJapanese")]
)
def test_a_class_that_reads_such_a_file_otherwise_is_refused(name, kind, tmp_path, trained):
    (tmp_path / name).write_bytes(trained("llama", **LLAMA).read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": f"{kind}Tokenizer"}))
    with pytest.raises(ValueError, match=f"how a {kind}Tokenizer .* is not known"):
        Tokenizer.load(tmp_path)


def test_every_cut_of_a_model_is_refused_or_read(trained):
    """Whatever is lost of a file, the answer is a sentence, not a crash."""
    path = trained("bpe", **KINDS["bpe"])
    whole, refused = path.read_bytes(), 0
    for length in random.Random(0).sample(range(len(whole)), 200):
        path.with_name("cut.model").write_bytes(whole[:length])
        with suppress(ValueError):
            SentencePiece.read(path.with_name("cut.model"))
            continue
        refused += 1
    assert refused > 150


def test_characters_are_mapped_by_the_longest_sequence(data):
    blob = SentencePiece.read(data / "tokenizers" / "t5" / "spiece.model").charsmap
    mapped = Charsmap(blob)
    assert mapped("plain text") == "plain text"
    assert mapped("e\u0301\u0302 ﬁ\u0301 \u1112\u1161\u11ab\ta") == "é\u0302 fi\u0301 한 a"
    assert Charsmap(blob, ["ﬁ"])("ﬁﬂ") == "ﬁfl"
