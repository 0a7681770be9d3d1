"""Tensor parallelism: each rank has some heads, some of an MLP's inner width, some words, and the ranks add up what theirs give.

Shoeybi et al., 2019, arXiv:1909.08053. The parts of a layer between two such sums are plain tensors, so that every kernel takes them.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import Function, once_differentiable
from torch.distributed.device_mesh import DeviceMesh
from torch.nn import functional as F

from fledge import arch
from fledge.model import kernels
from fledge.model.attention import Attention
from fledge.model.cache import LayerCache, Memory
from fledge.model.embedding import Embedding
from fledge.model.experts import Experts
from fledge.model.head import Tied, Untied
from fledge.model.mlp import Mlp
from fledge.model.positions import DistanceBias
from fledge.model.transformer import Transformer
from fledge.model.trunk import Trunk
from fledge.model.view import View
from fledge.train.parallel.spread import Cut, chunk

# Which dimension of a parameter is dealt among the tensor ranks; SUMMED: all have it whole, each with its share of the gradient.
SUMMED = -1
TABLE: dict[type[nn.Module], dict[str, int]] = {
    Attention: {
        "q.weight": 0, "q.bias": 0, "k.weight": 0, "k.bias": 0, "v.weight": 0, "v.bias": 0, "o.weight": 1, "sinks": 0,
        "q_norm.weight": SUMMED, "q_norm.bias": SUMMED, "k_norm.weight": SUMMED, "k_norm.bias": SUMMED,
    },
    DistanceBias: {"weight": 1},
    Mlp: {"gate.weight": 0, "gate.bias": 0, "up.weight": 0, "up.bias": 0, "down.weight": 1},
    Experts: {"gate": 1, "up": 1, "down": 2},
    Embedding: {"weight": 0},
    Tied: {"bias": 0},
    Untied: {"weight": 0, "bias": 0},
}  # fmt: skip


@dataclass(frozen=True)
class Team:
    """The tensor ranks, and this one's place among them."""

    group: Any
    place: int
    size: int


class _Copied(Function):
    @staticmethod
    def forward(ctx, x: Tensor, team: Team) -> Tensor:
        ctx.team = team
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore[bad-override]  (the decorator hides the types)
        gradient = grad_outputs[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient, group=ctx.team.group)
        return gradient, None


class _Summed(Function):
    @staticmethod
    def forward(ctx, x: Tensor, team: Team) -> Tensor:
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x, group=team.group)
        return x

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        return grad_outputs[0], None


class _Joined(Function):
    @staticmethod
    def forward(ctx, x: Tensor, team: Team, length: int) -> Tensor:
        ctx.own = chunk(length, team.place, team.size)
        rows = x.movedim(-1, 0).contiguous()
        parts = [rows.new_empty(own.stop - own.start, *rows.shape[1:]) for own in (chunk(length, i, team.size) for i in range(team.size))]
        longest = max(map(len, parts))
        padded = [rows.new_empty(longest, *rows.shape[1:]) for _ in parts]
        dist.all_gather(padded, F.pad(rows, (0, 0) * (rows.dim() - 1) + (0, longest - len(rows))), group=team.group)
        return torch.cat([piece[: len(part)] for piece, part in zip(padded, parts, strict=True)]).movedim(0, -1)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        return grad_outputs[0][..., ctx.own], None, None


def copied(x: Tensor, team: Team) -> Tensor:
    """x as it enters what is dealt; its gradient is the sum over the ranks."""
    return _Copied.apply(x, team)


def summed(x: Tensor, team: Team) -> Tensor:
    """The sum over the ranks of what each made."""
    return _Summed.apply(x, team)


def joined(x: Tensor, team: Team, length: int) -> Tensor:
    """The ranks' parts of the last dimension side by side, `length` in all."""
    return _Joined.apply(x, team, length)


class SplitAttention(Attention):
    """Attention of this rank's heads; `o` adds up what all of them gathered."""

    team: Team

    def keys_and_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return super().keys_and_values(copied(x, self.team))

    def forward(self, x: Tensor, view: View, cache: LayerCache | None = None, memory: Memory | None = None) -> Tensor:
        return super().forward(copied(x, self.team), view, cache, memory)


class SplitMlp(Mlp):
    """This rank's part of the inner width; `down` adds up."""

    team: Team

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(copied(x, self.team))


class SplitExperts(Experts):
    """This rank's part of each expert's inner width; all ranks choose alike."""

    team: Team

    def mixed(self, flat: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        return summed(super().mixed(copied(flat, self.team), chosen, copied(weights, self.team)), self.team)


class SplitRows(nn.Linear):
    """A linear map of this rank's part of the input; the bias is added once, to the sum."""

    team: Team

    def forward(self, x: Tensor) -> Tensor:  # pyrefly: ignore[bad-override]  (the argument's name)
        whole = summed(kernels.affine(x, self.weight, None), self.team)
        return whole if self.bias is None else whole + self.bias.to(whole.dtype)


class SplitEmbedding(Embedding):
    """The vectors of this rank's words; each token's vector comes from the rank that has it."""

    team: Team

    def forward(self, tokens: Tensor) -> Tensor:  # pyrefly: ignore[bad-override]
        own = chunk(self.num_embeddings, self.team.place, self.team.size)
        here = (tokens >= own.start) & (tokens < own.stop)
        found = F.embedding((tokens - own.start).where(here, 0), self.weight)
        return summed(found * here[..., None], self.team)


class _SplitWords:
    """Scores of this rank's words."""

    team: Team
    vocabulary: int

    def before(self, hidden: Tensor) -> Tensor:
        return copied(super().before(hidden), self.team)  # pyrefly: ignore[missing-attribute]

    def project(self, hidden: Tensor) -> Tensor:
        return joined(super().project(hidden), self.team, self.vocabulary)  # pyrefly: ignore[missing-attribute]

    def uncapped_cross_entropy(self, scores: Tensor, labels: Tensor, smoothing: float) -> Tensor:
        """As `Words.uncapped_cross_entropy`, over the words of all ranks; each sum over words is one over the ranks."""
        team, own = self.team, chunk(self.vocabulary, self.team.place, self.team.size)
        exact = scores.to(torch.promote_types(scores.dtype, torch.float32))
        highest = exact.amax(-1)
        dist.all_reduce(highest, dist.ReduceOp.MAX, group=team.group)
        here = (labels >= own.start) & (labels < own.stop)
        place = (labels - own.start).where(here, 0)[:, None]
        right = exact.gather(1, place)[:, 0].where(here, 0.0)
        shifted = (exact - highest[:, None]).exp_()
        sums = torch.stack((shifted.sum(-1), right, exact.sum(-1)))
        dist.all_reduce(sums, group=team.group)
        total, right, every = sums
        loss = (total.log() + highest - right + smoothing * (right - every / self.vocabulary)).sum()
        gradient = shifted.div_(total[:, None]).sub_(smoothing / self.vocabulary)
        scores.copy_(gradient.scatter_add_(1, place, ((smoothing - 1.0) * here.to(gradient.dtype))[:, None]))
        return loss


class SplitTied(_SplitWords, Tied):
    """The head that reads a split embedding."""


class SplitUntied(_SplitWords, Untied):
    """A head that owns this rank's rows of the projection."""


SPLIT: dict[type[nn.Module], type[nn.Module]] = {
    Attention: SplitAttention,
    Mlp: SplitMlp,
    Experts: SplitExperts,
    Embedding: SplitEmbedding,
    Tied: SplitTied,
    Untied: SplitUntied,
}


def split(model: Transformer, mesh: DeviceMesh) -> dict[str, Cut]:
    """Deal the parameters among the ranks of `mesh`, as `TABLE` says, and return how each is cut.

    What cannot be dealt evenly (heads, inner widths, words of which each rank would not get some) stays whole: every rank computes it.
    A model on the meta device keeps none of its values; dealt modules become ones of their `Split...` class.
    """
    cuts = {name: Cut(tuple(p.shape)) for name, p in model.named_parameters()}
    if mesh.size() == 1:
        return cuts
    team = Team(mesh.get_group(), mesh.get_local_rank(), mesh.size())
    for prefix, module in _dealt(model, team.size):
        for own, dimension in TABLE[type(module)].items():
            name = f"{prefix}.{own}"
            if name not in cuts:
                continue
            shape = cuts[name].shape
            if dimension == SUMMED:
                cuts[name] = Cut(shape, summed=True)
                continue
            cuts[name] = Cut(shape, dimension)
            place = cuts[name].part((0, 1), (team.place, team.size))
            owner, _, attribute = name.rpartition(".")
            old = model.get_parameter(name)
            new = old.new_empty([piece.stop - piece.start for piece in place])
            setattr(model.get_submodule(owner), attribute, nn.Parameter(new, old.requires_grad))
    for _, module in _dealt(model, team.size):
        for part in (module, *(child for name, child in module.named_children() if name in ("o", "down"))):
            kind = SplitRows if isinstance(part, nn.Linear) else SPLIT.get(type(part))
            if kind is not None:
                part.__class__ = kind
                part.__dict__["team"] = team
    if isinstance(model.head, _SplitWords):
        model.head.vocabulary = model.arch.vocabulary
    return cuts


def _dealt(model: Transformer, ranks: int) -> list[tuple[str, nn.Module]]:
    """The modules that are dealt, by name. The layers of a stack share their distance bias, and so go together."""
    found: list[tuple[str, nn.Module]] = []
    for name, trunk in model.named_modules():
        if isinstance(trunk, Trunk):
            parts = list(trunk.named_modules(prefix=name))
            attentions = [part for part in parts if isinstance(part[1], Attention)]
            if all(_whole_heads(part.spec, ranks) for _, part in attentions if isinstance(part, Attention)):
                found += attentions + [part for part in parts if isinstance(part[1], DistanceBias)]
            found += [part for part in parts if isinstance(part[1], Mlp) and part[1].spec.width % ranks == 0]
            found += [part for part in parts if isinstance(part[1], Experts) and _plain_experts(part[1].spec, ranks)]
    words = chunk(model.arch.vocabulary, ranks - 1, ranks)
    if words.start < words.stop:
        found.append(("embedding", model.embedding))
        if isinstance(model.head, Tied | Untied):
            found.append(("head", model.head))
    return found


def _whole_heads(spec: arch.Attention, ranks: int) -> bool:
    over_width = spec.norms_over == "width" and (spec.q_norm is not None or spec.k_norm is not None)
    return spec.kv_heads % ranks == 0 and not over_width


def _plain_experts(spec: arch.Moe, ranks: int) -> bool:
    return spec.expert.width % ranks == 0 and not spec.expert.bias
