"""A linear map in 8 or 4 bits that is not trained: dequantised for each product, but where our kernel takes 8 bits as they are."""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import Function, once_differentiable
from torch.nn import functional as F

from fledge.model import kernels
from fledge.model.linear import Linear

GROUP = 32  # inputs that share a scale in 4 bits
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
        """`x Wᵀ` of x (..., inputs), in autocast's dtype where it is on."""
        working = kernels.working(x)
        x = x.to(working)
        if self.kind == "int8":
            return kernels.linear(x, self.numbers, None, self.scales.float()).to(working)
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


def kinds(model: nn.Module) -> list[str]:
    """The types that the numbers of a model are of, such as `bfloat16`, `int8`."""
    held = {part.kind for part in model.modules() if isinstance(part, Quantised)}
    return sorted({*held, *(str(parameter.dtype)[6:] for parameter in model.parameters())})


def hold(model: nn.Module, kind: Bits, *beside: nn.Module) -> None:
    """Hold every linear map inside the blocks of a model in 8 or 4 bits, but no experts and no routers; what is `beside` it and shares its
    maps shares them still."""
    for name, linear in list(model.named_modules()):
        if ".blocks." in name and type(linear) is Linear and not name.endswith(".router"):
            held = Quantised(linear, kind)
            for other in (model, *beside):
                part = other.get_submodule(name)
                other.set_submodule(name if type(part) is Linear else f"{name}.inner", held)
