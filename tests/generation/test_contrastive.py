"""Contrastive search is its equation, computed with whole forwards."""

from dataclasses import replace

import pytest
import torch

from fledge.generation import Contract, Engine, Request, Sampling, contrastive_search
from fledge.model import Transformer
from tests.generation.test_beam import BOTH, END
from tests.generation.test_engine import SHAPES, TOKENIZER, assert_same, perturbed


@torch.no_grad()
def plainly(model: Transformer, engine: Engine, request: Request, alpha: float, top_k: int) -> list[int]:
    """Equation 5 of arXiv:2202.06417: every candidate is read anew with all that stands before it."""
    both = len(model.arch.stacks) == 2
    memory = model.encode(torch.tensor([list(request.tokens)])) if both else None
    tokens, made = [model.arch.start] if both else list(request.tokens), []
    allowed = ~engine.banned(frozenset([END]))
    while len(made) < (request.max_tokens or 0):
        hidden = model.hidden(torch.tensor([tokens]), memory=memory)[0]
        chances = model.head(hidden[-1]).float().where(allowed, -torch.inf).softmax(-1)
        scores = {}
        for token in chances.topk(top_k).indices.tolist():
            after = model.hidden(torch.tensor([[*tokens, token]]), memory=memory)[0, -1]
            likeness = max(float(torch.cosine_similarity(after, before, dim=0)) for before in hidden)
            scores[token] = (1 - alpha) * float(chances[token]) - alpha * likeness
        best = max(scores, key=lambda token: scores[token])
        if best == END:
            break
        made.append(best)
        tokens.append(best)
    return made


@pytest.mark.parametrize("shape", ["gpt2", "windowed", "t5"])
@pytest.mark.parametrize(("alpha", "top_k"), [(0.6, 4), (0.3, 7), (1.0, 2)])
def test_it_is_the_equation(shape, alpha, top_k):
    model = perturbed({**SHAPES, **BOTH}[shape]).eval()
    engine = Engine(model, TOKENIZER)
    requests = [Request(TOKENIZER.encode(text), 8) for text in ("The sky", "abab")]
    for request, found in zip(requests, contrastive_search(engine, requests, alpha, top_k), strict=True):
        assert found.tokens == plainly(model, engine, request, alpha, top_k)


def test_without_contrast_it_is_greedy():
    engine = Engine(perturbed(SHAPES["qwen3"]), TOKENIZER)
    requests = [
        Request(TOKENIZER.encode("The sky"), None, Sampling(0, repetition_penalty=1.4, frequency_penalty=0.3), (), top_logprobs=2),
        Request(TOKENIZER.encode("Well?"), 9, Sampling(0), contract=Contract.regex("[a-z]{3,20}")),
    ]
    for found, expected in zip(contrastive_search(engine, requests, 0.0), engine.run(requests), strict=True):
        assert_same(found, expected)
    [one] = contrastive_search(engine, [replace(requests[1], contract=Contract.choice(["yes", "no"]))], 1.0, 50)
    assert one.text in ("yes", "no")


def test_wrong_settings_are_refused():
    engine = Engine(perturbed(SHAPES["qwen3"]), TOKENIZER)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        contrastive_search(engine, [], 1.5)
    with pytest.raises(ValueError, match="at least 1"):
        contrastive_search(engine, [], 0.5, 0)
