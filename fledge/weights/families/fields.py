"""Fields of a config.json that several families share, read and written."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

from fledge.arch import Activation, Block, Classes, Words

# Names in transformers' ACT2FN. gelu_new and gelu_pytorch_tanh are one formula; a family writes the one its published configs have.
ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu", "silu": "silu", "swish": "silu",
}  # fmt: skip


def need(config: Mapping[str, Any], name: str, kind: type = int) -> Any:
    """A field without which there is no model; `ValueError` when it is missing or of another type."""
    if config.get(name) is None:
        raise ValueError(f"config.json has no {name}, which a {config.get('model_type')} model needs")
    return typed(config, name, None, kind)


def typed(config: Mapping[str, Any], name: str, default: Any, kind: type) -> Any:
    """A field that may be left out or null; `ValueError` when it is of another type."""
    value = default if config.get(name) is None else config[name]
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise ValueError(f"config.json: {name} is {value!r}, but a value of type {kind.__name__} is needed")
    return value


def refuse(config: Mapping[str, Any], **allowed: Any) -> None:
    """`ValueError` for a field that is neither left out nor as this family can express it."""
    for name, value in allowed.items():
        if config.get(name) not in (None, value):
            raise ValueError(f"config.json: {name} is {config[name]!r}, but fledge knows this family only with {name} {value!r}")


def activation(config: Mapping[str, Any], name: str, default: str) -> Activation:
    value = typed(config, name, default, str)
    if value not in ACTIVATIONS:
        raise ValueError(f"config.json: {name} is {value!r}, but it is one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[value]


def activation_name(value: Activation, tanh: Literal["gelu_new", "gelu_pytorch_tanh"]) -> str:
    assert value in get_args(Activation)
    return tanh if value == "gelu_tanh" else value


def head(config: Mapping[str, Any], tied: bool) -> Words | Classes:
    """A classifier's labels where `architectures` says so, else a language model's head; `tied` is the family's default."""
    architecture = str((typed(config, "architectures", [], list) or [""])[0])
    if architecture.endswith("ForSequenceClassification"):
        if config.get("problem_type") not in (None, "single_label_classification"):
            raise ValueError(
                f"config.json: problem_type is {config['problem_type']!r}, but fledge classifies with single_label_classification"
            )
        names = typed(config, "id2label", {str(i): f"LABEL_{i}" for i in range(typed(config, "num_labels", 2, int))}, dict)
        if sorted(names) != sorted(map(str, range(len(names)))):
            raise ValueError(f"config.json: id2label numbers its labels {', '.join(names)}, but they must run from 0 to {len(names) - 1}")
        return Classes(tuple(label for _, label in sorted((int(i), str(label)) for i, label in names.items())))
    if architecture and not architecture.endswith(("LMHeadModel", "ForCausalLM", "Model")):
        raise ValueError(f"config.json: architectures is {architecture}, but fledge opens language models and ...ForSequenceClassification")
    return Words(typed(config, "tie_word_embeddings", tied, bool))


def head_fields(given: Words | Classes, language_model: str, classifier: str) -> dict[str, Any]:
    """`architectures` and what goes with them; the inverse of `head`."""
    if isinstance(given, Words):
        return {"architectures": [language_model], "tie_word_embeddings": given.tied}
    return {
        "architectures": [classifier],
        "id2label": {str(i): label for i, label in enumerate(given.labels)},
        "label2id": {label: i for i, label in enumerate(given.labels)},
        "num_labels": len(given.labels),
        "problem_type": "single_label_classification",
        "tie_word_embeddings": False,
    }


def shortest(blocks: tuple[Block, ...]) -> tuple[Block, ...]:
    """The shortest pattern that, tiled, gives these blocks: (a, b, a, b) is (a, b)."""
    for length in range(1, len(blocks) + 1):
        if all(block == blocks[i % length] for i, block in enumerate(blocks)):
            return blocks[:length]
    return blocks
