"""Decoders with experts: Mixtral (arXiv:2401.04088), Qwen 3 (arXiv:2505.09388), gpt-oss (arXiv:2508.10925)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fledge.arch import Attention, Block, Mlp, Moe, Sees, Stack
from fledge.weights.families.fields import activation, activation_name, need, optional, refuse, typed, window_fields, windows
from fledge.weights.families.llama import Llama, Mistral, Qwen3
from fledge.weights.rules import Alternate, Pile, Rule, Transpose, rule


def experts(stack: Stack) -> Moe:
    found = next((block.mlp for block in stack.pattern if isinstance(block.mlp, Moe)), None)
    if found is None:
        raise ValueError("the family has experts")
    return found


def piled(theirs: str, ours: str, count: int) -> Rule:
    """A row for one part of all experts, `{e}` in their names."""
    return rule(tuple(theirs.format(e=e) for e in range(count)), ours, Pile(count))


class Mixtral(Mistral):
    """Eight experts of which each token takes two."""

    name, prefix = "mixtral", "Mixtral"
    base = 1_000_000.0
    eps = 1e-5
    window = None

    def mlp(self, config: Mapping[str, Any], layer: int) -> Moe:
        refuse(config, router_jitter_noise=0.0)
        expert = Mlp(need(config, "intermediate_size"), activation(config, "hidden_act", "silu"))
        count = typed(config, "num_local_experts", config.get("num_experts", 8), int)
        return Moe(expert, count, typed(config, "num_experts_per_tok", 2, int), balance=typed(config, "router_aux_loss_coef", 0.001, float))

    def mlp_fields(self, stack: Stack) -> dict[str, Any]:
        moe = experts(stack)
        return {
            "intermediate_size": moe.expert.width, "hidden_act": activation_name(moe.expert.activation), "num_local_experts": moe.experts,
            "num_experts_per_tok": moe.chosen, "router_aux_loss_coef": moe.balance, "router_jitter_noise": 0.0,
        }  # fmt: skip

    def mlp_rules(self, theirs: str, ours: str, block: Block) -> list[Rule]:
        if not isinstance(block.mlp, Moe):
            raise ValueError("the family has experts in every layer")
        theirs, ours = theirs + "block_sparse_moe.", ours + "mlp.inner."
        parts = (("w1", "gate"), ("w3", "up"), ("w2", "down"))
        return [
            rule(theirs + "gate.weight", ours + "router.weight"),
            *(piled(theirs + "experts.{e}." + w + ".weight", ours + p, block.mlp.experts) for w, p in parts),
        ]


class Qwen3Moe(Qwen3):
    """Many small experts, in every layer or all but some."""

    name, prefix = "qwen3_moe", "Qwen3Moe"

    def head_size(self, config: Mapping[str, Any], heads: int) -> int:
        return Llama.head_size(self, config, heads)

    def sees(self, config: Mapping[str, Any], layer: int) -> Sees:
        window = typed(config, "sliding_window", 4096, int) if typed(config, "use_sliding_window", False, bool) else None
        return (None if window is None else window - 1, 0)

    def mlp(self, config: Mapping[str, Any], layer: int) -> Mlp | Moe:
        act, sparse = activation(config, "hidden_act", "silu"), typed(config, "decoder_sparse_step", 1, int)
        count = typed(config, "num_experts", config.get("num_local_experts", 128), int)
        if layer in typed(config, "mlp_only_layers", [], list) or count == 0 or (layer + 1) % sparse:
            return Mlp(need(config, "intermediate_size"), act)
        return Moe(
            Mlp(typed(config, "moe_intermediate_size", 768, int), act), count, typed(config, "num_experts_per_tok", 8, int),
            typed(config, "norm_topk_prob", False, bool), balance=typed(config, "router_aux_loss_coef", 0.001, float),
        )  # fmt: skip

    def mlp_fields(self, stack: Stack) -> dict[str, Any]:
        moe = experts(stack)
        plain = next((block.mlp.width for block in stack.pattern if isinstance(block.mlp, Mlp)), 4 * stack.width)
        return {
            "intermediate_size": plain, "moe_intermediate_size": moe.expert.width, "hidden_act": activation_name(moe.expert.activation),
            "num_experts": moe.experts, "num_experts_per_tok": moe.chosen, "norm_topk_prob": moe.normalised,
            "mlp_only_layers": [i for i, block in enumerate(stack.blocks) if isinstance(block.mlp, Mlp)], "decoder_sparse_step": 1,
            "router_aux_loss_coef": moe.balance,
        }  # fmt: skip

    def more(self, stack: Stack) -> dict[str, Any]:
        window = window_fields(stack)["sliding_window"]
        return {"sliding_window": window, "use_sliding_window": window is not None}

    def mlp_rules(self, theirs: str, ours: str, block: Block) -> list[Rule]:
        if isinstance(block.mlp, Mlp):
            return super().mlp_rules(theirs, ours, block)
        theirs, ours = theirs + "mlp.", ours + "mlp.inner."
        return [
            rule(theirs + "gate.weight", ours + "router.weight"),
            *(piled(theirs + "experts.{e}." + p + "_proj.weight", ours + p, block.mlp.experts) for p in ("gate", "up", "down")),
        ]


class GptOss(Llama):
    """Attention sinks, windows in every other layer, biases everywhere, YaRN from the start, gates cut at 7."""

    name, prefix = "gpt_oss", "GptOss"
    base = 150_000.0
    eps = 1e-5

    def attention(self, config: Mapping[str, Any], layer: int) -> Attention:
        return replace(super().attention({"attention_bias": True, **config}, layer), sinks=True)

    def head_size(self, config: Mapping[str, Any], heads: int) -> int:
        return typed(config, "head_dim", 64, int)

    def sees(self, config: Mapping[str, Any], layer: int) -> Sees:
        depth = need(config, "num_hidden_layers")
        types = ["full_attention" if i % 2 else "sliding_attention" for i in range(depth)]
        return windows(config, types, optional(config, "sliding_window", 128, int))[layer]

    def rope(self, config: Mapping[str, Any], layer: int):
        """Without any said it is the published one: factor 32 of 4,096."""
        if config.get("rope_parameters") is None and config.get("rope_scaling") is None:
            said = {
                "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
                "original_max_position_embeddings": 4096,
            }  # fmt: skip
            config = {**config, "rope_scaling": said}
        return super().rope(config, layer)

    def mlp(self, config: Mapping[str, Any], layer: int) -> Moe:
        refuse(config, swiglu_alpha=1.702, hidden_act="silu")  # the name that its configs give to x sigmoid(1.702 x)
        expert = Mlp(
            need(config, "intermediate_size"), "gelu_sigmoid", bias=True, limit=typed(config, "swiglu_limit", 7.0, float), up_offset=1.0
        )
        count = typed(config, "num_local_experts", config.get("num_experts", 128), int)
        chosen = typed(config, "num_experts_per_tok", config.get("experts_per_token", 4), int)
        return Moe(expert, count, chosen, router_bias=True, balance=typed(config, "router_aux_loss_coef", 0.001, float))

    def mlp_fields(self, stack: Stack) -> dict[str, Any]:
        moe = experts(stack)
        return {
            "intermediate_size": moe.expert.width, "hidden_act": "silu", "swiglu_limit": moe.expert.limit, "num_local_experts": moe.experts,
            "num_experts_per_tok": moe.chosen, "router_aux_loss_coef": moe.balance,
        }  # fmt: skip

    def more(self, stack: Stack) -> dict[str, Any]:
        return window_fields(stack)

    def attention_rules(self, theirs: str, ours: str, block: Block) -> list[Rule]:
        return [*super().attention_rules(theirs, ours, block), rule(theirs + "self_attn.sinks", ours + "attention.inner.sinks")]

    def mlp_rules(self, theirs: str, ours: str, block: Block) -> list[Rule]:
        theirs, ours = theirs + "mlp.", ours + "mlp.inner."
        return [
            rule(theirs + "router.weight", ours + "router.weight"),
            rule(theirs + "router.bias", ours + "router.bias"),
            rule(theirs + "experts.gate_up_proj", (ours + "gate", ours + "up"), Transpose(), Alternate()),
            rule(theirs + "experts.gate_up_proj_bias", (ours + "gate_bias", ours + "up_bias"), Alternate()),
            rule(theirs + "experts.down_proj", ours + "down", Transpose()),
            rule(theirs + "experts.down_proj_bias", ours + "down_bias"),
        ]
