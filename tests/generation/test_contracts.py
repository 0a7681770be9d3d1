"""What comes out keeps its contract, whatever the model would rather say."""

import json
import pickle
import re
import sys
from dataclasses import replace

import jsonschema_rs
import pytest
import tokenizers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge.generation import Contract, Engine, Request, Sampling, beam_search
from fledge.generation.contracts import token_bytes
from fledge.model import Transformer
from fledge.presets import qwen3
from fledge.text.tokenizer import RESERVED, Tokenizer
from tests.generation.test_engine import TOKENIZER, perturbed

ROOM = 90
TEXT = 'The sky is blue, and {"a": [1, 22, 333], "naïve": true}; déjà vu 日本語 🙂. ' * 20


def fallback() -> Tokenizer:
    """As Llama 2 has it: SentencePiece's pieces, and a token for each byte of what they do not have."""
    names = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *'▁{}[]":,abc12', "▁▁", "ab", '{"', "▁é"]
    backend = tokenizers.Tokenizer(
        tokenizers.models.BPE({name: number for number, name in enumerate(names)}, [("a", "b")], unk_token="<unk>", byte_fallback=True)
    )
    backend.decoder = tokenizers.decoders.Sequence(
        [tokenizers.decoders.Replace("▁", " "), tokenizers.decoders.ByteFallback(), tokenizers.decoders.Fuse()]
    )
    backend.normalizer = tokenizers.normalizers.Replace(" ", "▁")
    backend.add_special_tokens(["<unk>", "</s>"])
    return Tokenizer(backend)


KINDS = {
    "bytes": TOKENIZER,
    "bpe": Tokenizer.train([TEXT], 512),
    "unigram": Tokenizer.train([TEXT], 512, "unigram"),
    "fallback": fallback(),
}


def favouring_controls(tokenizer: Tokenizer, seed: int = 0) -> Transformer:
    """A model that would rather say control tokens, and ids of no token, than anything else."""
    model = perturbed(qwen3(32, 1, 2, 1, 16, vocabulary=tokenizer.size + 8, context=ROOM, tied=False), seed).eval()
    with torch.no_grad():
        head = model.get_parameter("head.weight")
        head[[*tokenizer.controls.values(), *range(tokenizer.size, tokenizer.size + 8)]] *= 30
    return model


ENGINES = {name: Engine(favouring_controls(tokenizer), tokenizer, slots=4) for name, tokenizer in KINDS.items()}


def answers(contract: Contract, kind: str = "bytes", **more) -> list:
    """Greedy, drawn, and drawn with fewer tokens than it may take; none has a control token in it, and each cut one is a beginning."""
    engine = ENGINES[kind]
    prompt = [5] if kind == "fallback" else engine.tokenizer.encode("Now: ")
    ways = [Sampling(0), Sampling(1.5, seed=1, presence_penalty=1.0), Sampling(0.7, top_p=0.9, typical_p=0.9, seed=2)]
    requests = [Request(prompt, ROOM - 10, sampling, contract=contract, **more) for sampling in ways]
    found = engine.run([*requests, replace(requests[1], max_tokens=3)])
    for one in found:
        assert not set(one.tokens) & set(engine.tokenizer.controls.values())
        matcher = contract.matcher(engine.tokenizer, engine.model.arch.vocabulary)
        for token in one.tokens:
            assert bool(matcher.allowed([0])[token])
            matcher.accept(token)
        assert matcher.kept or one.reason == "length"
    return found


listed = st.one_of(st.text(max_size=5), st.integers(-(2**53), 2**53), st.none())
scalars = st.one_of(
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.builds(lambda low, size: {"type": "integer", "minimum": low, "maximum": low + size}, st.integers(-50, 50), st.integers(0, 2000)),
    st.builds(lambda most: {"type": "string", "maxLength": most}, st.integers(0, 6)),
    st.builds(
        lambda values: {"enum": values},
        st.lists(listed, min_size=1, max_size=3),
    ),
    st.builds(lambda value: {"const": value}, st.text(max_size=6)),
    st.just({"type": "string", "pattern": "^[a-f]{2,4}$"}),
)
schemas = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.builds(
            lambda items, few, more: {"type": "array", "items": items, "minItems": few, "maxItems": few + more},
            inner, st.integers(0, 1), st.integers(0, 1),
        ),
        st.builds(
            lambda properties, count: {
                "type": "object", "properties": properties, "required": list(properties)[:count], "additionalProperties": False,
            },
            st.dictionaries(st.text(max_size=4), inner, max_size=3), st.integers(0, 3),
        ),
        st.builds(lambda one, other: {"anyOf": [one, other]}, inner, inner),
    ),
    max_leaves=4,
)  # fmt: skip


@settings(max_examples=12)
@given(schema=schemas, kind=st.sampled_from(list(KINDS)))
def test_what_comes_out_is_valid_by_its_schema(schema, kind):
    for one in answers(Contract.schema(schema), kind):
        if one.reason == "stop":
            jsonschema_rs.validate(schema, json.loads(one.text))
        else:
            assert len(one.tokens) in (3, ROOM - 10)


units = st.sampled_from(["a", "[a-c0-9]", "(?:foo|bär)", "é", r"\.", "[^\n\x00]", "🙂", r"[0-9]{2}"])
patterns = st.recursive(
    st.builds(lambda unit, times: f"(?:{unit}){times}", units, st.sampled_from(["", "?", "{1,3}", "{2}", "{0,2}"])),
    lambda inner: st.one_of(
        st.builds(lambda a, b: a + b, inner, inner), st.builds(lambda a, b: f"(?:{a}|{b})", inner, inner)
    ),
    max_leaves=4,
)  # fmt: skip


@settings(max_examples=12)
@given(pattern=patterns, kind=st.sampled_from(list(KINDS)))
def test_what_comes_out_is_matched_by_its_regular_expression(pattern, kind):
    for one in answers(Contract.regex(pattern), kind):
        if one.reason == "stop":
            assert re.fullmatch(pattern, one.text)


@settings(max_examples=12)
@given(texts=st.lists(st.text(max_size=12), min_size=1, max_size=4), kind=st.sampled_from(list(KINDS)))
def test_what_comes_out_is_one_of_the_choices(texts, kind):
    for one in answers(Contract.choice(texts), kind):
        if one.reason == "stop":
            assert one.text in texts
        else:
            assert any(text.encode().startswith(b"".join(token_bytes(KINDS[kind])[token] for token in one.tokens)) for text in texts)


def test_words_appear_and_stop_strings_do_not_cut():
    found = answers(Contract.containing(["sky", "blue"]), stop_strings=["sky", "e"])
    for one in found:
        assert one.reason == "length" or ("sky" in one.text and "blue" in one.text)
    engine = ENGINES["bytes"]
    short = Request([7], 40, contract=Contract.regex("[a-z ]{0,10}sky[a-z ]{0,10}"), stop_strings=["sky"])
    [one] = engine.run([short])
    assert (one.reason, "sky" in one.text) == ("stop", True)


def test_beams_keep_a_contract():
    engine = ENGINES["bytes"]
    texts = ["yes", "no!", "not at all", "perhaps"]
    request = Request(TOKENIZER.encode("Well? "), 12, contract=Contract.choice(texts), top_logprobs=3)  # none begins another
    [found] = beam_search(engine, [request], 4, 0.0)
    totals = {}
    for text in texts:
        tokens = TOKENIZER.encode(text)
        with torch.no_grad():
            logprobs = engine.model(torch.tensor([[*request.tokens, *tokens]]))[0].log_softmax(-1)
        totals[text] = sum(float(logprobs[len(request.tokens) - 1 + place, token]) for place, token in enumerate(tokens))
    assert found.text == max(totals, key=lambda text: totals[text])
    assert sum(found.logprobs) == pytest.approx(totals[found.text], abs=1e-3)
    assert [len(one) for one in found.alternatives] == [3] * len(found.tokens)
    [cut] = beam_search(engine, [replace(request, max_tokens=1)], 4)
    assert cut.reason == "length"
    assert any(text.startswith(cut.text) for text in texts)


def test_nothing_that_may_come_is_the_end():
    engine, without = ENGINES["bytes"], lambda text: Sampling(0, banned=TOKENIZER.encode(text))
    [one] = engine.run([Request([7], 5, without("y"), contract=Contract.choice(["yes", "ye"]))])
    assert (one.tokens, one.text, one.reason) == ([], "", "length")
    [one] = beam_search(engine, [Request([7], 5, without("e"), contract=Contract.choice(["yes"]))], 2)
    assert (one.text, one.reason) == ("y", "length")


def test_contracts_are_data():
    for contract in (Contract.schema({"type": "null"}), Contract.regex("a+"), Contract.choice(["a", "b"]), Contract.containing(["a"])):
        assert pickle.loads(pickle.dumps(contract)) == contract
        assert {contract: 1}[replace(contract)] == 1


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30)
@given(text=st.text())
def test_bytes_of_tokens_are_the_text(kind, text):
    tokenizer = KINDS[kind]
    known = token_bytes(tokenizer)
    assert b"".join(known[token] for token in tokenizer.encode(text)) == text.encode()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiktoken/cl100k_base.tiktoken", "gpt2"])
def test_published_tokenizers_keep_contracts_too(data, name):
    tokenizer = Tokenizer.load(data / "tokenizers" / name)
    known = token_bytes(tokenizer)
    assert b"".join(known[token] for token in tokenizer.encode(TEXT)) == TEXT.encode()
    engine = Engine(perturbed(qwen3(8, 1, 1, 1, 8, vocabulary=tokenizer.size, context=64)), tokenizer, slots=2)
    schema = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 9}, "age": {"type": "integer", "maximum": 99}},
              "required": ["name", "age"], "additionalProperties": False}  # fmt: skip
    asked = [Request(tokenizer.encode("Now: "), 60, Sampling(1.0, seed=seed), contract=Contract.schema(schema)) for seed in range(6)]
    ended = [one for one in engine.run(asked) if one.reason == "stop"]
    for one in ended:
        jsonschema_rs.validate(schema, json.loads(one.text))
    assert ended


def test_what_cannot_be_kept_is_refused():
    engine = ENGINES["bytes"]
    for contract, words in (
        (Contract.regex("[0-"), "regular expression"),
        (Contract.schema({"type": "foo"}), "the JSON schema cannot be kept to"),
        (Contract.schema({"not": {"type": "string"}}), "Unimplemented"),
    ):
        with pytest.raises(ValueError, match=words):
            engine.run([Request([7], contract=contract)])
    with pytest.raises(ValueError, match=r"lists 9007199254740993, but whole numbers beyond ±2\^53 would be rounded"):
        Contract.schema({"anyOf": [{"const": 2**53}, {"type": "integer", "maximum": 2**63}, {"enum": ["a", 2**53 + 1]}]})
    with pytest.raises(ValueError, match="at least one"):
        Contract.choice([])
    with pytest.raises(ValueError, match="a list of texts"):
        Contract.choice("yes")
    with pytest.raises(ValueError, match="at most 4"):
        Contract.containing(["a", "b", "c", "d", "e"])
    letters = Tokenizer.characters(["abc"])
    with pytest.raises(ValueError, match="each of the 256 bytes"):
        Engine(favouring_controls(letters), letters).run([Request([len(RESERVED) + 1], contract=Contract.choice(["a"]))])


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(ValueError, match=r"not installed: pip install 'fledge\[serve\]'"):
        Engine(ENGINES["bytes"].model, Tokenizer.bytes()).run([Request([7], contract=Contract.choice(["a"]))])
