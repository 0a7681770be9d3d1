"""Gemma 2 and 3 (arXiv:2408.00118, arXiv:2503.19786): norms before and after each part, gains stored as their distance from 1."""

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from fledge.arch import Arch, Attention, Block, Classes, Embedding, RmsNorm, Rope, Sees, Stack, Words
from fledge.weights.families.fields import head, need, optional, refuse, rope_fields, rope_of, turned, typed, window_fields, windows
from fledge.weights.families.llama import Llama
from fledge.weights.rules import Rule, normed


class Gemma2(Llama):
    """Local and global layers by turns, capped scores of attention and of words."""

    name, prefix = "gemma2", "Gemma2"
    tied = True
    acts, act = "hidden_activation", "gelu_pytorch_tanh"
    attention_cap: float | None = 50.0  # what a config.json without the fields means
    final_cap: float | None = 30.0

    def arch(self, config: Mapping[str, Any], names: Collection[str] = ()) -> Arch:
        refuse(config, use_bidirectional_attention=False)
        return replace(super().arch(config), embedding=Embedding(scale=math.sqrt(need(config, "hidden_size"))))

    def head(self, config: Mapping[str, Any]) -> Words | Classes:
        return head(config, self.tied, optional(config, "final_logit_softcapping", self.final_cap, float))

    def norm(self, config: Mapping[str, Any]) -> RmsNorm:
        return RmsNorm(typed(config, "rms_norm_eps", self.eps, float), offset=1.0)

    def block(self, config: Mapping[str, Any], layer: int) -> Block:
        return replace(super().block(config, layer), norm_out=self.norm(config))

    def attention(self, config: Mapping[str, Any], layer: int) -> Attention:
        scale = typed(config, "query_pre_attn_scalar", 256.0, float) ** -0.5
        return replace(
            super().attention(config, layer), scale=scale, soft_cap=optional(config, "attn_logit_softcapping", self.attention_cap, float)
        )

    def head_size(self, config: Mapping[str, Any], heads: int) -> int:
        return typed(config, "head_dim", 256, int)

    def kinds(self, config: Mapping[str, Any]) -> list[str]:
        """The kind of each layer where `layer_types` does not say it."""
        return ["full_attention" if i % 2 else "sliding_attention" for i in range(need(config, "num_hidden_layers"))]

    def sees(self, config: Mapping[str, Any], layer: int) -> Sees:
        return windows(config, self.kinds(config), optional(config, "sliding_window", 4096, int))[layer]

    def config(self, given: Arch) -> dict[str, Any]:
        cap = given.head.soft_cap if isinstance(given.head, Words) else None
        return {**super().config(given), "final_logit_softcapping": cap}

    def more(self, stack: Stack) -> dict[str, Any]:
        a = stack.pattern[0].attention
        return {
            **window_fields(stack),
            "query_pre_attn_scalar": a.head_size if a.scale is None else round(a.scale**-2),
            "attn_logit_softcapping": a.soft_cap,
        }

    def norm_rules(self, theirs: str, ours: str, block: Block) -> list[Rule]:
        return [
            *normed(theirs + "input_layernorm", ours + "attention.norm_in", block.norm_in),
            *normed(theirs + "post_attention_layernorm", ours + "attention.norm_out", block.norm_out),
            *normed(theirs + "pre_feedforward_layernorm", ours + "mlp.norm_in", block.norm_in),
            *normed(theirs + "post_feedforward_layernorm", ours + "mlp.norm_out", block.norm_out),
        ]


class Gemma3(Gemma2):
    """The text model: norms on queries and keys in place of the caps, five local layers to a global one, a rotary base for each kind."""

    name, prefix = "gemma3_text", "Gemma3"
    attention_cap, final_cap = None, None
    bases: Mapping[str, float] = {"full_attention": 1_000_000.0, "sliding_attention": 10_000.0}

    def attention(self, config: Mapping[str, Any], layer: int) -> Attention:
        norm = self.norm(config)
        return replace(super().attention(config, layer), q_norm=norm, k_norm=norm)

    def kinds(self, config: Mapping[str, Any]) -> list[str]:
        every = typed(config, "sliding_window_pattern", 6, int)
        return ["sliding_attention" if (i + 1) % every else "full_attention" for i in range(need(config, "num_hidden_layers"))]

    def rope(self, config: Mapping[str, Any], layer: int) -> Rope | None:
        """By kind of layer; `rope_theta`, `rope_scaling` and `rope_local_base_freq` are older names of the same."""
        kind = "full_attention" if self.sees(config, layer)[0] is None else "sliding_attention"
        given = typed(config, "rope_parameters", {}, dict)
        if kind in given or not given:
            old = {"full_attention": "rope_theta", "sliding_attention": "rope_local_base_freq"}[kind]
            older = {} if config.get(old) is None else {"rope_theta": config[old]}
            scaling = typed(config, "rope_scaling", {}, dict) if kind == "full_attention" else {}
            return rope_of({**older, **scaling, **(given.get(kind) or {})}, f"rope_parameters.{kind}", self.bases[kind], config)
        raise ValueError(f"config.json: rope_parameters is {given}, but it needs fields for full_attention and sliding_attention")

    def rope_fields(self, stack: Stack) -> dict[str, Any]:
        found = {kind: rope_fields(Rope(base)) for kind, base in self.bases.items()}
        for block in stack.pattern:
            kind = "full_attention" if block.attention.sees[0] is None else "sliding_attention"
            found[kind] = rope_fields(turned(block.attention))
        return found

    def config(self, given: Arch) -> dict[str, Any]:
        architectures = ["Gemma3TextForSequenceClassification"] if isinstance(given.head, Classes) else ["Gemma3ForCausalLM"]
        return {**super().config(given), "architectures": architectures}
