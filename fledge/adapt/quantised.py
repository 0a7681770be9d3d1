"""A frozen linear map in 8 or 4 bits over PyTorch's own products, dequantised for the backward pass and for many rows."""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import Function, once_differentiable
from torch.nn import functional as F

GROUP = 32  # inputs that share a scale in 4 bits
FEW = 4  # rows up to which PyTorch's products of quantised weights are quicker than dequantised ones: bf16 on a CPU
Bits = Literal["int8", "int4"]


class Quantised(nn.Module):
    """A linear map whose weight, (outputs, inputs), is held in whole numbers with scales.

    `int8`: one scale a row, from -127 to 127, so that the largest of a row is exact. `int4`: a scale and a least value for each `GROUP`
    inputs of a row, 16 steps between the least and the largest of them (the grid of PyTorch's `_weight_int4pack_mm`).
    Raises `ValueError` where a row does not divide into groups.
    """

    numbers: Tensor
    scales: Tensor
    least: Tensor | None

    def __init__(self, linear: nn.Linear, kind: Bits):
        super().__init__()
        weight = linear.weight.detach().float()
        self.kind, self.shape, self.dtype = kind, weight.shape, linear.weight.dtype
        if kind == "int8":
            scales = weight.abs().amax(1).clamp(min=1e-12) / 127
            numbers, least = (weight / scales[:, None]).round().to(torch.int8), None
        else:
            if weight.shape[1] % GROUP:
                raise ValueError(f"rows of {weight.shape[1]} inputs do not divide into groups of {GROUP}: use adapter.frozen=int8")
            groups = weight.unflatten(1, (-1, GROUP))
            low, high = groups.amin(2), groups.amax(2)
            scales, least = ((high - low).clamp(min=1e-6) / 15).bfloat16(), low.bfloat16()
            steps = ((groups - least.float()[..., None]) / scales.float()[..., None]).round().clamp(0, 15).to(torch.uint8).flatten(1)
            numbers = steps[:, 0::2] | steps[:, 1::2] << 4
        self.register_buffer("numbers", numbers)
        self.register_buffer("scales", scales)
        self.register_buffer("least", least)
        self.bias = linear.bias

    @property
    def weight(self) -> Tensor:
        """The weight that the numbers stand for, in the dtype that it had."""
        if self.least is None:
            return (self.numbers.float() * self.scales.float()[:, None]).to(self.dtype)
        steps = torch.stack((self.numbers & 15, self.numbers >> 4), 2).flatten(1).unflatten(1, (-1, GROUP))
        return (steps.float() * self.scales.float()[..., None] + self.least.float()[..., None]).flatten(1).to(self.dtype)

    def forward(self, x: Tensor) -> Tensor:
        made = Product.apply(x, self)
        return made if self.bias is None else made + self.bias.to(made.dtype)

    def product(self, x: Tensor) -> Tensor:
        """`x Wᵀ` of x (..., inputs), in autocast's dtype where it is on: by PyTorch's product for few bf16 rows on a CPU."""
        kind = x.device.type
        working = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        x = x.to(working)
        if self.kind == "int8" and kind == "cpu" and working == torch.bfloat16 and x.numel() <= FEW * x.shape[-1]:
            return torch._weight_int8pack_mm(x.reshape(-1, x.shape[-1]), self.numbers, self.scales.bfloat16()).view(*x.shape[:-1], -1)
        return F.linear(x, self.weight.to(working))


class Product(Function):
    """`x Wᵀ` with a gradient for x alone, for which the weight is dequantised again: nothing of its size is kept."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Quantised) -> Tensor:
        ctx.weight = weight
        return weight.product(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore[bad-override]  (the decorator hides the types)
        grad = grad_outputs[0]
        return grad @ ctx.weight.weight.to(grad.dtype), None
