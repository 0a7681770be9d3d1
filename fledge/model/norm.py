"""The norms by their specification; an absent one is the identity."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fledge import arch
from fledge.arch import Norm
from fledge.model import kernels


class LayerNorm(nn.LayerNorm):
    """Zero mean and unit variance over the width, with gain and maybe bias."""

    def forward(self, input: Tensor) -> Tensor:
        return kernels.layer_norm(input, self.weight, self.bias, self.eps)


class RmsNorm(nn.RMSNorm):
    """Unit root mean square over the width, with gain."""

    def __init__(self, size: int, eps: float):
        super().__init__(size, eps)
        self.epsilon = eps

    def forward(self, x: Tensor) -> Tensor:
        return kernels.rms_norm(x, self.weight, self.epsilon)


class OffsetRmsNorm(nn.Module):
    """An RMS norm whose gain is `offset` + weight, summed in fp32 at least: near 1, bf16 would round small weights away."""

    def __init__(self, size: int, eps: float, offset: float):
        super().__init__()
        self.size, self.eps, self.offset = size, eps, offset
        self.weight = nn.Parameter(torch.full((size,), 1.0 - offset))

    def forward(self, x: Tensor) -> Tensor:
        exact = torch.promote_types(x.dtype, torch.float32)
        return F.rms_norm(x.to(exact), (self.size,), self.offset + self.weight.to(exact), self.eps).to(x.dtype)


def norm(spec: Norm | None, size: int) -> nn.Module:
    match spec:
        case arch.LayerNorm(eps, bias):
            return LayerNorm(size, eps, bias=bias)
        case arch.RmsNorm(eps, 0.0):
            return RmsNorm(size, eps)
        case arch.RmsNorm(eps, offset):
            return OffsetRmsNorm(size, eps, offset)
        case None:
            return nn.Identity()
