"""Mixes of requests whose neighbours must not show, and ways of reading that must end in the same text as the plain forward.

A small share of them are tests (test_trials.py), all of them campaigns (benchmarks/co_tenants.py and cached.py).
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import torch

from fledge.arch import Arch, LongRope
from fledge.generation import Engine, Request, Row, Sampling
from fledge.generation.engine import inference
from fledge.model import Transformer
from fledge.model.quantised import hold
from fledge.presets import gpt2, qwen3
from fledge.presets.shapes import bart, gemma2, gpt_oss, llama, t5, transformer
from fledge.text.tokenizer import Tokenizer
from tests.faults import Trial
from tests.generation.test_engine import perturbed

TOKENIZER = Tokenizer.bytes()
SLOTS, CONTEXT = 3, 48
SIZE = {"vocabulary": 400, "context": CONTEXT, "dropout": 0.0}
LETTERS = TOKENIZER.encode("The sky is blue; def f(x): return x")
COMMON = TOKENIZER.encode("You are a kind and careful helper.")
SHAPES: dict[str, Arch] = {
    "gpt2": gpt2(32, 2, 2, **SIZE),
    "odd widths": gpt2(36, 2, 3, mlp=100, **SIZE),
    "default": qwen3(32, 2, 4, 2, 8, **SIZE),
    "windowed": llama(32, 2, 4, 2, mlp=64, window=7, **SIZE),
    "windows by turns": gemma2(32, 2, 4, 2, 8, mlp=64, window=6, **SIZE),
    "experts": gpt_oss(32, 2, experts=4, chosen=2, heads=4, kv_heads=2, head_size=8, mlp=32, window=9, **SIZE),
    "turned anew": llama(32, 2, 4, 2, mlp=64, stretch=LongRope((1.0,) * 4, (2.0, 3.0, 4.0, 5.0), 30, 1.1), **SIZE),
    "2017": transformer(32, 2, 4, **SIZE),
    "t5": t5(32, 2, 4, head_size=8, gated=True, tied=False, **SIZE),
    "bart": bart(32, 1, 4, start=0, **SIZE),
}
Told = tuple[list[int], list[float], list[list[tuple[int, float]]], str, str | None]


@cache
def model(shape: str, kind: str = "float32") -> Transformer:
    made = perturbed(SHAPES[shape]).to(torch.float32 if kind == "float32" else torch.bfloat16).eval()
    if kind == "int8":
        hold(made, kind)
    return made


def any_text(dice: random.Random, most: int) -> list[int]:
    """Tokens, of which the first are often those of other texts."""
    common = COMMON[: dice.choice([0, 0, 8, 13, 16, 34])]
    return [*common, *dice.choices(LETTERS, k=dice.randint(1, max(1, most - len(common))))][:most]


def any_request(dice: random.Random) -> Request:
    sampling = dice.choice(
        [
            Sampling(temperature=0.0),
            Sampling(temperature=0.0, repetition_penalty=1.3),
            Sampling(seed=dice.randrange(100)),
            Sampling(1.5, top_k=30, top_p=0.9, min_p=0.01, presence_penalty=0.5, seed=dice.randrange(100)),
        ]
    )
    stops = dice.choice([None, (), (TOKENIZER.end_of_text, *LETTERS[:2])])
    return Request(any_text(dice, 40), dice.choice([1, 4, 9, 9]), sampling, stops, top_logprobs=dice.choice([0, 0, 3]))


def told(row: Row) -> Told:
    return row.tokens, row.logprobs, row.alternatives, row.text, row.reason


def alone(engine: Engine, request: Request) -> Told:
    row = engine.submit(request)
    while engine.step():
        pass
    return told(row)


def mixed(engine: Engine, requests: Sequence[Request], dice: random.Random) -> list[Told]:
    """What each of them gets when they come at any step and in any order, among others that leave at any step."""
    coming, rows, passing = dice.sample(range(len(requests)), len(requests)), dict[int, Row](), list[Row]()
    while coming or engine.step():
        while coming and dice.random() < 0.4:
            number = coming.pop()
            rows[number] = engine.submit(requests[number])
        if dice.random() < 0.15 and len(passing) < 6:
            passing.append(engine.submit(any_request(dice)))
        if passing and dice.random() < 0.2:
            engine.cancel(dice.choice(passing))
    return [told(rows[number]) for number in range(len(requests))]


class CoTenants(Trial):
    """A mix of a few requests, each of which must get, bit for bit, what it gets in an engine of its own."""

    KINDS = tuple(SHAPES)

    def complaint(self, kind: str, dice: random.Random, seed: int) -> str | None:
        if kind == "untouched":
            return self.differing(dice.choice(list(SHAPES)), "float32", dice, shaken=False)
        return self.differing(kind, dice.choice(["float32", "float32", "bfloat16", "int8"]), dice)

    def differing(self, shape: str, numbers: str, dice: random.Random, shaken: bool = True, **settings: bool) -> str | None:
        """Which request of a mix is answered otherwise than alone; the same twice where nothing is `shaken`."""
        chunk, network = dice.choice([4, 7, 16]), model(shape, numbers)
        requests = [any_request(dice) for _ in range(dice.randint(2, 5))]

        def engine() -> Engine:
            return Engine(network, TOKENIZER, SLOTS, chunk=chunk, kept=dice.choice([None, 0, 20_000]), **settings)

        expected = [alone(engine(), request) for request in requests]
        shared = engine()
        found = mixed(shared, requests, dice) if shaken else [alone(engine(), request) for request in requests]
        assert shared.prefixes.bytes <= shared.prefixes.most
        wrong = [number for number, pair in enumerate(zip(found, expected, strict=True)) if pair[0] != pair[1]]
        return f"request {wrong[0]} of {len(requests)} in {numbers}, chunk {chunk}, has other bits in company" if wrong else None


def in_chunks(shape: str, network: Transformer, request: Request, dice: random.Random) -> list[int]:
    return alone(Engine(network, TOKENIZER, dice.randint(1, 3), chunk=dice.randint(1, 20), kept=0), request)[0]


def known_before(shape: str, network: Transformer, request: Request, dice: random.Random) -> list[int]:
    engine = Engine(network, TOKENIZER, dice.randint(1, 3), chunk=dice.randint(1, 12))
    before = list(request.tokens)[: dice.randint(1, len(request.tokens))]
    alone(engine, replace(request, tokens=before if len(SHAPES[shape].stacks) == 1 else request.tokens))
    return alone(engine, request)[0]


def padded(shape: str, network: Transformer, request: Request, dice: random.Random) -> list[int]:
    others = [any_request(dice) for _ in range(3)]
    place = dice.randrange(4)
    engine = Engine(network, TOKENIZER, dice.randint(2, 4), chunk=dice.choice([9, 256]), together=True)
    return engine.run([*others[:place], request, *others[place:]])[place].tokens


def streamed(shape: str, network: Transformer, request: Request, dice: random.Random) -> list[int]:
    engine = Engine(network, TOKENIZER, 2, chunk=dice.randint(1, 20))
    text, [whole] = "".join(engine.stream(request)), engine.run([request])
    assert text == whole.text
    return whole.tokens


WAYS: dict[str, Callable[[str, Transformer, Request, random.Random], list[int]]] = {
    "in chunks": in_chunks,
    "known before": known_before,
    "padded": padded,
    "streamed": streamed,
}


class Ways(Trial):
    """A greedy text by one way of reading and by whole forwards; `noted` are differences after a near-tie of the two best scores."""

    KINDS = tuple(f"{way}, {dtype}" for way in WAYS for dtype in ("float32", "bfloat16"))

    def complaint(self, kind: str, dice: random.Random, seed: int) -> str | None:
        way, dtype = ("in chunks", "float32") if kind == "untouched" else kind.split(", ")
        shape = list(SHAPES)[seed % len(SHAPES)]
        network = model(shape, dtype)
        request = Request(any_text(dice, 36), 10, Sampling(temperature=0.0), ())
        made = WAYS[way](shape, network, request, dice)
        return self.unlike(shape, network, request, made)

    def unlike(self, shape: str, network: Transformer, request: Request, made: list[int]) -> str | None:
        """Where what was made differs from what whole forwards choose, unless they hardly prefer it."""
        allowed = ~Engine(network, TOKENIZER).banned(frozenset())
        with inference(network):
            for place, token in enumerate(made):
                scores = plain_scores(network, request, made[:place]).where(allowed, -torch.inf)
                if int(scores.argmax()) != token:
                    exact = model(shape)
                    rounding = float((scores - plain_scores(exact, request, made[:place]).where(allowed, -torch.inf))[allowed].abs().max())
                    gap = float(scores.max() - scores[token])
                    if gap > max(3 * rounding, 1e-4):
                        return f"{shape}: token {place} is {token}, {gap:.2g} worse than the best, but the scores round to {rounding:.2g}"
                    self.noted = 1
                    return None
        return None if len(made) == min(10, CONTEXT + 1 - len(request.tokens)) or len(SHAPES[shape].stacks) == 2 else "it ended too soon"


def plain_scores(network: Transformer, request: Request, made: Sequence[int]) -> torch.Tensor:
    """Of the token after those made, (vocabulary,), by a forward of all before it."""
    if len(network.arch.stacks) == 1:
        return network(torch.tensor([[*request.tokens, *made]]))[0, -1].float()
    return network(torch.tensor([[network.arch.start, *made]]), memory=network.encode(torch.tensor([list(request.tokens)])))[0, -1].float()
