"""One token more for each of a few texts: all blocks in one call, as fast as the weights come from memory."""

import math
import warnings
from collections.abc import Sequence
from ctypes import CDLL, byref
from functools import cache as once
from typing import TYPE_CHECKING, NamedTuple, get_args
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from fledge.arch import Activation, Rope
from fledge.model import kernels
from fledge.model.attention import Attention
from fledge.model.cache import Cache, Reading, Ring
from fledge.model.dropout import Dropout
from fledge.model.kernels import structures
from fledge.model.kernels.functions import call
from fledge.model.kernels.pages import settle
from fledge.model.kernels.structures import address
from fledge.model.linear import Linear
from fledge.model.mlp import Mlp
from fledge.model.norm import LayerNorm, OffsetRmsNorm, RmsNorm
from fledge.model.positions import DistanceBias, turning
from fledge.model.quantised import Quantised
from fledge.model.trunk import Block, Residual, Trunk

if TYPE_CHECKING:
    from fledge.model.transformer import Transformer

LEAVES = {Linear, Quantised, nn.Identity, Dropout, LayerNorm, RmsNorm, OffsetRmsNorm}

_plans: "WeakKeyDictionary[Cache, tuple[Trunk, Step | None]]" = WeakKeyDictionary()


def planned(model: "Transformer", cache: Cache, x: Tensor) -> "Step | None":
    """The step of a model with this cache, where kernels are in use for x; none where they do not know a part of it.

    It is planned once for each cache, as long as which is used the model must keep its weights where they are: they may change in place.
    """
    if (library := kernels.stepping(x)) is None:
        return None
    trunk, step = _plans.get(cache, (None, None))
    return step if trunk is model.trunk else plan(model, cache, library) if sound(library) else None


def plan(model: "Transformer", cache: Cache, library: CDLL) -> "Step | None":
    """The same without a look at whether the kernel is right."""
    weights = list(model.parameters())
    alike = all(type(part.data) is Tensor and part.dtype == weights[0].dtype for part in (*weights, *cache.keys))
    step = None
    if alike and (parts := known(model.trunk)) is not None:
        settle([*weights, *(part.numbers for part in model.modules() if isinstance(part, Quantised))])
        step = Step(library, parts, model.trunk.norm_final, cache)
    _plans[cache] = model.trunk, step
    return step


@once
def sound(library: CDLL) -> bool:
    """Whether the kernel computes what the modules do; warns where it does not."""
    from fledge.model.checks import disagreements  # which runs models

    if wrong := disagreements(library, range(2)):
        warnings.warn(
            f"tokens are generated without the compiled kernel, for it computes another step than PyTorch: {wrong[0]}", stacklevel=2
        )
    return not wrong


class Parts(NamedTuple):
    """A block and what is inside of its two sublayers."""

    block: Block
    attention: Attention
    mlp: Mlp


def known(trunk: Trunk) -> list[Parts] | None:
    """The parts of a trunk's blocks; none where the kernel does not know one: experts, adapters, 4 bits, what looks across, a bias by
    distance."""
    found = []
    for block in trunk.blocks:
        assert isinstance(block, Block)
        attention, mlp = block.attention.inner, block.mlp.inner
        leaves = {type(part) for part in block.modules() if not list(part.children())}
        if block.across is not None or type(mlp) is not Mlp or not isinstance(attention, Attention) or not leaves <= LEAVES:
            return None
        if (rope := attention.spec.positions) is not None and rope.changes_after is not None:
            return None
        if any(isinstance(part, Quantised) and part.kind != "int8" for part in block.modules()):
            return None
        found.append(Parts(block, attention, mlp))
    return None if isinstance(trunk.positions, DistanceBias) else found


class Step:
    """One token for each of a few rows through a trunk, and into the cache that it is planned for, by the kernel.

    A row's numbers are the same, bit for bit, whatever other rows there are, in whatever slots, and on however many threads.
    """

    def __init__(self, library: CDLL, parts: Sequence[Parts], norm_final: nn.Module, cache: Cache):
        self._library = library
        self._kept: list[Tensor] = []  # whatever the structures point to
        specs = [attention.spec for _, attention, _ in parts]
        turns = list(dict.fromkeys((spec.positions, spec.head_size) for spec in specs if spec.positions is not None))
        reaches = {spec.sees[0]: cache.rings[ring] for spec, ring in zip(specs, cache.ring_of, strict=True)}
        layers = [self._layer(*one) for one in parts]
        for layer, spec, keys, values in zip(layers, specs, cache.keys, cache.values, strict=True):
            layer.keys, layer.values, layer.view = self._address(keys), self._address(values), list(reaches).index(spec.sees[0])
            layer.turn = -1 if spec.positions is None else turns.index((spec.positions, spec.head_size))
        self._trunk = structures.Trunk(
            (structures.Layer * len(layers))(*layers),
            (structures.Turn * len(turns))(*(self._turn(rope, size) for rope, size in turns)),
            (structures.View * len(reaches))(*(self._view(left, ring) for left, ring in reaches.items())),
            len(layers), len(turns), len(reaches), layers[0].q.inputs, self._norm(norm_final),
        )  # fmt: skip

    def __call__(self, x: Tensor, positions: Tensor, documents: Tensor, reading: Reading) -> Tensor:
        """The last hidden states of x (batch, 1, width), whose places the reading has taken, at positions with documents (batch, 1)."""
        x, positions, documents = x.contiguous(), positions.contiguous(), documents.contiguous()
        rows = structures.Rows(*map(address, (reading.rows, reading.numbers, positions, documents)), len(x))
        out = torch.empty_like(x)
        call(self._library, "step", x.dtype, byref(self._trunk), byref(rows), x, out)
        return out

    def _layer(self, block: Block, attention: Attention, mlp: Mlp) -> structures.Layer:
        """All of a block but what lies outside of it."""
        spec, inner = attention.spec, mlp.spec
        return structures.Layer(
            attention=self._sublayer(block.attention), mlp=self._sublayer(block.mlp),
            q=self._matrix(attention.q), k=self._matrix(attention.k), v=self._matrix(attention.v), o=self._matrix(attention.o),
            gate=self._matrix(mlp.gate), up=self._matrix(mlp.up), down=self._matrix(mlp.down),
            q_norm=self._norm(attention.q_norm), k_norm=self._norm(attention.k_norm), sinks=self._address(attention.sinks),
            heads=spec.heads, kv_heads=spec.kv_heads, head_size=spec.head_size, norms_over_width=spec.norms_over == "width",
            activation=get_args(Activation).index(inner.activation),
            scale=1 / math.sqrt(spec.head_size) if spec.scale is None else spec.scale,
            soft_cap=math.inf if spec.soft_cap is None else spec.soft_cap,
            limit=math.inf if inner.limit is None else inner.limit, up_offset=inner.up_offset,
        )  # fmt: skip

    def _sublayer(self, residual: Residual) -> structures.Sublayer:
        return structures.Sublayer(*map(self._norm, (residual.norm_in, residual.norm_out, residual.norm_sum)))

    def _matrix(self, linear: nn.Linear | Quantised | None) -> structures.Matrix:
        match linear:
            case None:
                return structures.Matrix()
            case Quantised(numbers=weight, scales=scales, bias=bias):
                return structures.Matrix(self._address(weight), self._address(bias), *weight.shape, self._address(scales.float()))
            case _:
                return structures.Matrix(self._address(linear.weight), self._address(linear.bias), *linear.weight.shape)

    def _norm(self, norm: nn.Module) -> structures.Norm:
        match norm:
            case RmsNorm(weight=weight, epsilon=eps):
                return structures.Norm(structures.RMS, self._address(weight), None, eps, 0.0)
            case OffsetRmsNorm(weight=weight, eps=eps, offset=offset):
                return structures.Norm(structures.RMS, self._address(weight), None, eps, offset)
            case LayerNorm(weight=weight, bias=bias, eps=eps):
                return structures.Norm(structures.LAYER, self._address(weight), self._address(bias), eps, 0.0)
            case _:
                return structures.Norm()

    def _view(self, left: int | None, ring: Ring) -> structures.View:
        return structures.View(-1 if left is None else left, ring.size, self._address(ring.positions), self._address(ring.documents))

    def _turn(self, rope: Rope, head_size: int) -> structures.Turn:
        frequencies, grown = turning(rope, rope.turned(head_size))
        return structures.Turn(self._address(frequencies), len(frequencies), grown)

    def _address(self, part: Tensor | None) -> int | None:
        if part is not None:
            self._kept.append(part.detach())
        return address(part)
