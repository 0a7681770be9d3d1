"""An adapter as data. Nothing here imports torch."""

import re
from dataclasses import dataclass
from typing import Literal

Frozen = Literal["whole", "int8", "int4"]


@dataclass(frozen=True)
class Lora:
    """Low-rank changes of a frozen model: `alpha / rank · B A` beside its linear maps (Hu et al., 2021, arXiv:2106.09685).

    `targets` are patterns of those maps' published names, such as `q_proj` or `mlp\\..*`; without any it is all maps of the blocks. `ranks`
    are ranks of their own for the maps of a pattern. `dropout` is of what A reads. With `dora` a magnitude of each output is learned
    besides (Liu et al., 2024, arXiv:2402.09353). `frozen` is how the maps beside which it stands are held while training. `tokens` are
    the ids of those whose vectors are learned whole, in the embedding and in the head: no low-rank change of the blocks makes up for
    vectors that stay as they were, least of all those of a chat format's tokens, which pretraining never trained.
    """

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = ()
    ranks: tuple[tuple[str, int], ...] = ()
    dropout: float = 0.0
    dora: bool = False
    frozen: Frozen = "whole"
    tokens: tuple[int, ...] = ()

    def __post_init__(self):
        for pattern, rank in (("rank", self.rank), *self.ranks):
            if rank < 1:
                raise ValueError(f"{pattern} is {rank}, but a rank is at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}, but a share below 1 is needed")
        if len(set(self.tokens)) < len(self.tokens) or min(self.tokens, default=0) < 0:
            raise ValueError(f"tokens are {self.tokens}, but ids from 0 on are needed, each once")
        for pattern in (*self.targets, *(pattern for pattern, _ in self.ranks)):
            try:
                re.compile(pattern)
            except re.error as wrong:
                raise ValueError(f"the pattern {pattern!r} is no regular expression: {wrong}") from None

    def rank_of(self, name: str) -> int:
        """The rank of the map of this published name.

        >>> Lora(8, ranks=(("mlp\\\\..*", 2),)).rank_of("model.layers.0.mlp.up_proj")
        2
        """
        return next((rank for pattern, rank in self.ranks if matches(pattern, name)), self.rank)


def matches(pattern: str, name: str) -> bool:
    """Whether a name is, or ends after a point in, what the pattern says; PEFT's rule for ranks by pattern.

    >>> matches("q_proj", "model.layers.0.self_attn.q_proj"), matches("proj", "model.layers.0.self_attn.q_proj")
    (True, False)
    """
    return re.fullmatch(rf"(.*\.)?({pattern})", name) is not None
