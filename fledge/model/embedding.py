"""Vectors of tokens, of which some may be learned while the others are frozen."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


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


class Embedding(nn.Embedding):
    """A vector for each token; with `rows` some of their own."""

    rows: Rows | None

    def __init__(self, vocabulary: int, width: int):
        super().__init__(vocabulary, width)
        self.rows = None

    def forward(self, input: Tensor) -> Tensor:
        x = super().forward(input)
        return x if self.rows is None else self.rows.put(x, input)
