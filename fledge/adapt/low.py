"""Low-rank changes of linear maps: attached to a model's own modules, taken off, merged into their weights."""

import copy
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import Function, once_differentiable

from fledge.adapt.settings import Frozen, Lora, matches
from fledge.arch import Classes
from fledge.arch.record import did_you_mean
from fledge.model import Transformer, kernels
from fledge.model.embedding import Embedding, Rows
from fledge.model.head import Untied
from fledge.model.quantised import Quantised
from fledge.weights.families import FAMILIES, family_name
from fledge.weights.rules import Rule, Split, Transpose


@dataclass(frozen=True)
class Map:
    """A linear map by its published name, and our modules that it is made of, each with its number of outputs; `inputs` read by all.

    Of published weights that are (in, out) it is `transposed`.
    """

    name: str
    ours: tuple[str, ...]
    outputs: tuple[int, ...]
    inputs: int
    transposed: bool


@dataclass(frozen=True)
class Change:
    """A low-rank change of one map."""

    map: Map
    rank: int
    alpha: float
    dropout: float = 0.0
    dora: bool = False


class Low(nn.Module):
    """`alpha / rank · B A` of one published map: `a` (rank, inputs), `b` (outputs, rank); with DoRA a `magnitude` (outputs,) besides."""

    def __init__(self, change: Change):
        super().__init__()
        outputs = sum(change.map.outputs)
        self.scale, self.dropout = change.alpha / change.rank, change.dropout
        self.a = nn.Parameter(torch.zeros(change.rank, change.map.inputs))
        self.b = nn.Parameter(torch.zeros(outputs, change.rank))
        self.magnitude = nn.Parameter(torch.ones(outputs)) if change.dora else None


class Adapted(nn.Module):
    """A frozen linear map and beside it some `rows` of a low-rank one: `inner(x) + scale B A x`.

    With DoRA the rows of both together have the learned magnitudes, and their norms count as constants in the backward pass
    (Liu et al., 2024, arXiv:2402.09353, equations 5 and 11). The first of our maps that a published one is made of owns `low`.
    """

    inner: nn.Linear | Quantised

    def __init__(self, inner: nn.Linear, low: Low, rows: slice, owns: bool):
        super().__init__()
        self.inner, self.rows = inner, rows
        if owns:
            self.low = low
        else:
            self.__dict__["low"] = low

    def forward(self, x: Tensor) -> Tensor:
        low = self.low
        read = kernels.dropout(x, low.dropout) if self.training else x
        made = Beside.apply(self.inner(x), read, low.a, low.b[self.rows], low.scale)
        if low.magnitude is None:
            return made
        with torch.no_grad():
            norm = self.together().norm(dim=1)
        factor, bias = (low.magnitude[self.rows] / norm).to(made.dtype), self.inner.bias
        return factor * made if bias is None else factor * (made - bias) + bias

    def together(self) -> Tensor:
        """`W + scale B A` of these rows, (outputs, inputs), in fp32 at least."""
        low, weight = self.low, self.inner.weight
        exact = torch.promote_types(weight.dtype, torch.float32)
        return torch.addmm(weight.to(exact), low.b[self.rows].to(exact), low.a.to(exact), alpha=low.scale)

    def whole(self) -> Tensor:
        """The weight of the one linear map that computes the same."""
        together = self.together()
        if self.low.magnitude is not None:
            together *= (self.low.magnitude[self.rows].to(together.dtype) / together.norm(dim=1))[:, None]
        return together.to(self.inner.weight.dtype)


class Beside(Function):
    """`made + scale · x Aᵀ Bᵀ` in place, of what a linear map has made of x (..., inputs), in its dtype."""

    @staticmethod
    def forward(ctx, made: Tensor, x: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
        kind = made.dtype
        x, a, b = x.to(kind), a.to(kind), b.to(kind)
        with torch.autocast(made.device.type, enabled=False):
            inner = x.flatten(0, -2) @ a.T * scale
            made.view(-1, made.shape[-1]).addmm_(inner, b.T)
        ctx.save_for_backward(x, inner, a, b)
        ctx.scale = scale
        ctx.mark_dirty(made)
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore[bad-override]  (the decorator hides the types)
        x, inner, a, b = ctx.saved_tensors
        grad = grad_outputs[0].flatten(0, -2)
        back = grad @ b * ctx.scale
        grad_x = (back @ a).view_as(x) if ctx.needs_input_grad[1] else None
        return grad_outputs[0], grad_x, back.T @ x.flatten(0, -2), grad.T @ inner, None


def maps_of(model: Transformer, names: str | None = None) -> list[Map]:
    """The linear maps inside the blocks of a model, under the names of its family, the one called `names` first; no routers of experts."""
    found = []
    for row in table_of(model, names):
        modules = [name.removesuffix(".weight") for name in row.ours]
        plain = len(row.theirs) == 1 and all(isinstance(step, Transpose | Split) for step in row.steps)
        if not plain or not all(re.fullmatch(r".*\.blocks\..*(?<!router)\.weight", name) for name in row.ours):
            continue
        linears = [linear for name in modules if isinstance(linear := model.get_submodule(name), nn.Linear)]
        if len(linears) == len(modules):
            outputs = tuple(linear.out_features for linear in linears)
            transposed = any(isinstance(step, Transpose) for step in row.steps)
            found.append(Map(row.theirs[0].removesuffix(".weight"), tuple(modules), outputs, linears[0].in_features, transposed))
    return found


def table_of(model: Transformer, names: str | None) -> list[Rule]:
    """Whose tensor is whose in the family that a model of this architecture is written as."""
    return FAMILIES[family_name(model.arch, names)].table(model.arch)


def changes_of(maps: Sequence[Map], lora: Lora) -> list[Change]:
    """What `lora` changes of these maps. Raises `ValueError` for a pattern that is the name of none."""
    for pattern in (*lora.targets, *(pattern for pattern, _ in lora.ranks)):
        if not any(matches(pattern, known.name) for known in maps):
            tails = dict.fromkeys(tail(known.name) for known in maps)
            tails |= dict.fromkeys(name.rpartition(".")[2] for name in tails)
            raise ValueError(f"no linear map of this model is called {pattern!r}{did_you_mean(pattern, tails)}")
    chosen = [known for known in maps if not lora.targets or any(matches(pattern, known.name) for pattern in lora.targets)]
    return [Change(known, lora.rank_of(known.name), lora.alpha, lora.dropout, lora.dora) for known in chosen]


def tail(name: str) -> str:
    """A name without the number of its layer and what stands before it.

    >>> tail("model.layers.11.self_attn.q_proj")
    'self_attn.q_proj'
    """
    parts = name.split(".")
    numbers = [place for place, part in enumerate(parts) if part.isdecimal()]
    return ".".join(parts[numbers[-1] + 1 :] if numbers else parts)


def attach(model: Transformer, changes: Iterable[Change], seed: int = 0, tokens: Sequence[int] = ()) -> Transformer:
    """Freeze all of a model but a classifier's head, and put low-rank changes beside its maps, which change nothing yet, and rows of
    their own for some tokens, in the embedding and in a head that does not read it.

    A starts at U(-1/√inputs, 1/√inputs), as in Microsoft's and PEFT's code, B at 0, magnitudes at the norms of the rows. Raises
    `ValueError` for a token that the model does not have.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(isinstance(model.arch.head, Classes) and name.startswith("head."))
    for change in changes:
        low, start = Low(change), 0
        nn.init.uniform_(low.a, -(bound := 1 / math.sqrt(change.map.inputs)), bound, generator=generator)
        inner = [linear for name in change.map.ours if isinstance(linear := model.get_submodule(name), nn.Linear)]
        if low.magnitude is not None:
            low.magnitude.data = torch.cat([linear.weight.detach().float().norm(dim=1) for linear in inner])
        low.to(inner[0].weight.device)
        for name, linear, outputs in zip(change.map.ours, inner, change.map.outputs, strict=True):
            model.set_submodule(name, Adapted(linear, low, slice(start, start + outputs), owns=start == 0))
            start += outputs
    if tokens:
        if max(tokens) >= model.arch.vocabulary:
            raise ValueError(f"adapter.tokens has {max(tokens)}, but this model has tokens 0 to {model.arch.vocabulary - 1}")
        for table in tables_of(model):
            table.rows = Rows(tokens, table.weight)
    return model


def tables_of(model: Transformer) -> list[Embedding | Untied]:
    """The tables of a vector for each token: the embedding, and a head's that does not read it."""
    return [model.embedding, *([model.head] if isinstance(model.head, Untied) else [])]


def hold_as(model: nn.Module, kind: Frozen) -> None:
    """Hold the frozen linear maps that changes stand beside in 8 or 4 bits, where that is the kind."""
    for part in model.modules():
        if isinstance(part, Adapted) and isinstance(part.inner, nn.Linear) and kind != "whole":
            part.inner = Quantised(part.inner, kind)


def is_adapted(model: nn.Module) -> bool:
    """Whether low-rank changes are attached to it."""
    return any(isinstance(part, Adapted | Rows) for part in model.modules())


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are not frozen, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def merge(model: Transformer) -> Transformer:
    """Put each change into the weight that it stands beside, and take it off; the scores stay the same but for rounding."""
    with torch.no_grad():
        for name, part in list(model.named_modules()):
            if isinstance(part, Adapted):
                weight, bias = part.whole(), part.inner.bias
                linear = nn.Linear(*weight.shape[::-1], bias=False, device="meta")
                linear.weight, linear.bias = nn.Parameter(weight), bias
                model.set_submodule(name, linear)
        for table in tables_of(model):
            if table.rows is not None:
                table.weight, table.rows = nn.Parameter(table.rows.in_table(table.weight)), None
    return model.requires_grad_(True)


def twin(model: Transformer) -> Transformer:
    """Another model of the same weights, which are in memory once: what is attached to the one is not to the other."""
    shared = {id(parameter): parameter for parameter in model.parameters()}
    return copy.deepcopy(model, shared)
