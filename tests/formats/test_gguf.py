"""GGUF files, judged by llama.cpp itself: the same ids, log-probabilities within the rounding of their numbers, the same text."""

import sys
import unicodedata
from pathlib import Path
from random import Random

import pytest
import torch

from fledge.arch import Classes
from fledge.formats import FORMATS, Gguf, file_name, graphs, llamacpp
from fledge.formats.vocabulary import CONTROL, UNUSED
from fledge.presets import shapes
from fledge.text.bulk import CL100K, GPT2, LLAMA3
from fledge.text.chat import FORMATS as CHATS
from fledge.text.chat import Message
from fledge.text.tokenizer import Tokenizer
from fledge.verbs.model import Model
from fledge.weights.rules import read, write
from tests.formats.models import RELATIVES, SHAPES, WORDS, odd_text, perturbed, tokenizer, words

# In nats: five times what was measured; llama.cpp looks GELU up in a table of fp16.
ROUNDING = {"f32": 1e-5, "f16": 0.015, "bf16": 0.13, "q8_0": 0.4}
GELU = 3e-3
QUICK = [("gpt2", "f16"), ("default", "f32"), ("default", "bf16"), ("llama", "q8_0")]
EVERY = [(name, kind) for name in SHAPES for kind in FORMATS]
REST = [pytest.param(*case, marks=pytest.mark.slow) for case in [*EVERY, *((name, "f16") for name in RELATIVES)] if case not in QUICK]


def made(name: str, quantize: str, words: Tokenizer, **facts) -> Gguf:
    return Gguf(perturbed({**SHAPES, **RELATIVES}[name]), words, facts, {"name": name}, quantize)


@pytest.mark.parametrize(("name", "quantize"), [*QUICK, *REST])
def test_llama_cpp_and_the_model_agree(name, quantize, tmp_path):
    spoken = words(GPT2 if name.startswith("gpt2") else LLAMA3)
    agreed = made(name, quantize, spoken, chat="chatml").write(tmp_path / "model.gguf")
    assert agreed is not None
    assert agreed.difference <= max(ROUNDING[quantize], GELU if name.startswith("gpt2") else 0)
    assert (agreed.texts, agreed.tokens, agreed.chat) == (len(llamacpp.TEXTS), llamacpp.NEW, "ids")
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]


def test_a_whole_text_is_written_as_the_engine_writes_it(tmp_path):
    model = made("default", "f32", words(LLAMA3))
    model.write(tmp_path / "model.gguf")
    random, ours = Random(2), Model(model.network, model.tokenizer, {})
    with llamacpp.served(tmp_path / "model.gguf", 128, 1) as runtime:
        for _ in range(4):
            prompt = model.tokenizer.encode(odd_text(random))[:60]
            [completion] = ours.continued([prompt], max_tokens=40, temperature=0.0)
            tokens, content = runtime.written(prompt, 40)
            assert tokens[: len(completion.tokens)] == completion.tokens
            if completion.reason == "length":
                assert content.rstrip("\ufffd") == completion.text.rstrip("\ufffd")


@pytest.mark.parametrize("pattern", [LLAMA3, GPT2], ids=["llama-bpe", "gpt-2"])
def test_any_text_has_the_same_ids(pattern, tmp_path):
    """But for the letter ſ after an apostrophe, which Llama 3's pattern takes for an s, and llama.cpp does not."""
    model = made("default", "f16", words(pattern))
    model.write(tmp_path / "model.gguf")
    random = Random(1)
    with llamacpp.served(tmp_path / "model.gguf", 128, 1) as runtime:
        for _ in range(150):
            text = odd_text(random)
            assert runtime.encode(text) == model.tokenizer.encode(text), ascii(text)
        spelled = "".join(model.tokenizer.controls)
        assert not set(runtime.encode(spelled)) & set(model.tokenizer.controls.values())


@pytest.mark.slow
@pytest.mark.parametrize("pattern", [LLAMA3, GPT2], ids=["llama-bpe", "gpt-2"])
def test_each_character_is_of_the_same_kind(pattern, tmp_path):
    """But for those that Unicode took in of late: the tables of both are of other years."""
    model = made("default", "f16", words(pattern))
    model.write(tmp_path / "model.gguf")
    characters = [chr(code) for code in range(0x20, 0x20000) if unicodedata.category(chr(code)) not in ("Cs", "Cn") and code != 0x17F]
    with llamacpp.served(tmp_path / "model.gguf", 128, 1) as runtime:
        for start in range(0, len(characters), 256):
            text = "".join(f"a{c}b1{c}2 {c}.{c}'{c}\n" for c in characters[start : start + 256])
            assert runtime.encode(text) == model.tokenizer.encode(text), hex(ord(characters[start]))


def test_a_chat_of_llama_3_begins_once(tmp_path):
    controls = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    spoken = tokenizer(LLAMA3, opening=controls[0], controls=controls)
    agreed = made("llama", "f16", spoken, chat="llama3").write(tmp_path / "model.gguf")
    assert agreed is not None
    assert agreed.chat == "ids"
    found = fields(tmp_path / "model.gguf")
    assert found["tokenizer.ggml.bos_token_id"] == spoken.special("<|begin_of_text|>")
    assert found["tokenizer.ggml.eot_token_id"] == spoken.special("<|eot_id|>")
    assert found["tokenizer.ggml.add_bos_token"] is True
    with llamacpp.served(tmp_path / "model.gguf", 128, 1) as runtime:
        assert runtime.framed("hi") == spoken.framed(spoken.encode("hi"))
        ours = CHATS["llama3"].encode(spoken, [Message("user", "hi")], answer=True).tokens
        assert runtime.framed(runtime.rendered([{"role": "user", "content": "hi"}])) == ours


@pytest.mark.parametrize("chat", ["alpaca", "plain"])
def test_a_chat_without_control_tokens_has_the_same_text(chat, tmp_path):
    agreed = made("default", "f16", words(LLAMA3), chat=chat).write(tmp_path / "model.gguf")
    assert agreed is not None
    assert agreed.chat in ("ids", "text")


def test_a_file_says_what_its_folder_does(tmp_path):
    spoken = words(LLAMA3)
    generation = {"do_sample": True, "temperature": 0.5, "top_k": 20, "repetition_penalty": 1.25}
    made("llama", "q8_0", spoken, chat="chatml", generation=generation).write(tmp_path / "model.gguf")
    found = fields(tmp_path / "model.gguf")
    assert found["tokenizer.ggml.pre"] == "llama-bpe"
    assert found["tokenizer.ggml.eos_token_id"] == spoken.end_of_text
    assert found["tokenizer.ggml.eot_token_id"] == spoken.special("<|im_end|>")
    assert found["tokenizer.ggml.add_bos_token"] is False
    kinds = found["tokenizer.ggml.token_type"]
    assert {number for number, kind in enumerate(kinds) if kind == CONTROL} == set(spoken.controls.values())
    assert kinds[spoken.size :] == [UNUSED] * (WORDS + 64 - spoken.size)
    assert found["tokenizer.chat_template"] == CHATS["chatml"].template()
    assert {name: found[f"general.sampling.{name}"] for name in ("temp", "top_k", "penalty_repeat")} == {
        "temp": 0.5,
        "top_k": 20,
        "penalty_repeat": 1.25,
    }
    assert found["general.name"] == "llama"
    assert file_name("my model", perturbed(SHAPES["llama"]), "q8_0") == "my-model-229K-Q8_0.gguf"


def fields(path: Path) -> dict:
    from gguf import GGUFReader

    return {name: field.contents() for name, field in GGUFReader(path).fields.items()}


SLOW_TYPES = [pytest.param(name, bound, marks=pytest.mark.slow) for name, bound in (("f32", 0.0), ("f16", 2**-11), ("bf16", 2**-8))]


@pytest.mark.parametrize(("quantize", "bound"), [("q8_0", 1 / 254 + 2**-11), *SLOW_TYPES])
def test_a_type_is_as_exact_as_it_says(quantize, bound, tmp_path):
    """Matrices are the model's own, rounded once; norms, biases and positions are exact."""
    from gguf import GGUFReader, dequantize

    model = made("gpt2", quantize, words(GPT2))
    model.write(tmp_path / "model.gguf")
    stored = {one.name: torch.tensor(dequantize(one.data, one.tensor_type)) for one in GGUFReader(tmp_path / "model.gguf").tensors}
    for name, tensor in model.tensors():
        exact = tensor.ndim == 1 or name == "position_embd.weight"
        blocks = tensor.abs().unflatten(-1, (-1, 32))  # of which each has its scale
        unit = (blocks.amax(-1, keepdim=True).expand_as(blocks) if quantize == "q8_0" else blocks).flatten(-2)
        allowed = 0 * unit if exact else bound * unit + (2**-25 if quantize == "f16" else 0)  # below 2^-14 its steps are even
        assert ((stored[name] - tensor).abs() <= allowed).all(), name


@pytest.mark.parametrize("name", [*SHAPES, *RELATIVES])
def test_each_graph_is_found_and_its_table_goes_both_ways(name):
    model = perturbed({**SHAPES, **RELATIVES}[name])
    graph = graphs.graph_of(model.arch)
    assert graph.name == {"default": "qwen3", "gpt2 untied": "gpt2", "llama linear": "qwen2", "mistral": "llama", "mixtral": "llama",
                          "qwen3 with experts": "qwen3moe"}.get(name, name)  # fmt: skip
    rules = graph.table(model.arch)
    theirs, ours = dict(write(rules, model.state_dict())), model.state_dict()
    back = dict(read(rules, theirs.__getitem__))
    assert back.keys() == ours.keys()
    assert all(torch.equal(back[name], ours[name]) for name in ours)


class SwappedNorms(graphs.Qwen3):
    def norm_rules(self, theirs, ours, block):
        first, second = super().norm_rules(theirs, ours, block)
        return [graphs.rule(first.theirs, second.ours), graphs.rule(second.theirs, first.ours)]


class Unpaired(graphs.Llama):
    paired = False


@pytest.mark.parametrize(("name", "wrong"), [("default", SwappedNorms()), ("llama", Unpaired())])
def test_tensors_in_wrong_places_are_noticed_and_nothing_is_left(name, wrong, monkeypatch, tmp_path):
    monkeypatch.setattr(graphs, "GRAPHS", (wrong,))
    with pytest.raises(ValueError, match=r"log-probabilities in llama\.cpp differ by .* the file is not written"):
        made(name, "f16", words(LLAMA3)).write(tmp_path / "model.gguf")
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(ValueError, match=r"llama\.cpp does not open"), llamacpp.served(tmp_path / "model.gguf", 128, 1):
        pass


def test_numbers_beyond_f16_are_refused_and_an_older_file_stays(tmp_path):
    model = made("default", "f16", words(LLAMA3))
    (tmp_path / "model.gguf").write_text("older")
    model.network.embedding.weight.data[0, 0] = 70_000
    with pytest.raises(ValueError, match=r"token_embd\.weight has numbers up to 7e\+04, but f16 ends at 65,504: use --quantize bf16"):
        model.write(tmp_path / "model.gguf")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["older"]


REFUSED = {
    "window": (shapes.llama(64, 2, heads=4, vocabulary=WORDS, context=128, window=16), r"llama is the nearest .*sees\.0: null -> 15"),
    "bands": (shapes.gpt2(64, 2, heads=4, vocabulary=WORDS, context=128, banded=8), r"gpt2 is the nearest"),
    "classes": (SHAPES["default"].with_head(Classes(("ham", "spam"))), r"a classifier, and llama\.cpp scores no labels .*fledge serve"),
    "encoder": (shapes.bert(64, 2, heads=4, vocabulary=WORDS, context=128), r"an encoder, which fills in gaps"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_model_that_no_graph_computes_is_refused(case):
    arch, reason = REFUSED[case]
    with pytest.raises(ValueError, match=reason):
        graphs.graph_of(arch)


def test_a_tokenizer_that_llama_cpp_reads_otherwise_is_refused():
    network = perturbed(SHAPES["default"])
    others = [
        (Tokenizer.characters(["a → b"]), r"no BPE over bytes \(BPE\)"),
        (Tokenizer.train(["one two three"] * 9, 448, "wordpiece"), r"no BPE over bytes \(WordPiece\)"),
        (tokenizer(CL100K), r"a pattern that llama\.cpp has no name for"),
    ]
    for other, reason in others:
        with pytest.raises(ValueError, match=reason):
            Gguf(network, other, {}, {}, "f16").fields()


def test_bytes_are_words_enough(tmp_path):
    agreed = made("default", "f16", Tokenizer.bytes(), chat="chatml").write(tmp_path / "model.gguf")
    assert agreed is not None
    assert agreed.chat == "ids"


def test_without_llama_cpp_a_file_is_written_unchecked(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    assert made("default", "f16", words(LLAMA3)).write(tmp_path / "model.gguf") is None
    assert (tmp_path / "model.gguf").stat().st_size > 100_000
