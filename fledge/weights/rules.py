"""One table between their tensors and ours, read both ways: each step knows its inverse."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fledge.arch import LayerNorm, Norm, RmsNorm

Names = tuple[str, ...]


class Step(Protocol):
    """A change of tensors and the way back: `back(forth(tensors)) == tensors`, bit for bit."""

    def forth(self, tensors: list[Tensor]) -> list[Tensor]: ...

    def back(self, tensors: list[Tensor]) -> list[Tensor]: ...


@dataclass(frozen=True)
class Transpose:
    """(..., in, out) to (..., out, in)."""

    def forth(self, tensors: list[Tensor]) -> list[Tensor]:
        return [tensor.mT for tensor in tensors]

    back = forth


@dataclass(frozen=True)
class Split:
    """One tensor to several of these sizes along its first dimension."""

    sizes: tuple[int, ...]

    def forth(self, tensors: list[Tensor]) -> list[Tensor]:
        return list(tensors[0].split(self.sizes))

    def back(self, tensors: list[Tensor]) -> list[Tensor]:
        return [torch.cat(tensors)]


@dataclass(frozen=True)
class Pile:
    """Tensors of one shape to one with a first dimension more, one expert each."""

    count: int

    def forth(self, tensors: list[Tensor]) -> list[Tensor]:
        return [torch.stack(tensors)]

    def back(self, tensors: list[Tensor]) -> list[Tensor]:
        return list(tensors[0].unbind())


@dataclass(frozen=True)
class Alternate:
    """One tensor whose second dimension takes two by turns to those two."""

    def forth(self, tensors: list[Tensor]) -> list[Tensor]:
        return [tensors[0][:, 0::2], tensors[0][:, 1::2]]

    def back(self, tensors: list[Tensor]) -> list[Tensor]:
        return [torch.stack(tensors, 2).flatten(1, 2)]


@dataclass(frozen=True)
class OneRow:
    """(1, n) to (n,)."""

    def forth(self, tensors: list[Tensor]) -> list[Tensor]:
        return [tensor[0] for tensor in tensors]

    def back(self, tensors: list[Tensor]) -> list[Tensor]:
        return [tensor[None] for tensor in tensors]


@dataclass(frozen=True)
class Rule:
    """These tensors of theirs are those of ours, after the steps."""

    theirs: Names
    ours: Names
    steps: tuple[Step, ...] = ()

    def forth(self, tensors: list[Tensor]) -> list[Tensor]:
        for step in self.steps:
            tensors = step.forth(tensors)
        return tensors

    def back(self, tensors: list[Tensor]) -> list[Tensor]:
        for step in reversed(self.steps):
            tensors = step.back(tensors)
        return tensors


def rule(theirs: str | Names, ours: str | Names, *steps: Step) -> Rule:
    """A row of a table; a single name may stand bare."""
    return Rule((theirs,) if isinstance(theirs, str) else theirs, (ours,) if isinstance(ours, str) else ours, steps)


def alike(theirs: str, ours: str, *kinds: str) -> list[Rule]:
    """A row for each of the tensors that a part has on both sides, such as `weight` and `bias`."""
    return [rule(f"{theirs}.{kind}", f"{ours}.{kind}") for kind in kinds]


def linear(theirs: str, ours: str, bias: bool) -> list[Rule]:
    return alike(theirs, ours, "weight", *(["bias"] if bias else []))


def normed(theirs: str, ours: str, norm: Norm | None) -> list[Rule]:
    """The rows of a norm, none of an absent one."""
    match norm:
        case LayerNorm(bias=bias):
            return linear(theirs, ours, bias)
        case RmsNorm():
            return linear(theirs, ours, False)
        case None:
            return []


def read(rules: Iterable[Rule], theirs: Callable[[str], Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Our tensors by name, one rule at a time, from `theirs(name)`."""
    for row in rules:
        yield from zip(row.ours, row.forth([theirs(name) for name in row.theirs]), strict=True)


def write(rules: Iterable[Rule], ours: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Their tensors by name, one rule at a time; on meta tensors it tells the shapes that a file must have.

    Raises `ValueError` when a parameter of ours stands in no rule or in two.
    """
    rules = list(rules)
    produced = [name for row in rules for name in row.ours]
    if sorted(produced) != sorted(ours):
        stray = sorted(set(ours) - set(produced)) or sorted(set(produced) - set(ours)) or sorted(produced)
        raise ValueError(f"the table of weights does not cover the model exactly once: {', '.join(stray[:3])}")
    for row in rules:
        yield from zip(row.theirs, row.back([ours[name] for name in row.ours]), strict=True)


def claim(
    needed: Iterable[str], present: Iterable[str], body: str = "", ignored: str = r"(?!)", older: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Which name of a file answers to each needed name: itself, or itself without the prefix `body`, as a bare trunk is saved.

    `older` are endings of names that were replaced by others since. Names that match the pattern `ignored` are passed over.
    Raises `ValueError` naming a tensor that is missing, twice there, or claimed by no rule.
    """
    needed, found = set(needed), dict[str, str]()
    for name in present:
        newer = next((name.removesuffix(old) + new for old, new in (older or {}).items() if name.endswith(old)), name)
        known = next((form for form in (name, body + name, newer, body + newer) if form in needed), None)
        if known is None and not re.fullmatch(f"({re.escape(body)})?({ignored})", name):
            lacking = "".join(f" (and lacks {other})" for other in sorted(needed - set(found) - set(present))[:1])
            raise ValueError(f"tensor {name} is there{lacking}, but the model that config.json describes has no such part")
        if known in found:
            raise ValueError(f"tensor {known} is there twice, as {found[known]} and as {name}")
        if known is not None:
            found[known] = name
    for name in sorted(needed - set(found)):
        raise ValueError(f"tensor {name} is missing, but the model that config.json describes has it")
    return found
