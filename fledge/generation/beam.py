"""Beam search: the most probable text, as far as a few beginnings followed side by side can find it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from fledge.generation.engine import Completion, Engine, Request, Row, inference

FAR = -1e9  # the score of a beam that has not begun


@dataclass(frozen=True)
class Beam:
    """A beginning of an answer: its tokens, the log-probability of each and their sum, and the slot that has read it."""

    tokens: list[int]
    logprobs: list[float]
    score: float
    slot: int


@dataclass
class Search:
    """One request under way: the beams that go on, best first, and the finished ones as (score, beam, how it ended), best first."""

    row: Row
    beams: list[Beam]
    done: list[tuple[float, Beam, Literal["stop", "length"]]] = field(default_factory=list)


def beam_search(engine: Engine, requests: Sequence[Request], beams: int, length_penalty: float = 1.0) -> list[Completion]:
    """The best of the texts that `beams` beams find for each request, in their order.

    A text's score is its log-probability divided by its length in tokens (the stop token included) to the power of `length_penalty`:
    at 0 the most probable wins, above it longer ones gain (Wu et al., 2016, arXiv:1609.08144, section 7, as `transformers` simplifies
    it). A search ends when no beam could beat the worst of as many finished texts, at its present length.

    Raises `ValueError` when the engine has fewer slots than beams.
    """
    if beams < 1 or engine.slots < beams:
        raise ValueError(f"{beams} beams need as many slots, at least 1, but this engine has {engine.slots}")
    rows = [Row(request, engine) for request in requests]
    at_once = engine.slots // beams
    found: list[Completion] = []
    for start in range(0, len(rows), at_once):
        found += _together(engine, rows[start : start + at_once], beams, length_penalty)
    return found


def _together(engine: Engine, rows: list[Row], beams: int, penalty: float) -> list[Completion]:
    """The searches of a few requests side by side, each in `beams` slots of its own."""
    searches = []
    for number, row in enumerate(rows):
        row.slot = number * beams
        slots = range(row.slot, row.slot + beams)
        searches.append(Search(row, [Beam([], [], 0.0 if slot == row.slot else FAR, slot) for slot in slots]))
    try:
        with inference(engine.model):
            hidden = engine.read_prompts(rows).repeat_interleave(beams, 0)
            slots = torch.arange(len(rows) * beams, device=hidden.device)
            engine.cache.reorder(slots, slots // beams * beams)
            active = searches
            while True:
                for search, scores in zip(active, _logprobs(engine, hidden).split(beams), strict=True):
                    _advance(engine, search, scores, penalty)
                active = [search for search in active if search.beams]
                if not active:
                    break
                hidden = _read(engine, active, beams)
    finally:
        for slot in range(len(rows) * beams):
            engine.cache.keep(slot, 0)
    return [_completion(search) for search in searches]


def _logprobs(engine: Engine, hidden: Tensor) -> Tensor:
    """(beams, vocabulary), as the model itself has them."""
    return engine.model.head(hidden).float().log_softmax(-1)


def _read(engine: Engine, active: list[Search], beams: int) -> Tensor:
    """The hidden state of the last token of each beam, whose slots first take over what its beginning has read."""
    device = engine.cache.filled.device
    taken = torch.tensor([beam.slot for search in active for beam in search.beams], device=device)
    slots = torch.cat([torch.arange(search.row.slot, search.row.slot + beams, device=device) for search in active])
    engine.cache.reorder(slots, taken)
    for search in active:
        search.beams = [Beam(beam.tokens, beam.logprobs, beam.score, search.row.slot + place) for place, beam in enumerate(search.beams)]
    tokens = torch.tensor([[beam.tokens[-1]] for search in active for beam in search.beams], device=device)
    memory = engine.memory_of([search.row for search in active for _ in range(beams)])
    every = len(slots) == engine.slots
    return engine.model.hidden(tokens, None, None, engine.cache, None if every else slots, memory)[:, -1]


def _advance(engine: Engine, search: Search, logprobs: Tensor, penalty: float) -> None:
    """One more token for each beam of a search: the best continuations go on, or end; without beams the search is over."""
    row, beams = search.row, search.beams
    width, length = len(beams), len(beams[0].tokens) + 1
    allowed = logprobs.masked_fill(engine.banned(row.stop_tokens), -torch.inf)
    totals = allowed + torch.tensor([beam.score for beam in beams], device=logprobs.device)[:, None]
    # so many that enough of them go on, whichever of them stop
    best = totals.flatten().topk(min(totals.numel(), max(2, 1 + len(row.stop_tokens)) * width))
    goes_on: list[Beam] = []
    for rank, (score, place) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
        parent, token = beams[place // logprobs.shape[1]], place % logprobs.shape[1]
        gained = float(logprobs[place // logprobs.shape[1], token])
        stops = token in row.stop_tokens
        if stops or length == row.most:
            if rank < width and score > FAR / 2:
                ended = Beam([*parent.tokens, *([] if stops else [token])], [*parent.logprobs, gained], score, parent.slot)
                search.done.append((score / length**penalty, ended, "stop" if stops else "length"))
        elif len(goes_on) < width:
            goes_on.append(Beam([*parent.tokens, token], [*parent.logprobs, gained], score, parent.slot))
    search.done = sorted(search.done, key=lambda one: -one[0])[:width]
    full = len(search.done) == width
    hopeless = full and bool(goes_on) and goes_on[0].score / length**penalty <= search.done[-1][0]
    search.beams = [] if hopeless or len(goes_on) < width else goes_on


def _completion(search: Search) -> Completion:
    _, beam, reason = search.done[0]
    pieces, text = search.row.pieces, ""
    for token in beam.tokens:
        text += pieces.add(token)
    return Completion(beam.tokens, text + pieces.finish(), reason, beam.logprobs[: len(beam.tokens)])
