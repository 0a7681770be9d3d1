"""The graphs of llama.cpp, one row each: which `Arch` they compute, the fields that say so, and whose tensor is whose.

A graph is what llama.cpp has as src/models/NAME.cpp; the fields and the names of tensors are those of `gguf.constants`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from fledge.arch import Arch, Attention, Block, ByWavelength, Interpolated, LayerNorm, Learned, Mlp, Moe, Norm, RmsNorm, Rope, Stack, Words
from fledge.arch.record import differences
from fledge.model.positions import by_wavelength
from fledge.weights import families
from fledge.weights.families.fields import eps, only, shortest
from fledge.weights.rules import Rule, Split, linear, normed, rule

Fields = dict[str, int | float | str | bool | list[int] | list[str]]


class Graph(Protocol):
    @property
    def name(self) -> str: ...

    def computes(self, given: Arch, /) -> Arch:
        """What the graph makes of a model like this one; the same `Arch` where it computes just that."""
        ...

    def fields(self, given: Arch, /) -> Fields:
        """Those of a GGUF file, without the graph's name before them."""
        ...

    def table(self, given: Arch, /) -> list[Rule]: ...

    def constants(self, given: Arch, /) -> Mapping[str, Tensor]:
        """Tensors that hold nothing learned."""
        ...


@dataclass(frozen=True)
class Halves:
    """Rows of each head in pairs, (0, 1), (2, 3), ..., to all first ones, then all second ones: Llama's own order to transformers'."""

    heads: int

    def forth(self, tensors: list[Tensor]) -> list[Tensor]:
        return [tensor.unflatten(0, (self.heads, -1, 2)).transpose(1, 2).flatten(0, 2) for tensor in tensors]

    def back(self, tensors: list[Tensor]) -> list[Tensor]:
        return [tensor.unflatten(0, (self.heads, 2, -1)).transpose(1, 2).flatten(0, 2) for tensor in tensors]


class Gpt2:
    """Learned positions, layer norms, biases everywhere, tanh GELU; queries, keys and values in one tensor."""

    name = "gpt2"

    def computes(self, given: Arch) -> Arch:
        stack = only(given, "decoder")
        heads, norm = stack.pattern[0].attention.heads, LayerNorm(eps(stack.norm_final, 1e-5))
        attention = Attention(heads, heads, stack.width // heads, bias=True, bias_out=True)
        block = Block(attention, Mlp(_width(stack), "gelu_tanh", gated=False, bias=True), norm_in=norm)
        return Arch(given.vocabulary, given.context, Stack(stack.width, stack.depth, (block,), Learned(given.context), norm), _words(given))

    def fields(self, given: Arch) -> Fields:
        stack = only(given, "decoder")
        return {**_sizes(given), "attention.layer_norm_epsilon": eps(stack.norm_final, 1e-5)}

    def table(self, given: Arch) -> list[Rule]:
        stack = only(given, "decoder")
        rules = [rule("token_embd.weight", "embedding.weight"), rule("position_embd.weight", "decoder.positions.weight")]
        for i, block in enumerate(stack.blocks):
            theirs, attention, mlp = f"blk.{i}.", f"decoder.blocks.{i}.attention.", f"decoder.blocks.{i}.mlp."
            rules += normed(theirs + "attn_norm", attention + "norm_in", block.norm_in)
            rules += normed(theirs + "ffn_norm", mlp + "norm_in", block.norm_in)
            for kind in ("weight", "bias"):
                fused = tuple(f"{attention}inner.{part}.{kind}" for part in "qkv")
                rules.append(rule(f"{theirs}attn_qkv.{kind}", fused, Split((stack.width,) * 3)))
            rules += linear(theirs + "attn_output", attention + "inner.o", True)
            rules += linear(theirs + "ffn_up", mlp + "inner.up", True) + linear(theirs + "ffn_down", mlp + "inner.down", True)
        return rules + normed("output_norm", "decoder.norm_final", stack.norm_final) + _head(given)

    def constants(self, given: Arch) -> Mapping[str, Tensor]:
        return {}


class Llama:
    """Rotary positions, RMS norms, gated SiLU; each method is one thing in which relatives differ."""

    name = "llama"
    paired = True  # a head turns its numbers 0 and 1, 2 and 3, ... together
    stretches: tuple[type, ...] = (Interpolated, ByWavelength)

    def computes(self, given: Arch) -> Arch:
        stack = only(given, "decoder")
        norm = RmsNorm(eps(stack.norm_final, 1e-6))
        blocks = tuple(self.block(stack.pattern[0], norm, i) for i in range(stack.depth))
        return Arch(given.vocabulary, given.context, Stack(stack.width, stack.depth, shortest(blocks), None, norm), _words(given))

    def block(self, like: Block, norm: Norm, layer: int) -> Block:
        return Block(self.attention(like.attention, norm, layer), self.mlp(like.mlp), norm_in=norm)

    def attention(self, like: Attention, norm: Norm, layer: int) -> Attention:
        given = like.positions or Rope()
        rope = Rope(given.base, given.stretch if isinstance(given.stretch, self.stretches) else None)
        return Attention(like.heads, like.kv_heads, like.head_size, positions=rope, bias=like.bias, bias_out=like.bias_out)

    def mlp(self, like: Mlp | Moe) -> Mlp | Moe:
        return Moe(Mlp(like.expert.width), like.experts, like.chosen) if isinstance(like, Moe) else Mlp(like.width, bias=like.bias)

    def fields(self, given: Arch) -> Fields:
        stack = only(given, "decoder")
        a, mlp = stack.pattern[0].attention, stack.pattern[0].mlp
        rope = a.positions or Rope()
        found = {
            **_sizes(given), "attention.head_count_kv": a.kv_heads, "attention.key_length": a.head_size,
            "attention.value_length": a.head_size, "attention.layer_norm_rms_epsilon": eps(stack.norm_final, 1e-6),
            "rope.dimension_count": a.head_size, "rope.freq_base": float(rope.base), "vocab_size": given.vocabulary,
        }  # fmt: skip
        if isinstance(rope.stretch, Interpolated):
            found |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(rope.stretch.factor)}
        if isinstance(mlp, Moe):
            found |= {"expert_count": mlp.experts, "expert_used_count": mlp.chosen, "expert_feed_forward_length": mlp.expert.width}
        return found

    def table(self, given: Arch) -> list[Rule]:
        stack = only(given, "decoder")
        rules = [rule("token_embd.weight", "embedding.weight")]
        for i, block in enumerate(stack.blocks):
            theirs, ours = f"blk.{i}.", f"decoder.blocks.{i}."
            rules += self.norm_rules(theirs, ours, block) + self.attention_rules(theirs, ours, block) + self.mlp_rules(theirs, ours, block)
        return rules + normed("output_norm", "decoder.norm_final", stack.norm_final) + _head(given)

    def norm_rules(self, theirs: str, ours: str, block: Block) -> list[Rule]:
        return [
            *normed(theirs + "attn_norm", ours + "attention.norm_in", block.norm_in),
            *normed(theirs + "ffn_norm", ours + "mlp.norm_in", block.norm_in),
        ]

    def attention_rules(self, theirs: str, ours: str, block: Block) -> list[Rule]:
        a, theirs, ours = block.attention, theirs + "attn_", ours + "attention.inner."
        kinds = ("weight", "bias")[: 1 + a.bias]
        turned = [(part, heads, kind) for part, heads in (("q", a.heads), ("k", a.kv_heads)) for kind in kinds]
        return [
            *(rule(f"{theirs}{p}.{kind}", f"{ours}{p}.{kind}", *([Halves(heads)] if self.paired else [])) for p, heads, kind in turned),
            *linear(theirs + "v", ours + "v", a.bias),
            *linear(theirs + "output", ours + "o", a.bias_out),
            *normed(theirs + "q_norm", ours + "q_norm", a.q_norm),
            *normed(theirs + "k_norm", ours + "k_norm", a.k_norm),
        ]

    def mlp_rules(self, theirs: str, ours: str, block: Block) -> list[Rule]:
        ours, parts = ours + "mlp.inner.", ("gate", "up", "down")
        if isinstance(block.mlp, Moe):
            router = rule(theirs + "ffn_gate_inp.weight", ours + "router.weight")
            return [router, *(rule(f"{theirs}ffn_{part}_exps.weight", ours + part) for part in parts)]
        return [row for part in parts for row in linear(f"{theirs}ffn_{part}", ours + part, block.mlp.bias)]

    def constants(self, given: Arch) -> Mapping[str, Tensor]:
        """By how much each pair turns slower than its base says, where that is no one number."""
        attention = only(given, "decoder").pattern[0].attention
        rope, size = attention.positions, attention.head_size
        if rope is None or not isinstance(rope.stretch, ByWavelength):
            return {}
        plain = rope.base ** -(torch.arange(0, size, 2) / size)
        return {"rope_freqs.weight": plain / by_wavelength(plain, rope.stretch)}


class Qwen2(Llama):
    """Biases on queries, keys and values; a head turns its halves together, as all below do."""

    name, paired = "qwen2", False
    stretches = (Interpolated,)

    def attention(self, like: Attention, norm: Norm, layer: int) -> Attention:
        return replace(super().attention(like, norm, layer), bias=True, bias_out=False)

    def mlp(self, like: Mlp | Moe) -> Mlp | Moe:
        return Mlp(like.expert.width if isinstance(like, Moe) else like.width)


class Qwen3(Qwen2):
    """Norms on queries and keys, no biases: the default shape of fledge's own models."""

    name = "qwen3"

    def attention(self, like: Attention, norm: Norm, layer: int) -> Attention:
        return replace(Llama.attention(self, like, norm, layer), q_norm=norm, k_norm=norm, bias=False, bias_out=False)


class Qwen3Moe(Qwen3):
    """The same with experts in every layer."""

    name = "qwen3moe"

    def mlp(self, like: Mlp | Moe) -> Mlp | Moe:
        return Moe(Mlp(like.expert.width), like.experts, like.chosen) if isinstance(like, Moe) else Moe(Mlp(like.width), 8, 2)


class Olmo2(Qwen2):
    """Norms after each part, and on queries and keys over all heads together."""

    name = "olmo2"

    def block(self, like: Block, norm: Norm, layer: int) -> Block:
        return Block(self.attention(like.attention, norm, layer), self.mlp(like.mlp), norm_out=norm)

    def attention(self, like: Attention, norm: Norm, layer: int) -> Attention:
        found = Llama.attention(self, like, norm, layer)
        return replace(found, q_norm=norm, k_norm=norm, norms_over="width", bias=False, bias_out=False)

    def norm_rules(self, theirs: str, ours: str, block: Block) -> list[Rule]:
        return [
            *normed(theirs + "post_attention_norm", ours + "attention.norm_out", block.norm_out),
            *normed(theirs + "post_ffw_norm", ours + "mlp.norm_out", block.norm_out),
        ]


class SmolLM3(Llama):
    """Every fourth layer has no positions."""

    name = "smollm3"

    def attention(self, like: Attention, norm: Norm, layer: int) -> Attention:
        found = replace(super().attention(like, norm, layer), bias=False, bias_out=False)
        return replace(found, positions=None) if (layer + 1) % 4 == 0 else found

    def mlp(self, like: Mlp | Moe) -> Mlp | Moe:
        return Mlp(like.expert.width if isinstance(like, Moe) else like.width)


# The first that computes a model is written.
GRAPHS: tuple[Graph, ...] = (Gpt2(), Qwen3(), Qwen2(), Llama(), Qwen3Moe(), Olmo2(), SmolLM3())


def graph_of(given: Arch) -> Graph:
    """The graph that computes this model.

    Raises `ValueError` with the difference from the nearest one where there is none.
    """
    elsewhere = "open the folder as it is with `fledge serve`, transformers or vLLM"
    if given.labels:
        raise ValueError(f"this model is a classifier, and llama.cpp scores no labels of one: {elsewhere}")
    if not given.writes:
        what = "an encoder, which fills in gaps or makes vectors" if given.decoder is None else "no model that goes on from text"
        raise ValueError(f"this is {what}; fledge writes GGUF for decoders that write text: {elsewhere}")
    if len(given.stacks) == 2:
        raise ValueError(f"this model has an encoder beside its decoder; fledge writes GGUF for decoders alone: {elsewhere}")
    wanted = _computed(given)
    found = {graph: differences(graph.computes(wanted).to_json(), wanted.to_json(), "arch") for graph in GRAPHS}
    nearest = min(GRAPHS, key=lambda graph: len(found[graph]))
    if found[nearest]:
        raise ValueError(
            f"no graph of llama.cpp that fledge knows computes this model; {nearest.name} is the nearest and differs "
            f"({nearest.name} -> this model): {'; '.join(found[nearest][:3])}: {elsewhere}"
        )
    return nearest


def _computed(given: Arch) -> Arch:
    """The same model without what acts in training only; a window as wide as the context is none."""

    def block(one: Block) -> Block:
        left, right = one.attention.sees
        sees = (None if left is not None and left >= given.context - 1 else left, right)
        mlp = replace(one.mlp, balance=0.0) if isinstance(one.mlp, Moe) else one.mlp
        return replace(one, attention=replace(one.attention, sees=sees), mlp=mlp)

    return families.plain(replace(given.with_stacks(lambda stack: replace(stack, pattern=tuple(map(block, stack.pattern)))), dropout=0.0))


def _sizes(given: Arch) -> Fields:
    stack = only(given, "decoder")
    return {
        "context_length": given.context, "embedding_length": stack.width, "block_count": stack.depth, "feed_forward_length": _width(stack),
        "attention.head_count": stack.pattern[0].attention.heads,
    }  # fmt: skip


def _width(stack: Stack) -> int:
    mlp = stack.pattern[0].mlp
    return mlp.expert.width if isinstance(mlp, Moe) else mlp.width


def _words(given: Arch) -> Words:
    return Words(given.head.tied if isinstance(given.head, Words) else True)


def _head(given: Arch) -> list[Rule]:
    return [] if _words(given).tied else [rule("output.weight", "head.weight")]
