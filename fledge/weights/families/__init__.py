"""The published families, one row each: how a config.json becomes an `Arch`, and whose tensor is whose.

A family is a module with `arch(config)`, `config(arch)` and `table(arch)`; `BODY` is the prefix that a headless copy leaves
out, `IGNORED` a pattern of tensors that hold nothing learned, `HEAD` and `EMBEDDING` two names that a tied model may both store.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

from fledge.arch import Arch
from fledge.arch.record import did_you_mean
from fledge.weights.families import gpt2, own, qwen3
from fledge.weights.families.fields import shortest
from fledge.weights.rules import Rule


class Family(Protocol):
    @property
    def BODY(self) -> str: ...

    @property
    def IGNORED(self) -> str: ...

    @property
    def HEAD(self) -> str: ...

    @property
    def EMBEDDING(self) -> str: ...

    def arch(self, config: Mapping[str, Any], /) -> Arch: ...

    def config(self, given: Arch, /) -> dict[str, Any]: ...

    def table(self, given: Arch, /) -> list[Rule]: ...


FAMILIES: dict[str, Family] = {"gpt2": gpt2, "qwen3": qwen3, "fledge": own}


def expresses(family: Family, arch: Arch) -> bool:
    """Whether the family's config.json says all of this `Arch`: written and read again, nothing is lost."""
    try:
        return plain(family.arch(family.config(arch))) == plain(arch)
    except ValueError:
        return False


def plain(arch: Arch) -> Arch:
    """The same model with the shortest pattern of blocks."""
    return replace(arch, decoder=replace(arch.decoder, pattern=shortest(arch.decoder.blocks)))


def family_name(arch: Arch) -> str:
    """The first family that expresses this `Arch`; `fledge` when no published one does."""
    return next((name for name, family in FAMILIES.items() if family is not own and expresses(family, arch)), "fledge")


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
