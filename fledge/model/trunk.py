"""Blocks, and the trunk that stacks them."""

from torch import Tensor, nn
from torch.nn import functional as F

from fledge import arch
from fledge.model import kernels
from fledge.model.attention import Attention
from fledge.model.cache import Reading
from fledge.model.norm import norm
from fledge.model.view import Layout

ACTIVATIONS = {"gelu": F.gelu, "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"), "relu": F.relu, "silu": F.silu}


class Mlp(nn.Module):
    """What each token works out by itself."""

    def __init__(self, spec: arch.Mlp, width: int):
        super().__init__()
        self.activation = ACTIVATIONS[spec.activation]
        self.gate = nn.Linear(width, spec.width, spec.bias) if spec.gated else None
        self.up = nn.Linear(width, spec.width, spec.bias)
        self.down = nn.Linear(spec.width, width, spec.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(kernels.working(x))
        if self.gate is None:
            return self.down(self.activation(self.up(x)))
        if self.activation is F.silu:
            return self.down(kernels.gated_silu(self.gate(x), self.up(x)))
        return self.down(self.activation(self.gate(x)) * self.up(x))


class Residual(nn.Module):
    """Every norm placement there is: `norm_sum(x + norm_out(inner(norm_in(x))))`."""

    def __init__(self, inner: nn.Module, block: arch.Block, width: int, dropout: float):
        super().__init__()
        self.inner = inner
        self.norm_in = norm(block.norm_in, width)
        self.norm_out = norm(block.norm_out, width)
        self.norm_sum = norm(block.norm_sum, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, *rest) -> Tensor:
        return self.norm_sum(x + self.dropout(self.norm_out(self.inner(self.norm_in(x), *rest))))


class Block(nn.Module):
    """Attention, then MLP."""

    def __init__(self, spec: arch.Block, width: int, dropout: float):
        super().__init__()
        self.attention = Residual(Attention(spec.attention, width, dropout), spec, width, dropout)
        self.mlp = Residual(Mlp(spec.mlp, width), spec, width, dropout)

    def forward(self, x: Tensor, *rest) -> Tensor:
        return self.mlp(self.attention(x, *rest))


class Trunk(nn.Module):
    """A stack of blocks between the embedding and the head."""

    def __init__(self, stack: arch.Stack, dropout: float):
        super().__init__()
        self.positions = nn.Embedding(stack.positions.length, stack.width) if stack.positions is not None else None
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(block, stack.width, dropout) for block in stack.blocks)
        self.norm_final = norm(stack.norm_final, stack.width)
        self._attentions = [block.attention for block in stack.blocks]

    def forward(self, x: Tensor, layout: Layout, reading: Reading | None = None) -> Tensor:
        """Embedded tokens (batch, length, width) to the last hidden states; a reading extends the cache by these tokens."""
        x = self.dropout(x if self.positions is None else x + self.positions(layout.queries))
        for i, (block, attention) in enumerate(zip(self.blocks, self._attentions, strict=True)):
            x = block(x, layout.view(attention), reading.layer(i) if reading is not None else None)
        return self.norm_final(x)
