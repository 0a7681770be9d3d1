"""Where gradients and occlusion must agree they do; what is put in place of an embedding is what the model reads."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fledge.arch import Arch, Classes, Hidden
from fledge.data.framing import Framed
from fledge.evaluation.language import document_nats
from fledge.explanation import deciding_label, deciding_next, looked, surprises
from fledge.explanation.deciding import _forward, _row, integrated_gradients, log_odds, occlusions, rank_correlation
from fledge.explanation.pieces import Piece, word_pieces
from fledge.model import Transformer, initialise
from fledge.presets.shapes import bert, gpt2, qwen3, t5
from fledge.text.tokenizer import Tokenizer

BYTES = Tokenizer.bytes()
SIZE = BYTES.size
GPT = gpt2(32, 2, heads=2, vocabulary=SIZE, context=64)
BERT = bert(32, 2, heads=2, vocabulary=SIZE, context=64)
T5 = t5(32, 1, heads=2, vocabulary=SIZE, context=64)
LABELS = Classes(("a", "b", "c"))


def model_of(arch: Arch, seed: int = 0) -> Transformer:
    """A model that is not at its start: every weight is moved."""
    model = initialise(Transformer(arch), seed)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def row(text: str, types: bool = False) -> Framed:
    tokens = np.array(BYTES.encode(text), np.int64)
    return Framed(tokens, (np.arange(len(tokens)) > 4).astype(np.int64) if types else None)


def test_words_are_those_of_the_text():
    framed = BYTES.framing(opening=True, closing=True)
    for tokenizer, text in ((BYTES, "free prize, now!"), (framed, "größe 東京"), (framed, "x")):
        tokens = tokenizer.framed(tokenizer.encode(text))
        pieces = word_pieces(tokenizer, tokens)
        assert "".join(piece.text for piece in pieces) == text
        edge = int(tokenizer is framed)
        assert [place for piece in pieces for place in piece.places] == list(range(edge, len(tokens) - edge))
    assert [piece.text for piece in word_pieces(BYTES, BYTES.encode("free prize"))] == ["free", " ", "prize"]
    pair, _ = framed.framed_pair(framed.encode("a cat"), framed.encode("sleeps"))
    assert "".join(piece.text for piece in word_pieces(framed, pair)) == "a cat\nsleeps"


def test_gradients_and_occlusion_agree_where_nothing_bends():
    """For a score that is linear in the vectors both are exactly what each word adds."""
    generator = torch.Generator().manual_seed(0)
    whole, empty, slope = (torch.randn(1, 6, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    pieces = [Piece("a", (0, 1)), Piece("b", (2,)), Piece("c", (3, 4, 5))]
    exact = (slope * (whole - empty)).sum(-1)[0]
    expected = [float(exact[list(piece.places)].sum()) for piece in pieces]

    def score(vectors):
        return (slope * vectors).sum((1, 2))

    assert integrated_gradients(score, whole, empty, pieces) == pytest.approx(expected)
    assert occlusions(score, whole, empty, pieces) == pytest.approx(expected)
    both = (expected[0] + expected[1]) / 2
    assert occlusions(score, whole, empty, pieces, most=2) == pytest.approx([both, both, expected[2]])
    assert len(occlusions(score, whole, empty, [])) == 0


@pytest.mark.parametrize(
    ("arch", "types"),
    [
        (GPT.with_head(LABELS), False), (BERT.with_head(Classes(("a", "b"), "first", bias=True)), True),
        (T5.with_head(Classes(("a", "b"), "last", bias=True)), False), (qwen3(32, 1, head_size=16, vocabulary=SIZE, context=64), False),
    ],
)  # fmt: skip
def test_given_vectors_stand_for_the_tokens(arch, types):
    model, one = model_of(arch), row("free prize", types)
    with torch.no_grad():
        expected = model(_row(model, one), types=None if one.types is None else torch.from_numpy(one.types)[None])
        found = _forward(model, one, model.embedding(_row(model, one)))
    torch.testing.assert_close(found, expected if arch.labels else expected[:, -1])


@pytest.mark.parametrize("choice", ["single", "several"])
@pytest.mark.parametrize("arch", [GPT, BERT, T5])
def test_gradients_add_up_to_what_the_words_changed(arch, choice):
    model = model_of(arch.with_head(Classes(("a", "b", "c"), "last" if arch.decoder else "first", bias=True, choice=choice)))
    one = row("free prize, now")
    found = deciding_label(model, BYTES, one, 1)
    assert sum(word.gradient for word in found.words) == pytest.approx(found.odds - found.without, rel=0.1, abs=0.05)
    with torch.no_grad():
        scores = model(torch.from_numpy(one.tokens)[None])
    assert found.odds == pytest.approx(float(scores[0, 1] if choice == "several" else log_odds(scores, 1)[0]), abs=1e-5)
    assert found.said == "b"
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("arch", [GPT, T5])
def test_what_a_generator_would_say_next(arch):
    model, tokens = model_of(arch), BYTES.encode("the sky")
    found = deciding_next(model, BYTES, tokens)
    target = torch.tensor([[model.arch.start or 0]])
    with torch.no_grad():
        read = torch.tensor([tokens])
        scores = (model(read) if arch is GPT else model(target, memory=model.encode(read)))[0, -1]
    assert found.said == BYTES.piece(int(scores.argmax()))
    assert 1 / (1 + math.exp(-found.odds)) == pytest.approx(float(scores.softmax(-1).max()), abs=1e-5)
    assert [word.text for word in found.words] == ["the", " ", "sky"]


def test_rank_correlation_is_scipys():
    stats = pytest.importorskip("scipy.stats")
    dice = np.random.default_rng(0)
    for _ in range(20):
        first, second = dice.integers(0, 6, 12), dice.random(12)
        assert rank_correlation(first, second) == pytest.approx(stats.spearmanr(first, second).statistic)
    assert rank_correlation(np.ones(4), np.arange(4)) is None
    assert rank_correlation(np.arange(2), np.arange(2)) is None


@pytest.mark.parametrize("arch", [GPT, BERT.with_head(Hidden()), T5])
def test_every_head_is_seen(arch):
    model, one = model_of(arch), row("free prize")
    layers = looked(model, one)
    names = [layer.name for layer in layers]
    if arch is T5:
        assert names == ["encoder 1", "decoder 1", "decoder 1, across"]
        assert layers[2].weights.shape == (2, 1, 10)
    else:
        stack = next(iter(arch.stacks))
        assert names == [f"{stack} 1", f"{stack} 2"]
        for layer, expected in zip(layers, model.attention(torch.from_numpy(one.tokens)[None]), strict=True):
            np.testing.assert_allclose(layer.weights, expected[0].numpy(), atol=1e-6)
    for layer in layers:
        np.testing.assert_allclose(layer.weights.sum(-1), 1, atol=1e-5)
        most, share, distance = layer.summary(0, [str(i) for i in range(10)])
        assert share == pytest.approx(layer.weights[0].mean(0)[int(most)])
        assert 0 <= distance <= 10


def test_surprise_is_what_the_text_costs():
    model, tokens = model_of(GPT), BYTES.encode("the sky")
    found = surprises(model, BYTES, tokens)
    nats, counts = document_nats(model, [np.array(tokens)], BYTES.end_of_text)
    assert len(found) == counts[0]
    assert sum(one.bits or 0 for one in found) == pytest.approx(float(nats[0]) / math.log(2), rel=1e-4)
    for one in found:
        chances = [chance for _, chance in one.alternatives]
        assert chances == sorted(chances, reverse=True)
        if one.rank is not None and one.rank <= 5:
            assert one.bits == pytest.approx(-math.log2(chances[one.rank - 1]), rel=1e-4)


def test_an_encoder_is_asked_for_each_word_by_itself():
    framed = BYTES.framing(opening=True, closing=True)
    model, tokens = model_of(BERT), framed.framed(framed.encode("sky"))
    found = surprises(model, framed, tokens)
    assert [one.piece for one in found] == ["s", "k", "y"]
    masked = torch.tensor([tokens])
    masked[0, 2] = framed.mask or 0
    expected = F.cross_entropy(model(masked)[:, 2], torch.tensor([tokens[2]])).item() / math.log(2)
    assert found[1].bits == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ValueError, match="scores no words"):
        surprises(model_of(T5), BYTES, tokens)
