import json
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fledge.data.batches import Batch
from fledge.evaluation import language
from fledge.evaluation.language import answer_score, document_costs, document_nats, document_score
from fledge.model import Transformer, initialise
from fledge.presets import gpt2, qwen3

VOCABULARY, CONTEXT, START = 40, 16, 0


@pytest.fixture(params=["gpt2", "qwen3"])
def model(request):
    shapes = {
        "gpt2": lambda: gpt2(32, 2, 2, vocabulary=VOCABULARY, context=CONTEXT),
        "qwen3": lambda: qwen3(32, 2, 2, head_size=16, vocabulary=VOCABULARY, context=CONTEXT),
    }
    made = Transformer(shapes[request.param]())
    initialise(made, 0)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return made.train()


def some_documents():
    rng = np.random.default_rng(0)
    return [rng.integers(1, VOCABULARY, size) for size in (3, 1, 0, 15, 16, 17, 50, 64, 7, 33)]


def one_by_one(model, document, start, stride):
    """Every token by a forward pass of its own over exactly the window that it is promised."""
    stream = torch.tensor([*([] if start is None else [start]), *document.tolist()])
    model.eval()
    total = 0.0
    with torch.no_grad():
        for i in range(len(stream) - 1):
            begin = 0 if i < CONTEXT else CONTEXT + (i - CONTEXT) // stride * stride + stride - CONTEXT
            scores = model(stream[None, begin : i + 1])[0, -1]
            total += float(F.cross_entropy(scores.double(), stream[i + 1]))
    return total


@pytest.mark.parametrize("stride", [16, 8, 5, 1])
@pytest.mark.parametrize("start", [START, None])
def test_every_token_is_scored_once_in_its_window(model, stride, start, monkeypatch):
    monkeypatch.setattr(language, "TOKENS_AT_ONCE", 48)
    monkeypatch.setattr(language, "SCORES_AT_ONCE", 300)
    documents = some_documents()
    nats, counts = document_nats(model, documents, start, stride)
    assert model.training
    assert counts.tolist() == [max(0, len(d) - (start is None)) for d in documents]
    np.testing.assert_allclose(nats, [one_by_one(model, document, start, stride) for document in documents], rtol=2e-5, atol=1e-6)


def test_what_is_scored_in_time_is_a_fair_part(model, monkeypatch):
    """One group of windows in each of many random orders: together they say what scoring all of them says, and nothing counts twice."""
    monkeypatch.setattr(language, "TOKENS_AT_ONCE", 48)
    documents = [document for document in some_documents() for _ in range(3)]
    nats, lengths = document_nats(model, documents, START, 8)
    some = [document_nats(model, documents, START, 8, until=0.0, seed=seed) for seed in range(200)]
    for part, counts in some:
        assert 0 < counts.sum() < lengths.sum() / 10
        assert (counts <= lengths).all()
        assert not part[counts == 0].any()
    total = np.sum([(part.sum(), counts.sum()) for part, counts in some], axis=0)
    assert total[0] / total[1] == pytest.approx(nats.sum() / lengths.sum(), rel=0.03)
    costs = document_costs(model, documents, 3 * lengths, START, 8, until=0.0)
    np.testing.assert_allclose(costs[2], 3 * costs[1])


def test_windows_of_a_stream_do_not_overlap_by_default(model):
    """The way that nanoGPT's figure is measured: consecutive windows, each character a label once."""
    text = np.random.default_rng(1).integers(0, VOCABULARY, 5 * CONTEXT + 4)
    model.eval()
    with torch.no_grad():
        expected = sum(
            float(
                F.cross_entropy(
                    model(torch.tensor(text[i : i + CONTEXT][: len(text) - 1 - i])[None])[0],
                    torch.tensor(text[i + 1 : i + 1 + CONTEXT]),
                    reduction="sum",
                )
            )
            for i in range(0, len(text) - 1, CONTEXT)
        )
    (nats,), (count,) = document_nats(model, [text], None)
    assert count == len(text) - 1
    assert nats == pytest.approx(expected, rel=1e-5)


def test_the_score_counts_bits_and_bytes_of_the_whole(model):
    documents = some_documents()
    sizes = [3 * len(document) for document in documents]
    nats, _ = document_nats(model, documents, START, 8)
    score = document_score(model, documents, sizes, START, 8)
    assert score.bits_per_byte is not None
    assert score.bits_per_byte.value == pytest.approx(nats.sum() / math.log(2) / sum(sizes))
    assert score.bits_per_byte.low < score.bits_per_byte.value < score.bits_per_byte.high
    assert score.perplexity.value == pytest.approx(math.exp(nats.sum() / sum(map(len, documents))))
    read = json.loads(json.dumps(score.to_json()))
    assert read["perplexity"]["low"] == pytest.approx(math.exp(read["nats_per_token"]["low"]))


def test_answers_packed_or_alone_cost_the_same(model):
    rng = np.random.default_rng(2)
    lengths = [5, 9, 4, 6]
    tokens = [rng.integers(0, VOCABULARY, length + 1) for length in lengths]
    trained = [rng.random(length) < 0.5 for length in lengths]
    trained[2][:] = False
    alone = [Batch(t[None, :-1], np.where(m, t[1:], -100)[None]) for t, m in zip(tokens, trained, strict=True)]
    packed = Batch(
        np.concatenate([b.tokens for b in alone] + [np.zeros((1, 3), np.int64)], 1)[:, : sum(lengths) + 3],
        np.concatenate([b.labels for b in alone] + [np.full((1, 3), -100)], 1),
        np.concatenate([np.arange(n) for n in [*lengths, 3]])[None],
        np.repeat([0, 1, 2, 3, -1], [*lengths, 3])[None],
    )
    wide = answer_score(model, [packed])
    narrow = answer_score(model, alone)
    assert wide.documents == narrow.documents == 3
    assert wide.tokens == narrow.tokens == sum(m.sum() for m in trained)
    for name in ("value", "low", "high"):
        assert getattr(wide.nats_per_token, name) == pytest.approx(getattr(narrow.nats_per_token, name), rel=1e-5)
    assert wide.bits_per_byte is None


def test_bad_use_is_a_sentence(model):
    with pytest.raises(ValueError, match="stride of 17 tokens, but the context is 16"):
        document_nats(model, some_documents(), START, 17)
    with pytest.raises(ValueError, match="no answer to score"):
        answer_score(model, [Batch(np.zeros((1, 4), np.int64), np.full((1, 4), -100))])
