"""Attention: the six plain lines, and the kernel that is judged by them."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fledge import arch
from fledge.model import kernels
from fledge.model.cache import LayerCache
from fledge.model.norm import norm
from fledge.model.view import View


def weigh(q: Tensor, k: Tensor, view: View) -> Tensor:
    """How much each query looks at each key: `softmax(q kᵀ / √size)` over what it sees, (batch, heads, query, key)."""
    k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    return scores.masked_fill(~view.allowed, -math.inf).softmax(-1)


def attend_plainly(q: Tensor, k: Tensor, v: Tensor, view: View, dropout: float = 0.0) -> Tensor:
    """The equation as it stands (Vaswani et al., 2017, eq. 1), with keys and values shared by groups of heads; the oracle of `attend`."""
    weights = F.dropout(weigh(q, k, view), dropout)
    return weights @ v.repeat_interleave(q.shape[1] // v.shape[1], 1)


def attend(q: Tensor, k: Tensor, v: Tensor, view: View, dropout: float = 0.0) -> Tensor:
    """The same by a fused kernel, ours or PyTorch's: q (batch, heads, query, size), k and v (batch, kv_heads, key, size)."""
    if dropout == 0.0 and (gathered := kernels.attend(q, k, v, view.ranges)) is not None:
        return gathered
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(q, k, v, view.mask, dropout, is_causal=view.causal, enable_gqa=grouped)


class Attention(nn.Module):
    """Every token gathers what it needs from the tokens that it sees."""

    def __init__(self, spec: arch.Attention, width: int, dropout: float):
        super().__init__()
        self.spec, self.dropout = spec, dropout
        self.q = nn.Linear(width, spec.heads * spec.head_size, spec.bias)
        self.k = nn.Linear(width, spec.kv_heads * spec.head_size, spec.bias)
        self.v = nn.Linear(width, spec.kv_heads * spec.head_size, spec.bias)
        self.o = nn.Linear(spec.heads * spec.head_size, width, spec.bias_out)
        self.q_norm = norm(spec.q_norm, spec.head_size)
        self.k_norm = norm(spec.k_norm, spec.head_size)

    def project(self, x: Tensor, view: View) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of x (batch, query, width), each (batch, heads or kv_heads, query, head_size), turned by position."""
        x = x.to(kernels.working(x))
        q, k, v = (part(x).unflatten(-1, (-1, self.spec.head_size)) for part in (self.q, self.k, self.v))
        return view.rotate(q, self.q_norm), view.rotate(k, self.k_norm), v.transpose(1, 2)

    def forward(self, x: Tensor, view: View, cache: LayerCache | None = None) -> Tensor:
        q, k, v = self.project(x, view)
        if cache is not None:
            k, v = cache.extend(k, v)
        gathered = attend(q, k.to(q.dtype), v.to(q.dtype), view, self.dropout if self.training else 0.0)
        return self.o(gathered.transpose(1, 2).flatten(-2))


def attention_weights(attention: Attention, x: Tensor, view: View) -> Tensor:
    """What self-attention looks at for x (batch, length, width): (batch, heads, query, key), each row summing to one."""
    with torch.no_grad():
        q, k, _ = attention.project(x, view)
        return weigh(q, k, view)
