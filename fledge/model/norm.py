"""The norms by their specification; an absent one is the identity."""

from torch import Tensor, nn

from fledge import arch
from fledge.arch import LayerNorm, Norm
from fledge.model import kernels


class RmsNorm(nn.RMSNorm):
    """Unit root mean square over the width, with gain."""

    def __init__(self, size: int, eps: float):
        super().__init__(size, eps)
        self.epsilon = eps

    def forward(self, x: Tensor) -> Tensor:
        return kernels.rms_norm(x, self.weight, self.epsilon)


def norm(spec: Norm | None, size: int) -> nn.Module:
    match spec:
        case LayerNorm(eps):
            return nn.LayerNorm(size, eps)
        case arch.RmsNorm(eps):
            return RmsNorm(size, eps)
        case None:
            return nn.Identity()
