"""Vectors of tokens, of which some may be learned while the others are frozen."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import Function, once_differentiable


class Rows(nn.Module):
    """`values` (tokens, width) that stand for the rows `tokens` of a table, which stays as it is; at first they are those rows."""

    def __init__(self, tokens: Sequence[int], table: Tensor):
        super().__init__()
        self.tokens = tuple(tokens)
        self.values = nn.Parameter(table.detach()[list(tokens)].clone())

    @property
    def ids(self) -> Tensor:
        """The tokens, (tokens,); no buffer, which would be emptied when a model is dealt among processes."""
        return torch.tensor(self.tokens, device=self.values.device)

    def change(self, table: Tensor) -> Tensor:
        """What they add to the table's own, (tokens, width)."""
        return self.values - table[self.ids]

    def put(self, x: Tensor, tokens: Tensor) -> Tensor:
        """The vectors x (..., width) of tokens (...), those of the rows replaced."""
        same = tokens[..., None] == self.ids
        places = same.any(-1).nonzero(as_tuple=True)
        return x.index_put(places, self.values[same[places].int().argmax(-1)].to(x.dtype))

    def in_table(self, table: Tensor) -> Tensor:
        """The whole table with these rows."""
        return table.index_copy(0, self.ids, self.values.to(table.dtype))


class Lookup(Function):
    """Rows of a table. The gradient by it is added to what its other reader has `handed` over, rather than made as large once more."""

    @staticmethod
    def forward(ctx, table: Tensor, tokens: Tensor, handed: list[Tensor]) -> Tensor:
        handed.clear()
        ctx.save_for_backward(tokens)
        ctx.handed, ctx.shape = handed, table.shape
        return F.embedding(tokens, table)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore[bad-override]  (the decorator hides the types)
        (grad,), (tokens,) = grad_outputs, ctx.saved_tensors
        total = ctx.handed.pop() if ctx.handed else grad.new_zeros(ctx.shape)
        while ctx.handed:
            total += ctx.handed.pop()
        return total.index_add_(0, tokens.flatten(), grad.flatten(0, -2)), None, None


class Embedding(nn.Embedding):
    """A vector for each token; with `rows` some of their own.

    The head that reads the same table computes its gradient long before that of the tokens' vectors. Where `handed` is not None, it may put
    the gradient there instead of returning it: then that of the vectors is added in place.
    """

    rows: Rows | None
    handed: list[Tensor] | None

    def __init__(self, vocabulary: int, width: int):
        super().__init__(vocabulary, width)
        self.rows, self.handed = None, None

    def forward(self, input: Tensor) -> Tensor:
        if torch.is_grad_enabled() and self.weight.requires_grad and self.weight.device.type == "cpu":
            self.handed = []
            x = Lookup.apply(self.weight, input, self.handed)
        else:
            self.handed = None
            x = super().forward(input)
        return x if self.rows is None else self.rows.put(x, input)
