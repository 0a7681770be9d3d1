"""Beam search finds what trying everything finds, and what `transformers` finds; a target is written as without any cache."""

import itertools
from dataclasses import replace

import pytest
import torch
import transformers

from fledge.arch import Arch
from fledge.generation import Engine, Request, Sampling, beam_search, diverse_beams
from fledge.model import Transformer
from fledge.presets import qwen3
from fledge.presets.shapes import bart, t5, transformer
from fledge.text.tokenizer import Tokenizer
from fledge.weights import save_model
from tests.generation.test_engine import TOKENIZER, assert_same, perturbed

END = TOKENIZER.end_of_text
SMALL = {"vocabulary": 400, "context": 32, "dropout": 0.0}
BOTH = {
    "2017": transformer(32, 2, 4, **SMALL),
    "t5": t5(32, 2, 4, head_size=8, gated=True, tied=False, **SMALL),
    "bart": bart(32, 1, 4, **SMALL, start=0),
}
DECODER = qwen3(32, 2, 4, 2, 8, vocabulary=400, context=32)
SOURCES = ["blue", "a longer source text", "x", "The sky"]


def requests(arch: Arch, most: int = 12, **more) -> list[Request]:
    tokenizer = TOKENIZER.framing(closing=len(arch.stacks) == 2)
    return [Request(tokenizer.framed(TOKENIZER.encode(text)), most, **more) for text in SOURCES]


def logprobs(model: Transformer, request: Request, made: list[int]) -> torch.Tensor:
    """Of the token after those made, by a whole forward."""
    source = torch.tensor([list(request.tokens)])
    if len(model.arch.stacks) == 1:
        return model(torch.cat([source, torch.tensor([made], dtype=torch.long)], 1))[0, -1].log_softmax(-1)
    return model(torch.tensor([[0, *made]]), memory=model.encode(source))[0, -1].log_softmax(-1)


@pytest.mark.parametrize("shape", BOTH)
@pytest.mark.parametrize("slots", [1, 3])
@torch.no_grad()
def test_a_target_is_as_without_cache_slots_or_padding(shape, slots):
    model = perturbed(BOTH[shape])
    asked = requests(model.arch, sampling=Sampling(temperature=0))
    found = Engine(model, TOKENIZER, slots).run(asked)
    streamed = [(yield_all(Engine(model, TOKENIZER).stream(request))) for request in asked]
    assert [completion.text for completion in found] == streamed
    model.eval()
    allowed = ~Engine(model, TOKENIZER).banned(frozenset([END]))
    for request, completion in zip(asked, found, strict=True):
        made: list[int] = []
        while len(made) < 12:
            chances = logprobs(model, request, made)
            token = int(chances.where(allowed, -torch.inf).argmax())
            if token == END:
                break
            assert completion.logprobs[len(made)] == pytest.approx(float(chances[token]), abs=1e-4)
            made.append(token)
        assert completion.tokens == made
        assert completion.reason == ("length" if len(made) == 12 else "stop")


def yield_all(stream) -> str:
    return "".join(stream)


@pytest.mark.parametrize("shape", ["2017", "decoder"])
@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
@torch.no_grad()
def test_enough_beams_find_what_trying_everything_finds(shape, penalty):
    letters = Tokenizer.characters(["abc"])
    arch = replace(BOTH["2017"] if shape == "2017" else DECODER, vocabulary=letters.size)
    model = perturbed(arch, seed=4).eval()
    words = letters.encode("abc")
    stops = [END]
    request = Request([*words, END], 3, stop_tokens=stops)
    engine = Engine(model, letters, slots=64)
    [found] = beam_search(engine, [request], 64, penalty)
    scores = {}
    for length in range(1, 4):
        for text in itertools.product(words, repeat=length):
            for made in {(*text[:-1], END), text} if length == 3 else {(*text[:-1], END)}:
                total = sum(float(logprobs(model, request, list(made[:i]))[token]) for i, token in enumerate(made))
                scores[made] = total / length**penalty
    best = max(scores, key=lambda made: scores[made])
    assert tuple(found.tokens) == tuple(token for token in best if token != END)
    assert sum(found.logprobs) <= 0


@pytest.mark.parametrize("shape", [*BOTH, "decoder"])
@pytest.mark.parametrize(("beams", "penalty"), [(1, 1.0), (4, 1.0), (3, 0.0), (5, 2.5)])
@torch.no_grad()
def test_beams_are_those_of_transformers(tmp_path, shape, beams, penalty):
    arch = BOTH.get(shape, DECODER)
    model = perturbed(arch, seed=1).eval()
    save_model(tmp_path, model, TOKENIZER.framing(closing=len(arch.stacks) == 2), None, {}, None, "")
    kind = transformers.AutoModelForSeq2SeqLM if len(arch.stacks) == 2 else transformers.AutoModelForCausalLM
    theirs = kind.from_pretrained(tmp_path).eval()
    asked = requests(arch)
    engine = Engine(model, TOKENIZER, slots=3 * beams)
    ours = beam_search(engine, asked, beams, penalty)
    banned = engine.banned(frozenset([END])).nonzero().flatten().tolist()
    for request, completion in zip(asked, ours, strict=True):
        ids = torch.tensor([list(request.tokens)])
        config = transformers.GenerationConfig(
            num_beams=beams, length_penalty=penalty, max_new_tokens=12, do_sample=False, eos_token_id=END, pad_token_id=TOKENIZER.pad,
            decoder_start_token_id=0, suppress_tokens=banned, early_stopping=False if beams > 1 else None,
        )  # fmt: skip
        made = theirs.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)[0].tolist()
        made = made[1 if len(arch.stacks) == 2 else len(request.tokens) :]
        assert completion.tokens == (made[: made.index(END)] if END in made else made)
    assert int(engine.cache.filled.sum()) == 0


@pytest.mark.parametrize("shape", ["bart", "decoder"])
@torch.no_grad()
def test_penalties_in_beams_are_those_of_transformers(tmp_path, shape):
    arch = BOTH.get(shape, DECODER)
    model = perturbed(arch, seed=1).eval()
    save_model(tmp_path, model, TOKENIZER.framing(closing=len(arch.stacks) == 2), None, {}, None, "")
    kind = transformers.AutoModelForSeq2SeqLM if len(arch.stacks) == 2 else transformers.AutoModelForCausalLM
    theirs = kind.from_pretrained(tmp_path).eval()
    never = Engine(model, TOKENIZER).banned(frozenset([END])).nonzero().flatten().tolist()
    bias, banned = {150: 3.0, 160: -2.0}, [170, 180]
    asked = requests(arch, sampling=Sampling(0, repetition_penalty=1.4, logit_bias=bias, banned=banned))
    for request, completion in zip(asked, beam_search(Engine(model, TOKENIZER, slots=6), asked, 3), strict=True):
        ids = torch.tensor([list(request.tokens)])
        config = transformers.GenerationConfig(
            num_beams=3, max_new_tokens=12, do_sample=False, eos_token_id=END, pad_token_id=TOKENIZER.pad, decoder_start_token_id=0,
            suppress_tokens=[*never, *banned], early_stopping=False, repetition_penalty=1.4,
            sequence_bias=[[[token], value] for token, value in bias.items()],
        )  # fmt: skip
        made = theirs.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)[0].tolist()
        made = made[1 if len(arch.stacks) == 2 else len(request.tokens) :]
        assert completion.tokens == (made[: made.index(END)] if END in made else made)


@pytest.mark.parametrize("shape", ["t5", "decoder"])
def test_groups_of_beams_differ_by_what_they_have_chosen(shape):
    model = perturbed(BOTH.get(shape, DECODER), seed=1).eval()
    engine, asked = Engine(model, TOKENIZER, slots=12), requests(model.arch, 6)
    alone = beam_search(engine, asked, 2)
    alike, unlike = (diverse_beams(engine, asked, 6, 3, diversity) for diversity in (0.0, 100.0))
    for plain, same, others, best in zip(alone, alike, unlike, beam_search(engine, asked, 6, groups=3, diversity=100.0), strict=True):
        assert [one.tokens for one in same] == [plain.tokens] * 3
        assert_same(others[0], plain)
        assert best.tokens in [one.tokens for one in others]
        for place in range(min(len(one.tokens) for one in others)):
            assert len({one.tokens[place] for one in others}) > 1
    assert int(engine.cache.filled.sum()) == 0


@torch.no_grad()
def test_two_groups_are_two_searches_of_which_the_second_knows_the_first():
    """With one beam a group, spelled out: each takes the best of its scores less the diversity of what the first has just taken."""
    model = perturbed(DECODER, seed=3).eval()
    engine = Engine(model, TOKENIZER, slots=2)
    [request] = requests(DECODER, 8, stop_tokens=())[:1]
    first, second = [], []
    allowed = ~engine.banned(frozenset())
    for _ in range(8):
        first.append(int(logprobs(model, request, first).where(allowed, -torch.inf).argmax()))
        chances = logprobs(model, request, second).where(allowed, -torch.inf)
        chances[first[-1]] -= 1.5
        second.append(int(chances.argmax()))
    [found] = diverse_beams(engine, [request], 2, 2, 1.5)
    assert [one.tokens for one in found] == [first, second]


def test_beams_need_slots():
    with pytest.raises(ValueError, match="4 beams need as many slots"):
        beam_search(Engine(perturbed(DECODER), TOKENIZER), [], 4)
    with pytest.raises(ValueError, match="4 beams cannot be parted into 3 groups"):
        diverse_beams(Engine(perturbed(DECODER), TOKENIZER, 4), [], 4, 3)
    with pytest.raises(ValueError, match="0 or more"):
        diverse_beams(Engine(perturbed(DECODER), TOKENIZER, 4), [], 4, 2, -1.0)
