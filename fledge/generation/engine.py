"""One engine with slots: requests join, all that are under way go on together, finished ones leave."""

import secrets
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from fledge.arch import Words
from fledge.generation.contracts import Contract, Matcher
from fledge.generation.pieces import Pieces
from fledge.generation.prefixes import Piece, Prefixes, name
from fledge.generation.sampling import NOTHING, Sampling, choose, uniform
from fledge.model import Memory, Transformer, kernels
from fledge.model.view import PADDING
from fledge.text.tokenizer import Tokenizer

WAITING = -1  # the slot of a request that has none
CHUNK = 256  # tokens of a prompt that are read at once
FEW_LENGTHS = 8  # pieces are padded to a multiple of it, so that products have few shapes to be prepared for


@dataclass(frozen=True)
class Request:
    """Tokens to go on from, or a source to write a target for, and when to stop: at a stop token, a stop string, or after `max_tokens`
    (none: when the context is full).

    A target that has `begun` goes on from these tokens. Without `stop_tokens` the tokenizer's end of text stops. Control tokens that do
    not stop are never generated. A `contract` says what the text has to be. `top_logprobs` is how many alternatives to tell for each token.
    """

    tokens: Sequence[int]
    max_tokens: int | None = None
    sampling: Sampling = field(default_factory=Sampling)
    stop_tokens: Sequence[int] | None = None
    stop_strings: Sequence[str] = ()
    begun: Sequence[int] = ()
    contract: Contract | None = None
    top_logprobs: int = 0

    def __post_init__(self):
        if not len(self.tokens):
            raise ValueError("a request has no tokens to go on from: give a prompt, or begin with the tokenizer's end-of-text token")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(f"max_tokens is {self.max_tokens}, but at least 1 is needed")
        if isinstance(self.stop_strings, str):
            raise ValueError(f"stop is the text {self.stop_strings!r}, but a list of texts is needed: [{self.stop_strings!r}]")
        if not all(self.stop_strings):
            raise ValueError("a text to stop at is empty: give some text, or leave it out")
        if self.top_logprobs < 0:
            raise ValueError(f"top_logprobs is {self.top_logprobs}, but 0 or more alternatives can be told")


@dataclass(frozen=True)
class Completion:
    """What was generated: tokens without the stop token, their text cut before a stop string, the natural log-probability that the
    model itself gave to each token, and whether it stopped or ran out of room (or of tokens that are allowed).

    Where `top_logprobs` were asked for, `alternatives` has for each token the best ids with their log-probabilities, best first.
    """

    tokens: list[int]
    text: str
    reason: Literal["stop", "length"]
    logprobs: list[float]
    alternatives: list[list[tuple[int, float]]] = field(default_factory=list)


class Choice(NamedTuple):
    """One token that was drawn, the model's log-probability of it, and alternatives as `Completion` has them."""

    token: int
    logprob: float
    alternatives: list[tuple[int, float]]


class Engine:
    """Generates for many requests at once, `slots` at a time, with up to `capacity` tokens of each read (the model's context by default).

    Requests come and go at any step. Prompts are read `chunk` tokens at a time while others write, and beginnings that were read lately,
    of which `kept` bytes are kept (by default what full slots take), are not read again: so the weights must stay as they are. What
    another engine of the same weights has kept may be given instead. On a CPU a request's tokens and log-probabilities depend, bit for
    bit, on nothing but itself, the number of slots, the chunk, the attention and the number of threads. `together` gives that up for
    speed: prompts are read side by side, rows that write alone take part, and nothing is kept.

    With an encoder beside a decoder a request's tokens are the source; what each layer takes from it is computed once.
    Raises `ValueError` for a model that cannot write, and for a tokenizer that does not belong to it.
    """

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        slots: int = 1,
        capacity: int | None = None,
        chunk: int = CHUNK,
        kept: int | Prefixes[Piece | Memory] | None = None,
        together: bool = False,
    ):
        check(model, tokenizer)
        if slots < 1 or chunk < 1 or (capacity is not None and capacity < 1):
            raise ValueError(f"slots is {slots}, capacity {capacity} and chunk {chunk}, but an engine needs at least 1 of each")
        self.model, self.tokenizer = model, tokenizer
        self.capacity = min(capacity or model.arch.context, model.arch.context)
        self.chunk, self.together = min(chunk, self.capacity), together
        self.cache = model.cache(slots, self.capacity, self.chunk)
        if together or model.turned_anew:
            kept = 0
        if kept is None:
            kept = slots * self.capacity * self.cache.bytes_a_token
        self.prefixes: Prefixes[Piece | Memory] = Prefixes(kept) if isinstance(kept, int) else kept
        self._device = model.embedding.weight.device
        self._rows: list[Row | None] = [None] * slots
        self._waiting: deque[Row] = deque()
        self._reading: deque[Row] = deque()  # those with a slot whose prompts are not read to the end
        self._control = frozenset(tokenizer.controls.values())
        self._masks: dict[frozenset[int], Tensor] = {}
        self._read_by: list[Row | None] = []  # whose sources the memory holds, in its order
        self._memory: Memory | None = None

    @property
    def slots(self) -> int:
        return len(self._rows)

    def submit(self, request: Request) -> "Row":
        """A place in the queue; the row grows with each `step` from when it has a slot. Raises `ValueError` for what cannot be answered."""
        row = Row(request, self)
        self._waiting.append(row)
        return row

    def cancel(self, row: "Row") -> None:
        """Gives up a row, whose slot is free at once; one that has ended, or that belongs to no engine, stays as it is."""
        if row in self._waiting:
            self._waiting.remove(row)
        elif row.slot != WAITING:
            if row in self._reading:
                self._reading.remove(row)
            self._rows[row.slot] = None
            self.cache.keep(row.slot, 0)
            row.slot = WAITING

    def step(self) -> bool:
        """The next token of each row that writes, and of prompts as much as a chunk holds, in turns.

        False when nothing is under way any more.
        """
        for slot, row in enumerate(self._rows):
            if row is None and self._waiting:
                self._rows[slot] = joined = self._waiting.popleft()
                joined.slot = slot
                self._reading.append(joined)
        writing = [row for row in self._rows if row is not None and row not in self._reading]
        with inference(self.model):
            if writing:
                self._go_on(writing, self._next_scores(writing))
            (self._read_together if self.together else self._read_in_turns)()
        return bool(self._waiting) or any(row is not None for row in self._rows)

    def run(self, requests: Sequence[Request]) -> list[Completion]:
        """The completion of each request, in their order; all are checked before the first one starts."""
        rows = [Row(request, self) for request in requests]
        self._waiting.extend(rows)
        try:
            while not all(row.reason for row in rows):
                self.step()
        finally:
            for row in rows:
                self.cancel(row)
        return [row.completion() for row in rows]

    def stream(self, request: Request) -> Generator[str, None, Completion]:
        """The text in pieces, as soon as each is certain; the generator's return value is the completion.

        Several streams may be read in turns: each goes on together with the others.
        """
        return self._stream(Row(request, self))

    def _stream(self, row: "Row") -> Generator[str, None, Completion]:
        self._waiting.append(row)
        shown = 0
        try:
            while shown < len(row.text) or not row.reason:
                if shown == len(row.text):
                    self.step()
                if piece := row.text[shown:]:
                    shown += len(piece)
                    yield piece
        finally:
            self.cancel(row)
        return row.completion()

    def read_prompts(self, rows: Sequence["Row"]) -> Tensor:
        """The hidden state after each prompt, (rows, width), of rows that have been given slots."""
        ended: dict[Row, Tensor] = {}
        while reading := [row for row in rows if row.read < len(row.prompt)]:
            ended.update(zip(reading, self._pieces(reading), strict=True))
        return torch.stack([ended[row] for row in rows])

    def _read_together(self) -> None:
        """The next piece of all prompts that are read as far as the first one."""
        rows = [row for row in self._reading if row.read == self._reading[0].read]
        if rows:
            hidden = self._pieces(rows)
            ended = [row.read == len(row.prompt) for row in rows]
            self._reading = deque(row for row in self._reading if row.read < len(row.prompt))
            if any(ended):
                last = hidden[torch.tensor(ended, device=hidden.device)]
                self._go_on([row for row, over in zip(rows, ended, strict=True) if over], self.model.head(last))

    def _read_in_turns(self) -> None:
        """A piece of one prompt after the other, until a chunk of tokens is read that were not known."""
        room = self.chunk
        while self._reading and room > 0:
            row = self._reading[0]
            known = row.reused
            start, hidden = row.read, self._piece(row)
            room -= row.read - start - (row.reused - known)
            self._reading.popleft()
            if row.read < len(row.prompt):
                self._reading.append(row)
            else:
                self.prefixes.touch(reversed(row.names))  # a beginning outlives what follows it
                self._go_on([row], self.model.head(hidden))

    def _piece(self, row: "Row") -> Tensor:
        """The hidden state after the next piece of a prompt, (1, width), read if it is not known."""
        tokens = row.prompt[row.read : row.read + self.chunk]
        row.names.append(name(row.names[-1], tokens))
        known = self.prefixes.get(row.names[-1])
        if not isinstance(known, Piece):
            hidden = self._pieces([row])
            if self.prefixes.most:
                self.prefixes.add(row.names[-1], Piece(self.cache.copied(row.slot, row.read - len(tokens), row.read), hidden))
            return hidden
        self._encode([row])
        self.cache.paste(row.slot, torch.tensor(tokens, device=self._device), known.parts)
        row.read += len(tokens)
        row.reused += len(tokens)
        return known.last

    def _pieces(self, rows: Sequence["Row"]) -> Tensor:
        """The hidden state after the next piece of each prompt, (rows, width), of rows that are read equally far.

        Shorter pieces are padded on the right, and the cache forgets the padding.
        """
        self._encode(rows)
        tokens, document, lengths = side_by_side([row.prompt[row.read : row.read + self.chunk] for row in rows])
        longest = tokens.shape[1]
        more = min(-longest % FEW_LENGTHS, self.cache.chunk - longest, self.capacity - rows[0].read - longest)
        tokens, document = pad(tokens, (0, more)), pad(document, (0, more), value=PADDING)
        hidden = self._hidden(tokens, document, rows)
        for row, length in zip(rows, lengths.tolist(), strict=True):
            row.read += length
            if length < tokens.shape[1]:
                self.cache.keep(row.slot, row.read)
        return hidden[torch.arange(len(rows)), lengths - 1]

    def _encode(self, rows: Sequence["Row"]) -> None:
        """Where there is an encoder, it reads the sources that it has not yet."""
        rows = [row for row in rows if row.source is not None and row.memory is None]
        if self.together and rows:
            tokens, document, _ = side_by_side([row.source or [] for row in rows])
            memory = self.model.encode(tokens.to(self._device), None, document.to(self._device))
            for i, row in enumerate(rows):
                row.memory = memory.rows(torch.tensor([i], device=self._device))
            return
        for row in rows:
            known = self.prefixes.get(row.names[0])
            if not isinstance(known, Memory):
                known = self.model.encode(torch.tensor([list(row.source or ())], device=self._device))
                for attention in self.model.trunk.readers:
                    known.keys_and_values(attention)
                self.prefixes.add(row.names[0], known)
            row.memory = known

    def _next_scores(self, rows: Sequence["Row"]) -> Tensor:
        """The scores of what follows the last token of each row, (rows, vocabulary)."""
        last = [[row.tokens[-1]] for row in rows]
        if self.together or self.slots == 1:
            return self.model.head(self._hidden(torch.tensor(last), None, rows)[:, -1])
        if anew := [row for row in rows if len(row.prompt) + len(row.tokens) - 1 in self.model.turned_anew]:
            parts = {row: self.model.head(self._hidden(torch.tensor([[row.tokens[-1]]]), None, [row])[:, -1]) for row in anew}
            if rest := [row for row in rows if row not in parts]:
                parts.update(zip(rest, self._next_scores(rest).split(1), strict=True))
            return torch.cat([parts[row] for row in rows])
        slots = torch.tensor([row.slot for row in rows])
        tokens, document = torch.zeros(self.slots, 1, dtype=torch.long), torch.full((self.slots, 1), PADDING)
        tokens[slots], document[slots] = torch.tensor(last), 0
        by_slot: list[Row | None] = [None] * self.slots
        for row in rows:
            by_slot[row.slot] = row
        hidden = self.model.hidden(
            tokens.to(self._device), None, document.to(self._device), self.cache, None, self.memory_of(by_slot),
            apart=self._device.type == "cpu",
        )  # fmt: skip
        return self.model.head(hidden[:, -1])[slots.to(self._device)]

    def _hidden(self, tokens: Tensor, document: Tensor | None, rows: Sequence["Row"]) -> Tensor:
        slots = None if len(rows) == len(self._rows) else torch.tensor([row.slot for row in rows], device=self._device)
        document = document if document is None else document.to(self._device)
        return self.model.hidden(tokens.to(self._device), None, document, self.cache, slots, self.memory_of(rows))

    def memory_of(self, rows: Sequence["Row | None"]) -> Memory | None:
        """What the encoder made of the sources of these rows; kept from step to step, and where only some rows have left."""
        memories = [None if row is None else row.memory for row in rows]
        if len(rows) == 1 or not any(memories):
            return memories[0]
        if self._memory is not None and all(row in self._read_by for row in rows):
            if list(rows) != self._read_by:
                self._memory = self._memory.rows(torch.tensor([self._read_by.index(row) for row in rows], device=self._device))
        else:
            self._memory = Memory.together(memories)
        self._read_by = list(rows)
        return self._memory

    def _go_on(self, rows: Sequence["Row"], scores: Tensor) -> None:
        """Each row takes its next token by scores (rows, vocabulary), and leaves if that was the last."""
        scores = scores.float()
        if self.together or self._device.type != "cpu":
            chosen = self._choose(scores, rows)
        else:
            chosen = [self._choose(own.clone(), [row])[0] for own, row in zip(scores.split(1), rows, strict=True)]
        for row, choice in zip(rows, chosen, strict=True):
            row.accept(choice)
            if row.reason:
                self.cancel(row)

    def _choose(self, scores: Tensor, rows: Sequence["Row"]) -> list[Choice]:
        """The next token of each row; rows with the same settings are drawn together."""
        logprobs = log_softmax(scores)
        possible = scores.masked_fill(~torch.stack([row.allowed() for row in rows]), -torch.inf)
        alike: dict[Sampling, list[int]] = {}
        for i, row in enumerate(rows):
            alike.setdefault(row.sampling, []).append(i)
        chosen = torch.empty(len(rows), dtype=torch.long, device=scores.device)
        for sampling, members in alike.items():
            part = possible if len(alike) == 1 else possible[members]
            uniforms = None if sampling.greedy else torch.tensor([rows[i].uniform() for i in members], dtype=torch.float64)
            chosen[members] = choose(part, sampling, *marks([rows[i] for i in members]), uniforms)
        return [row.choice(token, one) for row, token, one in zip(rows, chosen.tolist(), logprobs, strict=True)]

    def banned(self, stop_tokens: frozenset[int]) -> Tensor:
        """What is not generated, (vocabulary,): control tokens that do not stop, and ids of no token (an embedding may be padded)."""
        if stop_tokens not in self._masks:
            ids = torch.arange(self.model.arch.vocabulary)
            banned = torch.isin(ids, torch.tensor(sorted(self._control - stop_tokens), dtype=torch.long)) | (ids >= self.tokenizer.size)
            self._masks[stop_tokens] = banned.to(self._device)
        return self._masks[stop_tokens]


class Row:
    """One request under way: `tokens`, `logprobs` and `text` grow, of which text only what is certain; `reason` says how it ended."""

    def __init__(self, request: Request, engine: Engine):
        model, length = engine.model, len(request.tokens)
        arch, both = model.arch, len(model.arch.stacks) == 2
        room = arch.context if both else engine.capacity
        if length > room:
            holder = "this model's context" if room == arch.context else "a slot of this engine"
            raise ValueError(
                f"the prompt has {length:,} tokens, but {holder} has room for {room:,}: "
                f"shorten it by {length - room:,}, or use a model with a longer context"
            )
        if min(request.tokens) < 0 or max(request.tokens) >= model.arch.vocabulary:
            raise ValueError(
                f"the prompt has token ids from {min(request.tokens)} to {max(request.tokens)}, "
                f"but this model's vocabulary has 0 to {model.arch.vocabulary - 1}: encode it with the model's own tokenizer"
            )
        self.source = request.tokens if both else None
        opened = [arch.start, *engine.tokenizer.opening] if both and arch.start is not None else list(request.tokens)
        self.prompt = [*opened, *request.begun]
        if len(self.prompt) > engine.capacity:
            raise ValueError(f"what is written so far has {len(self.prompt):,} tokens, but there is room for {engine.capacity:,}: use less")
        self.memory: Memory | None = None
        self.slot = WAITING
        self.read = self.reused = 0  # tokens of the prompt, and how many of them were known
        self.names = [name(b"", self.source or ())]  # of the source, and of each beginning that was read
        self.most = min(request.max_tokens or engine.capacity, engine.capacity - len(self.prompt) + 1)  # the last token need not be read
        self.stop_tokens = frozenset([engine.tokenizer.end_of_text] if request.stop_tokens is None else request.stop_tokens)
        self.matcher: Matcher | None = None
        if request.contract is not None:
            self.matcher = request.contract.matcher(engine.tokenizer, model.arch.vocabulary)
            self.stop_tokens |= {engine.tokenizer.end_of_text}
        if strange := [token for token in request.sampling.named if not 0 <= token < model.arch.vocabulary]:
            raise ValueError(f"banned and logit_bias name token {strange[0]}, but this model's are 0 to {model.arch.vocabulary - 1}")
        self.sampling = replace(request.sampling, seed=None, banned=())
        self.seed = secrets.randbits(64) if request.sampling.seed is None else request.sampling.seed
        self.pieces = Pieces(engine.tokenizer.decode, self.prompt[-1:], () if request.contract else request.stop_strings)
        self.tokens: list[int] = []
        self.logprobs: list[float] = []
        self.top = request.top_logprobs
        self.alternatives: list[list[tuple[int, float]]] = []
        self.text = ""
        self.reason: Literal["stop", "length"] | None = None
        self.seen: Tensor | None = None  # which tokens are there, (vocabulary,), where a setting asks
        self.made: Tensor | None = None  # how often each was generated
        self.may = ~engine.banned(self.stop_tokens)
        self.may[list(request.sampling.banned)] = False
        if self.sampling.repetition_penalty != 1:
            self.seen = torch.zeros_like(self.may)
            self.seen[self.prompt] = True
        if self.sampling.counts:
            self.made = torch.zeros_like(self.may, dtype=torch.long)

    def uniform(self) -> float:
        return uniform(self.seed, len(self.tokens))

    def allowed(self) -> Tensor:
        """Which tokens may be next, (vocabulary,)."""
        if self.matcher is None:
            return self.may
        return self.may & self.matcher.allowed(self.stop_tokens).to(self.may.device)

    def choice(self, token: int, logprobs: Tensor) -> Choice:
        """What `accept` takes, of the model's own log-probabilities (vocabulary,)."""
        best = logprobs.topk(min(self.top, len(logprobs))) if self.top else None
        alternatives = [] if best is None else list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        return Choice(token, float(logprobs[token]), alternatives)

    def accept(self, choice: Choice) -> None:
        """One more token, if there is one."""
        token = choice.token
        if token in self.stop_tokens:
            self.reason = "stop"
        elif token == NOTHING:
            self.reason = "length"
        else:
            self.tokens.append(token)
            self.logprobs.append(choice.logprob)
            if self.top:
                self.alternatives.append(choice.alternatives)
            self.text += self.pieces.add(token)
            if self.seen is not None:
                self.seen[token] = True
            if self.made is not None:
                self.made[token] += 1
            if self.matcher is not None:
                self.matcher.accept(token)
            if self.pieces.stopped or (self.matcher is not None and self.matcher.ended and self.matcher.kept):
                self.reason = "stop"
            elif len(self.tokens) == self.most or (self.matcher is not None and self.matcher.ended):
                self.reason = "length"
        if self.reason:
            self.text += self.pieces.finish()
            if self.pieces.stopped:
                self.reason = "stop"

    def completion(self) -> Completion:
        assert self.reason is not None
        return Completion(self.tokens, self.text, self.reason, self.logprobs, self.alternatives)


def log_softmax(scores: Tensor) -> Tensor:
    """Log-probabilities (..., vocabulary); `ValueError` for scores that are no numbers."""
    logprobs = scores.log_softmax(-1)
    if not bool(logprobs.amax(-1).isfinite().all()):
        raise ValueError("the model's scores are not finite numbers: its weights are damaged, or too large for their dtype")
    return logprobs


def marks(rows: Sequence[Row]) -> tuple[Tensor | None, Tensor | None]:
    """What `shape` asks for of rows with the same sampling: which tokens are there and how often each was generated, (rows, vocabulary)."""
    seen = [row.seen for row in rows if row.seen is not None]
    made = [row.made for row in rows if row.made is not None]
    return torch.stack(seen) if seen else None, torch.stack(made) if made else None


def check(model: Transformer, tokenizer: Tokenizer) -> None:
    """Raises `ValueError` with the reason when the model cannot generate this tokenizer's text."""
    if not isinstance(model.arch.head, Words):
        raise ValueError(
            f"this model is a classifier of {', '.join(model.arch.labels)}: use predict, or a model with a word head to generate"
        )
    if not model.arch.writes:
        raise ValueError(
            "this model's attention sees tokens that follow, so it cannot generate: use sees=(none, 0) or a window to the left"
        )
    if tokenizer.size > model.arch.vocabulary:
        raise ValueError(
            f"the tokenizer has {tokenizer.size:,} tokens, but the model's vocabulary is {model.arch.vocabulary:,}: use its own"
        )


def side_by_side(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens (rows, longest) padded on the right, the document of each, and the length of each row."""
    lengths = torch.tensor([len(row) for row in rows])
    tokens = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
    for place, row in zip(tokens, rows, strict=True):
        place[: len(row)] = torch.as_tensor(row)
    return tokens, torch.where(torch.arange(tokens.shape[1]) < lengths[:, None], 0, PADDING), lengths


@contextmanager
def inference(model: Transformer) -> Iterator[None]:
    """No gradients and no dropout inside, and what kernels there are; each module's mode is as before afterwards."""
    training = [module for module in model.modules() if module.training] if model.training else []
    for module in training:
        module.training = False
    try:
        with kernels.used(), torch.inference_mode():
            yield
    finally:
        for module in training:
            module.training = True
