"""The norms by their specification; an absent one is the identity."""

from torch import nn

from fledge.arch import LayerNorm, Norm, RmsNorm


def norm(spec: Norm | None, size: int) -> nn.Module:
    match spec:
        case LayerNorm(eps):
            return nn.LayerNorm(size, eps)
        case RmsNorm(eps):
            return nn.RMSNorm(size, eps)
        case None:
            return nn.Identity()
