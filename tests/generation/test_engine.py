"""Cached = uncached, batched = single, left-padded = not, streamed = whole: the same tokens, always."""

import random
from dataclasses import replace

import pytest
import torch

from fledge.arch import Arch, Classes, Words
from fledge.generation import Completion, Engine, Request, Sampling
from fledge.generation.sampling import choose, uniform
from fledge.model import Transformer, initialise
from fledge.presets import gpt2, qwen3
from fledge.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer.bytes()
CONTEXT = 32


def windowed(arch: Arch) -> Arch:
    """Every other block sees 8 tokens only."""
    block = arch.trunk.pattern[0]
    near = replace(block, attention=replace(block.attention, sees=(7, 0)))
    return replace(arch, decoder=replace(arch.trunk, pattern=(near, block)))


SHAPES = {
    "gpt2": gpt2(32, 2, 2, vocabulary=400, context=CONTEXT),
    "qwen3": qwen3(32, 2, 4, 2, 8, vocabulary=400, context=CONTEXT),
    "windowed": windowed(qwen3(32, 2, 4, 1, 8, vocabulary=400, context=CONTEXT, tied=False)),
}


def perturbed(arch: Arch, seed: int = 0) -> Transformer:
    """A model in training mode whose weights are far from their start, so that nothing cancels by chance."""
    model = initialise(Transformer(arch), seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.fixture(scope="module", params=SHAPES)
def model(request) -> Transformer:
    return perturbed(SHAPES[request.param])


def any_requests(rng: random.Random, count: int) -> list[Request]:
    text = "The sky is blue; 空は青い。 def f(x): return x\n"
    requests = []
    for _ in range(count):
        tokens = TOKENIZER.encode("".join(rng.choice(text) for _ in range(rng.randint(1, 25))))[:CONTEXT]
        sampling = rng.choice(
            [
                Sampling(temperature=0),
                Sampling(temperature=0, repetition_penalty=1.5),
                Sampling(seed=rng.randrange(100)),
                Sampling(2.0, top_k=20, top_p=0.9, min_p=0.01, repetition_penalty=1.2, seed=rng.randrange(100)),
            ]
        )
        stop_tokens = rng.choice([None, (), [*TOKENIZER.encode("ab"), TOKENIZER.end_of_text]])
        requests.append(Request(tokens, rng.choice([1, 5, 20, None]), sampling, stop_tokens, rng.choice([(), ("e", "qu")])))
    return requests


def banned(request: Request) -> list[int]:
    """Spelled out: every control token but those that stop, and the padded rows of the embedding."""
    stops = [TOKENIZER.end_of_text] if request.stop_tokens is None else request.stop_tokens
    controls = [token for name, token in TOKENIZER.controls.items() if name.startswith("<") and token not in stops]
    return [*controls, *range(TOKENIZER.size, 400)]


def plainly(model: Transformer, request: Request) -> Completion:
    """One whole forward for each token: no cache, no batch, no slots."""
    tokens, logprobs = list(request.tokens), []
    stop_tokens = [TOKENIZER.end_of_text] if request.stop_tokens is None else request.stop_tokens
    model.eval()
    while True:
        made = tokens[len(request.tokens) :]
        text = TOKENIZER.decode(made)
        matches = [text.index(stop) for stop in request.stop_strings if stop in text]
        if matches:
            return Completion(made, text[: min(matches)], "stop", logprobs)
        if len(made) == request.max_tokens or len(tokens) > CONTEXT:
            return Completion(made, text, "length", logprobs)
        with torch.no_grad():
            scores = model(torch.tensor([tokens]))[:, -1]
        logs = scores.log_softmax(-1)[0]
        scores[:, banned(request)] = -torch.inf
        seen = torch.zeros(1, 400, dtype=torch.bool)
        seen[0, tokens] = True
        number = torch.tensor([uniform(request.sampling.seed or 0, len(made))], dtype=torch.float64)
        token = int(choose(scores, request.sampling, seen, uniforms=number))
        if token in stop_tokens:
            return Completion(made, text, "stop", logprobs)
        tokens.append(token)
        logprobs.append(float(logs[token]))


def assert_same(found: Completion, expected: Completion) -> None:
    assert (found.tokens, found.text, found.reason) == (expected.tokens, expected.text, expected.reason)
    assert found.logprobs == pytest.approx(expected.logprobs, abs=1e-4)


@pytest.mark.parametrize("slots", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(2))
def test_engine_is_the_plain_loop(model, slots, seed):
    rng = random.Random(100 * slots + seed)
    requests = any_requests(rng, rng.randint(1, 6))
    engine = Engine(model, TOKENIZER, slots)
    expected = [plainly(model, request) for request in requests]
    for _ in range(2):  # an engine that has worked before gives the same
        for found, plain in zip(engine.run(requests), expected, strict=True):
            assert_same(found, plain)


@pytest.mark.parametrize("seed", range(3))
def test_streamed_is_whole(model, seed):
    requests = any_requests(random.Random(seed), 4)
    engine = Engine(model, TOKENIZER, 2)
    whole = engine.run(requests)
    for request, expected in zip(requests, whole, strict=True):
        pieces = list(engine.stream(request))
        assert "".join(pieces) == expected.text
        assert all(pieces)


def test_streams_read_in_turns_do_not_disturb_each_other(model):
    requests = any_requests(random.Random(5), 5)
    engine = Engine(model, TOKENIZER, 2)
    expected = [completion.text for completion in engine.run(requests)]
    streams, found = [engine.stream(request) for request in requests], [""] * 5
    open_streams = dict(enumerate(streams))
    while open_streams:
        for i in list(open_streams):
            piece = next(open_streams[i], None)
            if piece is None:
                del open_streams[i]
            else:
                found[i] += piece
    assert found == expected


def test_a_stream_that_is_left_frees_its_slot(model):
    engine = Engine(model, TOKENIZER, 1)
    request = Request(TOKENIZER.encode("The"), 20, Sampling(0), stop_tokens=())
    expected = engine.run([request])[0]
    for _ in range(3):
        stream = engine.stream(request)
        next(stream)
        stream.close()
    assert engine.run([request])[0] == expected


@pytest.mark.parametrize("seed", range(4))
def test_left_padding_changes_nothing(model, seed):
    """Greedy tokens from whole forwards over a batch that is padded on the left."""
    rng = random.Random(seed)
    requests = [replace(r, max_tokens=8, sampling=Sampling(0), stop_tokens=(), stop_strings=()) for r in any_requests(rng, 4)]
    requests = [replace(r, tokens=list(r.tokens)[:24]) for r in requests]
    expected = [completion.tokens for completion in Engine(model, TOKENIZER, 4).run(requests)]
    rows = [list(r.tokens) for r in requests]
    model.eval()
    for _ in range(8):
        longest = max(map(len, rows))
        pads = [longest - len(row) for row in rows]
        tokens = torch.tensor([[0] * pad + row for pad, row in zip(pads, rows, strict=True)])
        places = torch.arange(longest) - torch.tensor(pads)[:, None]
        with torch.no_grad():
            scores = model(tokens, places.clamp(min=0), torch.where(places < 0, -1, 0))[:, -1]
        scores[:, banned(requests[0])] = -torch.inf
        for row, token in zip(rows, scores.argmax(-1).tolist(), strict=True):
            row.append(token)
    assert [row[-8:] for row in rows] == expected


def reciting(text: str, context: int = 64) -> Transformer:
    """A model that says the bytes of `text` one after the other, whatever it reads: its head reads off the position alone."""
    tokens = TOKENIZER.encode(text)
    model = initialise(Transformer(gpt2(context, 1, 1, vocabulary=TOKENIZER.size, context=context, tied=False)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("embedding") or ".o." in name or ".down." in name:
                parameter.zero_()
        model.get_parameter("decoder.positions.weight").copy_(torch.eye(context))
        head = model.get_parameter("head.weight").zero_()
        for position in range(context):
            head[tokens[position] if position < len(tokens) else TOKENIZER.end_of_text, position] = 100.0
    return model


@pytest.mark.parametrize("text", ["naïve 日本語 🙂!", "plain text", "🙂🙂🙂🙂"])
def test_streamed_pieces_are_whole_characters(text):
    engine = Engine(reciting(text), TOKENIZER)
    assert list(engine.stream(Request([0], sampling=Sampling(0)))) == list(text)


def test_stop_string_over_many_tokens_is_never_shown():
    engine = Engine(reciting("one\nUser: two"), TOKENIZER)
    request = Request([0], sampling=Sampling(0), stop_strings=("\nUser:", "\nSystem:"))
    stream = engine.stream(request)
    assert "".join(stream) == "one"
    completion = engine.run([request])[0]
    assert (completion.text, completion.reason) == ("one", "stop")
    assert TOKENIZER.decode(completion.tokens) == "one\nUser:"
    assert "".join(engine.stream(replace(request, stop_strings=("\nUser?",)))) == "one\nUser: two"


def test_stop_token_is_not_part_of_the_completion():
    completion = Engine(reciting("abc"), TOKENIZER).run([Request([0], sampling=Sampling(0))])[0]
    assert (TOKENIZER.decode(completion.tokens), completion.text, completion.reason) == ("abc", "abc", "stop")
    assert completion.logprobs == pytest.approx([0, 0, 0], abs=1e-3)


def test_alternatives_are_the_models_own_best():
    """Whatever is drawn, and with control tokens among them; only where they are asked for."""
    model = perturbed(SHAPES["gpt2"]).eval()
    sampling = Sampling(2.0, seed=3, logit_bias={130: 9.0}, banned=[140], presence_penalty=2.0)
    asked = [Request([7, 9], 6, sampling, (), top_logprobs=count) for count in (0, 3, 1000)]
    for request, found in zip(asked, Engine(model, TOKENIZER, 3).run(asked), strict=True):
        with torch.no_grad():
            expected = model(torch.tensor([[7, 9, *found.tokens]]))[0, 1:-1].log_softmax(-1)
        assert len(found.alternatives) == (len(found.tokens) if request.top_logprobs else 0)
        for alternatives, logprobs in zip(found.alternatives, expected, strict=False):
            best = logprobs.topk(min(request.top_logprobs, 400))
            assert [token for token, _ in alternatives] == best.indices.tolist()
            assert [logprob for _, logprob in alternatives] == pytest.approx(best.values.tolist(), abs=1e-4)
    with pytest.raises(ValueError, match="0 or more alternatives"):
        Request([7], top_logprobs=-1)
    with pytest.raises(ValueError, match="name token 400"):
        Engine(model, TOKENIZER).run([Request([7], sampling=Sampling(banned=[400]))])


def test_control_tokens_are_not_generated():
    """With scores that favour them by far."""
    model = perturbed(SHAPES["qwen3"].with_head(Words(tied=False)))
    with torch.no_grad():
        head = model.get_parameter("head.weight")
        head[list(TOKENIZER.controls.values())] *= 100
        head[TOKENIZER.size :] *= 100
    im_end = TOKENIZER.special("<|im_end|>")
    assert im_end is not None
    requests = [Request([5], 20, Sampling(seed=i), stop) for i, stop in enumerate([None, (), (im_end,)])]
    controls = set(TOKENIZER.controls.values())
    for completion in Engine(model, TOKENIZER, 2).run(requests):
        assert not controls & set(completion.tokens)
        assert all(token < TOKENIZER.size for token in completion.tokens)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_context_is_filled_and_not_passed(shape):
    model = perturbed(SHAPES[shape])
    engine = Engine(model, TOKENIZER, 2)
    for length in (1, CONTEXT - 1, CONTEXT):
        completion = engine.run([Request([7] * length, sampling=Sampling(seed=1), stop_tokens=())])[0]
        assert completion.reason == "length"
        assert len(completion.tokens) == CONTEXT - length + 1
    with pytest.raises(ValueError, match=r"33 tokens, but this model's context has room for 32: shorten it by 1"):
        engine.run([Request([7] * (CONTEXT + 1))])
    small = Engine(model, TOKENIZER, 1, capacity=10)
    assert len(small.run([Request([7] * 8, stop_tokens=())])[0].tokens) == 3
    with pytest.raises(ValueError, match="11 tokens, but a slot of this engine has room for 10"):
        small.stream(Request([7] * 11))


def test_modes_and_gradients_are_as_before(model):
    model.train()
    model.trunk.blocks[0].eval()
    before = [module.training for module in model.modules()]
    engine = Engine(model, TOKENIZER, 2)
    for piece in engine.stream(Request([7], 10, Sampling(0), ())):
        assert piece
        assert not torch.is_inference_mode_enabled()
        assert [module.training for module in model.modules()] == before
    engine.run([Request([7], 3)])
    assert [module.training for module in model.modules()] == before
    model(torch.tensor([[1, 2, 3]])).sum().backward()  # nothing of inference mode is left in the weights
    model.zero_grad()


def test_without_a_seed_each_run_differs():
    engine = Engine(perturbed(SHAPES["qwen3"]), TOKENIZER)
    request = Request([7], 40, Sampling(5.0))
    assert engine.run([request])[0].tokens != engine.run([request])[0].tokens


def test_wrong_use_is_refused():
    arch = SHAPES["qwen3"]
    engine = Engine(Transformer(arch), TOKENIZER)
    with pytest.raises(ValueError, match="end-of-text"):
        Request([])
    with pytest.raises(ValueError, match="at least 1"):
        Request([1], max_tokens=0)
    with pytest.raises(ValueError, match="a list of texts"):
        Request([1], stop_strings="stop")
    with pytest.raises(ValueError, match="is empty"):
        Request([1], stop_strings=("",))
    with pytest.raises(ValueError, match="vocabulary has 0 to 399"):
        engine.run([Request([400])])
    with pytest.raises(ValueError, match="at least 1"):
        Engine(Transformer(arch), TOKENIZER, slots=0)
    with pytest.raises(ValueError, match=r"classifier of spam, ham: use predict"):
        Engine(Transformer(arch.with_head(Classes(("spam", "ham")))), TOKENIZER)
    with pytest.raises(ValueError, match=r"384 tokens, but the model's vocabulary is 100"):
        Engine(Transformer(qwen3(32, 1, vocabulary=100)), TOKENIZER)
    block = arch.trunk.pattern[0]
    both = replace(arch.trunk, pattern=(replace(block, attention=replace(block.attention, sees=(None, None))),))
    with pytest.raises(ValueError, match="sees tokens that follow"):
        Engine(Transformer(replace(arch, decoder=both)), TOKENIZER)
    assert engine.run([]) == []


def test_damaged_weights_are_named():
    model = perturbed(SHAPES["gpt2"])
    with torch.no_grad():
        model.get_parameter("decoder.norm_final.weight").fill_(torch.nan)
    engine = Engine(model, TOKENIZER)
    with pytest.raises(ValueError, match="not finite"):
        engine.run([Request([1])])
