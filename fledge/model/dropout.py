"""Drop-out, the noise of training that keeps a model from learning few rows by heart."""

from torch import Tensor, nn

from fledge.model import kernels


class Dropout(nn.Dropout):
    """Zero for a share of the numbers that come in and more of the others, while it trains."""

    def forward(self, input: Tensor) -> Tensor:
        return kernels.dropout(input, self.p) if self.training else input
