"""The published families, one row each: how a config.json becomes an `Arch`, and whose tensor is whose.

A family has `arch(config, names)`, `config(arch)` and `table(arch)`; `names` are the tensors of a file, for what config.json leaves open.
`BODY` is the prefix that a headless copy leaves out, `IGNORED` a pattern of tensors that hold nothing learned, `REPEATS` those that
may be stored a second time, `OLDER` endings of names that were replaced since.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from fledge.arch import Arch, Choice, Classes, Reads, Transform, Words
from fledge.arch.record import did_you_mean
from fledge.weights.families import gpt2, modernbert, own, t5
from fledge.weights.families.bart import Bart, Marian
from fledge.weights.families.bert import Bert, DistilBert, Electra, Roberta
from fledge.weights.families.experts import GptOss, Mixtral, Qwen3Moe
from fledge.weights.families.fields import shortest
from fledge.weights.families.gemma import Gemma2, Gemma3
from fledge.weights.families.llama import Llama, Mistral, Olmo2, Phi3, Qwen2, Qwen3, SmolLM3
from fledge.weights.rules import Rule


class Family(Protocol):
    @property
    def BODY(self) -> str: ...

    @property
    def IGNORED(self) -> str: ...

    @property
    def REPEATS(self) -> Mapping[str, str]: ...

    @property
    def OLDER(self) -> Mapping[str, str]: ...

    def arch(self, config: Mapping[str, Any], names: Collection[str] = (), /) -> Arch: ...

    def config(self, given: Arch, /) -> dict[str, Any]: ...

    def table(self, given: Arch, /) -> list[Rule]: ...


NAMED = (
    Llama, Qwen3, Qwen2, Mistral, Phi3, Olmo2, SmolLM3, Gemma2, Gemma3, Mixtral, Qwen3Moe, GptOss,
    Bert, Roberta, DistilBert, Electra, Bart, Marian,
)  # fmt: skip
# Where several families express an Arch the first one is written.
FAMILIES: dict[str, Family] = {
    "gpt2": gpt2,
    **{kind.name: kind() for kind in NAMED},
    "modernbert": modernbert,
    "t5": t5,
    "fledge": own,
}


def expresses(family: Family, arch: Arch) -> bool:
    """Whether the family's config.json and names say all of this `Arch`: written and read again, nothing is lost."""
    try:
        names = [name for row in family.table(arch) for name in row.theirs]
        return plain(family.arch(family.config(arch), names)) == plain(arch)
    except ValueError:
        return False


def plain(arch: Arch) -> Arch:
    """The same model with the shortest patterns of blocks."""
    return arch.with_stacks(lambda stack: replace(stack, pattern=shortest(stack.blocks)))


def family_name(arch: Arch, preferred: str | None = None) -> str:
    """The preferred family where it expresses this `Arch`, else the first one that does; `fledge` when no published one does."""
    names = [*([preferred] if preferred in FAMILIES else []), *FAMILIES]
    return next((name for name in names if FAMILIES[name] is not own and expresses(FAMILIES[name], arch)), "fledge")


def classifier(arch: Arch, labels: Sequence[str], choice: Choice = "single", preferred: str | None = None) -> Classes:
    """The head that its family, the preferred one first, gives to a classifier of these labels; a plain one where none has any.

    Of what a family can read it reads the mean, for pretraining has taught the first token of a text nothing.
    """
    pretrained = arch.head.transform if isinstance(arch.head, Words) else None
    transforms = [pretrained, *(Transform(name) for name in ("tanh", "relu", "gelu"))]
    every: tuple[Reads, ...] = ("mean", "first", "last")
    heads = [Classes(tuple(labels), choice=choice)]
    heads += [Classes(tuple(labels), reads, each, bias=True, choice=choice) for each in transforms for reads in every if each]
    named = [(family_name(arch.with_head(head), preferred), head) for head in heads]
    found = [head for name, head in named if name == preferred] + [head for name, head in named if name != "fledge"]
    return (found or heads)[0]


def family_of(config: Mapping[str, Any]) -> Family:
    """The family that a config.json names. Raises `ValueError` for one that fledge does not know, and for quantised weights."""
    name = config.get("model_type")
    if name not in FAMILIES:
        raise ValueError(f"config.json: model_type {name!r} is a family that fledge does not open{did_you_mean(str(name), FAMILIES)}")
    if config.get("quantization_config") is not None:
        raise ValueError(
            "config.json: quantization_config says that the weights are quantised, but fledge opens whole ones: take the unquantised model"
        )
    return FAMILIES[name]
