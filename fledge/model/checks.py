"""One step by the kernel against the modules, for random architectures: when the kernel is loaded, and by the tests many times."""

import copy
import random
from collections.abc import Iterable
from ctypes import CDLL
from dataclasses import replace
from itertools import product
from typing import get_args

import torch
from torch import Tensor

from fledge.arch import (
    Activation,
    Arch,
    Attention,
    Block,
    ByWavelength,
    Embedding,
    LayerNorm,
    Learned,
    Mlp,
    Norm,
    RmsNorm,
    Rope,
    Sinusoid,
    Stack,
    Words,
    Yarn,
)
from fledge.model import kernels
from fledge.model.decoding import plan
from fledge.model.quantised import hold
from fledge.model.start import initialise
from fledge.model.transformer import Transformer

LIMITS = {torch.float32: 1e-5, torch.bfloat16: 4e-2}  # of the largest score


def any_arch(draw: random.Random) -> Arch:
    """Any decoder whose parts the kernel knows."""
    norms: list[Norm] = [LayerNorm(), LayerNorm(bias=False), RmsNorm(), RmsNorm(offset=1.0)]
    kv_heads, size, width = draw.randint(1, 2), 2 * draw.randint(2, 20), draw.randint(8, 70)
    heads = kv_heads * draw.randint(1, 3)

    def block() -> Block:
        positions = draw.choice([None, Rope(), Rope(500.0, Yarn(4.0, 8)), Rope(500.0, ByWavelength(4.0, 16)), Rope(portion=0.5)])
        turned = positions if positions is None or positions.turned(size) % 2 == 0 else replace(positions, portion=1.0)
        normed = draw.choice([None, *norms])
        attention = Attention(
            heads, kv_heads, size, (draw.choice([None, draw.randint(0, 6)]), 0), turned, normed, normed,
            draw.random() < 0.5, draw.random() < 0.5, draw.choice(["head", "width"]), draw.choice([None, 0.2]), draw.choice([None, 2.0]),
            draw.random() < 0.5,
        )  # fmt: skip
        gated, activation = draw.random() < 0.5, draw.choice(get_args(Activation))
        limit, offset = (draw.choice([None, 0.7]), draw.choice([0.0, 1.0])) if gated else (None, 0.0)
        mlp = Mlp(draw.randint(1, 70), activation, gated, draw.random() < 0.5, limit, offset)
        norm_in, norm_out, norm_sum = (draw.choice([None, *norms]) for _ in range(3))
        return Block(attention, mlp, norm_in, norm_out, norm_sum)

    pattern = tuple(block() for _ in range(draw.randint(1, 2)))
    before = draw.choice([None, Learned(64), Sinusoid()])
    stack = Stack(width, 2, pattern, before, draw.choice([None, *norms]), draw.choice([None, *norms]))
    words = Words(draw.random() < 0.5, draw.random() < 0.5, soft_cap=draw.choice([None, 5.0]))
    return Arch(draw.randint(2, 90), 64, stack, words, embedding=Embedding(draw.choice([1.0, 3.0])))


def perturbed(arch: Arch, seed: int) -> Transformer:
    """Weights far from their start, so that no part is without effect."""
    model, draw = initialise(Transformer(arch), seed).eval(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.2 * torch.randn(weight.shape, generator=draw)
    return model


def disagreements(library: CDLL, seeds: Iterable[int]) -> list[str]:
    """The architectures for which a step by the kernel has other scores than the modules, by more than the type's rounding explains."""
    found = []
    for seed in seeds:
        arch = any_arch(random.Random(seed))
        for (kind, limit), in_bits in product(LIMITS.items(), (False, True)):
            model = perturbed(arch, seed).to(kind)
            if in_bits:
                hold(model, "int8")
            exact, ours = scores(copy.deepcopy(model).double(), None, seed), scores(model, library, seed)
            if not (ours.double() - exact).abs().max() <= limit * exact.abs().max():
                found.append(f"{'int8 with ' if in_bits else ''}{str(kind)[6:]}, {arch}")
    return found


def scores(model: Transformer, library: CDLL | None, seed: int) -> Tensor:
    """The scores after three tokens more for some of four texts of unequal length, one step after the other: (rows, steps, vocabulary)."""
    draw, vocabulary = torch.Generator().manual_seed(seed), model.arch.vocabulary
    cache = model.cache(4, 16)
    with torch.inference_mode(), kernels.used(library is not None):
        assert library is None or plan(model, cache, library) is not None
        for slot in range(4):
            length = int(torch.randint(1, 9, (), generator=draw))
            model.hidden(torch.randint(vocabulary, (1, length), generator=draw), cache=cache, slots=torch.tensor([slot]))
        rows = torch.randperm(4, generator=draw)[: int(torch.randint(1, 5, (), generator=draw))]
        steps = torch.randint(vocabulary, (3, len(rows), 1), generator=draw)
        return torch.cat([model(tokens, cache=cache, slots=rows) for tokens in steps], 1)
