"""The whole model: embedding, trunks, head."""

import torch
from torch import Tensor, nn

from fledge.arch import Arch, Classes, Learned, Stack
from fledge.model import head
from fledge.model.attention import Attention, attention_weights
from fledge.model.cache import Cache, Memory
from fledge.model.decoding import planned
from fledge.model.experts import Experts
from fledge.model.trunk import Trunk
from fledge.model.view import PADDING, Layout, document_lengths


class Transformer(nn.Module):
    """Tokens to scores: `Transformer(arch)(tokens)`; with both an encoder and a decoder `model(target, memory=model.encode(source))`.

    Positions and documents, both (batch, length), say where each token stands; without them every row is one document from
    position 0 on. Padding has document -1. A token sees tokens of its own document only, in a memory too.
    """

    def __init__(self, arch: Arch):
        super().__init__()
        self.arch = arch
        width = arch.embedding_width
        self.embedding = nn.Embedding(arch.vocabulary, width)
        self.types = nn.Embedding(arch.embedding.types, width) if arch.embedding.types else None
        self.encoder = Trunk(arch.encoder, arch.dropout, width) if arch.encoder else None
        self.decoder = Trunk(arch.decoder, arch.dropout, width) if arch.decoder else None
        self.head = head.head(arch, self.embedding)

    @property
    def trunk(self) -> Trunk:
        """The stack whose states the head reads: the decoder where there is one."""
        trunk = self.decoder or self.encoder
        assert trunk is not None
        return trunk

    def encode(self, tokens: Tensor, positions: Tensor | None = None, document: Tensor | None = None) -> Memory:
        """The encoder's states of a source, for a decoder to look across at."""
        assert self.encoder is not None, "there is no encoder beside a decoder here: use hidden"
        assert self.arch.encoder is not None
        positions, document = self._stand(self.arch.encoder, tokens, positions, document)
        layout = self._layout(positions, document)
        return Memory(self.encoder(self._embed(tokens), layout), positions, document)

    def hidden(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        document: Tensor | None = None,
        cache: Cache | None = None,
        slots: Tensor | None = None,
        memory: Memory | None = None,
        types: Tensor | None = None,
        apart: bool = False,
    ) -> Tensor:
        """The trunk's last hidden states, (batch, length, width).

        With a cache the tokens continue what the given slots (all by default) hold; a text that thereby outgrows a length beyond which
        all of it is turned by other angles (LongRope) is read again as a whole, as `transformers` does when it generates. A memory is
        what `encode` made of the source; types (batch, length) number the segments, 0 by default. With `apart` each row of a cache attends
        by itself: for the same number of rows, not a bit of it depends on what the others are, on CPUs. Raises `ValueError` for a position
        beyond learned ones.
        """
        trunk = self.trunk
        self._remembered(memory)
        positions, document = self._stand(self.arch.trunk, tokens, positions, document, cache, slots, memory)
        x = self._embed(tokens, types)
        if cache is None or document is None:
            return trunk(x, self._layout(positions, document), None, self._across(positions, document, memory), memory)
        if (grown := self._outgrown(positions, document, cache, slots)) is not None:
            return self._read_again(grown, tokens, positions, document, cache, slots, memory)
        reading = cache.open(tokens, positions, document, slots, self._exact, apart)
        if tokens.shape[1] == 1 and memory is None and not self.training and (step := planned(self, cache, x)) is not None:
            return step(trunk.enter(x, positions), positions, document, reading)
        return trunk(x, reading.layout(0), reading, self._across(positions, document, memory, apart), memory)

    def _outgrown(self, positions: Tensor, document: Tensor, cache: Cache, slots: Tensor | None) -> Tensor | None:
        """Which rows (batch,) grow beyond a length after which a whole text is turned by other angles; none where no row does."""
        if not (limits := self.turned_anew):
            return None
        rows = cache.rows(slots)
        [ring] = cache.rings
        before = document_lengths(document, ring.positions[rows], ring.documents[rows])
        after = document_lengths(document, positions, document)
        real = (before > 0) & (document != PADDING)
        grown = torch.stack([real & (before <= limit) & (after > limit) for limit in limits]).any(0).any(1)
        return grown if bool(grown.any()) else None

    def _read_again(
        self, grown: Tensor, tokens: Tensor, positions: Tensor, document: Tensor, cache: Cache, slots: Tensor | None, memory: Memory | None
    ) -> Tensor:
        """The hidden states of tokens when the rows that have `grown` (batch,) are read from their first token on; the others go on."""
        hidden = self.embedding.weight.new_empty(*tokens.shape, self.arch.trunk.width)
        rows, new = cache.rows(slots), (tokens, positions.expand_as(tokens), document)

        def read(part: Tensor, *given: Tensor) -> None:
            source = None if memory is None else memory.rows(part)
            hidden[part] = self.hidden(*given, cache=cache, slots=rows[part], memory=source)[:, -tokens.shape[1] :]

        if len(rest := (~grown).nonzero()[:, 0]):
            read(rest, *(kind[rest] for kind in new))
        for part in grown.nonzero():
            before = cache.held(int(rows[part]))
            cache.keep(int(rows[part]), 0)
            read(part, *(torch.cat((old, kind[part]), 1) for old, kind in zip(before, new, strict=True)))
        return hidden

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        document: Tensor | None = None,
        cache: Cache | None = None,
        slots: Tensor | None = None,
        memory: Memory | None = None,
        types: Tensor | None = None,
    ) -> Tensor:
        """Scores in fp32 at least: (batch, length, vocabulary) of a language model, (batch, labels) of a classifier.

        A classifier with both trunks encodes the tokens itself, and its decoder reads them once more, one place later.
        """
        spec = self.arch.head
        if isinstance(spec, Classes) and len(self.arch.stacks) == 2 and memory is None:
            memory = self.encode(tokens, positions, document)
            tokens = self._later(tokens, positions)
        hidden = self.hidden(tokens, positions, document, cache, slots, memory, types)
        if isinstance(spec, Classes):
            hidden = head.pooled(hidden, document, spec.reads)
        scores = self.head(hidden)
        return scores.to(torch.promote_types(scores.dtype, torch.float32))

    def cache(self, slots: int, capacity: int, chunk: int | None = None) -> Cache:
        """An empty cache on the model's device, in its dtype; with a chunk, windows keep what they show while so many are read at once.

        A model that may have to read a whole text again keeps all of it.
        """
        weight = self.embedding.weight
        return Cache(self.arch.trunk, slots, capacity, weight.device, weight.dtype, None if self.turned_anew else chunk)

    @property
    def turned_anew(self) -> frozenset[int]:
        """The lengths in tokens beyond which a whole text is turned by other angles."""
        ropes = (block.attention.positions for block in self.arch.trunk.pattern)
        return frozenset(rope.changes_after for rope in ropes if rope is not None and rope.changes_after is not None)

    def balancing_loss(self) -> Tensor:
        """What the experts of the latest forward pass in training add to the mean loss: `balance × imbalance` of each router."""
        loss = self.embedding.weight.new_zeros(())
        for part in self.modules():
            if isinstance(part, Experts) and part.imbalance is not None:
                loss = loss + part.spec.balance * part.imbalance
        return loss

    def attention(self, tokens: Tensor, memory: Memory | None = None) -> list[Tensor]:
        """What each layer looks at: (batch, heads, query, key) per layer, each row summing to one (less what sinks take).

        With a memory each layer's attention across, over the source, follows its own.
        """
        self._remembered(memory)
        positions, document = self._stand(self.arch.trunk, tokens, memory=memory)
        seen: list[Tensor] = []

        def look(module: Attention, arguments: tuple) -> None:
            x, view, _, *source = arguments
            seen.append(attention_weights(module, x, view, *source))

        hooks = [part.register_forward_pre_hook(look) for part in self.trunk.modules() if isinstance(part, Attention)]
        try:
            with torch.no_grad():
                layout = self._layout(positions, document)
                self.trunk(self._embed(tokens), layout, None, self._across(positions, document, memory), memory)
        finally:
            for hook in hooks:
                hook.remove()
        return seen

    def _remembered(self, memory: Memory | None) -> None:
        """`ValueError` for a memory where none is read, and where one is missing."""
        if (memory is not None) != (len(self.arch.stacks) == 2):
            raise ValueError(
                "this model reads a source and writes a target: model(target, memory=model.encode(source))"
                if memory is None
                else "this model has one trunk and takes no memory"
            )

    @property
    def _exact(self) -> torch.dtype:
        return torch.promote_types(self.embedding.weight.dtype, torch.float32)

    def _embed(self, tokens: Tensor, types: Tensor | None = None) -> Tensor:
        """Vectors of tokens, (batch, length, embedding width); their scale is rounded to the weights' dtype, as Gemma's is."""
        x = self.embedding(tokens)
        if self.arch.embedding.scale != 1:
            x = x * torch.tensor(self.arch.embedding.scale, dtype=x.dtype, device=x.device)
        return x if self.types is None else x + self.types(torch.zeros_like(tokens) if types is None else types)

    def _stand(
        self,
        stack: Stack,
        tokens: Tensor,
        positions: Tensor | None = None,
        document: Tensor | None = None,
        cache: Cache | None = None,
        slots: Tensor | None = None,
        memory: Memory | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Positions and documents of tokens; no document where every row is one from position 0 on, its source too.

        Given positions of a training step are not asked for their largest on a GPU, which would hold it up: objectives check them before.
        """
        told = positions is not None or cache is not None or (memory is not None and memory.document is not None)
        if isinstance(stack.positions, Learned):
            if positions is not None:
                longest = 0 if self.training and tokens.device.type != "cpu" else int(positions.max()) + 1
            else:
                longest = tokens.shape[1] + (0 if cache is None else int(cache.filled[cache.rows(slots)].max()))
            refuse_beyond(stack, longest)
        if document is None and told:
            document = torch.zeros_like(tokens)
        if positions is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device)[None]
            if cache is not None:
                positions = positions + (cache.filled if slots is None else cache.filled[slots])[:, None]
        return positions, document

    def _layout(self, positions: Tensor, document: Tensor | None) -> Layout:
        return Layout(positions, document, positions, document, exact=self._exact)

    def _across(self, positions: Tensor, document: Tensor | None, memory: Memory | None, apart: bool = False) -> Layout | None:
        if memory is None:
            return None
        source = memory.document
        if document is not None and source is None:
            source = torch.zeros(len(memory.hidden), memory.hidden.shape[1], dtype=torch.long, device=document.device)
        return Layout(positions, document, memory.positions, source, across=True, ends=memory.lengths if apart else None)

    def _later(self, tokens: Tensor, positions: Tensor | None) -> Tensor:
        """Each token one place later, after the one that opens a target."""
        assert self.arch.start is not None, "an encoder-decoder needs a start token"
        shifted = tokens.roll(1, 1)
        first = positions == 0 if positions is not None else torch.arange(tokens.shape[1], device=tokens.device)[None] == 0
        return torch.where(first, self.arch.start, shifted)


def refuse_beyond(stack: Stack, longest: int) -> None:
    """`ValueError` for a sequence of so many tokens where there are learned positions for fewer."""
    learned = stack.positions
    if isinstance(learned, Learned) and longest > learned.length:
        raise ValueError(
            f"a sequence of {longest:,} tokens, but this model has learned positions for {learned.length:,}: "
            f"use at most {learned.length:,} tokens, or a model with rotary positions"
        )
