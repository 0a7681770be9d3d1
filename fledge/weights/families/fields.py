"""Fields of a config.json that several families share, read and written."""

import math
from collections.abc import Mapping
from typing import Any, get_args

from fledge.arch import (
    Activation,
    Arch,
    Attention,
    Block,
    ByWavelength,
    Choice,
    Classes,
    Head,
    Interpolated,
    LongRope,
    Mlp,
    Norm,
    Reads,
    Rope,
    Stack,
    Stretch,
    Transform,
    Words,
    Yarn,
)

# Names in transformers' ACT2FN. gelu_new and gelu_pytorch_tanh are one formula; a family writes the one its published configs have.
ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "quick_gelu": "gelu_sigmoid", "relu": "relu", "silu": "silu",
    "swish": "silu", "tanh": "tanh",
}  # fmt: skip
STRETCHES: dict[str, set[str]] = {  # rope_type: its fields, beside rope_theta and partial_rotary_factor
    "default": set(),
    "linear": {"factor"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
    "longrope": {"factor", "short_factor", "long_factor", "attention_factor", "original_max_position_embeddings"},
    "yarn": {"factor", "beta_fast", "beta_slow", "attention_factor", "truncate", "original_max_position_embeddings"},
}


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


def optional(config: Mapping[str, Any], name: str, default: Any, kind: type) -> Any:
    """A field whose null means that there is no such thing; left out it is the default."""
    return None if config.get(name, default) is None else typed(config, name, default, kind)


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


def activation_name(value: Activation, tanh: str = "gelu_pytorch_tanh") -> str:
    assert value in get_args(Activation)
    return {"gelu_tanh": tanh, "gelu_sigmoid": "quick_gelu"}.get(value, value)


def divided(config: Mapping[str, Any], width: str, heads: str) -> tuple[int, int, int]:
    """The width, the heads and the size of each; `ValueError` where they do not divide."""
    whole, parts = need(config, width), need(config, heads)
    if parts < 1 or whole % parts:
        raise ValueError(f"config.json: {width} {whole} does not divide into {heads} {parts}")
    return whole, parts, whole // parts


def architecture(config: Mapping[str, Any]) -> str:
    """The class that the model was saved as; nothing where it is not said."""
    return str((typed(config, "architectures", [], list) or [""])[0])


PROBLEMS: dict[Choice, str] = {
    "single": "single_label_classification",
    "several": "multi_label_classification",
    "ordinal": "single_label_classification",  # for transformers, which knows no order; `ORDERED` tells it
}
ORDERED = "labels_are_ordered"


def classes(
    config: Mapping[str, Any], reads: Reads = "last", transform: Transform | None = None, bias: bool = False, default: int = 2
) -> Classes:
    """The head of a classifier, of `default` labels where none are named. Raises `ValueError` for a regression."""
    problem = config.get("problem_type") or PROBLEMS["single"]
    if problem not in PROBLEMS.values():
        raise ValueError(f"config.json: problem_type is {problem!r}, but fledge opens {' and '.join(dict.fromkeys(PROBLEMS.values()))}")
    choice: Choice = "several" if problem == PROBLEMS["several"] else "ordinal" if typed(config, ORDERED, False, bool) else "single"
    return Classes(labels(config, default), reads, transform, bias, choice)


def labels(config: Mapping[str, Any], default: int) -> tuple[str, ...]:
    """The labels that config.json names, in their order."""
    names = typed(config, "id2label", {str(i): f"LABEL_{i}" for i in range(typed(config, "num_labels", default, int))}, dict)
    if sorted(map(str, names)) != sorted(map(str, range(len(names)))):
        raise ValueError(f"config.json: id2label numbers its labels {', '.join(names)}, but they must run from 0 to {len(names) - 1}")
    return tuple(label for _, label in sorted((int(i), str(label)) for i, label in names.items()))


def head(config: Mapping[str, Any], tied: bool, soft_cap: float | None = None) -> Words | Classes:
    """Of a decoder: a classifier's labels where `architectures` says so, else scores for words; `tied` is the family's default."""
    name = architecture(config)
    if name.endswith("ForSequenceClassification"):
        return classes(config)
    if name and not name.endswith(("LMHeadModel", "ForCausalLM", "Model")):
        raise ValueError(f"config.json: architectures is {name}, but fledge opens language models and ...ForSequenceClassification")
    return Words(typed(config, "tie_word_embeddings", tied, bool), soft_cap=soft_cap)


def head_fields(given: Head, language_model: str, classifier: str) -> dict[str, Any]:
    """`architectures` and what goes with them; the inverse of `head`."""
    match given:
        case Words(tied):
            return {"architectures": [language_model], "tie_word_embeddings": tied}
        case Classes() as labels:
            return {"architectures": [classifier], **label_fields(labels), "tie_word_embeddings": False}
    raise ValueError(f"{language_model} has no head of kind {type(given).__name__}")


def label_fields(given: Classes) -> dict[str, Any]:
    """The inverse of `classes`, but for what the head does before its last map."""
    return {
        "id2label": {str(i): label for i, label in enumerate(given.labels)},
        "label2id": {label: i for i, label in enumerate(given.labels)},
        "num_labels": len(given.labels),
        "problem_type": PROBLEMS[given.choice],
        **({ORDERED: True} if given.choice == "ordinal" else {}),
    }


def rope(config: Mapping[str, Any], base: float, **more: Any) -> Rope:
    """Rotary positions as transformers 5 writes them, `rope_parameters`, or before it: `rope_theta` beside `rope_scaling`.

    `more` are fields that a family keeps elsewhere. Raises `ValueError` for a kind, or a field of one, that fledge does not know.
    """
    name = "rope_parameters" if config.get("rope_parameters") is not None else "rope_scaling"
    outside = {key: config[key] for key in ("rope_theta", "partial_rotary_factor") if config.get(key) is not None}
    return rope_of({**outside, **typed(config, name, {}, dict), **more}, name, base, config)


def rope_of(given: Mapping[str, Any], name: str, base: float, config: Mapping[str, Any]) -> Rope:
    kind = given.get("rope_type", given.get("type", "default"))
    kind = "longrope" if kind == "su" else kind  # its first name
    if kind not in STRETCHES:
        raise ValueError(f"config.json: {name} has rope_type {kind!r}, but fledge knows {', '.join(STRETCHES)}")
    stray = sorted(set(given) - {"rope_type", "type", "rope_theta", "partial_rotary_factor"} - STRETCHES[kind])
    if stray:
        raise ValueError(f"config.json: {name} is of type {kind} with {', '.join(stray)}, which fledge does not know there")
    said = typed(given, "original_max_position_embeddings", config.get("max_position_embeddings"), int)
    trained = typed(config, "original_max_position_embeddings", said, int)
    stretch: Stretch | None = None
    match kind:
        case "linear":
            stretch = Interpolated(need(given, "factor", float))
        case "llama3":
            low, high = need(given, "low_freq_factor", float), need(given, "high_freq_factor", float)
            stretch = ByWavelength(need(given, "factor", float), trained, low, high)
        case "longrope":
            if trained < 2:
                raise ValueError(f"config.json: original_max_position_embeddings is {trained}, but {name} of type {kind} needs at least 2")
            short, long = (_factors(given, f"{texts}_factor") for texts in ("short", "long"))
            factor = typed(given, "factor", need(config, "max_position_embeddings") / trained, float)
            grown = math.sqrt(1 + math.log(factor) / math.log(trained)) if factor > 1 else 1.0
            stretch = LongRope(short, long, trained, typed(given, "attention_factor", grown, float))
        case "yarn":
            fast, slow = typed(given, "beta_fast", 32.0, float), typed(given, "beta_slow", 1.0, float)
            whole, attention = typed(given, "truncate", True, bool), optional(given, "attention_factor", None, float)
            stretch = Yarn(need(given, "factor", float), trained, fast, slow, whole, attention)
    return Rope(typed(given, "rope_theta", base, float), stretch, typed(given, "partial_rotary_factor", 1.0, float))


def _factors(given: Mapping[str, Any], name: str) -> tuple[float, ...]:
    listed = need(given, name, list)
    if not all(type(factor) in (int, float) and factor > 0 for factor in listed):
        raise ValueError(f"config.json: {name} must list positive numbers, one for each pair of a head that is turned")
    return tuple(map(float, listed))


def rope_fields(given: Rope) -> dict[str, Any]:
    """The inverse of `rope_of`."""
    fields: dict[str, Any] = {"rope_theta": given.base, "rope_type": "default"}
    if given.portion != 1:
        fields["partial_rotary_factor"] = given.portion
    match given.stretch:
        case Interpolated(factor):
            fields |= {"rope_type": "linear", "factor": factor}
        case ByWavelength(factor, trained, low, high):
            fields |= {
                "rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high,
                "original_max_position_embeddings": trained,
            }  # fmt: skip
        case LongRope(short, long, trained, attention):
            fields |= {
                "rope_type": "longrope", "short_factor": list(short), "long_factor": list(long), "attention_factor": attention,
                "original_max_position_embeddings": trained,
            }  # fmt: skip
        case Yarn(factor, trained, fast, slow, whole, attention):
            fields |= {
                "rope_type": "yarn", "factor": factor, "beta_fast": fast, "beta_slow": slow, "truncate": whole,
                "original_max_position_embeddings": trained, **({} if attention is None else {"attention_factor": attention}),
            }  # fmt: skip
    return fields


def windows(config: Mapping[str, Any], types: list[str], window: int | None) -> list[tuple[int | None, int]]:
    """How far the queries of each layer see, by `layer_types` or else the given ones; their window counts the query itself."""
    types = typed(config, "layer_types", types, list)
    depth = need(config, "num_hidden_layers")
    if len(types) != depth:
        raise ValueError(f"config.json: layer_types has {len(types)} layers, but num_hidden_layers is {depth}")
    reach: dict[str, tuple[int | None, int]] = {"full_attention": (None, 0)}
    if window is not None:
        reach["sliding_attention"] = (window - 1, 0)
    for i, kind in enumerate(types):
        if kind not in reach:
            raise ValueError(
                f"config.json: layer_types[{i}] is {kind!r} with sliding_window {window}, but here it is one of {', '.join(reach)}"
            )
    return [reach[kind] for kind in types]


def window_fields(stack: Stack) -> dict[str, Any]:
    """The inverse of `windows` where all windows are alike."""
    lefts = [block.attention.sees[0] for block in stack.blocks]
    return {
        "layer_types": ["full_attention" if left is None else "sliding_attention" for left in lefts],
        "sliding_window": min((left + 1 for left in lefts if left is not None), default=None),
    }


def eps(norm: Norm | None, default: float) -> float:
    return norm.eps if norm is not None else default


def only(given: Arch, trunk: str) -> Stack:
    """The one stack of an `Arch`; `ValueError` where it has another or both."""
    if list(given.stacks) != [trunk]:
        raise ValueError(f"the family has {trunk}s only, but this one has {' and '.join(given.stacks)}")
    return given.stacks[trunk]


def both(given: Arch) -> tuple[Stack, Stack]:
    """Encoder and decoder; `ValueError` where one is missing."""
    if given.encoder is None or given.decoder is None:
        raise ValueError("the family has an encoder and a decoder")
    return given.encoder, given.decoder


def dense(block: Block) -> Mlp:
    if not isinstance(block.mlp, Mlp):
        raise ValueError("the family has no experts")
    return block.mlp


def turned(attention: Attention, base: float = 10_000.0) -> Rope:
    """The rotary positions of an attention; those of a family that cannot do without them where there are none."""
    return attention.positions or Rope(base)


def shortest(blocks: tuple[Block, ...]) -> tuple[Block, ...]:
    """The shortest pattern that, tiled, gives these blocks: (a, b, a, b) is (a, b)."""
    for length in range(1, len(blocks) + 1):
        if all(block == blocks[i % length] for i, block in enumerate(blocks)):
            return blocks[:length]
    return blocks
