"""What a transformer is: frozen data, checks, JSON both ways. Nothing here imports torch."""

from dataclasses import dataclass, replace
from typing import Literal, get_args

from fledge.arch.record import from_json, to_json

Sees = tuple[int | None, int | None]
Activation = Literal["gelu", "gelu_tanh", "relu", "silu"]


@dataclass(frozen=True)
class LayerNorm:
    """Zero mean and unit variance over the width, with gain and bias (Ba et al., 2016, arXiv:1607.06450)."""

    eps: float = 1e-5


@dataclass(frozen=True)
class RmsNorm:
    """Unit root mean square over the width, with gain (Zhang and Sennrich, 2019, arXiv:1910.07467)."""

    eps: float = 1e-6


Norm = LayerNorm | RmsNorm


@dataclass(frozen=True)
class Learned:
    """One trained vector per position, added to the embedding (GPT-2): positions 0 to `length` - 1."""

    length: int


@dataclass(frozen=True)
class Rope:
    """Queries and keys turned by an angle that grows with their position (Su et al., 2021, arXiv:2104.09864)."""

    base: float = 10_000.0


@dataclass(frozen=True)
class Attention:
    """Scaled dot-product attention with `heads` query heads in groups that share `kv_heads` keys and values.

    `sees` is how far a query sees to its left and right, in positions; `None` is no limit: `(None, 0)` is
    causal, `(None, None)` bidirectional, `(511, 0)` a window of 512 that counts the query itself.
    """

    heads: int
    kv_heads: int
    head_size: int
    sees: Sees = (None, 0)
    positions: Rope | None = None
    q_norm: Norm | None = None
    k_norm: Norm | None = None
    bias: bool = False
    bias_out: bool = False

    def __post_init__(self):
        positive(self, "heads", "kv_heads", "head_size")
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} query heads cannot share {self.kv_heads} key/value heads: heads must be a multiple of kv_heads")
        if self.positions is not None and self.head_size % 2:
            raise ValueError(f"head_size {self.head_size} is odd, but rotary positions turn pairs: use an even head_size")
        if any(side is not None and side < 0 for side in self.sees):
            raise ValueError(f"sees={self.sees}: each side is a number of positions from 0 on, or none for no limit")


@dataclass(frozen=True)
class Mlp:
    """Two linear maps around a nonlinearity, `down(act(up(x)))`; gated: `down(act(gate(x)) * up(x))` (Shazeer, 2020, arXiv:2002.05202)."""

    width: int
    activation: Activation = "silu"
    gated: bool = True
    bias: bool = False

    def __post_init__(self):
        positive(self, "width")
        if self.activation not in get_args(Activation):
            raise ValueError(f"activation {self.activation!r} is unknown: use one of {', '.join(get_args(Activation))}")


@dataclass(frozen=True)
class Block:
    """Attention, then MLP, each as `norm_sum(x + norm_out(f(norm_in(x))))`; an absent norm is the identity."""

    attention: Attention
    mlp: Mlp
    norm_in: Norm | None = None
    norm_out: Norm | None = None
    norm_sum: Norm | None = None


@dataclass(frozen=True)
class Stack:
    """`depth` blocks of `width`, the `pattern` tiled over them: one block repeats, or several take turns."""

    width: int
    depth: int
    pattern: tuple[Block, ...]
    positions: Learned | None = None
    norm_final: Norm | None = None

    def __post_init__(self):
        positive(self, "width", "depth")
        if not self.pattern:
            raise ValueError("a stack needs at least one block in its pattern")

    @property
    def blocks(self) -> tuple[Block, ...]:
        return tuple(self.pattern[i % len(self.pattern)] for i in range(self.depth))


@dataclass(frozen=True)
class Words:
    """A score for every word of the vocabulary; `tied` uses the embedding as the last projection."""

    tied: bool = True


@dataclass(frozen=True)
class Classes:
    """A score for every label, read at the last real token."""

    labels: tuple[str, ...]

    def __post_init__(self):
        if len(set(self.labels)) < 2 or len(set(self.labels)) < len(self.labels):
            raise ValueError(f"a classifier needs at least two different labels, but got {list(self.labels)}")


@dataclass(frozen=True)
class Arch:
    """One transformer. `context` is the longest sequence in tokens; `dropout` acts in training only."""

    vocabulary: int
    context: int
    decoder: Stack
    head: Words | Classes = Words()
    dropout: float = 0.0

    def __post_init__(self):
        positive(self, "vocabulary", "context")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout {self.dropout} is not in [0, 1)")
        learned = self.decoder.positions
        if learned is not None and learned.length < self.context:
            raise ValueError(
                f"context {self.context:,}, but learned positions for {learned.length:,}: use context={learned.length}, or rotary positions"
            )

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of a classifier, nothing for a language model."""
        return self.head.labels if isinstance(self.head, Classes) else ()

    def with_head(self, head: Words | Classes) -> "Arch":
        return replace(self, head=head)

    def to_json(self) -> dict:
        return to_json(self)

    @classmethod
    def from_json(cls, data: dict) -> "Arch":
        return from_json(cls, data, "arch")


def positive(record, *names: str) -> None:
    for name in names:
        if getattr(record, name) < 1:
            raise ValueError(f"{name} is {getattr(record, name)}, but a {type(record).__name__} needs at least 1")


def parameter_count(arch: Arch) -> int:
    """The exact number of trained parameters; a tied head counts once."""
    stack = arch.decoder
    count = arch.vocabulary * stack.width + sum(_block_parameters(block, stack.width) for block in stack.blocks)
    count += norm_parameters(stack.norm_final, stack.width)
    if stack.positions is not None:
        count += stack.positions.length * stack.width
    match arch.head:
        case Words(tied=False):
            count += arch.vocabulary * stack.width
        case Classes(labels):
            count += len(labels) * stack.width
    return count


def norm_parameters(norm: Norm | None, width: int) -> int:
    match norm:
        case LayerNorm():
            return 2 * width
        case RmsNorm():
            return width
        case None:
            return 0


def _block_parameters(block: Block, width: int) -> int:
    a, m = block.attention, block.mlp
    q, kv = a.heads * a.head_size, a.kv_heads * a.head_size
    attention = width * (q + 2 * kv) + q * width + a.bias * (q + 2 * kv) + a.bias_out * width
    attention += norm_parameters(a.q_norm, a.head_size) + norm_parameters(a.k_norm, a.head_size)
    mlp = (2 + m.gated) * width * m.width + m.bias * ((1 + m.gated) * m.width + width)
    norms = 2 * sum(norm_parameters(n, width) for n in (block.norm_in, block.norm_out, block.norm_sum))
    return attention + mlp + norms


def forward_flops(arch: Arch, length: int) -> int:
    """Multiply-adds count as two; matrix products of one forward pass over `length` tokens, the head at every token included."""
    stack = arch.decoder
    total = 0
    for block in stack.blocks:
        a, m = block.attention, block.mlp
        linear = stack.width * a.head_size * (2 * a.heads + 2 * a.kv_heads) + (2 + m.gated) * stack.width * m.width
        left, right = a.sees
        if left is None and right is None:
            seen = length * length
        else:
            seen = sum(
                min(i, length if left is None else left) + 1 + min(length - 1 - i, length if right is None else right)
                for i in range(length)
            )
        total += 2 * length * linear + 4 * a.heads * a.head_size * seen
    if isinstance(arch.head, Words):
        total += 2 * length * stack.width * arch.vocabulary
    return total
