"""Blocks, and the trunk that stacks them."""

from dataclasses import replace

from torch import Tensor, nn

from fledge import arch
from fledge.model import kernels
from fledge.model.attention import Attention
from fledge.model.cache import Memory, Reading
from fledge.model.dropout import Dropout
from fledge.model.experts import Experts
from fledge.model.linear import Linear
from fledge.model.mlp import Mlp
from fledge.model.norm import norm
from fledge.model.positions import positions
from fledge.model.view import Layout


class Residual(nn.Module):
    """Every norm placement there is: `norm_sum(x + norm_out(inner(norm_in(x))))`."""

    def __init__(self, inner: nn.Module, block: arch.Block, width: int, dropout: float):
        super().__init__()
        self.inner = inner
        self.norm_in = norm(block.norm_in, width)
        self.norm_out = norm(block.norm_out, width)
        self.norm_sum = norm(block.norm_sum, width)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, *rest) -> Tensor:
        return self.norm_sum(x + self.dropout(self.norm_out(self.inner(self.norm_in(x), *rest))))


class Block(nn.Module):
    """Attention, then, with an encoder beside it, attention across, then MLP."""

    def __init__(self, spec: arch.Block, width: int, dropout: float):
        super().__init__()
        first = replace(spec, norm_in=None) if spec.bare_attention else spec
        self.attention = Residual(Attention(spec.attention, width, dropout), first, width, dropout)
        self.across = Residual(Attention(spec.across, width, dropout), spec, width, dropout) if spec.across is not None else None
        mlp = Experts(spec.mlp, width) if isinstance(spec.mlp, arch.Moe) else Mlp(spec.mlp, width)
        self.mlp = Residual(mlp, spec, width, dropout)

    def forward(self, x: Tensor, own: tuple, across: tuple = ()) -> Tensor:
        """`own` is what attention takes beside x: the view and a cache; `across` the view, no cache, and the memory."""
        if not (kernels.compiling() and self.training) or isinstance(self.mlp.inner, Experts):  # whose shapes follow from the data
            return self.pass_on(x, own, across)
        own[0].prepare(self.attention.inner.dropout)
        if self.across is not None:
            across[0].prepare(self.across.inner.dropout)
        return kernels.compiled(Block.pass_on)(self, x, own, across)

    def pass_on(self, x: Tensor, own: tuple, across: tuple = ()) -> Tensor:
        """The same, as it is compiled on a GPU: one piece for all blocks of a kind."""
        x = self.attention(x, *own)
        if self.across is not None:
            x = self.across(x, *across)
        return self.mlp(x)


class Trunk(nn.Module):
    """A stack of blocks between the embedding and the head."""

    def __init__(self, stack: arch.Stack, dropout: float, embedding: int):
        super().__init__()
        self.positions = positions(stack.positions, embedding, stack.pattern[0].attention.heads)
        self.norm_embedding = norm(stack.norm_embedding, embedding)
        self.dropout = Dropout(dropout)
        self.projection = Linear(embedding, stack.width) if embedding != stack.width else nn.Identity()
        self.blocks = nn.ModuleList(Block(block, stack.width, dropout) for block in stack.blocks)
        self.norm_final = norm(stack.norm_final, stack.width)
        self._specs = stack.blocks

    def enter(self, x: Tensor, positions: Tensor) -> Tensor:
        """What the first block reads of embedded tokens at these positions, (batch, length, width)."""
        return self.projection(self.dropout(self.norm_embedding(self.positions(x, positions))))

    @property
    def readers(self) -> list[Attention]:
        """What looks across at a memory, layer by layer."""
        return [part for name, part in self.named_modules() if isinstance(part, Attention) and ".across." in name]

    def forward(
        self, x: Tensor, layout: Layout, reading: Reading | None = None, across: Layout | None = None, memory: Memory | None = None
    ) -> Tensor:
        """Embedded tokens (batch, length, embedding width) to the last hidden states.

        A reading extends the cache by these tokens; a memory, with the layout of looking across at it, is an encoder's states.
        """
        x = self.enter(x, layout.queries)
        for i, (block, spec) in enumerate(zip(self.blocks, self._specs, strict=True)):
            seen, kept = (layout, None) if reading is None else (reading.layout(i), reading.layer(i))
            own = (seen.view(spec.attention, self.positions), kept)
            x = block(x, own, (across.view(spec.across), None, memory) if across is not None and spec.across is not None else ())
        return self.norm_final(x)
