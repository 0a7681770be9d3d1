"""What each token works out by itself."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fledge import arch
from fledge.model import kernels
from fledge.model.linear import Linear

ACTIVATIONS = {
    "gelu": kernels.gelu,
    "gelu_tanh": lambda x: kernels.gelu(x, tanh=True),
    "gelu_sigmoid": lambda x: x * (1.702 * x).sigmoid(),  # Hendrycks and Gimpel, 2016, arXiv:1606.08415, section 2
    "relu": F.relu,
    "silu": F.silu,
    "tanh": F.tanh,
}


def matrix(*shape: int) -> nn.Parameter:
    """A weight that no `nn.Linear` holds, at the start that `initialise` gives to most."""
    return nn.Parameter(nn.init.normal_(torch.empty(shape), 0.0, 0.02))


LANES, WHOLE = 64, 2**15  # numbers that torch takes at once, and up to which it takes an array in one go


def gated(gate: Tensor | None, up: Tensor, spec: arch.Mlp) -> Tensor:
    """`act(up)`, or with a gate `act(gate) * up`, both within the limit of `spec`.

    Of one token in each of several rows no row is cut where others are not: what is left over behind whole vectors is rounded otherwise.
    """
    rows = max(1, WHOLE // up.shape[-1]) if up.shape[-1] % LANES == 0 else 1
    if up.dim() == 3 and up.shape[1] == 1 and len(up) > rows and not torch.is_grad_enabled():
        gates = [None] * len(up) if gate is None else gate.split(rows)
        return torch.cat([_gated(*parts, spec) for parts in zip(gates, up.split(rows), strict=False)])
    return _gated(gate, up, spec)


def _gated(gate: Tensor | None, up: Tensor, spec: arch.Mlp) -> Tensor:
    activation = ACTIVATIONS[spec.activation]
    if gate is None:
        return activation(up)
    if activation is F.silu and spec.limit is None and not spec.up_offset:
        return kernels.gated_silu(gate, up)
    if spec.limit is not None:
        gate, up = gate.clamp(max=spec.limit), up.clamp(-spec.limit, spec.limit)
    return activation(gate) * (up + spec.up_offset if spec.up_offset else up)


class Mlp(nn.Module):
    """Two linear maps around a nonlinearity, gated or not."""

    def __init__(self, spec: arch.Mlp, width: int):
        super().__init__()
        self.spec = spec
        self.gate = Linear(width, spec.width, spec.bias) if spec.gated else None
        self.up = Linear(width, spec.width, spec.bias)
        self.down = Linear(spec.width, width, spec.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(kernels.working(x))
        return self.down(gated(None if self.gate is None else self.gate(x), self.up(x), self.spec))
