"""An Arch is data: it survives JSON, its settings are typed, and what it counts is what a model has."""

import json
from dataclasses import fields, is_dataclass, replace
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from fledge.arch import (
    Activation,
    Arch,
    Attention,
    Block,
    ByWavelength,
    Classes,
    DistanceBias,
    Embedding,
    Hidden,
    Interpolated,
    LayerNorm,
    Learned,
    LongRope,
    Mlp,
    Moe,
    Replaced,
    RmsNorm,
    Rope,
    Sinusoid,
    Stack,
    Transform,
    Words,
    Yarn,
    forward_flops,
    parameter_count,
)
from fledge.arch.anatomy import seen_pairs
from fledge.arch.record import differences, from_json, to_json, with_setting
from fledge.model import Transformer, attention
from fledge.model.view import Layout, sees
from fledge.presets import PRESETS, gpt2, qwen3
from fledge.presets.shapes import bert, gemma2, llama, t5, transformer

small = st.integers(1, 6)
side = st.none() | st.integers(0, 9)
eps = st.sampled_from([1e-5, 1e-6, 1.0])
norms = st.none() | st.builds(LayerNorm, eps, st.booleans()) | st.builds(RmsNorm, eps, st.sampled_from([0.0, 1.0]))
factor, trained = st.floats(1, 64), st.integers(8, 99)
stretches = st.none() | st.builds(Interpolated, factor) | st.builds(ByWavelength, factor, trained) | st.builds(Yarn, factor, trained)
ropes = st.none() | st.builds(Rope, st.floats(2, 1e6), stretches)
more = st.tuples(st.sampled_from(["head", "width"]), st.none() | st.floats(0.1, 2), st.none() | st.floats(1, 50), st.booleans())
attentions = st.builds(
    lambda groups, kv_heads, pairs, sees, rope, q, k, bias, out, rest: Attention(
        groups * kv_heads, kv_heads, 2 * pairs, sees, rope, q, k, bias, out, *rest
    ),
    small, small, small, st.tuples(side, side), ropes, norms, norms, st.booleans(), st.booleans(), more,
)  # fmt: skip
mlps = st.builds(Mlp, small, st.sampled_from(get_args(Activation)), st.booleans(), st.booleans())
moes = st.builds(
    lambda mlp, chosen, rest, *flags: Moe(mlp, chosen + rest, chosen, *flags), mlps, small, small, st.booleans(), st.booleans()
)
across = attentions.map(lambda a: replace(a, sees=(None, None), positions=None))


def stacks(width: int, looks: bool):
    blocks = st.builds(Block, attentions, mlps | moes, norms, norms, norms, across if looks else st.none(), st.booleans())
    places = st.none() | st.builds(Learned, st.integers(20, 30), st.integers(0, 2)) | st.builds(Sinusoid)
    apart = st.builds(Stack, st.just(width), small, st.lists(blocks, min_size=1, max_size=3).map(tuple), places, norms, norms)
    return apart | st.builds(Stack, st.just(width), small, blocks.map(lambda block: (block,)), st.builds(DistanceBias, st.integers(8, 12)))


labels = st.lists(st.text(min_size=1, max_size=3), min_size=2, max_size=4, unique=True).map(tuple)
transforms = st.none() | st.builds(Transform, st.sampled_from(["gelu", "tanh"]), norms, st.booleans())
embeddings = st.builds(Embedding, st.sampled_from([1.0, 4.0]), st.integers(0, 2))
words = st.builds(Words, st.booleans(), st.booleans(), st.sampled_from([1.0, 0.5]), st.none() | st.floats(1, 9), transforms)
classes = st.builds(Classes, labels, st.sampled_from(["last", "first", "mean"]), transforms, st.booleans())
heads = words | classes | st.builds(Replaced, transforms) | st.builds(Hidden, transforms)


@st.composite
def arches(draw):
    """A decoder, an encoder, or both; a wider or narrower embedding where no head is tied to it."""
    width, kind = draw(small), draw(st.sampled_from(["decoder", "encoder", "both"]))
    found = {name: draw(stacks(width, kind == "both" and name == "decoder")) for name in ("decoder", "encoder") if kind in (name, "both")}
    head, embedding = draw(heads), draw(embeddings)
    if not (isinstance(head, Words) and head.tied and head.transform is None):
        embedding = replace(embedding, width=draw(st.none() | small))
    numbers = {"vocabulary": draw(st.integers(1, 50)), "context": draw(st.integers(1, 20)), "dropout": draw(st.floats(0, 0.9))}
    return Arch(**numbers, **found, head=head, embedding=embedding, start=draw(st.none() | st.integers(0, 5)))


GPT2, QWEN3 = gpt2(64, 2), qwen3(64, 2, 4, 2, 16)


@settings(deadline=None)
@given(arches())
def test_json_round_trip(arch):
    text = json.dumps(arch.to_json())
    assert Arch.from_json(json.loads(text)) == arch
    assert hash(Arch.from_json(json.loads(text))) == hash(arch)
    assert differences(arch.to_json(), json.loads(text)) == []


def leaves(record, where: str = ""):
    """Every dotted place that holds a plain value, with the value."""
    if isinstance(record, tuple) and record and all(map(is_dataclass, record)):
        for i, item in enumerate(record):
            yield from leaves(item, f"{where}{i}.")
    elif is_dataclass(record):
        for f in fields(record):
            value = getattr(record, f.name)
            whole = is_dataclass(value) or (isinstance(value, tuple) and value and is_dataclass(value[0]))
            yield from leaves(value, f"{where}{f.name}.") if whole else [(where + f.name, value)]


@settings(deadline=None)
@given(arches())
def test_every_setting_can_be_set_to_what_it_is(arch):
    for place, value in leaves(arch):
        assert with_setting(arch, place, json.dumps(to_json(value))) == arch


@settings(deadline=None)
@given(arches(), arches())
def test_differences_name_what_differs(old, new):
    lines = differences(old.to_json(), new.to_json())
    assert bool(lines) == (old != new)
    assert lines == [] or all(" -> " in line for line in lines)


def test_differences_as_a_reader_sees_them():
    new = with_setting(with_setting(QWEN3, "context", "64"), "decoder.pattern.0.attention.positions.base", "5e5")
    assert differences(QWEN3.to_json(), new.to_json()) == [
        "context: 2048 -> 64",
        "decoder.pattern.0.attention.positions.base: 10000.0 -> 500000.0",
    ]
    wider = replace(QWEN3, head=Classes(("a", "b")))
    said = differences(QWEN3.to_json(), wider.to_json())
    assert said[:2] == ['head.kind: "Words" -> "Classes"', "head.tied: true -> null"]
    assert 'head.labels: null -> ["a", "b"]' in said


def test_settings_reach_everything():
    assert with_setting(QWEN3, "decoder.depth", "4").decoder.depth == 4
    assert with_setting(QWEN3, "decoder.pattern.0.attention.sees", "[511, 0]").trunk.pattern[0].attention.sees == (511, 0)
    assert with_setting(QWEN3, "decoder.pattern.0.mlp.activation", "relu").trunk.pattern[0].mlp.activation == "relu"
    assert with_setting(QWEN3, "decoder.pattern.0.attention.positions", "none").trunk.pattern[0].attention.positions is None
    assert with_setting(QWEN3, "head.tied", "False").head == Words(tied=False)
    assert with_setting(QWEN3, "dropout", "0").dropout == 0.0


@pytest.mark.parametrize(
    ("place", "text", "words"),
    [
        ("decoder.dept", "4", "decoder.dept is unknown: did you mean depth?"),
        ("contxt", "4", "contxt is unknown: did you mean context?"),
        ("zzz", "4", "zzz is unknown: known are vocabulary, context, decoder, head, dropout, encoder, embedding, start"),
        ("context", "long", "context is 'long', but a value of type int is needed"),
        ("context", "1.5", "context is 1.5, but a value of type int is needed"),
        ("context", "true", "context is True, but a value of type int is needed"),
        ("context", "none", "context is None, but a value of type int is needed"),
        ("context", "0", "context is 0, but a Arch needs at least 1"),
        ("decoder.pattern.0.mlp.activation", "gelo", "is one of gelu, gelu_tanh, gelu_sigmoid, relu, silu, tanh: did you mean gelu?"),
        ("decoder.pattern.3.mlp.width", "8", "decoder.pattern.3 is unknown: decoder.pattern has items 0 to 0"),
        ("decoder.positions.length", "8", "decoder.positions is none here, so decoder.positions.length cannot be set"),
        ("context.more", "8", "context.more is unknown: context is a single value"),
        ("decoder.pattern.0.attention.heads", "3", "3 query heads cannot share 2 key/value heads"),
        ("decoder.pattern.0.attention.sees", "[1]", "has 1 items, but 2 are needed"),
        ("dropout", "1", r"dropout 1.0 is not in \[0, 1\)"),
    ],
)
def test_wrong_settings_are_sentences(place, text, words):
    with pytest.raises(ValueError, match=words.replace("?", r"\?")):
        with_setting(QWEN3, place, text)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data.pop("context"), "context is missing"),
        (lambda data: data.update(colour=1), "arch.colour is unknown"),
        (
            lambda data: data["head"].update(kind="Word"),
            r"head.kind is 'Word', but it is one of Words, Classes, Replaced, Hidden: did you mean Words\?",
        ),
        (lambda data: data["decoder"].update(pattern=[]), "at least one block"),
        (lambda data: data["decoder"].update(pattern=3), "arch.decoder.pattern is 3, but a list is needed"),
        (lambda data: data["decoder"]["pattern"][0].pop("mlp"), "arch.decoder.pattern.0.mlp is missing"),
        (lambda data: data.update(decoder=None), "a transformer needs a decoder, an encoder, or both"),
    ],
)
def test_broken_json_is_named_by_its_place(change, words):
    data = QWEN3.to_json()
    change(data)
    with pytest.raises(ValueError, match=words):
        Arch.from_json(data)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Attention(3, 2, 8), "multiple of kv_heads"),
        (lambda: Attention(2, 2, 7, positions=Rope()), "even head_size"),
        (lambda: Attention(2, 2, 8, (-1, 0)), "from 0 on"),
        (
            lambda: Attention(2, 2, 8, positions=Rope(stretch=LongRope((1.0,) * 4, (1.0,) * 3, 9))),
            "4 short and 3 long factors, but 4 pairs",
        ),
        (lambda: Attention(0, 1, 8), "heads is 0"),
        (lambda: from_json(Mlp, {"width": 8, "activation": "swish"}), "gelu, gelu_tanh, gelu_sigmoid, relu, silu, tanh"),
        (lambda: Classes(("a",)), "two different labels"),
        (lambda: Classes(("a", "b", "a")), "two different labels"),
        (lambda: replace(GPT2, context=2000), "context 2,000, but learned positions for 1,024"),
        (lambda: replace(GPT2, dropout=1.0), "dropout"),
        (lambda: gpt2(100, 1, heads=3), "does not divide"),
        (lambda: Arch(10, 10), "a decoder, an encoder, or both"),
        (lambda: Moe(Mlp(4), 2, 3), "3 of 2 experts"),
        (lambda: Mlp(4, gated=False, limit=1.0), "gated"),
        (lambda: replace(GPT2, encoder=GPT2.trunk), "look across exactly where"),
        (lambda: replace(GPT2.trunk.pattern[0], across=Attention(2, 2, 8)), "sees all of the source"),
        (lambda: replace(transformer(32, 2, 2), encoder=replace(transformer(32, 2, 2).trunk, width=8)), "look across exactly where|wide"),
        (
            lambda: replace(
                GPT2.trunk, pattern=(Block(Attention(2, 2, 8), Mlp(4)), Block(Attention(1, 1, 8), Mlp(4))), positions=DistanceBias()
            ),
            "same number of heads",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_blocks_tile_the_pattern():
    a, b = QWEN3.trunk.pattern[0], GPT2.trunk.pattern[0]
    assert replace(QWEN3.trunk, depth=5, pattern=(a, a, b)).blocks == (a, a, b, a, a)


@settings(deadline=None)
@given(arches())
def test_parameter_count_is_that_of_the_model(arch):
    with torch.device("meta"):
        model = Transformer(arch)
    assert parameter_count(arch) == sum(p.numel() for p in model.parameters())


@settings(deadline=None)
@given(st.tuples(side, side), st.integers(1, 40))
def test_windows_count_what_is_seen(reach, length):
    """The attention's part of the operations is the number of pairs that the model's own rule allows."""
    arch = qwen3(8, 1, 2, 1, 4, vocabulary=8)
    seen = replace(arch.trunk.pattern[0].attention, sees=reach)
    arch = replace(arch, decoder=replace(arch.trunk, pattern=(replace(arch.trunk.pattern[0], attention=seen),)))
    places = torch.arange(length)[None]
    pairs = int(sees(Layout(places, None, places, None), reach).sum())
    whole = replace(seen, sees=(0, 0))
    alone = replace(arch, decoder=replace(arch.trunk, pattern=(replace(arch.trunk.pattern[0], attention=whole),)))
    assert forward_flops(arch, length) - forward_flops(alone, length) == 4 * 2 * 4 * (pairs - length)


BOTH = [t5(32, 2, 2, vocabulary=64), transformer(32, 2, 2, vocabulary=64)]
OTHERS = [bert(32, 2, 2, vocabulary=64, embedding=16), llama(32, 2, 2, vocabulary=64, experts=4), gemma2(32, 2, 2, 1, 16, vocabulary=64)]


@pytest.mark.parametrize("length", [1, 7, 32])
@pytest.mark.parametrize("arch", [GPT2, QWEN3, qwen3(32, 3, 4, 1, 16, mlp=50, tied=False), *OTHERS, *BOTH])
def test_flops_are_those_that_torch_counts(arch, length, monkeypatch):
    """Over plain attention, whose every pair torch counts; the causal half is taken off by hand."""
    monkeypatch.setattr(attention, "attend", attention.attend_plainly)
    model, tokens = Transformer(arch).eval(), torch.zeros(1, length, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        model(tokens, memory=model.encode(tokens) if len(arch.stacks) == 2 else None)
    unseen = 0
    for stack in arch.stacks.values():
        for a in (block.attention for block in stack.blocks):
            unseen += 4 * a.heads * a.head_size * (length * length - seen_pairs(a.sees, length))
    assert forward_flops(arch, length) == counter.get_total_flops() - unseen


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name):
    assert from_json(Arch, json.loads(json.dumps(PRESETS[name].arch().to_json()))) == PRESETS[name].arch()
