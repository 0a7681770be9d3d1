"""A model without its weights, to be filled from a file, or dealt among processes first."""

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from fledge.arch import Arch
from fledge.model.transformer import Transformer


def shell(arch: Arch) -> Transformer:
    """`Transformer(arch)` on the meta device: names and shapes, no memory."""
    with torch.device("meta"), _Uninitialised():
        return Transformer(arch)


class _Uninitialised(TorchFunctionMode):
    """Leaves out `torch.nn.init`, whose random numbers on meta tensors cost 2 s of imports (torch 2.13)."""

    def __torch_function__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if kwargs and "tensor" in kwargs else args[0]
        return func(*args, **(kwargs or {}))
