"""Qwen 3 (arXiv:2505.09388) as `transformers` stores it; the default shape of fledge's own models."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fledge.arch import Arch, Attention, Block, Classes, Mlp, RmsNorm, Rope, Stack, Words
from fledge.weights.families.fields import activation, activation_name, head, head_fields, need, refuse, shortest, typed
from fledge.weights.rules import Rule, rule

BODY = "model."
IGNORED = r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq"
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def arch(config: Mapping[str, Any]) -> Arch:
    """The `Arch` of a Qwen 3 config.json; sliding layers (`layer_types`, or `max_window_layers`) become blocks of their own.

    Raises `ValueError` naming a field that is missing or says what an `Arch` cannot.
    """
    norm = RmsNorm(typed(config, "rms_norm_eps", 1e-6, float))
    heads, bias = need(config, "num_attention_heads"), typed(config, "attention_bias", False, bool)
    kv_heads = typed(config, "num_key_value_heads", heads, int)
    attention = Attention(
        heads, kv_heads, typed(config, "head_dim", 128, int), (None, 0), Rope(_rope_base(config)), norm, norm, bias=bias, bias_out=bias
    )  # fmt: skip
    block = Block(attention, Mlp(need(config, "intermediate_size"), activation(config, "hidden_act", "silu")), norm_in=norm)
    blocks = tuple(replace(block, attention=replace(attention, sees=sees)) for sees in _sees(config))
    stack = Stack(need(config, "hidden_size"), len(blocks), shortest(blocks), None, norm)
    context, dropout = need(config, "max_position_embeddings"), typed(config, "attention_dropout", 0.0, float)
    return Arch(need(config, "vocab_size"), context, stack, head(config, tied=False), dropout)


def _rope_base(config: Mapping[str, Any]) -> float:
    """transformers 5 writes `rope_parameters`; before that `rope_theta` stood alone, beside `rope_scaling`."""
    for name in ("rope_parameters", "rope_scaling"):
        given = typed(config, name, {}, dict)
        kind = given.get("rope_type", given.get("type", "default"))
        stray = sorted(set(given) - {"rope_type", "type", "rope_theta"})
        if kind != "default" or stray:
            raise ValueError(f"config.json: {name} is {given}, but fledge knows rotary positions of type default, with rope_theta alone")
    refuse(config, partial_rotary_factor=1.0)
    nested = typed(config, "rope_parameters", {}, dict)
    return typed(nested if "rope_theta" in nested else config, "rope_theta", 10_000.0, float)


def _sees(config: Mapping[str, Any]) -> list[tuple[int | None, int]]:
    depth = need(config, "num_hidden_layers")
    window = typed(config, "sliding_window", 4096, int) if typed(config, "use_sliding_window", False, bool) else None
    full_until = typed(config, "max_window_layers", 28, int) if window is not None else depth
    types = typed(config, "layer_types", [], list) or ["full_attention" if i < full_until else "sliding_attention" for i in range(depth)]
    if len(types) != depth:
        raise ValueError(f"config.json: layer_types has {len(types)} layers, but num_hidden_layers is {depth}")
    reach: dict[str, tuple[int | None, int]] = {"full_attention": (None, 0)}
    if window is not None:
        reach["sliding_attention"] = (window - 1, 0)  # their window counts the query itself
    for i, kind in enumerate(types):
        if kind not in reach:
            raise ValueError(
                f"config.json: layer_types[{i}] is {kind!r} with sliding_window {window}, but here it is one of {', '.join(reach)}"
            )
    return [reach[kind] for kind in types]


def config(given: Arch) -> dict[str, Any]:
    """The config.json that says the most of an `Arch` that Qwen 3's can; the inverse of `arch` for those it expresses.

    `Arch.dropout` stands in `attention_dropout`, the only one that Qwen 3 has.
    """
    stack, block = given.decoder, given.decoder.pattern[0]
    attention = block.attention
    windows = {left + 1 for left in (b.attention.sees[0] for b in stack.blocks) if left is not None}
    return {
        **head_fields(given.head, "Qwen3ForCausalLM", "Qwen3ForSequenceClassification"),
        "model_type": "qwen3",
        "vocab_size": given.vocabulary,
        "max_position_embeddings": given.context,
        "hidden_size": stack.width,
        "num_hidden_layers": stack.depth,
        "num_attention_heads": attention.heads,
        "num_key_value_heads": attention.kv_heads,
        "head_dim": attention.head_size,
        "intermediate_size": block.mlp.width,
        "hidden_act": activation_name(block.mlp.activation, "gelu_pytorch_tanh"),
        "rms_norm_eps": block.norm_in.eps if block.norm_in else 1e-6,
        "attention_bias": attention.bias,
        "attention_dropout": given.dropout,
        "rope_parameters": {"rope_theta": attention.positions.base if attention.positions else 10_000.0, "rope_type": "default"},
        "layer_types": ["full_attention" if b.attention.sees[0] is None else "sliding_attention" for b in stack.blocks],
        "use_sliding_window": bool(windows),
        "sliding_window": min(windows, default=None),
        "max_window_layers": stack.depth,
        "initializer_range": 0.02,
        "use_cache": True,
    }


def table(given: Arch) -> list[Rule]:
    attention = given.decoder.pattern[0].attention
    layer, block = "model.layers.{i}.", "decoder.blocks.{i}."
    rules = [
        rule("model.embed_tokens.weight", "embedding.weight"),
        rule(layer + "input_layernorm.weight", block + "attention.norm_in.weight"),
        *(rule(f"{layer}self_attn.{p}_proj.weight", f"{block}attention.inner.{p}.weight") for p in "qkvo"),
        *(rule(f"{layer}self_attn.{p}_proj.bias", f"{block}attention.inner.{p}.bias") for p in "qkvo" if attention.bias),
        *(rule(f"{layer}self_attn.{p}_norm.weight", f"{block}attention.inner.{p}_norm.weight") for p in "qk"),
        rule(layer + "post_attention_layernorm.weight", block + "mlp.norm_in.weight"),
        *(rule(f"{layer}mlp.{p}_proj.weight", f"{block}mlp.inner.{p}.weight") for p in ("gate", "up", "down")),
        rule("model.norm.weight", "decoder.norm_final.weight"),
    ]
    match given.head:
        case Words(tied=False):
            rules.append(rule("lm_head.weight", "head.weight"))
        case Classes():
            rules.append(rule("score.weight", "head.weight"))
    return rules
