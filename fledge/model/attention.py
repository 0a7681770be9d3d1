"""Attention: the six plain lines, and the kernel that is judged by them."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fledge import arch
from fledge.model import kernels
from fledge.model.cache import LayerCache, Memory
from fledge.model.linear import Linear
from fledge.model.norm import norm
from fledge.model.view import View

IDENTITY = nn.Identity()


def weigh(q: Tensor, k: Tensor, view: View, sinks: Tensor | None = None) -> Tensor:
    """How much each query looks at each key: `softmax(scale q kᵀ)` over what it sees, (batch, heads, query, key), in fp32 at least.

    The scores are capped and biased as the view says; `sinks` (heads,) are scores of keys that give nothing: rows then sum to less.
    """
    products = q @ k.repeat_interleave(q.shape[1] // k.shape[1], 1).mT
    scores = products.to(torch.promote_types(q.dtype, torch.float32)) * view.scale
    if view.spec.soft_cap is not None:
        scores = view.spec.soft_cap * (scores / view.spec.soft_cap).tanh()
    if view.bias is not None:
        scores = scores + view.bias
    scores = scores.masked_fill(~view.allowed, -math.inf)
    if sinks is None:
        return scores.softmax(-1)
    beside = sinks[:, None, None].expand(*scores.shape[:-1], 1).to(scores.dtype)
    return torch.cat((scores, beside), -1).softmax(-1)[..., :-1]


def attend_plainly(q: Tensor, k: Tensor, v: Tensor, view: View, dropout: float = 0.0, sinks: Tensor | None = None) -> Tensor:
    """The equation as it stands (Vaswani et al., 2017, eq. 1), with keys and values shared by groups of heads; the oracle of `attend`."""
    weights = F.dropout(weigh(q, k, view, sinks), dropout)
    return weights.to(v.dtype) @ v.repeat_interleave(q.shape[1] // v.shape[1], 1)


def attend(q: Tensor, k: Tensor, v: Tensor, view: View, dropout: float = 0.0, sinks: Tensor | None = None) -> Tensor:
    """The same by a fused kernel, ours or one of PyTorch's: q (batch, heads, query, size), k and v (batch, kv_heads, key, size).

    Neither knows sinks or capped scores.
    """
    if view.alone:
        rows = zip(q.split(1), k.split(1), v.split(1), view.alone, strict=True)
        return torch.cat([_alone(*row, dropout, sinks) for row in rows])
    if sinks is not None or view.spec.soft_cap is not None:
        return attend_plainly(q, k, v, view, dropout, sinks)
    if kernels.fit(q) and (ranges := view.ranges) is not None:
        return kernels.attend(q, k, v, ranges, dropout)
    grouped = q.shape[1] != k.shape[1]
    if view.blocks is not None:
        from torch.nn.attention.flex_attention import flex_attention

        return flex_attention(q, k, v, block_mask=view.blocks, scale=view.scale, enable_gqa=grouped)  # pyrefly: ignore[bad-return]
    mask = view.mask
    if mask is not None and mask.is_floating_point():
        mask = mask.to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=view.causal, scale=view.spec.scale, enable_gqa=grouped)


def _alone(q: Tensor, k: Tensor, v: Tensor, view: View, dropout: float, sinks: Tensor | None) -> Tensor:
    """One row, of which the first keys alone are its own; a row without any gathers nothing."""
    return attend(q, k[:, :, : view.keys], v[:, :, : view.keys], view, dropout, sinks) if view.keys else torch.zeros_like(q)


class Attention(nn.Module):
    """Every token gathers what it needs from the tokens that it sees, its own or those of a memory."""

    def __init__(self, spec: arch.Attention, width: int, dropout: float):
        super().__init__()
        self.spec, self.dropout = spec, dropout
        q, kv = spec.heads * spec.head_size, spec.kv_heads * spec.head_size
        self.q = Linear(width, q, spec.bias)
        self.k = Linear(width, kv, spec.bias)
        self.v = Linear(width, kv, spec.bias)
        self.o = Linear(q, width, spec.bias_out)
        each = spec.norms_over == "head"
        self.q_norm = norm(spec.q_norm, spec.head_size if each else q)
        self.k_norm = norm(spec.k_norm, spec.head_size if each else kv)
        self.sinks = nn.Parameter(torch.zeros(spec.heads)) if spec.sinks else None

    def keys_and_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Of a memory x (batch, key, width), which has no positions here, each (batch, kv_heads, key, head_size)."""
        x = x.to(kernels.working(x))
        k, norm = self._split(self.k(x), self.k_norm)
        return norm(k).transpose(1, 2), self._split(self.v(x), IDENTITY)[0].transpose(1, 2)

    def _split(self, x: Tensor, norm: nn.Module) -> tuple[Tensor, nn.Module]:
        """Heads (batch, length, heads, head_size), and their norm unless it was over all of them."""
        if self.spec.norms_over == "width":
            x, norm = norm(x), IDENTITY
        return x.unflatten(-1, (-1, self.spec.head_size)), norm

    def project(self, x: Tensor, view: View, memory: Memory | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of x (batch, query, width), keys and values of x or of the memory, each (batch, its heads, its length, head_size).

        Queries and keys are turned by position.
        """
        x = x.to(kernels.working(x))
        q = view.rotate(*self._split(self.q(x), self.q_norm))
        if memory is not None:
            return q, *memory.keys_and_values(self)
        return q, view.rotate(*self._split(self.k(x), self.k_norm)), self._split(self.v(x), IDENTITY)[0].transpose(1, 2)

    def forward(self, x: Tensor, view: View, cache: LayerCache | None = None, memory: Memory | None = None) -> Tensor:
        q, k, v = self.project(x, view, memory)
        if cache is not None:
            k, v = cache.extend(k, v)
        gathered = attend(q, k.to(q.dtype), v.to(q.dtype), view, self.dropout if self.training else 0.0, self.sinks)
        return self.o(gathered.transpose(1, 2).flatten(-2))


def attention_weights(attention: Attention, x: Tensor, view: View, memory: Memory | None = None) -> Tensor:
    """What attention looks at for x (batch, length, width): (batch, heads, query, key), rows summing to one less what sinks take."""
    with torch.no_grad():
        q, k, _ = attention.project(x, view, memory)
        return weigh(q, k, view, attention.sinks)
