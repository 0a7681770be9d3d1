import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge import arch
from fledge.arch import Classes
from fledge.data.batches import Batch, Source
from fledge.data.corpus import Shards
from fledge.data.noise import MaskedWords
from fledge.model import Transformer, initialise, with_new_head
from fledge.model.head import Words
from fledge.presets import gpt2, qwen3
from fledge.presets.shapes import bart, bert, gemma2, modernbert, t5, transformer
from fledge.text.tokenizer import Tokenizer
from fledge.train.loop import State, run_steps
from fledge.train.objective import ChunkedCrossEntropy, Classify, PredictTokens, label_scores, ordinal_losses
from fledge.train.optimizer import Optimizer
from fledge.train.run import AdamW, Constant, Machine, Muon, Plan, Stable
from tests.train.toy import CONTEXT, VOCABULARY, rows


@settings(max_examples=60, deadline=None)
@given(
    smoothing=st.sampled_from([0.0, 0.1, 0.6]),
    with_bias=st.booleans(),
    n=st.integers(1, 40),
    width=st.integers(1, 9),
    vocabulary=st.integers(2, 50),
    chunk=st.integers(1, 50),
    seed=st.integers(0, 10**6),
    large=st.floats(0.1, 300),
    cap=st.sampled_from([None, 0.5, 30.0]),
)
def test_chunked_is_the_plain_line(n, width, vocabulary, chunk, seed, large, smoothing, with_bias, cap):
    generator = torch.Generator().manual_seed(seed)
    hidden, weight = (
        torch.randn(size, width, generator=generator, dtype=torch.float64).mul_(large**0.5).requires_grad_() for size in (n, vocabulary)
    )
    labels = torch.randint(vocabulary, (n,), generator=generator)
    bias = torch.randn(vocabulary, generator=generator, dtype=torch.float64).requires_grad_() if with_bias else None
    plain = F.cross_entropy(capped(F.linear(hidden, weight, bias), cap), labels, reduction="sum", label_smoothing=smoothing)
    chunked = ChunkedCrossEntropy.apply(hidden, weight, bias, labels, chunk, smoothing, scored(cap))
    torch.testing.assert_close(chunked, plain)
    learned = [part for part in (hidden, weight, bias) if part is not None]
    torch.testing.assert_close(torch.autograd.grad(3 * chunked, learned), torch.autograd.grad(3 * plain, learned))


def scored(cap: float | None) -> Any:
    """The loss of a head with this cap."""
    return Words(arch.Words(soft_cap=cap), qwen3(32, 1, vocabulary=64)).cross_entropy


def capped(scores: torch.Tensor, cap: float | None) -> torch.Tensor:
    return scores if cap is None else cap * (scores / cap).tanh()


@pytest.mark.parametrize("cap", [None, 30.0])
def test_chunked_in_bf16_is_right_to_its_rounding(cap):
    torch.manual_seed(0)
    hidden, weight, labels = (
        torch.randn(512, 64, requires_grad=True),
        torch.randn(1000, 64, requires_grad=True),
        torch.randint(1000, (512,)),
    )
    plain = F.cross_entropy(capped(hidden @ weight.T, cap), labels, reduction="sum")
    with torch.autocast("cpu", torch.bfloat16):
        chunked = ChunkedCrossEntropy.apply(hidden, weight, None, labels, 100, 0.0, scored(cap))
    assert chunked.dtype == torch.float32
    assert chunked.item() == pytest.approx(plain.item(), rel=2e-3)
    for ours, true in zip(torch.autograd.grad(chunked, (hidden, weight)), torch.autograd.grad(plain, (hidden, weight)), strict=True):
        assert (ours - true).norm() < 0.02 * true.norm()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("masked", [0.0, 0.7])
def test_it_is_the_mean_over_trained_labels_with_every_gradient(tied, masked):
    model = initialise(Transformer(qwen3(32, 2, head_size=16, mlp=48, vocabulary=VOCABULARY, context=CONTEXT, tied=tied)), seed=3).double()
    batch = rows(5, 1, masked)
    objective = PredictTokens(chunk=7)
    objective(model, batch).backward()
    ours = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    labels = torch.from_numpy(batch.labels)
    plain = F.cross_entropy(model(torch.from_numpy(batch.tokens)).flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum")
    plain.backward()
    assert objective.count(batch) == (labels != -100).sum()
    torch.testing.assert_close(objective(model, batch), plain)
    for name, p in model.named_parameters():
        torch.testing.assert_close(ours[name], p.grad, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("losses", [1, 2])
@pytest.mark.parametrize("vocabulary", [VOCABULARY, 1000], ids=["more tokens than words", "fewer"])
@pytest.mark.parametrize("family", [qwen3, t5])
def test_a_table_with_two_readers_has_the_gradients_of_both(family, vocabulary, losses):
    """That of the tokens' vectors is added to the head's in place."""
    arch = family(32, 2, head_size=16, mlp=48, vocabulary=vocabulary, context=CONTEXT, tied=True, dropout=0.0)
    model = initialise(Transformer(arch), seed=3).double()
    source = Source(rows(4, 7).tokens, None) if family is t5 else None
    batches = [Batch(rows(4, seed).tokens, rows(4, seed, 0.3).labels, source=source) for seed in range(losses)]

    def plain(batch: Batch) -> torch.Tensor:
        memory = model.encode(torch.from_numpy(source.tokens)) if source is not None else None
        hidden = model.hidden(torch.from_numpy(batch.tokens), memory=memory)
        return F.cross_entropy(model.head(hidden).flatten(0, 1), torch.from_numpy(batch.labels).flatten(), reduction="sum")

    found, objective = [], PredictTokens(chunk=7)
    for loss in (lambda batch: objective(model, batch), plain):
        model.zero_grad()
        for _ in range(2):  # the second time there is a gradient already
            torch.stack([loss(batch) for batch in batches]).sum().backward()
        found.append(model.embedding.weight.grad)
    torch.testing.assert_close(*found)
    assert model.embedding.handed == []  # what was handed over has been taken


def test_a_head_that_learns_alone_keeps_the_gradient_of_a_table_that_it_shares():
    model = initialise(Transformer(qwen3(32, 2, head_size=16, mlp=48, vocabulary=1000, context=CONTEXT, tied=True)), seed=3)
    hidden, labels = torch.randn(3, 32), torch.tensor([4, 5, 6])
    model.embedding(labels)
    words = model.head
    assert isinstance(words, Words)
    ChunkedCrossEntropy.apply(hidden, words.weight, None, labels, 4, 0.0, words.cross_entropy, words.handed).backward()
    plain = torch.autograd.grad(F.cross_entropy(hidden @ words.weight.T, labels, reduction="sum"), words.weight)[0]
    torch.testing.assert_close(words.weight.grad, plain)


def test_an_untrained_model_starts_at_the_log_of_the_vocabulary():
    model = initialise(Transformer(gpt2(64, 2, 4, vocabulary=1024, context=32)), seed=0).eval()
    tokens = np.random.default_rng(0).integers(1024, size=(8, 33))
    batch = Batch(tokens[:, :-1].copy(), tokens[:, 1:].copy())
    with torch.no_grad():
        assert PredictTokens()(model, batch).item() / PredictTokens().count(batch) == pytest.approx(math.log(1024), abs=0.05)


@pytest.mark.parametrize("source", [False, True], ids=["tokens", "source"])
def test_positions_beyond_learned_ones_are_refused_before_the_device_has_them(source):
    arch = bart(32, 1, 2, vocabulary=VOCABULARY, context=CONTEXT) if source else gpt2(32, 1, 2, vocabulary=VOCABULARY, context=CONTEXT)
    with torch.device("meta"):
        model = Transformer(arch).train()
    tokens, places = rows(2, 1).tokens, np.tile(np.arange(CONTEXT), (2, 1))
    given = Source(tokens, places + 1) if source else None
    batch = Batch(tokens, tokens, places if source else places + 1, source=given)
    with pytest.raises(ValueError, match=f"a sequence of {CONTEXT + 1} tokens, but this model has learned positions for {CONTEXT}"):
        PredictTokens()(model, batch)
    if not source:
        with pytest.raises(ValueError, match=f"learned positions for {CONTEXT}"):
            Classify([1.0])(model, Batch(tokens, np.zeros(2, np.int64), places + 1))


def test_class_weights_count_as_they_weigh():
    model = with_new_head(
        initialise(Transformer(qwen3(32, 2, head_size=16, mlp=48, vocabulary=VOCABULARY, context=CONTEXT))), Classes(("a", "b", "c"))
    )
    batch = Batch(rows(6, 0).tokens, np.array([0, 0, 0, 0, 1, 2]))
    objective = Classify([0.5, 2.0, 1.0])
    scores = model(torch.from_numpy(batch.tokens))
    mean = F.cross_entropy(scores, torch.from_numpy(batch.labels), torch.tensor([0.5, 2.0, 1.0]))
    torch.testing.assert_close(objective(model, batch) / objective.count(batch), mean)


def test_an_ordinal_loss_is_that_of_being_above_each_class_and_grows_with_the_distance():
    scores = torch.randn(20, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    labels = torch.arange(20) % 4
    chances = scores.softmax(-1)
    above = torch.stack([chances[:, k + 1 :].sum(-1) for k in range(3)], 1)
    truth = (labels[:, None] > torch.arange(3)).double()
    torch.testing.assert_close(ordinal_losses(scores, labels), F.binary_cross_entropy(above, truth, reduction="none").sum(1))
    sure = torch.tensor([[9.0, 0, 0, 0]]).repeat(4, 1)
    losses = ordinal_losses(sure, torch.arange(4))
    assert (losses.diff() > 0).all()
    large = ordinal_losses(torch.tensor([[200.0, 0, 0], [0, 0, 200.0]], requires_grad=True), torch.tensor([2, 0]))
    assert large.isfinite().all()


def test_several_labels_are_each_a_cross_entropy_with_their_weights():
    model = with_new_head(
        initialise(Transformer(qwen3(32, 2, head_size=16, mlp=48, vocabulary=VOCABULARY, context=CONTEXT))),
        Classes(("a", "b", "c"), choice="several"),
    )
    labels = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]], bool)
    batch = Batch(rows(3, 0).tokens, labels)
    objective = Classify([3.0, 1.0, 2.0], "several")
    scores = model(torch.from_numpy(batch.tokens))
    truth, weights = torch.from_numpy(labels), torch.tensor([3.0, 1.0, 2.0])
    plain = F.binary_cross_entropy_with_logits(scores, truth.float(), pos_weight=weights, reduction="sum")
    torch.testing.assert_close(objective(model, batch), plain)
    assert objective.count(batch) == 3 + 2 + 1 + 6


def test_segments_reach_the_model():
    arch = bert(32, 1, heads=2, vocabulary=VOCABULARY, context=CONTEXT).with_head(Classes(("a", "b"), "first", bias=True))
    model = initialise(Transformer(arch)).eval()
    tokens = rows(2, 0).tokens
    types = np.zeros_like(tokens)
    types[:, 4:] = 1
    alike, apart = label_scores(model, Batch(tokens, np.zeros(2, int))), label_scores(model, Batch(tokens, np.zeros(2, int), types=types))
    torch.testing.assert_close(label_scores(model, Batch(tokens, np.zeros(2, int), types=0 * types)), alike)
    assert not torch.allclose(alike, apart)


@pytest.mark.parametrize("recipe", [AdamW(rate=1e-2), Muon(rate=1e-2)])
def test_four_uneven_micro_batches_are_one(recipe):
    whole = rows(8, 5, masked=0.6)
    parts = [Batch(whole.tokens[i : i + 2], whole.labels[i : i + 2]) for i in range(0, 8, 2)]
    ends = []
    for micro in ([whole], parts):
        model = initialise(Transformer(qwen3(32, 2, head_size=16, mlp=48, vocabulary=VOCABULARY, context=CONTEXT)), seed=1).double()
        state = State(0, Plan(3), model, Optimizer(model, recipe))
        run_steps(state, PredictTokens(), lambda step, micro=micro: micro, Constant(), Machine(), [])
        ends.append((state.loss, model.state_dict()))
    assert ends[0][0] == pytest.approx(ends[1][0], rel=1e-12)
    torch.testing.assert_close(ends[0][1], ends[1][1], rtol=1e-7, atol=1e-9)


def test_it_learns_to_reverse_a_sequence():
    """Six letters, a bar, the same letters backwards: solved only by looking at the right places."""
    torch.manual_seed(0)

    def batch_at(step, count=64):
        letters = np.random.default_rng(step).integers(10, size=(count, 6))
        line = np.concatenate([letters, np.full((count, 1), 10), letters[:, ::-1]], axis=1)
        labels = line[:, 1:].copy()
        labels[:, :6] = -100
        return [Batch(line[:, :-1].copy(), labels)]

    model = initialise(Transformer(qwen3(48, 2, heads=4, head_size=16, mlp=96, vocabulary=11, context=12)), seed=0)
    state = State(0, Plan(300), model, Optimizer(model, AdamW(rate=6e-3)))
    run_steps(state, PredictTokens(), batch_at, Constant(), Machine(), [])
    test = batch_at(10**6)[0]
    with torch.no_grad():
        right = model(torch.from_numpy(test.tokens)).argmax(-1).numpy() == test.labels
    assert right[:, 6:].mean() > 0.99


SHAPES = {
    "encoder": bert(32, 2, 2, mlp=48, vocabulary=VOCABULARY, context=CONTEXT, dropout=0.0),
    "2017": transformer(32, 1, 2, mlp=48, vocabulary=VOCABULARY, context=CONTEXT, dropout=0.0),
    "t5": t5(32, 1, 2, head_size=16, mlp=48, vocabulary=VOCABULARY, context=CONTEXT, dropout=0.0),
    "capped": gemma2(32, 2, 2, 1, 16, mlp=48, vocabulary=VOCABULARY, context=CONTEXT),
    "experts": qwen3(32, 2, head_size=16, mlp=48, vocabulary=VOCABULARY, context=CONTEXT, experts=4, chosen=2),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_one_objective_learns_from_all_with_every_gradient(shape):
    """Labels of an encoder, of a decoder beside it, smoothed, and the experts' balancing loss: as the plain lines, by name."""
    model = initialise(Transformer(SHAPES[shape]), seed=3).double()
    batch = rows(5, 1, masked=0.4)
    if len(model.arch.stacks) == 2:
        kept = np.arange(CONTEXT) < np.array([[12], [5], [9], [1], [12]])
        side = rows(5, 2)
        batch = Batch(batch.tokens, batch.labels, source=Source(side.tokens, np.arange(CONTEXT) * kept, np.where(kept, 0, -1)))
    objective = PredictTokens(chunk=7, smoothing=0.1)
    loss = objective(model, batch)
    loss.backward()
    ours = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    labels, memory = torch.from_numpy(batch.labels), None
    if batch.source is not None:
        assert batch.source.document is not None
        assert batch.source.positions is not None
        read = (batch.source.tokens, batch.source.positions, batch.source.document)
        memory = model.encode(*(torch.from_numpy(part) for part in read))
    scores = model(torch.from_numpy(batch.tokens), memory=memory).flatten(0, 1)
    plain = F.cross_entropy(scores, labels.flatten(), ignore_index=-100, reduction="sum", label_smoothing=0.1)
    plain = plain + objective.count(batch) * model.balancing_loss()
    plain.backward()
    torch.testing.assert_close(loss, plain)
    assert ours.keys() == {name for name, p in model.named_parameters() if p.grad is not None}
    for name, p in model.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(ours[name], p.grad, msg=lambda text, name=name: f"{name}: {text}")
    with torch.no_grad():  # neither smoothing nor balance where it only measures
        torch.testing.assert_close(objective(model.eval(), batch), F.cross_entropy(scores, labels.flatten(), reduction="sum"))


def test_it_learns_to_unmask_sums():
    """All sums of two small numbers, some of their signs hidden: what is hidden of one that is whole but for it is found by adding."""
    tokenizer = Tokenizer.characters(["0123456789+=."]).framing(opening=True, closing=True)
    sums = [f"{a}+{b}={a + b}" for a in range(5) for b in range(5)]
    parts = [np.array([*tokenizer.encode(text), tokenizer.end_of_text]) for text in sums]
    shards = Shards([np.concatenate(parts)], [np.column_stack([np.arange(25) * len(parts[0]), np.full(25, 5)])])
    batches = MaskedWords(shards, tokenizer, 32, 16, separate_documents=True, share=0.2)
    model = initialise(Transformer(modernbert(64, 2, 4, vocabulary=tokenizer.size, context=32)), seed=0)
    state = State(0, Plan(350), model, Optimizer(model, Muon(rate=1e-2, adamw_rate=1e-2, weight_decay=0.0)))
    run_steps(state, PredictTokens(), batches.batch_at, Stable(20, 0.5), Machine(), [])
    asked = torch.tensor([tokenizer.framed(tokenizer.encode(text)) for text in sums])
    answers = asked[:, 5].clone()
    asked[:, 5] = tokenizer.mask or 0
    with torch.no_grad():
        assert (model.eval()(asked)[:, 5].argmax(-1) == answers).float().mean() > 0.9


def test_without_labels_the_loss_is_zero_and_so_are_its_gradients():
    hidden, weight = torch.randn(0, 8, requires_grad=True), torch.randn(5, 8, requires_grad=True)
    loss = ChunkedCrossEntropy.apply(hidden, weight, None, torch.zeros(0, dtype=torch.int64), 4)
    (gradient,) = torch.autograd.grad(loss, weight)
    assert loss == 0
    assert torch.equal(gradient, torch.zeros(5, 8))
