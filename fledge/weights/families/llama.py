"""Llama 2 and 3 (arXiv:2307.09288, arXiv:2407.21783), and the decoders that differ from it in a field or two."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from fledge.arch import (
    Arch,
    Attention,
    Block,
    ByWavelength,
    Classes,
    Interpolated,
    LongRope,
    Mlp,
    Moe,
    RmsNorm,
    Rope,
    Sees,
    Stack,
    Stretch,
    Words,
    Yarn,
)
from fledge.weights.families.fields import (
    activation,
    activation_name,
    dense,
    eps,
    head,
    head_fields,
    need,
    only,
    optional,
    refuse,
    rope,
    rope_fields,
    shortest,
    turned,
    typed,
    window_fields,
    windows,
)
from fledge.weights.rules import Rule, Split, linear, normed, rule


class Llama:
    """A family of decoders with rotary positions, RMS norms and gated MLPs; each method is one thing in which relatives differ."""

    BODY = "model."
    IGNORED = r"(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq"
    REPEATS: Mapping[str, str] = {"lm_head.weight": "model.embed_tokens.weight"}
    OLDER: Mapping[str, str] = {}

    name, prefix = "llama", "Llama"
    tied = False
    base = 10_000.0
    eps = 1e-6
    acts = "hidden_act"
    act = "silu"
    partial = False
    stretches: tuple[type[Stretch], ...] = (Interpolated, ByWavelength, Yarn)

    def arch(self, config: Mapping[str, Any], names: Collection[str] = ()) -> Arch:
        """The `Arch` of a config.json. Raises `ValueError` naming a field that is missing or says what an `Arch` cannot."""
        blocks = tuple(self.block(config, i) for i in range(need(config, "num_hidden_layers")))
        if not blocks:
            raise ValueError("config.json: num_hidden_layers is 0, but a model needs at least 1")
        stack = Stack(need(config, "hidden_size"), len(blocks), shortest(blocks), None, self.norm(config))
        context, dropout = need(config, "max_position_embeddings"), typed(config, "attention_dropout", 0.0, float)
        return Arch(need(config, "vocab_size"), context, stack, self.head(config), dropout)

    def head(self, config: Mapping[str, Any]) -> Words | Classes:
        return head(config, self.tied)

    def norm(self, config: Mapping[str, Any]) -> RmsNorm:
        return RmsNorm(typed(config, "rms_norm_eps", self.eps, float))

    def block(self, config: Mapping[str, Any], layer: int) -> Block:
        return Block(self.attention(config, layer), self.mlp(config, layer), norm_in=self.norm(config))

    def attention(self, config: Mapping[str, Any], layer: int) -> Attention:
        heads = need(config, "num_attention_heads")
        bias = typed(config, "attention_bias", False, bool)
        kv_heads = typed(config, "num_key_value_heads", heads, int)
        return Attention(
            heads, kv_heads, self.head_size(config, heads), self.sees(config, layer), self.rope(config, layer), bias=bias, bias_out=bias
        )

    def head_size(self, config: Mapping[str, Any], heads: int) -> int:
        width = need(config, "hidden_size")
        if config.get("head_dim") is None and (heads < 1 or width % heads):
            raise ValueError(f"config.json: hidden_size {width} does not divide into num_attention_heads {heads}, and there is no head_dim")
        return typed(config, "head_dim", width // max(1, heads), int)

    def sees(self, config: Mapping[str, Any], layer: int) -> Sees:
        return (None, 0)

    def rope(self, config: Mapping[str, Any], layer: int) -> Rope | None:
        found = rope(config, self.base)
        if found.portion != 1 and not self.partial:
            raise ValueError(f"config.json: partial_rotary_factor is {found.portion}, but this family turns whole heads")
        if found.stretch is not None and not isinstance(found.stretch, self.stretches):
            raise ValueError(f"config.json: this family does not stretch its rotary positions as {type(found.stretch).__name__}")
        return found

    def mlp(self, config: Mapping[str, Any], layer: int) -> Mlp | Moe:
        bias = typed(config, "mlp_bias", False, bool)
        return Mlp(need(config, "intermediate_size"), activation(config, self.acts, self.act), bias=bias)

    def config(self, given: Arch) -> dict[str, Any]:
        """The config.json that says the most of an `Arch` that the family's can; the inverse of `arch` for those it expresses.

        `Arch.dropout` stands in `attention_dropout`, the only one that there is.
        """
        stack = only(given, "decoder")
        a = stack.pattern[0].attention
        return {
            **head_fields(given.head, f"{self.prefix}ForCausalLM", f"{self.prefix}ForSequenceClassification"),
            "model_type": self.name,
            "vocab_size": given.vocabulary,
            "max_position_embeddings": given.context,
            "hidden_size": stack.width,
            "num_hidden_layers": stack.depth,
            "num_attention_heads": a.heads,
            "num_key_value_heads": a.kv_heads,
            "head_dim": a.head_size,
            "rms_norm_eps": eps(stack.norm_final, self.eps),
            "attention_bias": a.bias,
            "attention_dropout": given.dropout,
            "rope_parameters": self.rope_fields(stack),
            "initializer_range": 0.02,
            "use_cache": True,
            **self.mlp_fields(stack),
            **self.more(stack),
        }

    def rope_fields(self, stack: Stack) -> dict[str, Any]:
        return rope_fields(next((turned(block.attention) for block in stack.pattern if block.attention.positions), Rope(self.base)))

    def mlp_fields(self, stack: Stack) -> dict[str, Any]:
        mlp = dense(stack.pattern[0])
        return {"intermediate_size": mlp.width, self.acts: activation_name(mlp.activation), "mlp_bias": mlp.bias}

    def more(self, stack: Stack) -> dict[str, Any]:
        """Fields of this family alone."""
        return {}

    def table(self, given: Arch) -> list[Rule]:
        stack = only(given, "decoder")
        rules = [rule("model.embed_tokens.weight", "embedding.weight")]
        for i, block in enumerate(stack.blocks):
            theirs, ours = f"model.layers.{i}.", f"decoder.blocks.{i}."
            rules += self.norm_rules(theirs, ours, block) + self.attention_rules(theirs, ours, block) + self.mlp_rules(theirs, ours, block)
        rules += normed("model.norm", "decoder.norm_final", stack.norm_final)
        match given.head:
            case Words(tied=False):
                rules.append(rule("lm_head.weight", "head.weight"))
            case Classes():
                rules.append(rule("score.weight", "head.weight"))
        return rules

    def norm_rules(self, theirs: str, ours: str, block: Block) -> list[Rule]:
        return [
            *normed(theirs + "input_layernorm", ours + "attention.norm_in", block.norm_in),
            *normed(theirs + "post_attention_layernorm", ours + "mlp.norm_in", block.norm_in),
        ]

    def attention_rules(self, theirs: str, ours: str, block: Block) -> list[Rule]:
        a, theirs, ours = block.attention, theirs + "self_attn.", ours + "attention.inner."
        return [
            *(row for p in "qkv" for row in linear(f"{theirs}{p}_proj", f"{ours}{p}", a.bias)),
            *linear(theirs + "o_proj", ours + "o", a.bias_out),
            *normed(theirs + "q_norm", ours + "q_norm", a.q_norm),
            *normed(theirs + "k_norm", ours + "k_norm", a.k_norm),
        ]

    def mlp_rules(self, theirs: str, ours: str, block: Block) -> list[Rule]:
        mlp = dense(block)
        return [row for p in ("gate", "up", "down") for row in linear(f"{theirs}mlp.{p}_proj", f"{ours}mlp.inner.{p}", mlp.bias)]


class Mistral(Llama):
    """Mistral 7B (arXiv:2310.06825): a window in every layer, or in none."""

    name, prefix = "mistral", "Mistral"
    window: int | None = 4096  # what a config.json without the field means

    def sees(self, config: Mapping[str, Any], layer: int) -> Sees:
        refuse(config, layer_types=["sliding_attention"] * need(config, "num_hidden_layers"))
        window = optional(config, "sliding_window", self.window, int)
        return (None if window is None else window - 1, 0)

    def more(self, stack: Stack) -> dict[str, Any]:
        return {"sliding_window": window_fields(stack)["sliding_window"]}


class Qwen2(Llama):
    """Qwen 2.5 (arXiv:2412.15115): biases on queries, keys and values alone; windows from layer `max_window_layers` on."""

    name, prefix = "qwen2", "Qwen2"

    def attention(self, config: Mapping[str, Any], layer: int) -> Attention:
        return replace(super().attention(config, layer), bias=True, bias_out=False)

    def sees(self, config: Mapping[str, Any], layer: int) -> Sees:
        depth = need(config, "num_hidden_layers")
        window = typed(config, "sliding_window", 4096, int) if typed(config, "use_sliding_window", False, bool) else None
        full_until = typed(config, "max_window_layers", 28, int) if window is not None else depth
        types = ["full_attention" if i < full_until else "sliding_attention" for i in range(depth)]
        return windows(config, types, window)[layer]

    def more(self, stack: Stack) -> dict[str, Any]:
        found = window_fields(stack)
        return {**found, "use_sliding_window": found["sliding_window"] is not None, "max_window_layers": stack.depth}


class Qwen3(Qwen2):
    """Qwen 3 (arXiv:2505.09388): norms on queries and keys; the default shape of fledge's own models."""

    name, prefix = "qwen3", "Qwen3"

    def attention(self, config: Mapping[str, Any], layer: int) -> Attention:
        norm = self.norm(config)
        return replace(Llama.attention(self, config, layer), q_norm=norm, k_norm=norm)

    def head_size(self, config: Mapping[str, Any], heads: int) -> int:
        return typed(config, "head_dim", 128, int)


class Phi3(Mistral):
    """Phi-3 (arXiv:2404.14219): queries, keys and values in one tensor, gate and up in another; a part of each head turned."""

    name, prefix = "phi3", "Phi3"
    eps = 1e-5
    window = None
    partial = True
    stretches = (LongRope,)

    def arch(self, config: Mapping[str, Any], names: Collection[str] = ()) -> Arch:
        return replace(super().arch(config), dropout=typed(config, "resid_pdrop", 0.0, float))

    def rope(self, config: Mapping[str, Any], layer: int) -> Rope | None:
        return super().rope({"original_max_position_embeddings": 4096, **config}, layer)  # what one without the field means

    def config(self, given: Arch) -> dict[str, Any]:
        found = super().config(given)
        trained = found["rope_parameters"].get("original_max_position_embeddings", given.context)
        return {**found, "resid_pdrop": given.dropout, "embd_pdrop": given.dropout, "original_max_position_embeddings": trained}

    def attention_rules(self, theirs: str, ours: str, block: Block) -> list[Rule]:
        a, inner = block.attention, ours + "attention.inner."
        sizes = (a.heads * a.head_size, a.kv_heads * a.head_size, a.kv_heads * a.head_size)
        fused = rule(theirs + "self_attn.qkv_proj.weight", tuple(f"{inner}{p}.weight" for p in "qkv"), Split(sizes))
        return [fused, rule(theirs + "self_attn.o_proj.weight", inner + "o.weight")]

    def mlp_rules(self, theirs: str, ours: str, block: Block) -> list[Rule]:
        width, inner = dense(block).width, ours + "mlp.inner."
        fused = rule(theirs + "mlp.gate_up_proj.weight", (inner + "gate.weight", inner + "up.weight"), Split((width, width)))
        return [fused, rule(theirs + "mlp.down_proj.weight", inner + "down.weight")]


class Olmo2(Llama):
    """OLMo 2 (arXiv:2501.00656): norms after each part, and on queries and keys over all heads together."""

    name, prefix = "olmo2", "Olmo2"
    eps = 1e-5

    def block(self, config: Mapping[str, Any], layer: int) -> Block:
        return Block(self.attention(config, layer), self.mlp(config, layer), norm_out=self.norm(config))

    def attention(self, config: Mapping[str, Any], layer: int) -> Attention:
        norm = self.norm(config)
        return replace(super().attention(config, layer), q_norm=norm, k_norm=norm, norms_over="width")

    def norm_rules(self, theirs: str, ours: str, block: Block) -> list[Rule]:
        return [
            *normed(theirs + "post_attention_layernorm", ours + "attention.norm_out", block.norm_out),
            *normed(theirs + "post_feedforward_layernorm", ours + "mlp.norm_out", block.norm_out),
        ]


class SmolLM3(Llama):
    """SmolLM 3 (Hugging Face, 2025, huggingface.co/blog/smollm3): every fourth layer has no positions."""

    name, prefix = "smollm3", "SmolLM3"
    tied = True
    base = 2_000_000.0

    def rope(self, config: Mapping[str, Any], layer: int) -> Rope | None:
        every = typed(config, "no_rope_layer_interval", 4, int)
        turned = typed(config, "no_rope_layers", [int((i + 1) % every != 0) for i in range(need(config, "num_hidden_layers"))], list)
        return super().rope(config, layer) if turned[layer] else None

    def sees(self, config: Mapping[str, Any], layer: int) -> Sees:
        refuse(config, use_sliding_window=False)
        return (None, 0)

    def more(self, stack: Stack) -> dict[str, Any]:
        return {
            "no_rope_layers": [int(block.attention.positions is not None) for block in stack.blocks],
            "layer_types": ["full_attention"] * stack.depth,
            "use_sliding_window": False,
        }
