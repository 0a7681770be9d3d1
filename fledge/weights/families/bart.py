"""BART (arXiv:1910.13461), and Marian (arXiv:1804.00344), as which the Transformer of 2017 (arXiv:1706.03762) is written."""

import math
from collections.abc import Collection, Mapping
from typing import Any

from fledge.arch import Arch, Attention, Block, Classes, Embedding, Head, LayerNorm, Learned, Mlp, Norm, Sinusoid, Stack, Transform, Words
from fledge.weights.families.fields import (
    activation,
    activation_name,
    architecture,
    both,
    classes,
    dense,
    label_fields,
    need,
    refuse,
    typed,
)
from fledge.weights.rules import OneRow, Rule, linear, normed, rule

NORM = LayerNorm(1e-5)  # no field says it


class Bart:
    """Encoder and decoder with norms after the sums, learned positions that begin at 2, and one embedding for all."""

    BODY = "model."
    IGNORED = r"(?!)"
    REPEATS: Mapping[str, str] = dict.fromkeys(
        ("lm_head.weight", "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"), "model.shared.weight"
    )
    OLDER: Mapping[str, str] = {}

    name, words, classifier = "bart", "BartForConditionalGeneration", "BartForSequenceClassification"
    scale = False
    norm_embedding: Norm | None = NORM

    def positions(self, length: int) -> Learned | Sinusoid:
        return Learned(length, offset=2)

    def arch(self, config: Mapping[str, Any], names: Collection[str] = ()) -> Arch:
        """The `Arch` of a config.json. Raises `ValueError` naming a field that is missing or says what an `Arch` cannot."""
        refuse(config, tie_word_embeddings=True, normalize_before=False, add_final_layer_norm=False, is_encoder_decoder=True)
        refuse(config, share_encoder_decoder_embeddings=True)
        width, context = need(config, "d_model"), need(config, "max_position_embeddings")
        act = activation(config, "activation_function", "gelu")

        def stack(of: str) -> Stack:
            heads = need(config, f"{of}_attention_heads")
            if heads < 1 or width % heads:
                raise ValueError(f"config.json: d_model {width} does not divide into {of}_attention_heads {heads}")
            right = None if of == "encoder" else 0
            own, across = (Attention(heads, heads, width // heads, (None, r), bias=True, bias_out=True) for r in (right, None))
            mlp = Mlp(need(config, f"{of}_ffn_dim"), act, gated=False, bias=True)
            block = Block(own, mlp, norm_sum=NORM, across=across if of == "decoder" else None)
            return Stack(width, need(config, f"{of}_layers"), (block,), self.positions(context), norm_embedding=self.norm_embedding)

        scale = math.sqrt(width) if typed(config, "scale_embedding", self.scale, bool) else 1.0
        return Arch(
            need(config, "vocab_size"), context, stack("decoder"), self.head(config, names), typed(config, "dropout", 0.1, float),
            stack("encoder"), Embedding(scale), need(config, "decoder_start_token_id"),
        )  # fmt: skip

    def head(self, config: Mapping[str, Any], names: Collection[str]) -> Head:
        """Only the tensors tell whether the scores of words have a bias."""
        name = architecture(config)
        if name == self.classifier:
            return classes(config, "last", Transform("tanh"), bias=True, default=3)
        if name in (self.words, "") or name.endswith("Model"):
            return Words(bias="final_logits_bias" in names)
        raise ValueError(f"config.json: architectures is {name}, but fledge opens {self.words} and {self.classifier}")

    def config(self, given: Arch) -> dict[str, Any]:
        """The config.json that says the most of an `Arch` that the family's can; the inverse of `arch` for those it expresses."""
        encoder, decoder = both(given)
        match given.head:
            case Words():
                named: dict[str, Any] = {"architectures": [self.words]}
            case Classes() as labels:
                named = {"architectures": [self.classifier], **label_fields(labels)}
            case _:
                raise ValueError("the family scores words or labels")
        counts = {}
        for of, stack in (("encoder", encoder), ("decoder", decoder)):
            counts |= {
                f"{of}_layers": stack.depth,
                f"{of}_attention_heads": stack.pattern[0].attention.heads,
                f"{of}_ffn_dim": dense(stack.pattern[0]).width,
            }
        return {
            **named,
            "model_type": self.name,
            "vocab_size": given.vocabulary,
            "decoder_vocab_size": given.vocabulary,
            "share_encoder_decoder_embeddings": True,
            "max_position_embeddings": given.context,
            "d_model": encoder.width,
            **counts,
            "activation_function": activation_name(dense(encoder.pattern[0]).activation, "gelu_new"),
            "scale_embedding": given.embedding.scale != 1,
            "static_position_embeddings": isinstance(encoder.positions, Sinusoid),
            "dropout": given.dropout,
            "attention_dropout": given.dropout,
            "activation_dropout": 0.0,
            "classifier_dropout": given.dropout,
            "decoder_start_token_id": 0 if given.start is None else given.start,
            "forced_eos_token_id": None,
            "is_encoder_decoder": True,
            "tie_word_embeddings": True,
            "init_std": 0.02,
            "use_cache": True,
        }

    def table(self, given: Arch) -> list[Rule]:
        rules = [rule("model.shared.weight", "embedding.weight")]
        for of, stack in zip(("encoder", "decoder"), both(given), strict=True):
            theirs = f"model.{of}."
            rules += [rule(theirs + "embed_positions.weight", of + ".positions.weight")] if isinstance(stack.positions, Learned) else []
            rules += normed(theirs + "layernorm_embedding", of + ".norm_embedding", stack.norm_embedding)
            for i, block in enumerate(stack.blocks):
                rules += _layer(f"{theirs}layers.{i}.", f"{of}.blocks.{i}.", block)
        match given.head:
            case Words(bias=True):
                rules.append(rule("final_logits_bias", "head.bias", OneRow()))
            case Classes():
                rules += linear("classification_head.dense", "head.transform.dense", True)
                rules += linear("classification_head.out_proj", "head", True)
        return rules


def _layer(theirs: str, ours: str, block: Block) -> list[Rule]:
    rules = linear(theirs + "fc1", ours + "mlp.inner.up", True) + linear(theirs + "fc2", ours + "mlp.inner.down", True)
    rules += normed(theirs + "final_layer_norm", ours + "mlp.norm_sum", block.norm_sum)
    parts = [("self_attn", "attention"), *([("encoder_attn", "across")] if block.across is not None else [])]
    for name, part in parts:
        rules += normed(f"{theirs}{name}_layer_norm", f"{ours}{part}.norm_sum", block.norm_sum)
        for p, projection in (("q", "q_proj"), ("k", "k_proj"), ("v", "v_proj"), ("o", "out_proj")):
            rules += linear(f"{theirs}{name}.{projection}", f"{ours}{part}.inner.{p}", True)
    return rules


class Marian(Bart):
    """Sinusoids, which older copies store as if they were trained, and no norm of the embedding."""

    IGNORED = r"(encoder|decoder)\.embed_positions\.weight"
    name, words, classifier = "marian", "MarianMTModel", "MarianForSequenceClassification"
    norm_embedding = None

    def positions(self, length: int) -> Learned | Sinusoid:
        return Sinusoid()

    def config(self, given: Arch) -> dict[str, Any]:
        if isinstance(given.head, Classes):
            raise ValueError("the family has no classifiers")
        return super().config(given)
