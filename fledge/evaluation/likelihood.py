"""How probable a model finds given continuations: what several of them follow is read once."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fledge.evaluation.language import SCORES_AT_ONCE, TOKENS_AT_ONCE, evaluating
from fledge.generation.engine import side_by_side
from fledge.model import Transformer

# How many times as many tokens must be read without the cache for it to pay. GPT-2 on five of HellaSwag's items takes 1.3 times the time
# without it, with three examples before each 3.0 times.
WORTH = 1.3
Pair = tuple[Sequence[int], Sequence[int]]
"""The tokens of a context and of what follows it."""


@dataclass(frozen=True)
class Likelihood:
    """The natural log-probability of a continuation, summed over its tokens, and whether each of them is the model's first choice."""

    logprob: float
    greedy: bool


@dataclass(frozen=True)
class _Group:
    """A context, and the numbers and tokens of what follows it."""

    context: tuple[int, ...]
    members: list[tuple[int, Sequence[int]]]


def likelihoods(
    model: Transformer, pairs: Sequence[Pair], share: bool = True, done: Callable[[int], None] = lambda count: None
) -> list[Likelihood]:
    """How probable each continuation is after its context; of what is longer than the model's context the end is read.

    With `share` contexts that several continuations follow, and what all contexts of a batch begin with, are read once where that pays.
    `done` is told how many pairs are done, from time to time.
    Raises `ValueError` for a pair without a context or without a continuation, and a continuation that does not fit.
    """
    groups: dict[tuple[int, ...], list[tuple[int, Sequence[int]]]] = {}
    for number, (context, continuation) in enumerate(pairs):
        if not len(context) or not len(continuation):
            raise ValueError(f"pair {number} has {len(context)} tokens of context and {len(continuation)} that follow: each needs one")
        room = model.arch.context + 1 - len(continuation)
        if room < 1:
            raise ValueError(
                f"pair {number} continues with {len(continuation):,} tokens, but the model's context is {model.arch.context:,}"
            )
        groups.setdefault(tuple(context[-room:]), []).append((number, continuation))
    found: dict[int, Likelihood] = {}
    with evaluating(model):
        for batch in _batches([_Group(context, members) for context, members in groups.items()]):
            common = _common([group.context for group in batch]) if share else 0
            read = _shared if share and _pays(batch, common, model.arch.context) else _apart
            found.update(read(model, batch, common))
            done(len(found))
    return [found[number] for number in range(len(pairs))]


def _batches(groups: list[_Group]) -> Iterator[list[_Group]]:
    """Groups of like length, as many together as `TOKENS_AT_ONCE` allows with padding."""
    batch: list[_Group] = []
    rows = 0
    for group in sorted(groups, key=_longest):
        if batch and (rows + len(group.members)) * _longest(group) > TOKENS_AT_ONCE:
            yield batch
            batch, rows = [], 0
        batch.append(group)
        rows += len(group.members)
    if batch:
        yield batch


def _longest(group: _Group) -> int:
    return len(group.context) + max(len(continuation) for _, continuation in group.members)


def _common(contexts: Sequence[tuple[int, ...]]) -> int:
    """How many tokens all contexts begin with, without the last of any."""
    first, last = min(contexts), max(contexts)
    most = min(map(len, contexts)) - 1
    return next((place for place in range(most) if first[place] != last[place]), most)


def _pays(batch: list[_Group], common: int, room: int) -> bool:
    """Whether reading with the cache reads much less, and padding does not make it outgrow the model's context."""
    continued = [len(continuation) - 1 for group in batch for _, continuation in group.members]
    apart = sum(continued) + sum(len(group.context) * len(group.members) for group in batch)
    shared = common + sum(continued) + sum(len(group.context) - common for group in batch)
    return apart > WORTH * shared and max(len(group.context) for group in batch) + max(continued) <= room


def _apart(model: Transformer, batch: list[_Group], common: int) -> Iterator[tuple[int, Likelihood]]:
    """Every pair read by itself, side by side."""
    device = model.embedding.weight.device
    pairs = [(group.context, number, continuation) for group in batch for number, continuation in group.members]
    tokens, _, lengths = side_by_side([[*context, *continuation[:-1]] for context, _, continuation in pairs])
    hidden = model.hidden(tokens.to(device))  # padding is to the right, where no query sees it
    states = [
        own[length - len(continuation) : length] for own, length, (_, _, continuation) in zip(hidden, lengths.tolist(), pairs, strict=True)
    ]
    yield from _told(model, states, [(number, continuation) for _, number, continuation in pairs])


def _shared(model: Transformer, batch: list[_Group], common: int) -> Iterator[tuple[int, Likelihood]]:
    """What is common is read once, then the rest of each context, then each continuation."""
    device = model.embedding.weight.device
    members = [member for group in batch for member in group.members]
    longest = max(len(group.context) for group in batch) + max(len(continuation) for _, continuation in members)
    cache = model.cache(max(len(members), len(batch)), longest)
    every = torch.arange(len(batch), device=device)
    if common:
        model.hidden(torch.tensor([batch[0].context[:common]], device=device), None, None, cache, every[:1])
        cache.reorder(every, torch.zeros_like(every))
    tokens, document, lengths = side_by_side([group.context[common:] for group in batch])
    hidden = model.hidden(tokens.to(device), None, document.to(device), cache, every)
    for slot, length in enumerate(lengths.tolist()):
        cache.keep(slot, common + length)
    owner = torch.repeat_interleave(every, torch.tensor([len(group.members) for group in batch], device=device))
    states = [own[length - 1 : length] for own, length in zip(hidden, lengths.tolist(), strict=True)]
    states = [states[group] for group in owner.tolist()]
    if any(len(continuation) > 1 for _, continuation in members):
        slots = torch.arange(len(members), device=device)
        cache.reorder(slots, owner)
        tokens, document, lengths = side_by_side([continuation[:-1] for _, continuation in members])
        hidden = model.hidden(tokens.to(device), None, document.to(device), cache, slots)
        states = [torch.cat([first, own[:length]]) for first, own, length in zip(states, hidden, lengths.tolist(), strict=True)]
    yield from _told(model, states, members)


def _told(model: Transformer, states: list[Tensor], members: list[tuple[int, Sequence[int]]]) -> Iterator[tuple[int, Likelihood]]:
    """From the states before each token of each continuation; few scores exist at once."""
    targets = torch.tensor([token for _, continuation in members for token in continuation], device=states[0].device)
    logprobs, best = [], []
    at_once = max(1, SCORES_AT_ONCE // model.arch.vocabulary)
    for state, target in zip(torch.cat(states).split(at_once), targets.split(at_once), strict=True):
        scores = model.head(state).float()
        logprobs.append((scores.gather(1, target[:, None])[:, 0] - scores.logsumexp(1)).double().cpu())
        best.append(torch.eq(scores.argmax(1), target).cpu())
    lengths = [len(continuation) for _, continuation in members]
    for (number, _), logprob, greedy in zip(members, torch.cat(logprobs).split(lengths), torch.cat(best).split(lengths), strict=True):
        yield number, Likelihood(float(logprob.sum()), bool(greedy.all()))


def encoded_pair(encode: Callable[[str], list[int]], context: str, continuation: str) -> tuple[list[int], list[int]]:
    """The tokens of a context, and those that its continuation adds to it; a blank between them belongs to what follows, as words begin
    with theirs (so in lm-evaluation-harness)."""
    kept = context.rstrip()
    before = encode(kept)
    return before, encode(context + continuation)[len(before) :]
