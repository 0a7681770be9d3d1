"""Tables and config.json, both ways."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge import presets
from fledge.arch import Arch, Classes, LayerNorm, LongRope, Mlp, Rope, Words
from fledge.model import Transformer, initialise, shell
from fledge.weights.families import FAMILIES, expresses, family_name, family_of
from fledge.weights.rules import Rule, Split, Transpose, claim, read, rule, write

GPT2 = presets.gpt2(16, 2, 2, 50, 32)
QWEN3 = presets.qwen3(16, 4, 2, 1, 8, 24, 50, 32)


def with_block(arch: Arch, **changes) -> Arch:
    block = replace(arch.trunk.pattern[0], **changes)
    return replace(arch, decoder=replace(arch.trunk, pattern=(block,)))


def with_attention(arch: Arch, **changes) -> Arch:
    return with_block(arch, attention=replace(arch.trunk.pattern[0].attention, **changes))


LOCAL = with_attention(QWEN3, sees=(3, 0)).trunk.pattern[0]
EXPRESSED = {
    "gpt2": [
        GPT2,
        GPT2.with_head(Words(tied=False)),
        GPT2.with_head(Classes(("b", "a", "10", "é"))),
        replace(GPT2, context=16, dropout=0.25),
        with_block(GPT2, mlp=Mlp(20, "relu", gated=False, bias=True)),
    ],
    "qwen3": [
        QWEN3,
        QWEN3.with_head(Words(tied=False)),
        QWEN3.with_head(Classes(("yes", "no"))),
        replace(QWEN3, dropout=0.1),
        with_attention(QWEN3, bias=True, bias_out=True),
        replace(QWEN3, decoder=replace(QWEN3.trunk, pattern=(LOCAL, LOCAL, *QWEN3.trunk.pattern))),
        replace(QWEN3, decoder=replace(QWEN3.trunk, pattern=QWEN3.trunk.pattern * 2)),
    ],
    "fledge": [
        with_block(GPT2, norm_in=None, norm_sum=LayerNorm()),
        with_attention(GPT2, sees=(7, 0)),
        with_attention(GPT2, bias=False),
        with_attention(QWEN3, sees=(None, None)),
        with_attention(QWEN3, q_norm=None),
        with_attention(QWEN3, bias=True),
        replace(QWEN3, decoder=replace(QWEN3.trunk, pattern=(LOCAL, with_attention(QWEN3, sees=(5, 0)).trunk.pattern[0]))),
        replace(QWEN3, decoder=replace(QWEN3.trunk, norm_final=None)),
    ],
}
ARCHES = [(name, arch) for name, arches in EXPRESSED.items() for arch in arches]


@pytest.mark.parametrize(("name", "arch"), ARCHES)
def test_the_first_family_that_says_all_of_it(name: str, arch: Arch):
    assert family_name(arch) == name
    family = FAMILIES[name]
    config = family.config(arch)
    assert family_of(config) is family
    again = family.arch(config)
    assert again.trunk.blocks == arch.trunk.blocks
    assert again == replace(arch, decoder=again.trunk)
    assert [expresses(FAMILIES[other], arch) for other in EXPRESSED] == [other in (name, "fledge") for other in EXPRESSED]


@pytest.mark.parametrize(("name", "arch"), ARCHES)
def test_read_is_the_inverse_of_write(name: str, arch: Arch):
    model = initialise(Transformer(arch), 3)
    rules = FAMILIES[name].table(arch)
    theirs = {key: tensor.contiguous() for key, tensor in write(rules, model.state_dict())}
    assert sum(tensor.numel() for tensor in theirs.values()) == sum(parameter.numel() for parameter in model.parameters())
    ours = dict(read(rules, theirs.__getitem__))
    assert sorted(ours) == sorted(model.state_dict())
    assert all(torch.equal(ours[key], tensor) for key, tensor in model.state_dict().items())
    shapes = {key: tensor.shape for key, tensor in write(rules, shell(arch).state_dict())}
    assert shapes == {key: tensor.shape for key, tensor in theirs.items()}


@settings(deadline=None)  # a busy machine is no fault
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(1, 5))
def test_every_step_has_its_way_back(sizes: list[int], width: int):
    whole = torch.randn(width, sum(sizes))
    fused = rule("whole", tuple("abcd"[: len(sizes)]), Transpose(), Split(tuple(sizes)))
    parts = fused.forth([whole])
    assert [part.shape for part in parts] == [(size, width) for size in sizes]
    (again,) = fused.back(parts)
    assert torch.equal(again, whole)


def test_a_table_covers_every_parameter_once():
    rules = FAMILIES["gpt2"].table(GPT2)
    state = Transformer(GPT2).state_dict()
    for wrong in (rules[:-1], [*rules, rules[0]], [*rules, Rule(("more",), ("more",))]):
        with pytest.raises(ValueError, match="exactly once"):
            list(write(wrong, state))


def test_names_are_claimed_strictly():
    needed = ["body.a", "body.b", "head"]
    assert claim(needed, ["head", "body.b", "body.a"], "body.") == {name: name for name in needed}
    assert claim(needed, ["head", "b", "a", "buffer.3"], "body.", r"buffer\.\d") == {"body.a": "a", "body.b": "b", "head": "head"}
    for present, said in (
        (["body.a", "head"], r"body\.b is missing"),
        ([*needed, "body.c"], r"body\.c is there"),
        ([*needed, "a"], r"body\.a is there twice, as body\.a and as a"),
        (["body.a", "head", "body.B"], r"body\.B is there \(and lacks body\.b\)"),
        ([*needed, "xbuffer.3"], r"xbuffer\.3"),
    ):
        with pytest.raises(ValueError, match=said):
            claim(needed, present, "body.", r"buffer\.\d")


REFUSED = [
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
    ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights"),
    ("gpt2", {"add_cross_attention": True}, "add_cross_attention"),
    ("gpt2", {"activation_function": "gelu_fast"}, "gelu_fast"),
    ("gpt2", {"n_head": 3}, "n_head 3"),
    ("gpt2", {"n_head": "2"}, "n_head is '2'"),
    ("gpt2", {"n_layer": None}, "no n_layer"),
    ("gpt2", {"architectures": ["GPT2ForTokenClassification"]}, "GPT2ForTokenClassification"),
    ("qwen3", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "mscale": 1.0}}, "type yarn with mscale"),
    ("qwen3", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "rope_parameters has rope_type 'dynamic'"),
    ("qwen3", {"rope_parameters": None, "rope_scaling": {"type": "linear"}}, "factor"),
    ("qwen3", {"rope_parameters": {"rope_type": "longrope", "short_factor": [1, 1, 1, 1], "long_factor": [2, 2, 2, 2]}}, "as LongRope"),
    ("qwen3", {"rope_parameters": {"rope_type": "longrope", "short_factor": [1, 0], "long_factor": [2, 2]}}, "positive numbers"),
    ("qwen3", {"rope_parameters": {"rope_type": "longrope"}, "original_max_position_embeddings": 1}, "needs at least 2"),
    ("qwen3", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
    ("qwen3", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ("qwen3", {"hidden_act": "swiglu"}, "swiglu"),
    ("qwen3", {"layer_types": ["full_attention"]}, "layer_types has 1"),
    ("qwen3", {"layer_types": ["sliding_attention"] * 4}, "sliding_attention"),
    ("qwen3", {"layer_types": ["linear_attention"] * 4}, "linear_attention"),
    ("qwen3", {"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
    ("qwen3", {"architectures": ["Qwen3ForSequenceClassification"], "id2label": {"0": "a", "2": "b"}}, "id2label"),
    ("qwen3", {"architectures": ["Qwen3ForSequenceClassification"], "id2label": {"0": "a"}}, "two different labels"),
    ("qwen3", {"architectures": ["Qwen3ForSequenceClassification"], "problem_type": "regression"}, "problem_type"),
    ("qwen3", {"model_type": "qwen7"}, "qwen7"),
]


@pytest.mark.parametrize(("name", "changes", "said"), REFUSED)
def test_what_an_arch_cannot_say_is_refused_by_name(name: str, changes: dict, said: str):
    config = {**FAMILIES[name].config({"gpt2": GPT2, "qwen3": QWEN3}[name]), **changes}
    with pytest.raises(ValueError, match=said):
        family_of(config).arch(config)


def test_older_spellings_are_read():
    config = FAMILIES["qwen3"].config(QWEN3)
    del config["rope_parameters"], config["layer_types"]
    old = {**config, "rope_theta": 1_000_000, "rope_scaling": None, "num_key_value_heads": None}
    assert FAMILIES["qwen3"].arch(old) == with_attention(QWEN3, kv_heads=2, positions=Rope(1e6))
    factors = {"short_factor": [1, 1.5], "long_factor": [2, 4]}
    phi3 = {
        "model_type": "phi3", "vocab_size": 50, "max_position_embeddings": 64, "original_max_position_embeddings": 8, "hidden_size": 16,
        "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 24, "rope_scaling": {"type": "su", **factors},
    }  # fmt: skip
    grown = LongRope((1.0, 1.5), (2.0, 4.0), 8, math.sqrt(1 + math.log(64 / 8) / math.log(8)))
    assert FAMILIES["phi3"].arch(phi3).trunk.pattern[0].attention.positions == Rope(stretch=grown)
    gpt2 = {"model_type": "gpt2", "vocab_size": 50, "n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2}
    assert FAMILIES["gpt2"].arch(gpt2) == GPT2
