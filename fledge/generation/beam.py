"""Beam search: the most probable text, as far as a few beginnings followed side by side can find it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fledge.generation.contracts import Matcher
from fledge.generation.engine import Choice, Completion, Engine, Request, Row, inference, log_softmax
from fledge.generation.sampling import shape

FAR = -1e9  # the score of a beam that has not begun


@dataclass(frozen=True)
class Beam:
    """A beginning of an answer: what was chosen and the sum of its scores, the slot that has read it, and where in its contract it is."""

    chosen: list[Choice]
    score: float
    slot: int
    matcher: Matcher | None = None

    @property
    def tokens(self) -> list[int]:
        return [choice.token for choice in self.chosen]


class Ended(NamedTuple):
    """A finished beam: whether it keeps its contract, its score by length, and how it ended."""

    kept: bool
    score: float
    beam: Beam
    reason: Literal["stop", "length"]

    @property
    def rank(self) -> tuple[bool, float]:
        """Of the best it is the largest."""
        return self.kept, self.score


@dataclass
class Search:
    """One group of beams for a request under way: those that go on, best first, and the finished ones, best first."""

    row: Row
    beams: list[Beam]
    done: list[Ended] = field(default_factory=list)


def beam_search(
    engine: Engine, requests: Sequence[Request], beams: int, length_penalty: float = 1.0, groups: int = 1, diversity: float = 0.0
) -> list[Completion]:
    """The best of the texts that `beams` beams find for each request, in their order.

    A text's score is its log-probability divided by its length in tokens (the stop token included) to the power of `length_penalty`:
    at 0 the most probable wins, above it longer ones gain (Wu et al., 2016, arXiv:1609.08144, section 7, as `transformers` simplifies
    it). A search ends when no beam could beat the worst of as many finished texts, at its present length. Of a request's sampling only
    penalties, bias and bans count, as in `transformers` on log-probabilities; with a contract a text that keeps it goes before any that
    does not. With `groups` see `diverse_beams`.

    Raises `ValueError` when the engine has fewer slots than beams.
    """
    found = _searched(engine, requests, beams, length_penalty, groups, diversity)
    return [_completion(max(searches, key=lambda search: search.done[0].rank)) for searches in found]


def diverse_beams(
    engine: Engine, requests: Sequence[Request], beams: int, groups: int, diversity: float = 0.5, length_penalty: float = 1.0
) -> list[list[Completion]]:
    """For each request the best text of each of `groups` groups of beams; the first is that of plain search with as many beams as a group.

    At each step a token's score in a group is less by `diversity` for each beam of the groups before that has just chosen it
    (Vijayakumar et al., 2016, arXiv:1610.02424, with Hamming diversity). Raises `ValueError` when the beams cannot be parted into groups.
    """
    return [
        [_completion(search) for search in searches] for searches in _searched(engine, requests, beams, length_penalty, groups, diversity)
    ]


def _searched(engine: Engine, requests: Sequence[Request], beams: int, penalty: float, groups: int, diversity: float) -> list[list[Search]]:
    if beams < 1 or engine.slots < beams:
        raise ValueError(f"{beams} beams need as many slots, at least 1, but this engine has {engine.slots}")
    if groups < 1 or beams % groups:
        raise ValueError(f"{beams} beams cannot be parted into {groups} groups of equal size: use a number of beams that {groups} divides")
    if diversity < 0:
        raise ValueError(f"diversity is {diversity}, but 0 or more is taken off what other groups have chosen")
    every = [[Row(request, engine) for _ in range(groups)] for request in requests]
    at_once = engine.slots // beams
    found: list[list[Search]] = []
    for start in range(0, len(every), at_once):
        found += _together(engine, every[start : start + at_once], beams, penalty, diversity)
    return found


def _together(engine: Engine, every: list[list[Row]], beams: int, penalty: float, diversity: float) -> list[list[Search]]:
    """The searches of a few requests side by side, each in `beams` slots of its own, parted among its groups."""
    first = [rows[0] for rows in every]
    for number, row in enumerate(first):
        row.slot = number * beams
    try:
        with inference(engine.model):
            hidden = engine.read_prompts(first).repeat_interleave(beams, 0)
            slots = torch.arange(len(every) * beams, device=hidden.device)
            engine.cache.reorder(slots, slots // beams * beams)
            found = [_begun(rows, beams // len(rows)) for rows in every]
            active = found
            while True:
                scores = iter(log_softmax(engine.model.head(hidden).float()).split(beams // len(every[0])))
                for searches in active:
                    said = torch.zeros(engine.model.arch.vocabulary, device=hidden.device)
                    for search in searches:
                        _advance(search, next(scores), penalty, diversity * said)
                        for beam in search.beams:
                            said[beam.chosen[-1].token] += 1
                active = [going for searches in active if (going := [search for search in searches if search.beams])]
                if not active:
                    return found
                hidden = _read(engine, [search for searches in active for search in searches])
    finally:
        for slot in range(len(every) * beams):
            engine.cache.keep(slot, 0)


def _begun(rows: list[Row], width: int) -> list[Search]:
    """The groups of a request whose first row has read the prompt."""
    searches = []
    for group, row in enumerate(rows):
        row.slot, row.memory = rows[0].slot + group * width, rows[0].memory
        beams = [Beam([], 0.0 if place == 0 else FAR, row.slot + place, row.matcher) for place in range(width)]
        searches.append(Search(row, beams))
    return searches


def _read(engine: Engine, active: list[Search]) -> Tensor:
    """The hidden state of the last token of each beam, whose slots first take over what its beginning has read."""
    device = engine.cache.filled.device
    taken = torch.tensor([beam.slot for search in active for beam in search.beams], device=device)
    slots = torch.tensor([search.row.slot + place for search in active for place in range(len(search.beams))], device=device)
    engine.cache.reorder(slots, taken)
    for search in active:
        search.beams = [replace(beam, slot=search.row.slot + place) for place, beam in enumerate(search.beams)]
    tokens = torch.tensor([[beam.chosen[-1].token] for search in active for beam in search.beams], device=device)
    memory = engine.memory_of([search.row for search in active for _ in search.beams])
    every = len(slots) == engine.slots
    return engine.model.hidden(tokens, None, None, engine.cache, None if every else slots, memory)[:, -1]


def _advance(search: Search, logprobs: Tensor, penalty: float, said: Tensor) -> None:
    """One more token for each beam of a search: the best continuations go on, or end; without beams the search is over.

    `logprobs` (beams, vocabulary) are the model's own, `said` (vocabulary,) is taken off them for what other groups have chosen.
    """
    row, beams = search.row, search.beams
    width, length = len(beams), len(beams[0].chosen) + 1
    scores = shape(logprobs.masked_fill(~_allowed(search), -torch.inf), replace(row.sampling, temperature=0.0), *_marks(search)) - said
    totals = scores + torch.tensor([beam.score for beam in beams], device=logprobs.device)[:, None]
    # so many that enough of them go on, whichever of them stop
    best = totals.flatten().topk(min(totals.numel(), max(2, 1 + len(row.stop_tokens)) * width))
    goes_on: list[Beam] = []
    for rank, (score, place) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
        if score == -torch.inf or len(goes_on) == width:
            break
        parent, token = beams[place // logprobs.shape[1]], place % logprobs.shape[1]
        stops = token in row.stop_tokens
        beam = parent if stops else _longer(parent, row.choice(token, logprobs[place // logprobs.shape[1]]), score)
        matcher = beam.matcher
        ended = stops or (matcher is not None and matcher.ended)
        if not ended and length < row.most:
            goes_on.append(beam)
        elif rank < width and score > FAR / 2:
            kept = stops or matcher is None or matcher.kept
            search.done.append(Ended(kept, score / length**penalty, beam, "stop" if ended and kept else "length"))
    alive = bool(goes_on) and goes_on[0].score > FAR / 2
    if not alive and not search.done:  # nothing that is allowed goes on
        search.done.append(Ended(False, beams[0].score, beams[0], "length"))
    search.done = sorted(search.done, key=lambda one: one.rank, reverse=True)[:width]
    worst = search.done[-1].rank if len(search.done) == width else (False, -torch.inf)
    hopeless = alive and (True, goes_on[0].score / length**penalty) <= worst
    # where too few go on, others stand in that have not begun
    search.beams = [] if hopeless or not alive else goes_on + [replace(goes_on[0], score=FAR)] * (width - len(goes_on))


def _allowed(search: Search) -> Tensor:
    """Which tokens each beam may go on with, (beams, vocabulary)."""
    may, stops = search.row.may, search.row.stop_tokens
    return torch.stack([may if beam.matcher is None else may & beam.matcher.allowed(stops).to(may.device) for beam in search.beams])


def _marks(search: Search) -> tuple[Tensor | None, Tensor | None]:
    """For each beam which tokens are there and how often each was generated, as `shape` asks for them."""
    row, width = search.row, len(search.beams)
    tokens = torch.tensor([beam.tokens for beam in search.beams], dtype=torch.long, device=row.may.device)
    seen = None if row.seen is None else row.seen.expand(width, -1).scatter(1, tokens, True)
    made = None if row.made is None else row.made.expand(width, -1).scatter_add(1, tokens, torch.ones_like(tokens))
    return seen, made


def _longer(beam: Beam, choice: Choice, score: float) -> Beam:
    matcher = None if beam.matcher is None else beam.matcher.copy()
    if matcher is not None:
        matcher.accept(choice.token)
    return Beam([*beam.chosen, choice], score, beam.slot, matcher)


def _completion(search: Search) -> Completion:
    ended = search.done[0]
    pieces, chosen = search.row.pieces, ended.beam.chosen
    text = "".join(pieces.add(choice.token) for choice in chosen) + pieces.finish()
    alternatives = [choice.alternatives for choice in chosen] if search.row.top else []
    return Completion(ended.beam.tokens, text, ended.reason, [choice.logprob for choice in chosen], alternatives)
