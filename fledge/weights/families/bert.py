"""BERT (arXiv:1810.04805) and its relatives: RoBERTa (arXiv:1907.11692), ELECTRA (arXiv:2003.10555), DistilBERT (arXiv:1910.01108)."""

from collections.abc import Collection, Mapping
from typing import Any

from fledge.arch import (
    Activation,
    Arch,
    Attention,
    Block,
    Classes,
    Embedding,
    Head,
    Hidden,
    LayerNorm,
    Learned,
    Mlp,
    Norm,
    Replaced,
    Stack,
    Transform,
    Words,
)
from fledge.weights.families.fields import (
    activation,
    activation_name,
    architecture,
    classes,
    dense,
    divided,
    eps,
    label_fields,
    need,
    only,
    refuse,
    typed,
)
from fledge.weights.rules import Rule, linear, normed, rule


class Bert:
    """Norm after the sum, learned positions, segments. MiniLM (arXiv:2002.10957) is published as a bare one.

    What pretraining leaves beside the words' head, a guess whether two sentences follow each other, is passed over.
    """

    BODY = "bert."
    IGNORED = r"embeddings\.position_ids|embeddings\.token_type_ids|pooler\.dense\.(weight|bias)|cls\.seq_relationship\.(weight|bias)"
    REPEATS: Mapping[str, str] = {
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }
    OLDER: Mapping[str, str] = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}

    name, prefix = "bert", "Bert"
    types = 2
    words: tuple[str, str, str] = ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.bias")
    classifier: tuple[str, str] = ("bert.pooler.dense", "classifier")
    pooled: Activation = "tanh"

    def arch(self, config: Mapping[str, Any], names: Collection[str] = ()) -> Arch:
        """The `Arch` of a config.json. Raises `ValueError` naming a field that is missing or says what an `Arch` cannot."""
        refuse(config, is_decoder=False, add_cross_attention=False, position_embedding_type="absolute", tie_word_embeddings=True)
        width, heads, size = divided(config, "hidden_size", "num_attention_heads")
        norm, act = LayerNorm(typed(config, "layer_norm_eps", 1e-12, float)), activation(config, "hidden_act", "gelu")
        mlp = Mlp(need(config, "intermediate_size"), act, gated=False, bias=True)
        positions, offset = need(config, "max_position_embeddings"), self.offset(config)
        stack = encoder(width, need(config, "num_hidden_layers"), heads, size, mlp, norm, Learned(positions - offset, offset))
        return Arch(
            need(config, "vocab_size"), positions - offset, None, self.head(config, norm, act, names),
            typed(config, "hidden_dropout_prob", 0.1, float), stack, self.embedding(config),
        )  # fmt: skip

    def offset(self, config: Mapping[str, Any]) -> int:
        return 0

    def embedding(self, config: Mapping[str, Any]) -> Embedding:
        return Embedding(types=typed(config, "type_vocab_size", self.types, int))

    def head(self, config: Mapping[str, Any], norm: Norm, act: Activation, names: Collection[str]) -> Head:
        """By `architectures`; whether a bare model keeps its pooler only its tensors tell."""
        name = architecture(config)
        if name.endswith(("ForMaskedLM", "ForPreTraining")):
            return Words(bias=True, transform=Transform(act, norm))
        if name.endswith("ForSequenceClassification"):
            return classes(config, "first", Transform(self.pooled), bias=True)
        if name.endswith("Model") or not name:
            return Hidden(Transform("tanh") if "pooler.dense.weight" in names else None)
        raise ValueError(
            f"config.json: architectures is {name}, but fledge opens {self.prefix}ForMaskedLM, {self.prefix}ForSequenceClassification "
            f"and {self.prefix}Model"
        )

    def config(self, given: Arch) -> dict[str, Any]:
        """The config.json that says the most of an `Arch` that the family's can; the inverse of `arch` for those it expresses."""
        stack = only(given, "encoder")
        block, mlp = stack.pattern[0], dense(stack.pattern[0])
        rows = stack.positions.length + stack.positions.offset if isinstance(stack.positions, Learned) else given.context
        return {
            **head_fields(given.head, self.prefix, "ForMaskedLM"),
            "model_type": self.name,
            "vocab_size": given.vocabulary,
            "max_position_embeddings": rows,
            "type_vocab_size": given.embedding.types,
            "hidden_size": stack.width,
            "num_hidden_layers": stack.depth,
            "num_attention_heads": block.attention.heads,
            "intermediate_size": mlp.width,
            "hidden_act": activation_name(mlp.activation, "gelu_new"),
            "layer_norm_eps": eps(block.norm_sum, 1e-12),
            "hidden_dropout_prob": given.dropout,
            "attention_probs_dropout_prob": given.dropout,
            "initializer_range": 0.02,
            **self.more(given),
        }

    def more(self, given: Arch) -> dict[str, Any]:
        """Fields of this family alone."""
        if not given.embedding.types:
            raise ValueError("the family has segments")
        return {}

    def table(self, given: Arch) -> list[Rule]:
        stack = only(given, "encoder")
        body = "" if isinstance(given.head, Hidden) else self.BODY
        rules = [
            rule(body + "embeddings.word_embeddings.weight", "embedding.weight"),
            rule(body + "embeddings.position_embeddings.weight", "encoder.positions.weight"),
            *([rule(body + "embeddings.token_type_embeddings.weight", "types.weight")] if given.embedding.types else []),
            *normed(body + "embeddings.LayerNorm", "encoder.norm_embedding", stack.norm_embedding),
        ]
        for i, block in enumerate(stack.blocks):
            rules += self.layer(f"{body}encoder.layer.{i}.", f"encoder.blocks.{i}.", block)
        return rules + self.head_rules(given)

    def layer(self, theirs: str, ours: str, block: Block) -> list[Rule]:
        rows = [
            ("attention.self.query", "attention.inner.q"), ("attention.self.key", "attention.inner.k"),
            ("attention.self.value", "attention.inner.v"), ("attention.output.dense", "attention.inner.o"),
            ("intermediate.dense", "mlp.inner.up"), ("output.dense", "mlp.inner.down"),
        ]  # fmt: skip
        return [
            *(row for name, part in rows for row in linear(theirs + name, ours + part, True)),
            *normed(theirs + "attention.output.LayerNorm", ours + "attention.norm_sum", block.norm_sum),
            *normed(theirs + "output.LayerNorm", ours + "mlp.norm_sum", block.norm_sum),
        ]

    def head_rules(self, given: Arch) -> list[Rule]:
        match given.head:
            case Words(transform=Transform(norm=norm)):
                before, after, bias = self.words
                return [*linear(before, "head.transform.dense", True), *normed(after, "head.transform.norm", norm), rule(bias, "head.bias")]
            case Classes():
                before, last = self.classifier
                return linear(before, "head.transform.dense", True) + linear(last, "head", True)
            case Hidden(pooler) if pooler is not None:
                return linear("pooler.dense", "head.pooler.dense", True)
        return []


class Roberta(Bert):
    """Positions are counted from after the padding token's id on."""

    BODY = "roberta."
    REPEATS: Mapping[str, str] = {
        "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    }
    OLDER: Mapping[str, str] = {}

    name, prefix = "roberta", "Roberta"
    words = ("lm_head.dense", "lm_head.layer_norm", "lm_head.bias")
    classifier = ("classifier.dense", "classifier.out_proj")

    def offset(self, config: Mapping[str, Any]) -> int:
        return typed(config, "pad_token_id", 1, int) + 1

    def head(self, config: Mapping[str, Any], norm: Norm, act: Activation, names: Collection[str]) -> Head:
        return super().head(config, norm, "gelu", names)

    def more(self, given: Arch) -> dict[str, Any]:
        stack = only(given, "encoder")
        return {"pad_token_id": stack.positions.offset - 1 if isinstance(stack.positions, Learned) else 1}


class Electra(Bert):
    """The discriminator: a score for each token of whether it was replaced; a narrower embedding, mapped to the encoder's width."""

    BODY = "electra."
    REPEATS: Mapping[str, str] = {}

    name, prefix = "electra", "Electra"
    classifier = ("classifier.dense", "classifier.out_proj")
    pooled = "gelu"

    def embedding(self, config: Mapping[str, Any]) -> Embedding:
        width, own = need(config, "hidden_size"), typed(config, "embedding_size", 128, int)
        return Embedding(types=typed(config, "type_vocab_size", self.types, int), width=None if own == width else own)

    def head(self, config: Mapping[str, Any], norm: Norm, act: Activation, names: Collection[str]) -> Head:
        if architecture(config).endswith("ForPreTraining"):
            return Replaced(Transform(act))
        if architecture(config).endswith("ForMaskedLM"):
            raise ValueError(
                "config.json: architectures is ElectraForMaskedLM, the generator, but fledge opens the discriminator: take that one"
            )
        return super().head(config, norm, act, ())

    def more(self, given: Arch) -> dict[str, Any]:
        if isinstance(given.head, Words):
            raise ValueError("the family has no scores for words")
        return {"embedding_size": given.embedding_width}

    def table(self, given: Arch) -> list[Rule]:
        projected = given.embedding_width != given.trunk.width
        body = "" if isinstance(given.head, Hidden) else self.BODY
        return [*super().table(given), *(linear(body + "embeddings_project", "encoder.projection", True) if projected else [])]

    def head_rules(self, given: Arch) -> list[Rule]:
        if isinstance(given.head, Replaced):
            theirs = "discriminator_predictions."
            return linear(theirs + "dense", "head.transform.dense", True) + linear(theirs + "dense_prediction", "head.score", True)
        return super().head_rules(given)


class DistilBert(Bert):
    """BERT with half the layers, without segments and pooler, under other names."""

    BODY = "distilbert."
    IGNORED = r"embeddings\.position_ids"
    REPEATS: Mapping[str, str] = {"vocab_projector.weight": "distilbert.embeddings.word_embeddings.weight"}
    OLDER: Mapping[str, str] = {}

    name, prefix = "distilbert", "DistilBert"
    words = ("vocab_transform", "vocab_layer_norm", "vocab_projector.bias")
    classifier = ("pre_classifier", "classifier")
    pooled = "relu"
    fields: Mapping[str, str] = {
        "hidden_size": "dim", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads", "intermediate_size": "hidden_dim",
        "hidden_act": "activation", "hidden_dropout_prob": "dropout", "attention_probs_dropout_prob": "attention_dropout",
    }  # fmt: skip

    def arch(self, config: Mapping[str, Any], names: Collection[str] = ()) -> Arch:
        known = {bert: config[own] for bert, own in self.fields.items() if own in config}
        return super().arch({**config, **known, "type_vocab_size": 0, "layer_norm_eps": 1e-12}, ())

    def config(self, given: Arch) -> dict[str, Any]:
        found = super().config(given)
        del found["type_vocab_size"], found["layer_norm_eps"]
        return {self.fields.get(name, name): value for name, value in found.items()}

    def more(self, given: Arch) -> dict[str, Any]:
        return {}

    def layer(self, theirs: str, ours: str, block: Block) -> list[Rule]:
        theirs = theirs.replace("encoder.", "transformer.")
        rows = [(f"attention.{p}_lin", f"attention.inner.{p}") for p in "qkv"]
        rows += [("attention.out_lin", "attention.inner.o"), ("ffn.lin1", "mlp.inner.up"), ("ffn.lin2", "mlp.inner.down")]
        return [
            *(row for name, part in rows for row in linear(theirs + name, ours + part, True)),
            *normed(theirs + "sa_layer_norm", ours + "attention.norm_sum", block.norm_sum),
            *normed(theirs + "output_layer_norm", ours + "mlp.norm_sum", block.norm_sum),
        ]


def encoder(width: int, depth: int, heads: int, size: int, mlp: Mlp, norm: Norm, positions: Learned) -> Stack:
    """BERT's: norm after each sum and after the embedding."""
    block = Block(Attention(heads, heads, size, (None, None), bias=True, bias_out=True), mlp, norm_sum=norm)
    return Stack(width, depth, (block,), positions, norm_embedding=norm)


def head_fields(given: Head, prefix: str, words: str) -> dict[str, Any]:
    """`architectures` and what goes with it."""
    match given:
        case Words():
            return {"architectures": [prefix + words]}
        case Classes() as labels:
            return {"architectures": [prefix + "ForSequenceClassification"], **label_fields(labels)}
        case Replaced():
            return {"architectures": [prefix + "ForPreTraining"]}
        case Hidden():
            return {"architectures": [prefix + "Model"]}
