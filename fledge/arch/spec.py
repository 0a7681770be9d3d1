"""The frozen records that an `Arch` is made of."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

from fledge.arch.record import from_json, to_json

Sees = tuple[int | None, int | None]
Activation = Literal["gelu", "gelu_tanh", "gelu_sigmoid", "relu", "silu", "tanh"]
Reads = Literal["last", "first", "mean"]
Choice = Literal["single", "several", "ordinal"]


@dataclass(frozen=True)
class LayerNorm:
    """Zero mean and unit variance over the width, with gain and bias (Ba et al., 2016, arXiv:1607.06450)."""

    eps: float = 1e-5
    bias: bool = True


@dataclass(frozen=True)
class RmsNorm:
    """Unit root mean square over the width, with gain (Zhang and Sennrich, 2019, arXiv:1910.07467).

    The gain is `offset` + weight: Gemma stores how far it is from 1.
    """

    eps: float = 1e-6
    offset: float = 0.0


Norm = LayerNorm | RmsNorm


@dataclass(frozen=True)
class Interpolated:
    """Rotations `factor` times slower (Chen et al., 2023, arXiv:2306.15595)."""

    factor: float


@dataclass(frozen=True)
class ByWavelength:
    """Waves longer than `trained / low` tokens turn `factor` times slower, those shorter than `trained / high` as before,
    those between by degrees (Llama 3.1: Grattafiori et al., 2024, arXiv:2407.21783, and its published code)."""

    factor: float
    trained: int
    low: float = 1.0
    high: float = 4.0


@dataclass(frozen=True)
class Yarn:
    """Pairs that turn less than `slow` times within `trained` tokens turn `factor` times slower, those that turn more than `fast`
    times as before, those between by degrees; queries and keys grow by `attention` (Peng et al., 2023, arXiv:2309.00071).

    `whole` rounds the first and last pair between to whole numbers; without `attention` it is `0.1 ln(factor) + 1`, the paper's eq. 22.
    """

    factor: float
    trained: int
    fast: float = 32.0
    slow: float = 1.0
    whole: bool = True
    attention: float | None = None


@dataclass(frozen=True)
class LongRope:
    """Each pair turns slower by a factor of its own, one of `short` in texts of at most `trained` tokens, one of `long` in longer ones;
    queries and keys grow by `attention` (Ding et al., 2024, arXiv:2402.13753)."""

    short: tuple[float, ...]
    long: tuple[float, ...]
    trained: int
    attention: float = 1.0


Stretch = Interpolated | ByWavelength | Yarn | LongRope


@dataclass(frozen=True)
class Rope:
    """Queries and keys turned by an angle that grows with their position (Su et al., 2021, arXiv:2104.09864).

    `stretch` slows the angles for contexts longer than the trained one; only the first `portion` of each head is turned.
    """

    base: float = 10_000.0
    stretch: Stretch | None = None
    portion: float = 1.0

    def turned(self, head_size: int) -> int:
        """How many of a head's numbers are turned."""
        return int(head_size * self.portion)

    @property
    def changes_after(self) -> int | None:
        """The length in tokens beyond which a whole text is turned by other angles; none where a token's position alone decides."""
        return self.stretch.trained if isinstance(self.stretch, LongRope) else None


@dataclass(frozen=True)
class Learned:
    """One trained vector per position, added to the embedding (GPT-2): positions 0 to `length` - 1.

    RoBERTa and BART keep `offset` vectors before that of position 0.
    """

    length: int
    offset: int = 0

    def __post_init__(self):
        positive(self, "length")


@dataclass(frozen=True)
class Sinusoid:
    """Sines, then cosines, of the position at geometric wavelengths, added to the embedding (Vaswani et al., 2017, section 3.5).

    Marian's order; the paper's own takes sine and cosine in turns, which differs by a permutation of the width.
    """

    base: float = 10_000.0


@dataclass(frozen=True)
class DistanceBias:
    """One trained number per head and bucket of distances, added to the scores in all layers of a stack.

    Half of the `buckets` hold one distance each, the others grow geometrically up to `farthest`
    (Raffel et al., 2019, arXiv:1910.10683, section 2.1, and its published code).
    """

    buckets: int = 32
    farthest: int = 128

    def __post_init__(self):
        positive(self, "buckets", "farthest")


@dataclass(frozen=True)
class Attention:
    """Scaled dot-product attention with `heads` query heads in groups that share `kv_heads` keys and values.

    `sees` is how far a query sees to its left and right, in positions; `None` is no limit: `(None, 0)` is
    causal, `(None, None)` bidirectional, `(511, 0)` a window of 512 that counts the query itself.
    Query and key norms are taken over each head, or over all heads together (`norms_over="width"`, OLMo 2).
    `scale` multiplies the scores, by default `1 / sqrt(head_size)`; `soft_cap` c bounds them as `c tanh(scores / c)` (Gemma 2);
    with `sinks` each head has a trained score that takes its share of the softmax and gives nothing (gpt-oss).
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
    norms_over: Literal["head", "width"] = "head"
    scale: float | None = None
    soft_cap: float | None = None
    sinks: bool = False

    def __post_init__(self):
        positive(self, "heads", "kv_heads", "head_size")
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} query heads cannot share {self.kv_heads} key/value heads: heads must be a multiple of kv_heads")
        if self.positions is not None and self.positions.turned(self.head_size) % 2:
            raise ValueError(f"head_size {self.head_size} is odd, but rotary positions turn pairs: use an even head_size")
        stretch = self.positions.stretch if self.positions is not None else None
        if self.positions is not None and isinstance(stretch, LongRope):
            pairs = self.positions.turned(self.head_size) // 2
            if {len(stretch.short), len(stretch.long)} != {pairs}:
                raise ValueError(f"{len(stretch.short)} short and {len(stretch.long)} long factors, but {pairs} pairs of a head are turned")
        if any(side is not None and side < 0 for side in self.sees):
            raise ValueError(f"sees={self.sees}: each side is a number of positions from 0 on, or none for no limit")

    @property
    def query_share(self) -> float:
        """What part of the usual size queries have to have where `scale` is not `1 / sqrt(head_size)`, so that scores have theirs."""
        return 1.0 if not self.scale or self.q_norm is not None else 1 / (self.scale * math.sqrt(self.head_size))


@dataclass(frozen=True)
class Mlp:
    """Two linear maps around a nonlinearity, `down(act(up(x)))`; gated: `down(act(gate(x)) * up(x))` (Shazeer, 2020, arXiv:2002.05202).

    A `limit` cuts the gate from above and `up` on both sides, and `up_offset` is added to `up`: gpt-oss has 7 and 1.
    """

    width: int
    activation: Activation = "silu"
    gated: bool = True
    bias: bool = False
    limit: float | None = None
    up_offset: float = 0.0

    def __post_init__(self):
        positive(self, "width")
        if self.activation not in get_args(Activation):
            raise ValueError(f"activation {self.activation!r} is unknown: use one of {', '.join(get_args(Activation))}")
        if not self.gated and (self.limit is not None or self.up_offset):
            raise ValueError("limit and up_offset belong to a gated MLP: set gated, or leave them out")


@dataclass(frozen=True)
class Moe:
    """`experts` MLPs of which each token takes the `chosen` that a router scores best, weighted by the router's softmax.

    The softmax runs over all experts, or with `normalised` over the chosen ones alone. `balance` times `experts × Σ share of tokens ×
    mean probability` is added to the loss in training (Fedus et al., 2021, arXiv:2101.03961, eq. 4; see `Transformer.balancing_loss`).
    """

    expert: Mlp
    experts: int
    chosen: int
    normalised: bool = True
    router_bias: bool = False
    balance: float = 0.0

    def __post_init__(self):
        positive(self, "experts", "chosen")
        if self.chosen > self.experts:
            raise ValueError(f"each token chooses {self.chosen} of {self.experts} experts: there are not so many")


@dataclass(frozen=True)
class Block:
    """Attention, then MLP, each as `norm_sum(x + norm_out(f(norm_in(x))))`; an absent norm is the identity.

    A decoder with an encoder beside it looks `across` at the encoder's states between the two. With `bare_attention` the attention has
    no `norm_in`, as in ModernBERT's first block, whose input the embedding's norm has just left.
    """

    attention: Attention
    mlp: Mlp | Moe
    norm_in: Norm | None = None
    norm_out: Norm | None = None
    norm_sum: Norm | None = None
    across: Attention | None = None
    bare_attention: bool = False

    def __post_init__(self):
        if self.across is not None and (self.across.sees != (None, None) or self.across.positions is not None):
            raise ValueError(
                "attention across sees all of the source, which has no positions here: use sees=(none, none) and no rotary positions"
            )


@dataclass(frozen=True)
class Stack:
    """`depth` blocks of `width`, the `pattern` tiled over them: one block repeats, or several take turns."""

    width: int
    depth: int
    pattern: tuple[Block, ...]
    positions: Learned | Sinusoid | DistanceBias | None = None
    norm_final: Norm | None = None
    norm_embedding: Norm | None = None

    def __post_init__(self):
        positive(self, "width", "depth")
        if not self.pattern:
            raise ValueError("a stack needs at least one block in its pattern")
        if isinstance(self.positions, DistanceBias) and len({block.attention.heads for block in self.pattern}) > 1:
            raise ValueError("blocks that share one distance bias need the same number of heads")

    @property
    def blocks(self) -> tuple[Block, ...]:
        return tuple(self.pattern[i % len(self.pattern)] for i in range(self.depth))


@dataclass(frozen=True)
class Embedding:
    """How tokens become vectors: multiplied by `scale`, with one of `types` trained vectors added (BERT's segments), and `width`
    numbers each, which a stack of another width maps to its own (ELECTRA)."""

    scale: float = 1.0
    types: int = 0
    width: int | None = None


@dataclass(frozen=True)
class Transform:
    """What a head does before its last map: `norm(act(dense(x)))`."""

    activation: Activation = "gelu"
    norm: Norm | None = None
    bias: bool = True


@dataclass(frozen=True)
class Words:
    """A score for every word of the vocabulary; `tied` uses the embedding as the last projection.

    The hidden states are transformed (BERT) and multiplied by `scale` (T5) before it; a `bias` is added after it, and
    `soft_cap` c bounds the scores as `c tanh(scores / c)` (Gemma 2).
    """

    tied: bool = True
    bias: bool = False
    scale: float = 1.0
    soft_cap: float | None = None
    transform: Transform | None = None


@dataclass(frozen=True)
class Classes:
    """A score for every label, from the last real token, the first one, or the mean of all.

    What the scores choose is a `single` label (softmax), any number of `several` (a sigmoid each), or one of labels in an order, the
    first the least (`ordinal`: softmax, of which the median counts).
    """

    labels: tuple[str, ...]
    reads: Reads = "last"
    transform: Transform | None = None
    bias: bool = False
    choice: Choice = "single"

    def __post_init__(self):
        if len(set(self.labels)) < 2 or len(set(self.labels)) < len(self.labels):
            raise ValueError(f"a classifier needs at least two different labels, but got {list(self.labels)}")
        if self.choice not in get_args(Choice):
            raise ValueError(f"a classifier chooses {self.choice!r}, but it is one of {', '.join(get_args(Choice))}")


@dataclass(frozen=True)
class Replaced:
    """One score per token: positive where it seems to be none of the original text (Clark et al., 2020, arXiv:2003.10555)."""

    transform: Transform | None = None


@dataclass(frozen=True)
class Hidden:
    """The hidden states themselves, for sentence embeddings; a `pooler` of the first token is what some published folders carry along."""

    pooler: Transform | None = None


Head = Words | Classes | Replaced | Hidden


@dataclass(frozen=True)
class Arch:
    """One transformer: a decoder, an encoder, or both, the decoder then looking across at the encoder's states.

    `context` is the longest sequence in tokens; `dropout` acts in training only; `start` is the token that opens a target where there are
    both.
    """

    vocabulary: int
    context: int
    decoder: Stack | None = None
    head: Head = Words()
    dropout: float = 0.0
    encoder: Stack | None = None
    embedding: Embedding = Embedding()
    start: int | None = None

    def __post_init__(self):
        positive(self, "vocabulary", "context")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout {self.dropout} is not in [0, 1)")
        if not self.stacks:
            raise ValueError("a transformer needs a decoder, an encoder, or both")
        for stack in self.stacks.values():
            if isinstance(learned := stack.positions, Learned) and learned.length < self.context:
                raise ValueError(
                    f"context {self.context:,}, but learned positions for {learned.length:,}: "
                    f"use context={learned.length}, or rotary positions"
                )
        looks = {block.across is not None for block in self.decoder.pattern} if self.decoder else {False}
        if looks != {len(self.stacks) == 2} or (self.encoder and any(block.across for block in self.encoder.pattern)):
            raise ValueError("the blocks of a decoder look across exactly where there is an encoder beside it: set `across` in all of them")
        if self.encoder and self.decoder and self.encoder.width != self.decoder.width:
            raise ValueError(f"the encoder is {self.encoder.width} wide and the decoder {self.decoder.width}: they must be alike")

    @property
    def stacks(self) -> dict[str, Stack]:
        """The encoder and the decoder, those that there are, by name."""
        return {name: stack for name, stack in (("encoder", self.encoder), ("decoder", self.decoder)) if stack is not None}

    @property
    def trunk(self) -> Stack:
        """The stack whose states the head reads."""
        stack = self.decoder or self.encoder
        assert stack is not None
        return stack

    @property
    def embedding_width(self) -> int:
        return self.embedding.width or self.trunk.width

    @property
    def writes(self) -> bool:
        """Whether it can go on from text: a decoder that sees nothing to its right, and scores for words."""
        stack = self.decoder
        return isinstance(self.head, Words) and stack is not None and all(block.attention.sees[1] == 0 for block in stack.pattern)

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of a classifier, nothing for a language model."""
        return self.head.labels if isinstance(self.head, Classes) else ()

    @property
    def choice(self) -> Choice:
        """How a classifier chooses among its labels."""
        return self.head.choice if isinstance(self.head, Classes) else "single"

    def with_head(self, head: Head) -> "Arch":
        return replace(self, head=head)

    def with_stacks(self, change: Callable[[Stack], Stack]) -> "Arch":
        """The same with `change(stack)` in place of each stack."""
        return replace(self, **{name: change(stack) for name, stack in self.stacks.items()})

    def to_json(self) -> dict:
        return to_json(self)

    @classmethod
    def from_json(cls, data: dict) -> "Arch":
        return from_json(cls, data, "arch")


def positive(record, *names: str) -> None:
    for name in names:
        if getattr(record, name) < 1:
            raise ValueError(f"{name} is {getattr(record, name)}, but a {type(record).__name__} needs at least 1")
