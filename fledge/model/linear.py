"""The linear map that all parts of a model are made of."""

from torch import Tensor, nn

from fledge.model import kernels


class Linear(nn.Linear):
    """`x Wᵀ + b`, by the processor's tile unit where there is one."""

    def forward(self, input: Tensor) -> Tensor:
        return kernels.affine(input, self.weight, self.bias)
