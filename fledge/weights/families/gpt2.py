"""GPT-2 (Radford et al., 2019) as `transformers` stores it."""

from collections.abc import Collection, Mapping
from typing import Any

from fledge.arch import Arch, Attention, Block, Classes, LayerNorm, Learned, Mlp, Stack, Words
from fledge.weights.families.fields import activation, activation_name, dense, divided, eps, head, head_fields, need, only, refuse, typed
from fledge.weights.rules import Rule, Split, Transpose, normed, rule

BODY = "transformer."
IGNORED = r"h\.\d+\.attn\.(bias|masked_bias)"  # the causal mask, which older versions saved as a buffer
REPEATS: Mapping[str, str] = {"lm_head.weight": "transformer.wte.weight"}
OLDER: Mapping[str, str] = {}


def arch(config: Mapping[str, Any], names: Collection[str] = ()) -> Arch:
    """The `Arch` of a GPT-2 config.json. Of the three dropouts `resid_pdrop` counts; they act in training only.

    Raises `ValueError` naming a field that is missing or says what an `Arch` cannot.
    """
    refuse(config, scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False)
    (width, heads, size), positions = divided(config, "n_embd", "n_head"), need(config, "n_positions")
    norm = LayerNorm(typed(config, "layer_norm_epsilon", 1e-5, float))
    inner = typed(config, "n_inner", 4 * width, int)
    mlp = Mlp(inner, activation(config, "activation_function", "gelu_new"), gated=False, bias=True)
    block = Block(Attention(heads, heads, size, bias=True, bias_out=True), mlp, norm_in=norm)
    stack = Stack(width, need(config, "n_layer"), (block,), Learned(positions), norm)
    context = typed(config, "n_ctx", positions, int)
    return Arch(need(config, "vocab_size"), context, stack, head(config, tied=True), typed(config, "resid_pdrop", 0.1, float))


def config(given: Arch) -> dict[str, Any]:
    """The config.json that says the most of an `Arch` that GPT-2's can; the inverse of `arch` for those it expresses."""
    stack = only(given, "decoder")
    block, mlp = stack.pattern[0], dense(stack.pattern[0])
    return {
        **head_fields(given.head, "GPT2LMHeadModel", "GPT2ForSequenceClassification"),
        "model_type": "gpt2",
        "vocab_size": given.vocabulary,
        "n_positions": stack.positions.length if isinstance(stack.positions, Learned) else given.context,
        "n_ctx": given.context,
        "n_embd": stack.width,
        "n_layer": stack.depth,
        "n_head": block.attention.heads,
        "n_inner": mlp.width,
        "activation_function": activation_name(mlp.activation, "gelu_new"),
        "layer_norm_epsilon": eps(block.norm_in, 1e-5),
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
    stack = only(given, "decoder")
    rules = [rule("transformer.wte.weight", "embedding.weight"), rule("transformer.wpe.weight", "decoder.positions.weight")]
    for i, block in enumerate(stack.blocks):
        theirs, attention, mlp = f"transformer.h.{i}.", f"decoder.blocks.{i}.attention.", f"decoder.blocks.{i}.mlp."
        fused, parts = theirs + "attn.c_attn.", Split((stack.width,) * 3)
        rules += normed(theirs + "ln_1", attention + "norm_in", block.norm_in) + normed(theirs + "ln_2", mlp + "norm_in", block.norm_in)
        rules.append(rule(fused + "weight", tuple(f"{attention}inner.{p}.weight" for p in "qkv"), Transpose(), parts))
        rules.append(rule(fused + "bias", tuple(f"{attention}inner.{p}.bias" for p in "qkv"), parts))
        for name, ours in (("attn.c_proj", attention + "inner.o"), ("mlp.c_fc", mlp + "inner.up"), ("mlp.c_proj", mlp + "inner.down")):
            rules.append(rule(f"{theirs}{name}.weight", ours + ".weight", Transpose()))
            rules.append(rule(f"{theirs}{name}.bias", ours + ".bias"))
    rules += normed("transformer.ln_f", "decoder.norm_final", stack.norm_final)
    match given.head:
        case Words(tied=False):
            rules.append(rule("lm_head.weight", "head.weight"))
        case Classes():
            rules.append(rule("score.weight", "head.weight"))
    return rules
