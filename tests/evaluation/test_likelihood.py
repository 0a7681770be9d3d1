"""Continuations' log-probabilities: those of the plain forward pass, however much is read once."""

import numpy as np
import pytest
import torch

from fledge.evaluation.likelihood import encoded_pair, likelihoods
from fledge.model import Transformer, initialise
from fledge.presets import PRESETS

CONTEXT, VOCABULARY = 48, 64
ARCHES = {
    "rotary": PRESETS["fledge-1m"].arch(vocabulary=VOCABULARY, width=32, depth=2, context=CONTEXT),
    "learned": PRESETS["gpt2"].arch(vocabulary=VOCABULARY, width=32, depth=2, heads=2, context=CONTEXT),
}


def by_hand(model: Transformer, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    whole = [*context, *continuation][-CONTEXT - 1 :]
    with torch.inference_mode():
        scores = model(torch.tensor([whole[:-1]])).log_softmax(-1)[0, -len(continuation) :]
    target = torch.tensor(continuation)
    return float(scores.gather(1, target[:, None]).sum()), bool((scores.argmax(1) == target).all())


@pytest.mark.parametrize("arch", ARCHES.values(), ids=ARCHES)
@pytest.mark.parametrize("shots", [0, 20])
def test_what_is_read_once_changes_nothing(arch, shots):
    rng = np.random.default_rng(shots)
    model = initialise(Transformer(arch), 0).eval()
    start = rng.integers(VOCABULARY, size=shots).tolist()
    pairs = []
    for length in (1, 3, 17, 17, 40, 60):
        context = [*start, *rng.integers(VOCABULARY, size=length).tolist()]
        pairs += [(context, rng.integers(VOCABULARY, size=n).tolist()) for n in (1, 5, 2, 7)]
    first = int(model(torch.tensor([pairs[0][0]]))[0, -1].argmax())
    pairs.append((pairs[0][0], [first]))
    found = likelihoods(model, pairs)
    for way in (found, likelihoods(model, pairs, share=False)):
        for (context, continuation), one in zip(pairs, way, strict=True):
            logprob, greedy = by_hand(model, context, continuation)
            assert one.logprob == pytest.approx(logprob, abs=1e-4)
            assert one.greedy == greedy
    assert found[-1].greedy


def test_what_cannot_be_scored_is_a_sentence():
    model = initialise(Transformer(ARCHES["rotary"]), 0).eval()
    with pytest.raises(ValueError, match="each needs one"):
        likelihoods(model, [([1], [])])
    with pytest.raises(ValueError, match="the model's context is 48"):
        likelihoods(model, [([1], [1] * 49)])


def test_a_blank_belongs_to_what_follows():
    def encode(text: str) -> list[int]:
        return list(text.encode())

    assert encoded_pair(encode, "a b ", "c") == (list(b"a b"), list(b" c"))
    assert encoded_pair(encode, "a b", " c") == (list(b"a b"), list(b" c"))
