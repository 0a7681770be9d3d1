"""One model, many ways to feed it: packed, padded, in chunks, in slots; and its gradients."""

import copy
import random
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from fledge.arch import Arch, Classes, LayerNorm, RmsNorm, Transform, Words
from fledge.model import Transformer, initialise
from fledge.presets import gpt2, qwen3, shapes

VOCABULARY, CONTEXT = 50, 40


def with_blocks(arch: Arch, *changes: dict, **attention) -> Arch:
    """The pattern repeated with each of the changes to its attention; `norms` to the block."""
    block = arch.trunk.pattern[0]
    blocks = tuple(
        replace(block, attention=replace(block.attention, **{**attention, **{k: v for k, v in c.items() if not k.startswith("norm")}}),
                **{k: v for k, v in c.items() if k.startswith("norm")})
        for c in changes
    )  # fmt: skip
    return replace(arch, decoder=replace(arch.trunk, pattern=blocks))


GPT2 = gpt2(16, 2, 2, vocabulary=VOCABULARY, context=CONTEXT, dropout=0.0)
QWEN3 = qwen3(16, 2, 4, 2, 8, vocabulary=VOCABULARY, context=CONTEXT)
SHAPES = {
    "gpt2": GPT2,
    "qwen3": QWEN3,
    "windowed": with_blocks(QWEN3, {"sees": (4, 0)}, {"sees": (None, 0)}),
    "sum": with_blocks(QWEN3, {"norm_in": None, "norm_sum": LayerNorm()}),
    "in and out": with_blocks(replace(GPT2, head=Words(tied=False)), {"norm_out": RmsNorm()}),
}
BIDIRECTIONAL = with_blocks(QWEN3, {"sees": (None, None)}, {"sees": (3, 3)})
SIZES = {"vocabulary": VOCABULARY, "context": CONTEXT, "dropout": 0.0}
SHAPES |= {
    "capped": shapes.gemma2(16, 2, 4, 2, 8, window=5, **SIZES),
    "sinks and experts": shapes.gpt_oss(16, 2, 4, 2, 4, 2, 8, window=5, **SIZES),
    "norms over all heads": shapes.olmo2(16, 2, 4, 2, **SIZES),
    "some unturned": shapes.llama(16, 2, 4, 2, unturned=2, **SIZES),
    "banded": gpt2(16, 2, 2, banded=4, **SIZES),
}
ENCODERS = {
    "bidirectional": BIDIRECTIONAL,
    "segments": shapes.bert(16, 2, 2, embedding=12, offset=2, **SIZES),
    "local": shapes.modernbert(16, 4, 2, window=6, **SIZES),
}
BOTH = {
    "sinusoids": shapes.transformer(16, 2, 2, **SIZES),
    "learned from 2 on": shapes.bart(16, 2, 2, **SIZES),
    "distances": shapes.t5(16, 2, 2, 8, **SIZES),
}


def perturbed(arch: Arch, seed: int = 0) -> Transformer:
    """In fp64, with weights far from their start, so that no two norms or matrices can be swapped unseen."""
    model = initialise(Transformer(arch), seed).double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.fixture(scope="module", params=[*SHAPES, *ENCODERS])
def model(request) -> Transformer:
    return perturbed({**SHAPES, **ENCODERS}[request.param])


@pytest.fixture(scope="module", params=BOTH)
def both(request) -> Transformer:
    return perturbed(BOTH[request.param])


@pytest.fixture(scope="module", params=SHAPES)
def causal(request) -> Transformer:
    return perturbed(SHAPES[request.param])


def any_documents(seed: int, count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(VOCABULARY, (1, int(torch.randint(1, 12, (1,), generator=generator))), generator=generator) for _ in range(count)]


@pytest.mark.parametrize("seed", range(4))
@torch.no_grad()
def test_packed_is_separate(model, seed):
    documents = any_documents(seed, 4)
    tokens = torch.cat(documents, 1)
    positions = torch.cat([torch.arange(d.shape[1]) for d in documents])[None]
    document = torch.cat([torch.full((d.shape[1],), i) for i, d in enumerate(documents)])[None]
    torch.testing.assert_close(model(tokens, positions, document), torch.cat([model(d) for d in documents], 1))


@pytest.mark.parametrize("side", ["left", "right", "both"])
@pytest.mark.parametrize("seed", range(3))
@torch.no_grad()
def test_padded_is_unpadded(model, side, seed):
    documents = any_documents(seed, 4)
    longest = max(d.shape[1] for d in documents) + 2
    before = {"left": lambda n: longest - n, "right": lambda n: 0, "both": lambda n: (longest - n) // 2}[side]
    edges = [(before(d.shape[1]), before(d.shape[1]) + d.shape[1]) for d in documents]
    tokens, document, positions = torch.full((4, longest), 3), torch.full((4, longest), -1), torch.zeros(4, longest, dtype=torch.long)
    for i, (start, end) in enumerate(edges):
        tokens[i, start:end], document[i, start:end], positions[i, start:end] = documents[i], 0, torch.arange(end - start)
    scores = model(tokens, positions, document)
    assert scores.isfinite().all()
    for i, (start, end) in enumerate(edges):
        torch.testing.assert_close(scores[i : i + 1, start:end], model(documents[i]))


@pytest.mark.parametrize("seed", range(4))
@torch.no_grad()
def test_cache_in_chunks_is_full(causal, seed):
    rng = random.Random(seed)
    tokens = torch.randint(VOCABULARY, (3, CONTEXT), generator=torch.Generator().manual_seed(seed))
    cache, parts, at = causal.cache(3, CONTEXT), [], 0
    while at < CONTEXT:
        count = min(rng.choice([1, 1, 2, 7, 20]), CONTEXT - at)
        parts.append(causal(tokens[:, at : at + count], cache=cache))
        at += count
    torch.testing.assert_close(torch.cat(parts, 1), causal(tokens))
    assert cache.filled.tolist() == [CONTEXT] * 3


@pytest.mark.parametrize("seed", range(4))
@torch.no_grad()
def test_slots_are_independent(causal, seed):
    """Any of the slots go on, any are cut back or emptied, in any order: each stays what its own tokens say."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    cache = causal.cache(4, CONTEXT)
    held: list[list[int]] = [[] for _ in range(4)]
    for _ in range(20):
        slot, places = rng.randrange(4), rng.choice([0, 0, 1, 5])
        if rng.random() < 0.3:
            cache.keep(slot, places)
            del held[slot][places:]
        count = rng.choice([1, 1, 3, 6])
        slots = rng.sample(range(4), rng.randint(1, 4))
        slots = [slot for slot in slots if len(held[slot]) + count <= CONTEXT]
        if slots:
            new = torch.randint(VOCABULARY, (len(slots), count), generator=generator)
            scores = causal(new, cache=cache, slots=torch.tensor(slots))
            for slot, row, found in zip(slots, new.tolist(), scores, strict=True):
                held[slot] += row
                torch.testing.assert_close(found, causal(torch.tensor([held[slot]]))[0, -count:])
    assert cache.filled.tolist() == [len(row) for row in held]


@torch.no_grad()
def test_padded_prompts_join_a_cache(causal):
    """Prompts of different length, padded on the left or on the right, go on as if alone."""
    documents = any_documents(7, 3)
    longest = max(d.shape[1] for d in documents)
    next_tokens = torch.tensor([[4], [5], [6]])
    for side in ("left", "right"):
        tokens, document, positions = (
            torch.zeros(3, longest, dtype=torch.long),
            torch.full((3, longest), -1),
            torch.zeros(3, longest, dtype=torch.long),
        )
        for i, d in enumerate(documents):
            place = slice(longest - d.shape[1], None) if side == "left" else slice(d.shape[1])
            tokens[i, place], document[i, place], positions[i, place] = d[0], 0, torch.arange(d.shape[1])
        cache = causal.cache(3, CONTEXT)
        causal(tokens, positions, document, cache)
        scores = causal(next_tokens, torch.tensor([[d.shape[1]] for d in documents]), cache=cache)
        for i, d in enumerate(documents):
            torch.testing.assert_close(scores[i, 0], causal(torch.cat([d, next_tokens[i : i + 1]], 1))[0, -1])


def test_full_cache_is_refused():
    model = perturbed(QWEN3)
    cache = model.cache(2, 5)
    model(torch.zeros(2, 4, dtype=torch.long), cache=cache)
    with pytest.raises(ValueError, match="5 places a slot, but 6 are needed"):
        model(torch.zeros(2, 2, dtype=torch.long), cache=cache)
    assert cache.filled.tolist() == [4, 4]


@pytest.mark.parametrize("places", [(CONTEXT + 1, None), (1, [[CONTEXT]])])
def test_positions_beyond_learned_ones_are_refused(places):
    length, positions = places
    tokens = torch.zeros(1, length, dtype=torch.long)
    with pytest.raises(ValueError, match="a sequence of 41 tokens, but this model has learned positions for 40"):
        perturbed(GPT2)(tokens, None if positions is None else torch.tensor(positions))
    perturbed(QWEN3)(tokens)


@pytest.mark.parametrize("name", ["gpt2", "qwen3", "learned from 2 on"])
def test_a_training_step_waits_for_no_number_of_its_device(name):
    """On the meta device whoever asks for a value, as `int(x.max())` and `torch.equal` do, gets an error."""
    arch = (SHAPES | BOTH)[name]
    with torch.device("meta"):
        model = Transformer(arch).train()
        tokens, positions = torch.zeros(2, CONTEXT, dtype=torch.long), torch.arange(CONTEXT).expand(2, -1)
        memory = model.encode(tokens, positions, positions // 8) if arch.encoder else None
        model.hidden(tokens, positions, positions // 8, memory=memory).sum().backward()
        longer = torch.zeros(2, CONTEXT + 1, dtype=torch.long)
        with pytest.raises(ValueError, match="a sequence of 41 tokens") if name != "qwen3" else nullcontext():
            model.hidden(longer, memory=memory)


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_classifier_reads_the_last_real_token(side):
    model = perturbed(QWEN3.with_head(Classes(("a", "b", "c"))))
    documents = any_documents(3, 5)
    longest = max(d.shape[1] for d in documents)
    tokens, document, positions = (
        torch.ones(5, longest, dtype=torch.long),
        torch.full((5, longest), -1),
        torch.zeros(5, longest, dtype=torch.long),
    )
    for i, d in enumerate(documents):
        place = slice(longest - d.shape[1], None) if side == "left" else slice(d.shape[1])
        tokens[i, place], document[i, place], positions[i, place] = d[0], 0, torch.arange(d.shape[1])
    scores = model(tokens, positions, document)
    assert scores.shape == (5, 3)
    for i, d in enumerate(documents):
        torch.testing.assert_close(scores[i], model.head(model.hidden(d))[0, -1])


@torch.no_grad()
def test_later_tokens_do_not_reach_back(causal):
    tokens = torch.randint(VOCABULARY, (2, 20), generator=torch.Generator().manual_seed(0))
    changed = tokens.clone()
    changed[:, 11:] = (changed[:, 11:] + 1) % VOCABULARY
    torch.testing.assert_close(
        causal(tokens)[:, :11], causal(changed)[:, :11], atol=1e-13, rtol=0
    )  # grouped by expert, sums differ in order
    assert not torch.equal(causal(tokens)[:, 11:], causal(changed)[:, 11:])


@torch.no_grad()
def test_attention_is_what_the_forward_used(model):
    """The forward again, each layer's gathering done by the weights that `attention` reports."""
    tokens = torch.randint(VOCABULARY, (2, 13), generator=torch.Generator().manual_seed(0))
    weights = model.attention(tokens)
    trunk = model.trunk
    x = trunk.projection(trunk.norm_embedding(trunk.positions(model._embed(tokens), torch.arange(13)[None])))
    assert len(weights) == len(trunk.blocks)
    for block, seen in zip(trunk.blocks, weights, strict=True):
        residual, inner = block.attention, block.attention.inner
        total = seen.sum(-1)
        if inner.spec.sinks:
            assert (total < 1).all()
        else:
            torch.testing.assert_close(total, torch.ones_like(total))
        v = inner.v(residual.norm_in(x)).unflatten(-1, (-1, inner.spec.head_size)).transpose(1, 2)
        v = v.repeat_interleave(inner.spec.heads // inner.spec.kv_heads, 1)
        x = residual.norm_sum(x + residual.norm_out(inner.o((seen @ v).transpose(1, 2).flatten(-2))))
        x = block.mlp(x)
    torch.testing.assert_close(model.head(trunk.norm_final(x)), model(tokens))


def pairs(seed: int, count: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(any_documents(seed, count), any_documents(seed + 100, count), strict=True))


@pytest.mark.parametrize("seed", range(3))
@torch.no_grad()
def test_packed_pairs_are_separate(both, seed):
    """Each target looks across at its own source, wherever in a row the two stand."""
    given = pairs(seed, 4)

    def packed(parts: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        places = torch.cat([torch.arange(d.shape[1]) for d in parts])[None]
        return torch.cat(parts, 1), places, torch.cat([torch.full((d.shape[1],), i) for i, d in enumerate(parts)])[None]

    memory = both.encode(*packed([source for source, _ in given]))
    scores = both(*packed([target for _, target in given]), memory=memory)
    torch.testing.assert_close(scores, torch.cat([both(target, memory=both.encode(source)) for source, target in given], 1))


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_pairs_are_unpadded(both, side):
    """Also their gradients: what stands in padding reaches no weight."""
    given = pairs(1, 4)

    def padded(parts: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        longest = max(d.shape[1] for d in parts) + 1
        tokens, document, places = torch.full((4, longest), 3), torch.full((4, longest), -1), torch.zeros(4, longest, dtype=torch.long)
        for i, d in enumerate(parts):
            place = slice(longest - d.shape[1], None) if side == "left" else slice(d.shape[1])
            tokens[i, place], document[i, place], places[i, place] = d[0], 0, torch.arange(d.shape[1])
        return tokens, places, document

    tokens, places, document = padded([target for _, target in given])
    scores = both(tokens, places, document, memory=both.encode(*padded([source for source, _ in given])))
    apart = torch.cat([both(target, memory=both.encode(source))[0] for source, target in given])
    torch.testing.assert_close(scores[document == 0], apart)
    weights = dict(both.named_parameters())
    grads = [torch.autograd.grad(s.square().sum(), list(weights.values()), allow_unused=True) for s in (scores[document == 0], apart)]
    for name, one, other in zip(weights, *grads, strict=True):
        torch.testing.assert_close(one, other, msg=lambda m, name=name: f"{name}: {m}")


@torch.no_grad()
def test_decoding_with_a_cache_is_full(both):
    source, target = (torch.randint(VOCABULARY, (3, n), generator=torch.Generator().manual_seed(n)) for n in (9, 14))
    memory, cache, parts = both.encode(source), both.cache(4, CONTEXT), []
    slots = torch.tensor([2, 0, 3])
    for start, end in ((0, 5), (5, 6), (6, 7), (7, 14)):
        parts.append(both(target[:, start:end], cache=cache, slots=slots, memory=memory))
    full = both(target, memory=both.encode(source))
    torch.testing.assert_close(torch.cat(parts, 1), full)
    chosen = torch.tensor([1, 1, 2])
    torch.testing.assert_close(both(target[chosen], memory=memory.rows(chosen)), full[chosen])


@torch.no_grad()
def test_attention_across_is_over_the_source(both):
    source, target = (torch.randint(VOCABULARY, (2, n), generator=torch.Generator().manual_seed(n)) for n in (5, 7))
    seen = both.attention(target, both.encode(source))
    assert [tuple(part.shape[2:]) for part in seen] == [(7, 7), (7, 5)] * both.arch.trunk.depth
    for part in seen:
        torch.testing.assert_close(part.sum(-1), torch.ones_like(part[..., 0]))
    changed = source.clone()
    changed[:, 2] = (changed[:, 2] + 1) % VOCABULARY
    assert not torch.equal(both.attention(target, both.encode(changed))[1], seen[1])


def test_a_source_is_needed_and_only_where_there_is_an_encoder(both):
    tokens = torch.tensor([[1, 2]])
    with pytest.raises(ValueError, match=r"memory=model\.encode\(source\)"):
        both(tokens)
    with pytest.raises(ValueError, match="reads a source"):
        both.attention(tokens)
    with pytest.raises(ValueError, match="takes no memory"):
        perturbed(QWEN3)(tokens, memory=both.encode(tokens))


@pytest.mark.parametrize("reads", ["last", "first", "mean"])
@pytest.mark.parametrize("shape", ["sinusoids", "segments"])
@torch.no_grad()
def test_a_classifier_reads_no_padding(shape, reads):
    head = Classes(("a", "b", "c"), reads, Transform("tanh"), bias=True)
    model = perturbed({**ENCODERS, **BOTH}[shape].with_head(head))
    documents = any_documents(3, 5)
    for i, d in enumerate(documents):
        tokens = torch.cat((d, torch.full((1, 3), 3)), 1)
        document = torch.cat((torch.zeros_like(d), torch.full((1, 3), -1)), 1)
        positions = torch.arange(tokens.shape[1])[None] * (document == 0)
        torch.testing.assert_close(model(tokens, positions, document), model(d), msg=lambda m, i=i: f"{i}: {m}")


def test_gradients_are_the_finite_differences(model):
    """Every named parameter, along a random direction, by central differences in fp64."""
    generator = torch.Generator().manual_seed(0)
    tokens, targets = torch.randint(VOCABULARY, (2, 2, 9), generator=generator)
    weights = dict(model.named_parameters())

    def loss(changes: dict[str, Tensor]) -> Tensor:
        scores = functional_call(model, {**weights, **changes}, (tokens,))
        return F.cross_entropy(scores.flatten(0, 1), targets.flatten())

    gradients = dict(zip(weights, torch.autograd.grad(loss({}), list(weights.values())), strict=True))
    for name, weight in weights.items():
        step = 1e-5 * torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            difference = (loss({name: weight + step}) - loss({name: weight - step})) / 2
        torch.testing.assert_close(
            (gradients[name] * step).sum(), difference, rtol=1e-5, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}"
        )


@pytest.mark.parametrize("name", SHAPES)
def test_tied_stays_tied(name):
    arch = replace(SHAPES[name], head=Words(tied=True))
    tokens = torch.tensor([[1, 2, 3]])

    def assert_tied(model: Transformer) -> None:
        assert model.head.weight is model.embedding.weight
        assert not any(key.startswith("head") for key in model.state_dict())
        assert len(list(model.parameters())) == len({id(p) for p in model.parameters()})

    model = perturbed(arch)
    assert_tied(model)
    twin = copy.deepcopy(model)
    assert_tied(twin)
    assert twin.embedding.weight is not model.embedding.weight
    torch.testing.assert_close(twin(tokens), model(tokens))
    with torch.no_grad():
        twin.embedding.weight *= 2
    assert not torch.equal(twin(tokens), model(tokens))

    with torch.device("meta"):
        empty = Transformer(arch)
    assert_tied(empty)
    if name != "sinks and experts":  # which experts a token takes is known from numbers alone
        assert empty(tokens.to("meta")).shape == (1, 3, VOCABULARY)
    for assign in (False, True):
        filled = (copy.deepcopy(empty) if assign else copy.deepcopy(empty).to_empty(device="cpu")).double().eval()
        filled.load_state_dict(model.state_dict(), assign=assign)
        assert_tied(filled)
        torch.testing.assert_close(filled(tokens), model(tokens))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_scores_are_fp32(dtype):
    assert perturbed(QWEN3).to(dtype)(torch.tensor([[1, 2]])).dtype == torch.float32
