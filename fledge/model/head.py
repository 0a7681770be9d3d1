"""From hidden states to scores: of words, of labels, of tokens."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fledge import arch
from fledge.model import kernels
from fledge.model.dropout import Dropout
from fledge.model.embedding import Embedding, Rows
from fledge.model.linear import Linear
from fledge.model.mlp import ACTIVATIONS, matrix
from fledge.model.norm import norm
from fledge.model.view import PADDING


class Transform(nn.Module):
    """`norm(act(dense(x)))`."""

    def __init__(self, spec: arch.Transform, width: int, out: int):
        super().__init__()
        self.activation = ACTIVATIONS[spec.activation]
        self.dense = Linear(width, out, spec.bias)
        self.norm = norm(spec.norm, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.activation(self.dense(x)))


def transform(spec: arch.Transform | None, width: int, out: int) -> nn.Module:
    return nn.Identity() if spec is None else Transform(spec, width, out)


class Words(nn.Module):
    """A score for every word: `soft_cap(before(hidden) @ weight.T + bias)`."""

    weight: nn.Parameter
    rows: Rows | None
    handed: list[Tensor] | None  # where the gradient of a weight that others read may go (`Embedding`)

    def __init__(self, spec: arch.Words, given: arch.Arch):
        super().__init__()
        self.spec = spec
        self.transform = transform(spec.transform, given.trunk.width, given.embedding_width)
        self.bias = nn.Parameter(torch.zeros(given.vocabulary)) if spec.bias else None

    def before(self, hidden: Tensor) -> Tensor:
        """What the last projection multiplies, (..., width of the embedding)."""
        hidden = self.transform(hidden)
        return hidden if self.spec.scale == 1 else hidden * self.spec.scale

    def project(self, hidden: Tensor) -> Tensor:
        """The last projection of what `before` gave, (..., vocabulary); of few rows in fp32 where there is a kernel for them."""
        scores, rows = kernels.linear(hidden, self.weight, self.bias), self.rows
        return scores if rows is None else scores.index_add(-1, rows.ids, kernels.linear(hidden, rows.change(self.weight), None))

    def forward(self, hidden: Tensor) -> Tensor:
        """The scores of every word, (..., vocabulary), capped ones in fp32 at least."""
        scores = self.project(self.before(hidden))
        cap = self.spec.soft_cap
        return scores if cap is None else cap * (scores.to(torch.promote_types(scores.dtype, torch.float32)) / cap).tanh()

    def cross_entropy(self, scores: Tensor, labels: Tensor, smoothing: float) -> Tensor:
        """The summed cross-entropy of what `project` gave (n, words), then capped, and smoothed labels (n,).

        The scores become its gradient by them, in place.
        """
        cap = self.spec.soft_cap
        if cap is None:
            return self.uncapped_cross_entropy(scores, labels, smoothing)
        bent = scores.div_(cap).tanh_()
        capped = bent * cap
        loss = self.uncapped_cross_entropy(capped, labels, smoothing)
        scores.copy_(torch.ops.aten.tanh_backward(capped, bent))  # times 1 - tanh², for the cap cancels
        return loss

    def uncapped_cross_entropy(self, scores: Tensor, labels: Tensor, smoothing: float) -> Tensor:
        """The same of scores that are final."""
        return cross_entropy(scores, labels, smoothing)


class Untied(Words):
    """Owns its projection."""

    def __init__(self, spec: arch.Words, given: arch.Arch):
        super().__init__(spec, given)
        width = given.embedding_width if spec.transform is not None else given.trunk.width
        self.weight = matrix(given.vocabulary, width)
        self.rows, self.handed = None, None


class Tied(Words):
    """Reads the embedding as the last projection and owns no weight itself."""

    def __init__(self, spec: arch.Words, given: arch.Arch, embedding: Embedding):
        super().__init__(spec, given)
        self.__dict__["embedding"] = embedding

    @property
    def weight(self) -> nn.Parameter:  # pyrefly: ignore[bad-override]  (an attribute there, looked up here)
        return self.__dict__["embedding"].weight

    @property
    def rows(self) -> Rows | None:  # pyrefly: ignore[bad-override]
        return self.__dict__["embedding"].rows

    @property
    def handed(self) -> list[Tensor] | None:  # pyrefly: ignore[bad-override]
        return self.__dict__["embedding"].handed


class Classes(nn.Module):
    """A score for every label, of one vector per row."""

    def __init__(self, spec: arch.Classes, width: int, dropout: float):
        super().__init__()
        self.transform = transform(spec.transform, width, width)
        self.dropout = Dropout(dropout if spec.transform is not None else 0.0)
        self.weight = matrix(len(spec.labels), width)
        self.bias = nn.Parameter(torch.zeros(len(spec.labels))) if spec.bias else None

    def forward(self, pooled: Tensor) -> Tensor:
        return F.linear(self.dropout(self.transform(pooled)), self.weight, self.bias)


class Replaced(nn.Module):
    """One score per token, (batch, length)."""

    def __init__(self, spec: arch.Replaced, width: int):
        super().__init__()
        self.transform = transform(spec.transform, width, width)
        self.score = Linear(width, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.score(self.transform(hidden))[..., 0]


class Hidden(nn.Module):
    """The hidden states as they are; `pooler` waits for who wants a trained map of the first token's."""

    def __init__(self, spec: arch.Hidden, width: int):
        super().__init__()
        self.pooler = transform(spec.pooler, width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden


def head(given: arch.Arch, embedding: Embedding) -> nn.Module:
    match given.head:
        case arch.Words(tied=True) as spec:
            return Tied(spec, given, embedding)
        case arch.Words() as spec:
            return Untied(spec, given)
        case arch.Classes() as spec:
            return Classes(spec, given.trunk.width, given.dropout)
        case arch.Replaced() as spec:
            return Replaced(spec, given.trunk.width)
        case arch.Hidden() as spec:
            return Hidden(spec, given.trunk.width)


def pooled(hidden: Tensor, document: Tensor | None, reads: arch.Reads) -> Tensor:
    """One vector per row of hidden (batch, length, width): the last or first that is no padding, or the mean of those, (batch, width)."""
    real = torch.ones_like(hidden[..., 0], dtype=torch.bool) if document is None else document != PADDING
    if reads == "mean":
        return (hidden * real[..., None]).sum(1) / real.sum(1, keepdim=True)
    places = torch.arange(real.shape[1], device=hidden.device)
    chosen = (places * real).argmax(1) if reads == "last" else real.int().argmax(1)
    return hidden[torch.arange(len(hidden), device=hidden.device), chosen]


def cross_entropy(scores: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """The summed cross-entropy of scores (n, words) and smoothed labels (n,); the scores become its gradient by them, in place.

    A share s of a label lies on all words alike: that adds `s (score of the label - mean score)` to the loss, and s times the label
    less the uniform distribution to the gradient.
    """
    if not smoothing:
        return kernels.cross_entropy(scores, labels)
    exact = torch.promote_types(scores.dtype, torch.float32)
    right = scores.gather(1, labels[:, None])[:, 0].to(exact)
    moved = smoothing * (right - scores.mean(-1, dtype=exact)).sum()
    loss = kernels.cross_entropy(scores, labels) + moved
    scores -= smoothing / scores.shape[-1]
    scores.scatter_add_(1, labels[:, None], scores.new_full((len(labels), 1), smoothing))
    return loss
