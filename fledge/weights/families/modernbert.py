"""ModernBERT (arXiv:2412.13663): an encoder with rotary positions, local and global layers by turns, gated MLPs."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from fledge.arch import Arch, Attention, Block, Classes, Head, Hidden, LayerNorm, Mlp, Norm, Rope, Stack, Transform, Words
from fledge.weights.families.bert import head_fields
from fledge.weights.families.fields import (
    activation,
    activation_name,
    architecture,
    classes,
    dense,
    divided,
    eps,
    need,
    only,
    rope_fields,
    rope_of,
    shortest,
    turned,
    typed,
)
from fledge.weights.rules import Rule, Split, linear, normed, rule

BODY = "model."
IGNORED = r"(?!)"
REPEATS: Mapping[str, str] = {"decoder.weight": "model.embeddings.tok_embeddings.weight"}
OLDER: Mapping[str, str] = {}
BASES = {"full_attention": 160_000.0, "sliding_attention": 10_000.0}
OLD_BASES = {"full_attention": "global_rope_theta", "sliding_attention": "local_rope_theta"}


def arch(config: Mapping[str, Any], names: Collection[str] = ()) -> Arch:
    """The `Arch` of a config.json. Raises `ValueError` naming a field that is missing or says what an `Arch` cannot."""
    (width, heads, size), depth = divided(config, "hidden_size", "num_attention_heads"), need(config, "num_hidden_layers")
    every = typed(config, "global_attn_every_n_layers", 3, int)
    types = typed(config, "layer_types", ["sliding_attention" if i % every else "full_attention" for i in range(depth)], list)
    norm = LayerNorm(typed(config, "norm_eps", 1e-5, float), typed(config, "norm_bias", False, bool))
    reach = typed(config, "local_attention", 128, int) // 2
    bias, act = typed(config, "attention_bias", False, bool), activation(config, "hidden_activation", "gelu")
    mlp = Mlp(need(config, "intermediate_size"), act, bias=typed(config, "mlp_bias", False, bool))
    kinds = {}
    for kind, sees in (("full_attention", (None, None)), ("sliding_attention", (reach, reach))):
        attention = Attention(heads, heads, size, sees, _rope(config, kind), bias=bias, bias_out=bias)
        kinds[kind] = Block(attention, mlp, norm_in=norm)
    if stray := sorted(set(types) - set(kinds)) or len(types) != depth:
        raise ValueError(f"config.json: layer_types has {len(types)} layers ({stray}), but num_hidden_layers is {depth}")
    blocks = tuple(replace(kinds[kind], bare_attention=i == 0) for i, kind in enumerate(types))
    stack = Stack(width, depth, shortest(blocks), None, norm, norm)
    return Arch(
        need(config, "vocab_size"), need(config, "max_position_embeddings"), None, _head(config, norm),
        typed(config, "mlp_dropout", 0.0, float), stack,
    )  # fmt: skip


def _rope(config: Mapping[str, Any], kind: str) -> Rope:
    given = typed(config, "rope_parameters", {}, dict).get(kind) or {}
    older = {} if config.get(OLD_BASES[kind]) is None else {"rope_theta": config[OLD_BASES[kind]]}
    return rope_of({**older, **given}, f"rope_parameters.{kind}", BASES[kind], config)


def _head(config: Mapping[str, Any], norm: Norm) -> Head:
    name = architecture(config)
    transform = Transform(activation(config, "classifier_activation", "gelu"), norm, typed(config, "classifier_bias", False, bool))
    if name.endswith("ForMaskedLM"):
        return Words(typed(config, "tie_word_embeddings", True, bool), typed(config, "decoder_bias", True, bool), transform=transform)
    if name.endswith("ForSequenceClassification"):
        reads = "mean" if typed(config, "classifier_pooling", "cls", str) == "mean" else "first"
        return classes(config, reads, transform, bias=True)
    if name.endswith("Model") or not name:
        return Hidden()
    raise ValueError(f"config.json: architectures is {name}, but fledge opens ...ForMaskedLM, ...ForSequenceClassification and ...Model")


def config(given: Arch) -> dict[str, Any]:
    """The config.json that says the most of an `Arch` that ModernBERT's can; the inverse of `arch` for those it expresses."""
    stack, head = only(given, "encoder"), given.head
    block, mlp = stack.pattern[0], dense(stack.pattern[0])
    types = ["full_attention" if block.attention.sees == (None, None) else "sliding_attention" for block in stack.blocks]
    found = {kind: rope_fields(Rope(base)) for kind, base in BASES.items()}
    found |= {kind: rope_fields(turned(block.attention)) for kind, block in zip(types, stack.blocks, strict=True)}
    transform = getattr(head, "transform", None) or Transform("gelu", bias=False)
    return {
        **head_fields(head, "ModernBert", "ForMaskedLM"),
        "model_type": "modernbert",
        "vocab_size": given.vocabulary,
        "max_position_embeddings": given.context,
        "hidden_size": stack.width,
        "num_hidden_layers": stack.depth,
        "num_attention_heads": block.attention.heads,
        "intermediate_size": mlp.width,
        "hidden_activation": activation_name(mlp.activation),
        "norm_eps": eps(stack.norm_final, 1e-5),
        "norm_bias": isinstance(stack.norm_final, LayerNorm) and stack.norm_final.bias,
        "attention_bias": block.attention.bias,
        "mlp_bias": mlp.bias,
        "layer_types": types,
        "local_attention": 2 * max((b.attention.sees[0] for b in stack.blocks if b.attention.sees[0] is not None), default=64),
        "rope_parameters": found,
        "classifier_activation": activation_name(transform.activation),
        "classifier_bias": transform.bias,
        "classifier_pooling": "mean" if isinstance(head, Classes) and head.reads == "mean" else "cls",
        "decoder_bias": isinstance(head, Words) and head.bias,
        "tie_word_embeddings": not isinstance(head, Words) or head.tied,
        "embedding_dropout": given.dropout,
        "mlp_dropout": given.dropout,
        "attention_dropout": given.dropout,
        "classifier_dropout": given.dropout,
        "initializer_range": 0.02,
    }


def table(given: Arch) -> list[Rule]:
    stack, head = only(given, "encoder"), given.head
    body = "" if isinstance(head, Hidden) else BODY
    rules = [
        rule(body + "embeddings.tok_embeddings.weight", "embedding.weight"),
        *normed(body + "embeddings.norm", "encoder.norm_embedding", stack.norm_embedding),
    ]
    for i, block in enumerate(stack.blocks):
        theirs, ours = f"{body}layers.{i}.", f"encoder.blocks.{i}."
        a, mlp = block.attention, dense(block)
        for kind in ("weight", "bias")[: 1 + a.bias]:
            size = a.heads * a.head_size
            rules.append(rule(f"{theirs}attn.Wqkv.{kind}", tuple(f"{ours}attention.inner.{p}.{kind}" for p in "qkv"), Split((size,) * 3)))
        for kind in ("weight", "bias")[: 1 + mlp.bias]:
            fused = tuple(f"{ours}mlp.inner.{p}.{kind}" for p in ("gate", "up"))
            rules.append(rule(f"{theirs}mlp.Wi.{kind}", fused, Split((mlp.width,) * 2)))
        rules += linear(theirs + "attn.Wo", ours + "attention.inner.o", a.bias_out) + linear(
            theirs + "mlp.Wo", ours + "mlp.inner.down", mlp.bias
        )
        rules += normed(theirs + "attn_norm", ours + "attention.norm_in", None if block.bare_attention else block.norm_in)
        rules += normed(theirs + "mlp_norm", ours + "mlp.norm_in", block.norm_in)
    rules += normed(body + "final_norm", "encoder.norm_final", stack.norm_final)
    match head:
        case Words(tied, bias, transform=Transform(norm=norm, bias=inner)):
            rules += linear("head.dense", "head.transform.dense", inner) + normed("head.norm", "head.transform.norm", norm)
            rules += [] if tied else [rule("decoder.weight", "head.weight")]
            rules += [rule("decoder.bias", "head.bias")] if bias else []
        case Classes(transform=Transform(norm=norm, bias=inner)):
            rules += linear("head.dense", "head.transform.dense", inner) + normed("head.norm", "head.transform.norm", norm)
            rules += linear("classifier", "head", True)
    return rules
