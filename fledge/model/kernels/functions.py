"""What the kernels compute, as functions with gradients; `None` of a library is the caller's sign to compute plainly."""

from ctypes import CDLL, c_float, c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

Ranges = tuple[Tensor, Tensor]


def call(kernels: CDLL, name: str, kind: torch.dtype, *arguments: Any) -> Any:
    """`name` for numbers of this type; tensors go as their addresses and must be contiguous, structures by reference."""
    function = getattr(kernels, f"{name}_{'half' if kind == torch.bfloat16 else 'float'}")
    return function(*map(_argument, arguments))


def _argument(value: Any) -> Any:
    if isinstance(value, Tensor):
        assert value.is_contiguous()
        return c_void_p(value.data_ptr())
    if isinstance(value, int):
        return c_int64(value)
    return c_float(value) if isinstance(value, float) else c_void_p(None) if value is None else value


def drop(kernels: CDLL, x: Tensor, share: float, seed: int) -> Tensor:
    """Zero for a share of the numbers, `x / (1 - share)` for the others; which ones follows from the seed and a number's place alone."""
    x = x.contiguous()
    out = torch.empty_like(x)
    call(kernels, "drop", x.dtype, x, out, x.numel(), seed, float(share))
    return out


class Dropout(Function):
    """`drop` with a gradient, which keeps no mask: it is made again."""

    @staticmethod
    def forward(ctx, kernels: CDLL, x: Tensor, share: float, seed: int) -> Tensor:
        ctx.again = kernels, share, seed
        return drop(kernels, x, share, seed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore[bad-override]
        kernels, share, seed = ctx.again
        return None, drop(kernels, grad_outputs[0], share, seed), None, None


def by_inputs(kernels: CDLL, grad: Tensor, weight: Tensor) -> Tensor:
    """The gradient of `x Wᵀ` by x, (..., inputs), of its own (..., outputs); both in bf16 and the weight in fp32, for the tile unit."""
    outputs, inputs = weight.shape
    grad = grad.contiguous()
    out = grad.new_empty(*grad.shape[:-1], inputs)
    call(kernels, "map_by_inputs", grad.dtype, grad, weight, out, grad.numel() // outputs, inputs, outputs)
    return out


def by_weight(kernels: CDLL, grad: Tensor, x: Tensor, total: Tensor | None = None) -> Tensor:
    """The gradient of `x Wᵀ` by the weight, in fp32, added to a total where there is one."""
    inputs, outputs = x.shape[-1], grad.shape[-1]
    out = x.new_empty(outputs, inputs, dtype=torch.float32) if total is None else total
    rows = x.numel() // inputs
    call(kernels, "map_by_weight", x.dtype, grad.contiguous(), x, out, rows, inputs, outputs, int(total is not None))
    return out


def sum_rows(kernels: CDLL, x: Tensor) -> Tensor:
    """The sum of x (..., width) over all but its last dimension, (width,) in fp32."""
    total = x.new_empty(x.shape[-1], dtype=torch.float32)
    call(kernels, "sum_rows", x.dtype, x, total, x.numel() // len(total), len(total))
    return total


class Linear(Function):
    """`x Wᵀ + b` of x (..., inputs) in bf16, weight and bias in fp32, by the tile unit; there may be no bias.

    Of a `narrow` weight PyTorch multiplies faster by a copy in bf16, and only the gradient of the weight is left to us.
    """

    @staticmethod
    def forward(ctx, kernels: CDLL, x: Tensor, weight: Tensor, bias: Tensor | None, narrow: bool) -> Tensor:
        outputs, inputs = weight.shape
        x = x.contiguous()
        ctx.save_for_backward(x, weight)
        ctx.kernels, ctx.narrow = kernels, narrow
        out = x.new_empty(*x.shape[:-1], outputs)  # no view of another, which could not be changed in place
        if not narrow:
            call(kernels, "map", x.dtype, x, weight, bias, out, x.numel() // inputs, inputs, outputs)
        elif bias is None:
            torch.mm(x.view(-1, inputs), weight.to(x.dtype).T, out=out.view(-1, outputs))
        else:
            torch.addmm(bias.to(x.dtype), x.view(-1, inputs), weight.to(x.dtype).T, out=out.view(-1, outputs))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore[bad-override]
        x, weight = ctx.saved_tensors
        grad = grad_outputs[0].contiguous()
        _, wants_x, wants_weight, wants_bias, _ = ctx.needs_input_grad
        grad_x = None
        if wants_x:
            grad_x = grad @ weight.to(grad.dtype) if ctx.narrow else by_inputs(ctx.kernels, grad, weight)
        return (
            None,
            grad_x,
            by_weight(ctx.kernels, grad, x) if wants_weight else None,
            sum_rows(ctx.kernels, grad) if wants_bias else None,
            None,
        )


class RmsNorm(Function):
    """`x / √(mean(x²) + eps) · weight` of x (..., width) in fp32, as `dtype`."""

    @staticmethod
    def forward(ctx, kernels: CDLL, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        x = x.contiguous()
        rows, width = x.numel() // x.shape[-1], x.shape[-1]
        out, rstd = torch.empty_like(x, dtype=dtype), x.new_empty(rows)
        call(kernels, "rms_norm", dtype, x, weight, out, rstd, rows, width, eps)
        ctx.save_for_backward(x, weight, rstd)
        ctx.kernels = kernels
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore[bad-override]  (the decorator hides the types)
        x, weight, rstd = ctx.saved_tensors
        grad = grad_outputs[0].contiguous()
        grad_x, grad_weight = torch.empty_like(x), torch.empty_like(weight)
        call(ctx.kernels, "rms_norm_backward", grad.dtype, grad, x, weight, rstd, grad_x, grad_weight, len(rstd), x.shape[-1])
        return None, grad_x, grad_weight, None, None


class LayerNorm(Function):
    """`(x − mean(x)) / √(variance(x) + eps) · weight + bias` of x (..., width) in fp32, as `dtype`; there may be no bias."""

    @staticmethod
    def forward(ctx, kernels: CDLL, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, dtype: torch.dtype) -> Tensor:
        x = x.contiguous()
        rows, width = x.numel() // x.shape[-1], x.shape[-1]
        out, mean, rstd = torch.empty_like(x, dtype=dtype), x.new_empty(rows), x.new_empty(rows)
        call(kernels, "layer_norm", dtype, x, weight, bias, out, mean, rstd, rows, width, eps)
        ctx.save_for_backward(x, weight, mean, rstd)
        ctx.kernels, ctx.biased = kernels, bias is not None
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore[bad-override]
        x, weight, mean, rstd = ctx.saved_tensors
        grad = grad_outputs[0].contiguous()
        grad_x, grad_weight, grad_bias = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight) if ctx.biased else None
        rows, width = x.numel() // x.shape[-1], x.shape[-1]
        call(ctx.kernels, "layer_norm_backward", grad.dtype, grad, x, weight, mean, rstd, grad_x, grad_weight, grad_bias, rows, width)
        return None, grad_x, grad_weight, grad_bias, None, None


class TurnHeads(Function):
    """x (batch, length, heads, size) normalised by `weight` and turned by the angles' cosines and sines, as (batch, heads, length, size).

    The angles are (1 or batch, 1, length, size / 2) in fp32; without a weight nothing is normalised, without angles nothing turned.
    """

    @staticmethod
    def forward(ctx, kernels: CDLL, x: Tensor, weight: Tensor | None, cosine: Tensor | None, sine: Tensor | None, eps: float) -> Tensor:
        x = x.contiguous()
        batch, length, heads, size = x.shape
        out = x.new_empty(batch, heads, length, size)
        rstd = x.new_empty(batch * length * heads if weight is not None else 0, dtype=torch.float32)
        own = int(cosine is not None and len(cosine) > 1)
        call(kernels, "turn_heads", x.dtype, x, weight, cosine, sine, out, rstd, batch, length, heads, size, own, eps)
        ctx.save_for_backward(x if weight is not None else None, weight, cosine, sine, rstd)
        ctx.kernels, ctx.own = kernels, own
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore[bad-override]
        x, weight, cosine, sine, rstd = ctx.saved_tensors
        grad = grad_outputs[0].contiguous()
        batch, heads, length, size = grad.shape
        grad_x = grad.new_empty(batch, length, heads, size)
        grad_weight = torch.empty_like(weight) if weight is not None else None
        call(
            ctx.kernels, "turn_heads_backward", grad.dtype, grad, x, weight, cosine, sine, rstd, grad_x, grad_weight,
            batch, length, heads, size, ctx.own,
        )  # fmt: skip
        return None, grad_x, grad_weight, None, None, None


class Attend(Function):
    """Attention of q (batch, heads, query, size) to k and v (batch, kv_heads, key, size); each query sees a range of keys.

    `ranges` are the first key and the one after the last, each (1 or batch, query). No weights are kept, but the logarithm of each query's
    sum of them. A share of the weights is `dropped`, those that the seed says. The tile unit takes bf16 without that.
    """

    @staticmethod
    def forward(
        ctx, kernels: CDLL, q: Tensor, k: Tensor, v: Tensor, ranges: Ranges, scale: float, tiles: bool, dropped: float = 0.0, seed: int = 0
    ) -> Tensor:
        q, k, v, first, last = (part.contiguous() for part in (q, k, v, *ranges))
        out, logs = torch.empty_like(q), q.new_empty(q.shape[:-1], dtype=torch.float32)
        batch, kv_heads, keys, size = k.shape
        matrices, queries = batch * kv_heads, q.shape[2]
        ctx.name, drawn = ("attend_tiles", ()) if tiles else ("attend", (seed, float(dropped)))
        ctx.numbers = matrices, matrices // len(first), q.shape[1] // kv_heads, queries, keys, size, scale, *drawn
        call(kernels, ctx.name, q.dtype, q, k, v, first, last, out, logs, *ctx.numbers)
        ctx.save_for_backward(q, k, v, first, last, out, logs)
        ctx.kernels = kernels
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore[bad-override]
        q, k, v, first, last, out, logs = ctx.saved_tensors
        made = tuple(torch.empty_like(part) for part in (q, k, v))
        grad = grad_outputs[0].contiguous()
        call(ctx.kernels, f"{ctx.name}_backward", q.dtype, grad, q, k, v, first, last, out, logs, *made, *ctx.numbers)
        return None, *made, None, None, None, None, None


class GatedSilu(Function):
    """`silu(gate) · up`."""

    @staticmethod
    def forward(ctx, kernels: CDLL, gate: Tensor, up: Tensor) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        out = torch.empty_like(gate)
        call(kernels, "gated_silu", gate.dtype, gate, up, out, gate.numel())
        ctx.save_for_backward(gate, up)
        ctx.kernels = kernels
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore[bad-override]
        gate, up = ctx.saved_tensors
        grad, grad_gate, grad_up = grad_outputs[0].contiguous(), torch.empty_like(gate), torch.empty_like(up)
        call(ctx.kernels, "gated_silu_backward", gate.dtype, grad, gate, up, grad_gate, grad_up, gate.numel())
        return None, grad_gate, grad_up


class Gelu(Function):
    """`gelu` or `gelu_tanh` of x, whichever `name` says."""

    @staticmethod
    def forward(ctx, kernels: CDLL, x: Tensor, name: str) -> Tensor:
        x = x.contiguous()
        out = torch.empty_like(x)
        call(kernels, name, x.dtype, x, out, x.numel())
        ctx.save_for_backward(x)
        ctx.kernels, ctx.name = kernels, name
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore[bad-override]
        (x,) = ctx.saved_tensors
        grad, grad_x = grad_outputs[0].contiguous(), torch.empty_like(x)
        call(ctx.kernels, f"{ctx.name}_backward", x.dtype, grad, x, grad_x, x.numel())
        return None, grad_x, None
