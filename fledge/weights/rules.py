"""One table between their tensors and ours, read both ways: each step knows its inverse."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

Names = tuple[str, ...]


class Step(Protocol):
    """A change of tensors and the way back: `back(forth(tensors)) == tensors`, bit for bit."""

    def forth(self, tensors: list[Tensor]) -> list[Tensor]: ...

    def back(self, tensors: list[Tensor]) -> list[Tensor]: ...


@dataclass(frozen=True)
class Transpose:
    """(in, out) to (out, in)."""

    def forth(self, tensors: list[Tensor]) -> list[Tensor]:
        return [tensor.T for tensor in tensors]

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
class Rule:
    """These tensors of theirs are those of ours, after the steps; `{i}` in the names stands for each layer."""

    theirs: Names
    ours: Names
    steps: tuple[Step, ...] = ()

    def at(self, layer: int) -> "Rule":
        return replace(self, theirs=_numbered(self.theirs, layer), ours=_numbered(self.ours, layer))

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


def every_layer(rules: Iterable[Rule], depth: int) -> list[Rule]:
    """The rules with `{i}` written out for layers 0 to `depth` - 1."""
    return [one for row in rules for one in ([row.at(i) for i in range(depth)] if "{i}" in row.theirs[0] else [row])]


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


def claim(needed: Iterable[str], present: Iterable[str], body: str = "", ignored: str = r"(?!)") -> dict[str, str]:
    """Which name of a file answers to each needed name: itself, or itself without the prefix `body`, as a bare trunk is saved.

    Names that match the pattern `ignored` are passed over.
    Raises `ValueError` naming a tensor that is missing, twice there, or claimed by no rule.
    """
    needed, found = set(needed), dict[str, str]()
    for name in present:
        known = next((form for form in (name, body + name) if form in needed), None)
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


def _numbered(names: Names, layer: int) -> Names:
    return tuple(name.replace("{i}", str(layer)) for name in names)
