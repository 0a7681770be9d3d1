"""Mixture of experts: each token is worked on by the few MLPs that a router chooses for it."""

import torch
from torch import Tensor, nn

from fledge import arch
from fledge.model import kernels
from fledge.model.linear import Linear
from fledge.model.mlp import gated, matrix

FEW = 64  # tokens


class Experts(nn.Module):
    """`router` scores the experts; `gate`, `up` (experts, inner, width) and `down` (experts, width, inner) hold all of them.

    In training `imbalance` is `experts × Σ share of tokens × mean probability` of the latest forward pass (arXiv:2101.03961, eq. 4 with
    `chosen` experts a token): `chosen` when all experts are used alike, and more the less they are.
    """

    def __init__(self, spec: arch.Moe, width: int):
        super().__init__()
        inner, experts, bias = spec.expert.width, spec.experts, spec.expert.bias
        self.spec = spec
        self.router = Linear(width, experts, spec.router_bias)
        self.gate = matrix(experts, inner, width) if spec.expert.gated else None
        self.up = matrix(experts, inner, width)
        self.down = matrix(experts, width, inner)
        self.gate_bias = nn.Parameter(torch.zeros(experts, inner)) if bias and spec.expert.gated else None
        self.up_bias = nn.Parameter(torch.zeros(experts, inner)) if bias else None
        self.down_bias = nn.Parameter(torch.zeros(experts, width)) if bias else None
        self.imbalance: Tensor | None = None

    def choose(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The experts of each token of x (tokens, width) and their weights, both (tokens, chosen); the weights are in fp32 at least."""
        scores = self.router(x)
        chances = scores.to(torch.promote_types(scores.dtype, torch.float32)).softmax(-1)
        weights, chosen = chances.topk(self.spec.chosen, -1)
        if self.spec.normalised:
            weights = weights / weights.sum(-1, keepdim=True)
        if self.training:
            share = torch.bincount(chosen.flatten(), minlength=self.spec.experts) / len(x)
            self.imbalance = self.spec.experts * (share * chances.mean(0)).sum()
        return chosen, weights

    def expert(self, e: int, x: Tensor) -> Tensor:
        """What one expert makes of x (tokens, width)."""

        def bias(part: Tensor | None) -> Tensor | None:
            return None if part is None else part[e]

        gate = None if self.gate is None else kernels.affine(x, self.gate[e], bias(self.gate_bias))
        return kernels.affine(
            gated(gate, kernels.affine(x, self.up[e], bias(self.up_bias)), self.spec.expert), self.down[e], bias(self.down_bias)
        )

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(0, -2)
        return self.mixed(flat, *self.choose(flat)).view_as(x)

    def mixed(self, flat: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """What the chosen experts make of each token of flat (tokens, width), weighted and summed in fp32 at least.

        Tokens are sorted by expert, so that each multiplies once with all of its tokens. Few are all multiplied with whichever expert any
        of them chose, which takes the time of reading its weights either way: so no token's bits depend on what the others chose.
        """
        if len(flat) <= FEW and not torch.is_grad_enabled():
            return self._each_of_all(flat, chosen, weights)
        order = chosen.flatten().argsort(stable=True)
        counts = torch.bincount(chosen.flatten(), minlength=self.spec.experts).tolist()
        tokens = order // self.spec.chosen
        made = [self.expert(e, part) for e, part in enumerate(flat[tokens].split(counts)) if counts[e]]
        weighted = torch.cat(made) * weights.flatten()[order, None]
        return torch.zeros_like(flat, dtype=weighted.dtype).index_add(0, tokens, weighted).to(flat.dtype)

    def _each_of_all(self, flat: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        made = {e: self.expert(e, flat[:, None])[:, 0] for e in chosen.unique().tolist()}
        parts = [torch.stack([made[e][token] for e in row]) for token, row in enumerate(chosen.tolist())]
        return torch.stack([(part * share[:, None]).sum(0) for part, share in zip(parts, weights, strict=True)]).to(flat.dtype)


def one_token_at_a_time(experts: Experts, x: Tensor) -> Tensor:
    """The same as a plain loop over tokens and their experts; the oracle of `Experts.forward`."""
    flat = x.flatten(0, -2)
    chosen, weights = experts.choose(flat)
    rows = []
    for token, row, share in zip(flat, chosen.tolist(), weights, strict=True):
        parts = [weight * experts.expert(e, token[None])[0] for e, weight in zip(row, share, strict=True)]
        rows.append(torch.stack(parts).sum(0))
    return torch.stack(rows).to(x.dtype).view_as(x)
