"""T5 (arXiv:1910.10683): v1.0 with ReLU and a tied, scaled head, v1.1 with gated GELU and a head of its own."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from fledge.arch import Activation, Arch, Attention, Block, Classes, DistanceBias, Head, Mlp, RmsNorm, Stack, Transform, Words
from fledge.weights.families.fields import ACTIVATIONS, architecture, both, classes, dense, eps, label_fields, need, typed
from fledge.weights.rules import Rule, linear, normed, rule

BODY = ""
IGNORED = r"(transformer\.)?decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight"  # older copies; unused
REPEATS: Mapping[str, str] = {
    f"{body}{name}": f"{body}shared.weight"
    for body in ("", "transformer.")
    for name in ("lm_head.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
}
OLDER: Mapping[str, str] = {}
WORDS, CLASSIFIER = "T5ForConditionalGeneration", "T5ForSequenceClassification"


def arch(config: Mapping[str, Any], names: Collection[str] = ()) -> Arch:
    """The `Arch` of a config.json. Raises `ValueError` naming a field that is missing or says what an `Arch` cannot."""
    width, heads = need(config, "d_model"), need(config, "num_heads")
    norm = RmsNorm(typed(config, "layer_norm_epsilon", 1e-6, float))
    act, gated = _feed_forward(typed(config, "feed_forward_proj", "relu", str))
    attention = Attention(heads, heads, need(config, "d_kv"), (None, None), scale=1.0)
    block = Block(attention, Mlp(need(config, "d_ff"), act, gated), norm_in=norm)
    bias = DistanceBias(
        typed(config, "relative_attention_num_buckets", 32, int), typed(config, "relative_attention_max_distance", 128, int)
    )
    depth = need(config, "num_layers")
    encoder = Stack(width, depth, (block,), bias, norm)
    written = replace(block, attention=replace(attention, sees=(None, 0)), across=attention)
    decoder = replace(encoder, depth=typed(config, "num_decoder_layers", depth, int), pattern=(written,))
    start = typed(config, "decoder_start_token_id", config.get("pad_token_id", 0), int)
    return Arch(
        need(config, "vocab_size"), typed(config, "n_positions", 512, int), decoder, _head(config, names),
        typed(config, "dropout_rate", 0.1, float), encoder, start=start,
    )  # fmt: skip


def _feed_forward(said: str) -> tuple[Activation, bool]:
    """`relu`, or `gated-gelu`, which means its tanh form."""
    gated, name = said.startswith("gated-"), said.removeprefix("gated-")
    name = "gelu_new" if said == "gated-gelu" else name
    if name not in ACTIVATIONS:
        raise ValueError(f"config.json: feed_forward_proj is {said!r}, but it is one of {', '.join(ACTIVATIONS)}, or gated- one of them")
    return ACTIVATIONS[name], gated


def _head(config: Mapping[str, Any], names: Collection[str]) -> Head:
    """transformers 5 says of every T5 that it is tied; whether the head is another matrix its file tells."""
    if architecture(config) == CLASSIFIER:
        return classes(config, "last", Transform("tanh"), bias=True)
    if architecture(config) not in (WORDS, "T5WithLMHeadModel", "T5Model", ""):
        raise ValueError(f"config.json: architectures is {architecture(config)}, but fledge opens {WORDS} and {CLASSIFIER}")
    said = typed(config, "tie_word_embeddings", True, bool)
    scaled = typed(config, "scale_decoder_outputs", said, bool)
    tied = "lm_head.weight" not in names if names else said
    return Words(tied, scale=need(config, "d_model") ** -0.5 if scaled else 1.0)


def config(given: Arch) -> dict[str, Any]:
    """The config.json that says the most of an `Arch` that T5's can; the inverse of `arch` for those it expresses."""
    encoder, decoder = both(given)
    block, mlp = encoder.pattern[0], dense(encoder.pattern[0])
    bias = encoder.positions if isinstance(encoder.positions, DistanceBias) else DistanceBias()
    name = {"gelu_tanh": "gelu" if mlp.gated else "gelu_new", "gelu_sigmoid": "quick_gelu"}.get(mlp.activation, mlp.activation)
    match given.head:
        case Words(tied, scale=scale):
            named = {"architectures": [WORDS], "tie_word_embeddings": tied, "scale_decoder_outputs": scale != 1}
        case Classes() as labels:
            named = {"architectures": [CLASSIFIER], **label_fields(labels), "classifier_dropout": given.dropout}
        case _:
            raise ValueError("the family scores words or labels")
    return {
        **named,
        "model_type": "t5",
        "vocab_size": given.vocabulary,
        "n_positions": given.context,
        "d_model": encoder.width,
        "d_kv": block.attention.head_size,
        "d_ff": mlp.width,
        "num_layers": encoder.depth,
        "num_decoder_layers": decoder.depth,
        "num_heads": block.attention.heads,
        "feed_forward_proj": f"gated-{name}" if mlp.gated else name,
        "relative_attention_num_buckets": bias.buckets,
        "relative_attention_max_distance": bias.farthest,
        "layer_norm_epsilon": eps(encoder.norm_final, 1e-6),
        "dropout_rate": given.dropout,
        "decoder_start_token_id": 0 if given.start is None else given.start,
        "is_encoder_decoder": True,
        "use_cache": True,
    }


def table(given: Arch) -> list[Rule]:
    body = "transformer." if isinstance(given.head, Classes) else ""
    rules = [rule(body + "shared.weight", "embedding.weight")]
    for of, stack in zip(("encoder", "decoder"), both(given), strict=True):
        theirs = f"{body}{of}."
        rules.append(rule(theirs + "block.0.layer.0.SelfAttention.relative_attention_bias.weight", of + ".positions.weight"))
        for i, block in enumerate(stack.blocks):
            rules += _layer(f"{theirs}block.{i}.layer.", f"{of}.blocks.{i}.", block)
        rules += normed(theirs + "final_layer_norm", of + ".norm_final", stack.norm_final)
    match given.head:
        case Words(tied=False):
            rules.append(rule("lm_head.weight", "head.weight"))
        case Classes():
            rules += linear("classification_head.dense", "head.transform.dense", True)
            rules += linear("classification_head.out_proj", "head", True)
    return rules


def _layer(theirs: str, ours: str, block: Block) -> list[Rule]:
    parts = [("SelfAttention", "attention"), *([("EncDecAttention", "across")] if block.across is not None else [])]
    rules = [
        rule(f"{theirs}{number}.{name}.{p}.weight", f"{ours}{part}.inner.{p}.weight")
        for number, (name, part) in enumerate(parts)
        for p in "qkvo"
    ]
    inner = (("wi_0", "gate"), ("wi_1", "up"), ("wo", "down")) if dense(block).gated else (("wi", "up"), ("wo", "down"))
    rules += [rule(f"{theirs}{len(parts)}.DenseReluDense.{name}.weight", f"{ours}mlp.inner.{part}.weight") for name, part in inner]
    for number, part in enumerate([*(part for _, part in parts), "mlp"]):
        rules += normed(f"{theirs}{number}.layer_norm", f"{ours}{part}.norm_in", block.norm_in)
    return rules
