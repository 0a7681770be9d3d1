"""Where a token stands: added to its embedding, turned into queries and keys, or added to the scores."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fledge import arch
from fledge.arch import ByWavelength, Interpolated, LongRope, Rope, Sees, Yarn
from fledge.model.mlp import matrix


class Nowhere(nn.Module):
    """A stack without positions of its own."""

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """The embedded tokens x (batch, length, width) that stand at `positions` (batch or 1, length), with what tells where."""
        return x

    def bias(self, queries: Tensor, keys: Tensor, sees: Sees) -> Tensor | None:
        """What is added to the scores of queries and keys at these positions, (batch or 1, heads, query, key), or nothing."""
        return None


class Learned(Nowhere):
    """One trained vector per position."""

    def __init__(self, spec: arch.Learned, width: int):
        super().__init__()
        self.spec, self.weight = spec, matrix(spec.length + spec.offset, width)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        return x + F.embedding(positions + self.spec.offset, self.weight)


class Sinusoid(Nowhere):
    """sin, then cos, of `position × base^(-2i/width)`, rounded to fp32 as the published tables are."""

    def __init__(self, spec: arch.Sinusoid, width: int):
        super().__init__()
        self.spec, self.width = spec, width

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        waves = self.spec.base ** (-torch.arange(0, self.width, 2, device=x.device, dtype=torch.float64) / self.width)
        angles = positions.double()[..., None] * waves
        table = torch.cat((angles.sin(), angles.cos()), -1)[..., : self.width]
        return x + table.float().to(x.dtype)


class DistanceBias(Nowhere):
    """One trained number per bucket of distances and head."""

    def __init__(self, spec: arch.DistanceBias, heads: int):
        super().__init__()
        self.spec, self.weight = spec, matrix(spec.buckets, heads)

    def bias(self, queries: Tensor, keys: Tensor, sees: Sees) -> Tensor:
        found = buckets(keys[:, None, :] - queries[:, :, None], self.spec, forward=sees[1] != 0)
        return F.embedding(found, self.weight).permute(0, 3, 1, 2)


def positions(spec: arch.Learned | arch.Sinusoid | arch.DistanceBias | None, width: int, heads: int) -> Nowhere:
    match spec:
        case arch.Learned():
            return Learned(spec, width)
        case arch.Sinusoid():
            return Sinusoid(spec, width)
        case arch.DistanceBias():
            return DistanceBias(spec, heads)
        case None:
            return Nowhere()


def buckets(distance: Tensor, spec: arch.DistanceBias, forward: bool) -> Tensor:
    """The bucket of each key position minus query position (Raffel et al., 2019, arXiv:1910.10683, as published in mesh_tensorflow).

    Where queries see forward too, half of the buckets are for the keys behind them. Of the buckets on a side half hold one distance
    each; the others grow geometrically up to `farthest`, beyond which all distances are one.
    """
    count, base = spec.buckets, torch.zeros_like(distance)
    if forward:
        count //= 2
        base = (distance > 0) * count
        distance = distance.abs()
    else:
        distance = -distance.clamp(max=0)
    exact = count // 2
    grown = (distance.clamp(min=1).float() / exact).log() / math.log(spec.farthest / exact) * (count - exact)
    return base + torch.where(distance < exact, distance, (exact + grown.long()).clamp(max=count - 1))


def turn(
    positions: Tensor, rope: Rope, size: int, dtype: torch.dtype = torch.float32, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Cosine and sine of `position × base^(-2i/size)`, each (batch or 1, 1, query, size / 2) (arXiv:2104.09864, eq. 15), stretched.

    `lengths` (batch or 1, query or 1) are those of the texts that the positions are in, for what depends on them; all are short by default.
    """
    frequencies, grown = turning(rope, size, dtype, positions.device)
    if isinstance(rope.stretch, LongRope):
        slower = [torch.tensor(factors, dtype=dtype, device=positions.device) for factors in (rope.stretch.short, rope.stretch.long)]
        beyond = positions.new_zeros((1, 1), dtype=torch.bool) if lengths is None else lengths > rope.stretch.trained
        frequencies = frequencies / torch.where(beyond[..., None], slower[1], slower[0])
    angles = (positions.to(dtype)[:, :, None] * frequencies)[:, None]
    return angles.cos() * grown, angles.sin() * grown


def turning(rope: Rope, size: int, dtype: torch.dtype = torch.float32, device: torch.device | None = None) -> tuple[Tensor, float]:
    """How far each pair turns from a token to the next, (size / 2,), before what depends on the text; how much queries and keys grow."""
    frequencies = rope.base ** -(torch.arange(0, size, 2, device=device, dtype=dtype) / size)
    match rope.stretch:
        case Interpolated(factor):
            return frequencies / factor, 1.0
        case ByWavelength() as stretch:
            return by_wavelength(frequencies, stretch), 1.0
        case Yarn() as stretch:
            grown = 0.1 * math.log(stretch.factor) + 1.0 if stretch.attention is None else stretch.attention
            return yarn(frequencies, stretch, rope.base), grown
        case LongRope() as stretch:
            return frequencies, stretch.attention
        case None:
            return frequencies, 1.0


def by_wavelength(frequencies: Tensor, stretch: ByWavelength) -> Tensor:
    """The share of the unstretched frequency grows from 0 to 1 as `trained / wavelength` goes from `low` to `high`."""
    turns = stretch.trained * frequencies / (2 * math.pi)
    kept = ((turns - stretch.low) / (stretch.high - stretch.low)).clamp(0, 1)
    return kept * frequencies + (1 - kept) * frequencies / stretch.factor


def yarn(frequencies: Tensor, stretch: Yarn, base: float) -> Tensor:
    """The share of the stretched frequency grows from 0 to 1 from the pair that turns `fast` times within `trained` tokens to `slow`."""
    pairs = len(frequencies)

    def pair_that_turns(times: float) -> float:
        return pairs * math.log(stretch.trained / (times * 2 * math.pi)) / math.log(base)

    first, last = pair_that_turns(stretch.fast), pair_that_turns(stretch.slow)
    if stretch.whole:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, 2 * pairs - 1)
    places = torch.arange(pairs, device=frequencies.device, dtype=frequencies.dtype)
    stretched = ((places - first) / max(last - first, 0.001)).clamp(0, 1)  # the published code's guard against a range of nothing
    return (1 - stretched) * frequencies + stretched * frequencies / stretch.factor
