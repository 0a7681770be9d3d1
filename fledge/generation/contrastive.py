"""Contrastive search: of the most probable next words the one whose meaning is least like what has been said already."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fledge.generation.engine import Completion, Engine, Request, Row, inference, log_softmax, marks
from fledge.generation.sampling import NOTHING, shape

CANDIDATES = 4  # Su et al. use 4 to 8


def contrastive_search(engine: Engine, requests: Sequence[Request], alpha: float = 0.6, top_k: int = CANDIDATES) -> list[Completion]:
    """The completion of each request, in their order, of which each token is the best of the `top_k` most probable ones v by

        (1 - alpha) p(v) - alpha max over what was read of cos(hidden after v, hidden after that)

    (Su et al., 2022, arXiv:2202.06417, equation 5); with `alpha` 0 that is the most probable one. Nothing is drawn: of a request's
    sampling only penalties, bias and bans count. Raises `ValueError` for settings out of range and for a request that cannot be answered.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha {alpha} is not in [0, 1]: 0 takes the most probable word, 0.6 is the paper's")
    if top_k < 1:
        raise ValueError(f"top_k {top_k} leaves no word to choose from: use at least 1")
    rows = [Row(request, engine) for request in requests]
    with inference(engine.model):
        for row in rows:
            _search(engine, row, alpha, top_k)
    return [row.completion() for row in rows]


def _search(engine: Engine, row: Row, alpha: float, top_k: int) -> None:
    model, device = engine.model, engine.model.embedding.weight.device
    width = min(top_k, model.arch.vocabulary)
    cache = model.cache(width, min(len(row.prompt) + row.most, engine.capacity))  # one slot for each candidate
    slots = torch.arange(width, device=device)
    memory = None if row.source is None else model.encode(torch.tensor([list(row.source)], device=device))
    tokens = torch.tensor([row.prompt], device=device)
    hidden = model.hidden(tokens, None, None, cache, slots[:1], memory)[0]
    said, best = normalize(hidden.float(), dim=-1), 0
    memory = None if memory is None else memory.rows(torch.zeros_like(slots))
    while True:
        cache.reorder(slots, torch.full_like(slots, best))
        scores = model.head(hidden[-1:]).float()
        logprobs = log_softmax(scores)
        chances, candidates = _candidates(row, scores, width)
        best, after = 0, said
        if len(said) < cache.capacity:
            hidden = model.hidden(candidates[:, None], None, None, cache, None, memory)
            after = normalize(hidden[:, 0].float(), dim=-1)
            likeness = (after @ said.T).amax(-1)
            best = int(((1 - alpha) * chances - alpha * likeness).where(chances > 0, -torch.inf).argmax())
        row.accept(row.choice(int(candidates[best]) if float(chances[best]) > 0 else NOTHING, logprobs[0]))
        if row.reason:
            return
        hidden, said = hidden[best], torch.cat([said, after[best : best + 1]])


def _candidates(row: Row, scores: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The most probable tokens that are allowed and their probabilities, each (width,)."""
    allowed = scores.masked_fill(~row.allowed(), -torch.inf)
    shaped = shape(allowed, replace(row.sampling, temperature=0.0), *marks([row]))
    best = shaped.softmax(-1)[0].topk(width)
    return best.values, best.indices
