"""The whole model: embedding, trunk, head."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fledge import arch
from fledge.arch import Arch, Words
from fledge.model.attention import Attention, attention_weights
from fledge.model.cache import Cache, Reading
from fledge.model.trunk import Trunk
from fledge.model.view import PADDING, Layout


class Transformer(nn.Module):
    """Tokens to scores: `Transformer(arch)(tokens)`.

    Positions and documents, both (batch, length), say where each token stands; without them every row is one document from
    position 0 on. Padding has document -1. A token sees tokens of its own document only.
    """

    def __init__(self, arch: Arch):
        super().__init__()
        self.arch = arch
        self.embedding = nn.Embedding(arch.vocabulary, arch.decoder.width)
        self.decoder = Trunk(arch.decoder, arch.dropout)
        self.head = make_head(arch, self.embedding)

    def hidden(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        document: Tensor | None = None,
        cache: Cache | None = None,
        slots: Tensor | None = None,
    ) -> Tensor:
        """The trunk's last hidden states, (batch, length, width).

        With a cache the tokens continue what the given slots (all by default) hold. Raises `ValueError` for a position beyond learned ones.
        """
        layout, reading = self._places(tokens, positions, document, cache, slots)
        return self.decoder(self.embedding(tokens), layout, reading)

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        document: Tensor | None = None,
        cache: Cache | None = None,
        slots: Tensor | None = None,
    ) -> Tensor:
        """Scores in fp32: (batch, length, vocabulary), or (batch, labels) of a classifier, which reads the last real token."""
        hidden = self.hidden(tokens, positions, document, cache, slots)
        if not isinstance(self.arch.head, Words):
            hidden = last_real(hidden, document)
        return self.head(hidden).float() if hidden.dtype != torch.float64 else self.head(hidden)

    def cache(self, slots: int, capacity: int) -> Cache:
        """An empty cache on the model's device, in its dtype."""
        weight = self.embedding.weight
        return Cache(self.arch.decoder, slots, capacity, weight.device, weight.dtype)

    def attention(self, tokens: Tensor) -> list[Tensor]:
        """What each layer looks at: (batch, heads, query, key) per layer, each row summing to one."""
        layout, _ = self._places(tokens, None, None, None, None)
        seen: list[Tensor] = []

        def look(module: Attention, arguments: tuple[Tensor, ...]) -> None:
            seen.append(attention_weights(module, arguments[0], layout.view(module.spec)))

        hooks = [part.register_forward_pre_hook(look) for part in self.modules() if isinstance(part, Attention)]
        try:
            with torch.no_grad():
                self.decoder(self.embedding(tokens), layout)
        finally:
            for hook in hooks:
                hook.remove()
        return seen

    def _places(
        self, tokens: Tensor, positions: Tensor | None, document: Tensor | None, cache: Cache | None, slots: Tensor | None
    ) -> tuple[Layout, Reading | None]:
        if document is None and (positions is not None or cache is not None):
            document = torch.zeros_like(tokens)
        if positions is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device)[None]
            if cache is not None:
                positions = positions + (cache.filled if slots is None else cache.filled[slots])[:, None]
        self._check(positions)
        if cache is None or document is None:
            return Layout(positions, document, positions, document), None
        reading = cache.open(positions, document, slots)
        return Layout(positions, document, reading.seen(cache.positions), reading.seen(cache.documents)), reading

    def _check(self, positions: Tensor) -> None:
        learned = self.arch.decoder.positions
        if learned is None or positions.device.type == "meta":
            return
        longest = int(positions.max()) + 1
        if longest > learned.length:
            raise ValueError(
                f"a sequence of {longest:,} tokens, but this model has learned positions for {learned.length:,}: "
                f"use at most {learned.length:,} tokens, or a model with rotary positions"
            )


class Tied(nn.Module):
    """Reads the embedding as the last projection and owns no weight itself."""

    def __init__(self, embedding: nn.Embedding):
        super().__init__()
        self.__dict__["embedding"] = embedding

    @property
    def weight(self) -> nn.Parameter:
        return self.__dict__["embedding"].weight

    def forward(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.weight)


def make_head(spec: Arch, embedding: nn.Embedding) -> nn.Module:
    match spec.head:
        case arch.Words(tied=True):
            return Tied(embedding)
        case arch.Words():
            return nn.Linear(spec.decoder.width, spec.vocabulary, bias=False)
        case arch.Classes(labels):
            return nn.Linear(spec.decoder.width, len(labels), bias=False)


def last_real(hidden: Tensor, document: Tensor | None) -> Tensor:
    """The hidden state of each row's last token that is no padding, (batch, width)."""
    if document is None:
        return hidden[:, -1]
    places = torch.arange(document.shape[1], device=document.device) * (document != PADDING)
    return hidden[torch.arange(len(hidden), device=hidden.device), places.argmax(1)]
