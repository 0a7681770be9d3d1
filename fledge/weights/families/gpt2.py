"""GPT-2 (Radford et al., 2019) as `transformers` stores it."""

from collections.abc import Mapping
from typing import Any

from fledge.arch import Arch, Attention, Block, Classes, LayerNorm, Learned, Mlp, Stack, Words
from fledge.weights.families.fields import activation, activation_name, head, head_fields, need, refuse, typed
from fledge.weights.rules import Rule, Split, Transpose, rule

BODY = "transformer."
IGNORED = r"h\.\d+\.attn\.(bias|masked_bias)"  # the causal mask, which older versions saved as a buffer
HEAD, EMBEDDING = "lm_head.weight", "transformer.wte.weight"


def arch(config: Mapping[str, Any]) -> Arch:
    """The `Arch` of a GPT-2 config.json. Of the three dropouts `resid_pdrop` counts; they act in training only.

    Raises `ValueError` naming a field that is missing or says what an `Arch` cannot.
    """
    refuse(config, scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False)
    width, heads, positions = need(config, "n_embd"), need(config, "n_head"), need(config, "n_positions")
    if heads < 1 or width % heads:
        raise ValueError(f"config.json: n_embd {width} does not divide into n_head {heads}")
    norm = LayerNorm(typed(config, "layer_norm_epsilon", 1e-5, float))
    inner = typed(config, "n_inner", 4 * width, int)
    mlp = Mlp(inner, activation(config, "activation_function", "gelu_new"), gated=False, bias=True)
    block = Block(Attention(heads, heads, width // heads, bias=True, bias_out=True), mlp, norm_in=norm)
    stack = Stack(width, need(config, "n_layer"), (block,), Learned(positions), norm)
    context = typed(config, "n_ctx", positions, int)
    return Arch(need(config, "vocab_size"), context, stack, head(config, tied=True), typed(config, "resid_pdrop", 0.1, float))


def config(given: Arch) -> dict[str, Any]:
    """The config.json that says the most of an `Arch` that GPT-2's can; the inverse of `arch` for those it expresses."""
    stack, block = given.decoder, given.decoder.pattern[0]
    return {
        **head_fields(given.head, "GPT2LMHeadModel", "GPT2ForSequenceClassification"),
        "model_type": "gpt2",
        "vocab_size": given.vocabulary,
        "n_positions": stack.positions.length if stack.positions else given.context,
        "n_ctx": given.context,
        "n_embd": stack.width,
        "n_layer": stack.depth,
        "n_head": block.attention.heads,
        "n_inner": block.mlp.width,
        "activation_function": activation_name(block.mlp.activation, "gelu_new"),
        "layer_norm_epsilon": block.norm_in.eps if block.norm_in else 1e-5,
        "resid_pdrop": given.dropout,
        "embd_pdrop": given.dropout,
        "attn_pdrop": given.dropout,
        "initializer_range": 0.02,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "reorder_and_upcast_attn": False,
        "add_cross_attention": False,
        "use_cache": True,
    }


def table(given: Arch) -> list[Rule]:
    """Their Conv1D weights are (in, out), and queries, keys and values are fused in one."""
    width = given.decoder.width
    block, attention, mlp = "decoder.blocks.{i}.", "decoder.blocks.{i}.attention.inner.", "decoder.blocks.{i}.mlp.inner."
    rules = [
        rule("transformer.wte.weight", "embedding.weight"),
        rule("transformer.wpe.weight", "decoder.positions.weight"),
        rule("transformer.h.{i}.attn.c_attn.weight", tuple(f"{attention}{p}.weight" for p in "qkv"), Transpose(), Split((width,) * 3)),
        rule("transformer.h.{i}.attn.c_attn.bias", tuple(f"{attention}{p}.bias" for p in "qkv"), Split((width,) * 3)),
    ]
    for theirs, ours in (("attn.c_proj", attention + "o"), ("mlp.c_fc", mlp + "up"), ("mlp.c_proj", mlp + "down")):
        rules += [
            rule(f"transformer.h.{{i}}.{theirs}.weight", f"{ours}.weight", Transpose()),
            rule(f"transformer.h.{{i}}.{theirs}.bias", f"{ours}.bias"),
        ]
    for theirs, ours in (
        ("h.{i}.ln_1", block + "attention.norm_in"),
        ("h.{i}.ln_2", block + "mlp.norm_in"),
        ("ln_f", "decoder.norm_final"),
    ):
        rules += [rule(f"transformer.{theirs}.{kind}", f"{ours}.{kind}") for kind in ("weight", "bias")]
    match given.head:
        case Words(tied=False):
            rules.append(rule("lm_head.weight", "head.weight"))
        case Classes():
            rules.append(rule("score.weight", "head.weight"))
    return rules
