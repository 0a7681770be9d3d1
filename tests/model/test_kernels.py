"""The kernels are judged by the plain lines; a machine without a compiler, or with a wrong one, computes plainly."""

import ctypes
import os
import shutil
import subprocess
import sys
from typing import Any

import pytest
import torch

from fledge.arch import Yarn
from fledge.model import Transformer, initialise, kernels
from fledge.model.kernels import functions
from fledge.model.kernels.checks import disagreements
from fledge.model.kernels.library import HERE, library
from fledge.presets import gpt2, qwen3, shapes
from fledge.train.objective import PredictTokens
from tests.train.toy import CONTEXT, VOCABULARY, rows

KERNELS: Any = library()
compiled = pytest.mark.skipif(KERNELS is None, reason="no C++ compiler here")


SIZES: dict[str, Any] = {"vocabulary": VOCABULARY, "context": CONTEXT}


@compiled
@pytest.mark.parametrize("seed", range(60))
def test_kernels_are_the_plain_lines(seed):
    assert disagreements(KERNELS, seed) == []


@compiled
def test_what_is_dropped_is_drawn_evenly():
    many = 1 << 20

    def kept(share: float, seed: int, threads: int = 1) -> torch.Tensor:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            made = functions.drop(KERNELS, torch.ones(many), share, seed)
        finally:
            torch.set_num_threads(before)
        assert made.unique().tolist() == pytest.approx([0.0, 1 / (1 - share)], rel=1e-6)
        return (made != 0).double()

    for share in (0.1, 0.5, 0.9):
        a, b = kept(share, 2**61), kept(share, 2**61 + 1)
        assert torch.equal(a, kept(share, 2**61, threads=2))
        spread = (share * (1 - share)) ** 0.5
        for draws in (a, b):
            assert abs(draws.mean() - (1 - share)) < 5 * spread / many**0.5
        others = [b, *(a.roll(step) for step in (1, 2, 16, 64, 256, 320, 4096))]  # another seed, and neighbours of all kinds
        for other in others:
            assert abs(((a - a.mean()) * (other - other.mean())).mean()) < 5 * spread**2 / many**0.5


@compiled
def test_drop_out_is_torchs_in_the_mean_and_goes_on_from_its_generator():
    q, k, v = torch.randn(3, 2, 3, 70, 8, generator=torch.Generator().manual_seed(0)).unbind()
    ranges = torch.zeros(1, 70, dtype=torch.int64), torch.arange(1, 71)[None]
    with kernels.used():
        torch.manual_seed(5)
        state = torch.get_rng_state()
        first, second = (kernels.attend(q, k, v, ranges, 0.5) for _ in range(2))
        torch.set_rng_state(state)
        assert torch.equal(first, kernels.attend(q, k, v, ranges, 0.5))
        assert not torch.equal(first, second)
        whole = kernels.attend(q, k, v, ranges)
        mean = torch.stack([kernels.attend(q, k, v, ranges, 0.5) for _ in range(2000)]).mean(0)
        assert (mean - whole).abs().mean() < 0.02
        x = torch.ones(1000)
        mean = torch.stack([kernels.dropout(x, 0.3) for _ in range(2000)]).mean(0)
        assert (mean - 1).abs().max() < 0.1
        assert torch.equal(kernels.dropout(x, 0.0), x)


tile_unit = pytest.mark.skipif(KERNELS is None or not KERNELS.tiles_lent(), reason="no tile unit (AMX) here")


@tile_unit
def test_products_on_tiles_do_not_depend_on_threads_or_on_other_rows():
    draw = torch.Generator().manual_seed(0)
    x, grad, weight, bias = (torch.randn(shape, generator=draw) for shape in ((300, 1100), (300, 530), (530, 1100), (530,)))
    x, grad = x.bfloat16(), grad.bfloat16()

    def products(threads: int, rows: slice = slice(None)) -> list[torch.Tensor]:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            made = functions.Linear.apply(KERNELS, x[rows], weight, bias, False)
            return [made, functions.by_inputs(KERNELS, grad[rows], weight), functions.by_weight(KERNELS, grad, x)]
        finally:
            torch.set_num_threads(before)

    alone, together = products(1), products(2)
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    assert all(torch.equal(a[7:8], b) for a, b in zip(alone[:2], products(2, slice(7, 8))[:2], strict=True))
    total = alone[2].clone()
    functions.by_weight(KERNELS, grad, x, total)
    torch.testing.assert_close(total, 2 * alone[2])
    assert not functions.by_weight(KERNELS, grad[:0], x[:0]).any()
    assert functions.Linear.apply(KERNELS, x[:0], weight, bias, False).shape == (0, 530)
    x[5, 3] = torch.nan
    assert products(2)[0].isnan().any(1).nonzero().flatten().tolist() == [5]


@compiled
@pytest.mark.parametrize(
    ("kind", "tiles"), [(torch.float32, False), (torch.bfloat16, False), pytest.param(torch.bfloat16, True, marks=tile_unit)]
)
def test_attention_does_not_depend_on_threads_on_other_rows_or_on_what_is_not_seen(kind, tiles):
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(3, heads, length, 40, generator=draw).to(kind) for heads, length in ((4, 75), (2, 90), (2, 90)))
    first, last = torch.randint(0, 80, (2, 3, 75), generator=draw).sort(0).values  # where both are equal nothing is seen
    last[1, 7] = first[1, 7]

    def attended(threads: int, k: torch.Tensor = k, v: torch.Tensor = v, some: slice = slice(None)) -> list[torch.Tensor]:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            parts = [part[some].clone().requires_grad_() for part in (q, k, v)]
            made = functions.Attend.apply(KERNELS, *parts, (first[some], last[some]), 40**-0.5, tiles)
            return [made.detach(), *torch.autograd.grad((made.float() * made.float().sin()).sum(), parts)]
        finally:
            torch.set_num_threads(before)

    alone = attended(1)
    assert all(torch.equal(a, b) for a, b in zip(alone, attended(2), strict=True))
    assert all(torch.equal(a[1:2], b) for a, b in zip(alone, attended(2, some=slice(1, 2)), strict=True))
    assert not alone[0][1, :, 7].any()
    assert not alone[1][1, :, 7].any()
    unseen = torch.arange(90) >= last.max()
    assert unseen.any()
    others = attended(1, torch.where(unseen[:, None], 100 * k, k), torch.where(unseen[:, None], 100 * v, v))
    assert all(torch.equal(a, b) for a, b in zip(alone, others, strict=True))


@tile_unit
@pytest.mark.parametrize("narrow", [True, False])
@pytest.mark.parametrize("biased", [True, False])
def test_what_a_map_makes_can_be_changed_in_place(narrow, biased):
    """As adapters do."""
    draw = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=draw, requires_grad=True) for shape in ((2, 5, 64), (32, 64), (32,)))
    made = functions.Linear.apply(KERNELS, x.bfloat16(), weight, bias if biased else None, narrow)
    plain = torch.nn.functional.linear(x, weight, bias if biased else None)
    torch.testing.assert_close(made.float(), plain, rtol=0.02, atol=0.1)
    made.mul_(2).sum().backward()
    torch.testing.assert_close(weight.grad, 2 * x.detach().bfloat16().float().sum((0, 1)).expand(32, -1), rtol=0.02, atol=0.1)


@tile_unit
def test_a_step_on_tiles_is_the_plain_one_to_the_precision_of_bf16():
    """A narrow model leaves most of its products to torch; both are compared with the step in fp32, as torch's own is."""
    for width in (64, 512):
        shape, batch = gpt2(width, 2, 2, **SIZES), rows(5, 1)
        found = []
        for wanted, kind in ((False, torch.float32), (False, torch.bfloat16), (True, torch.bfloat16)):
            model = initialise(Transformer(shape), seed=3).eval()
            with kernels.used(wanted), torch.autocast("cpu", torch.bfloat16, enabled=kind == torch.bfloat16):
                loss = PredictTokens()(model, batch)
            loss.backward()
            found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
        exact, torchs, ours = found
        assert (ours - exact).norm() < 1.2 * (torchs - exact).norm()


@compiled
def test_without_a_tile_unit_the_products_are_torchs(tmp_path):
    built = tmp_path / "products.so"
    compiler = shutil.which("c++") or "g++"
    subprocess.run([compiler, "-std=c++17", "-fPIC", "-shared", str(HERE / "products.cpp"), "-o", str(built)], check=True)
    assert ctypes.CDLL(str(built)).tiles_lent() == 0  # as it is built for a processor without one


@compiled
def test_a_wrong_kernel_is_noticed(monkeypatch):
    monkeypatch.setattr("fledge.model.kernels.functions.RmsNorm.apply", lambda kernels, x, w, eps, kind: (x * w * 1.01).to(kind))
    assert disagreements(KERNELS) == ["rms_norm in float32", "rms_norm in bfloat16"]


@compiled
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "shape",
    [
        qwen3(32, 2, heads=4, head_size=16, **SIZES),
        gpt2(32, 2, 2, **SIZES),
        shapes.gemma2(32, 2, 4, 2, 16, **SIZES),
        shapes.gemma3(32, 6, 2, 1, 16, window=3, **SIZES),
        shapes.gpt_oss(32, 2, 4, 2, 4, 2, 16, window=3, **SIZES),
        shapes.olmo2(32, 2, 4, 2, **SIZES),
        shapes.llama(32, 2, 4, 2, stretch=Yarn(4.0, 8), experts=4, **SIZES),
        shapes.modernbert(32, 4, 2, window=4, **SIZES),
        shapes.bert(32, 2, 2, embedding=24, **SIZES),
    ],
)
def test_a_training_step_has_the_same_gradients(shape, packed):
    batch = rows(5, 1)
    if packed:
        positions = torch.arange(CONTEXT).remainder(CONTEXT // 2).expand(5, -1)
        batch = type(batch)(
            batch.tokens, batch.labels, positions.numpy().copy(), (torch.arange(CONTEXT) // (CONTEXT // 2)).expand(5, -1).numpy().copy()
        )
    found = []
    for wanted in (False, True):
        model = initialise(Transformer(shape), seed=3).eval()
        with kernels.used(wanted):
            PredictTokens(chunk=7)(model, batch).backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    largest = max(float(gradient.abs().max()) for gradient in found[0].values())
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=0, atol=1e-5 * largest, msg=lambda text, name=name: f"{name}: {text}")


@compiled
def test_what_is_not_finite_stays_so():
    with kernels.used():
        for bad in (torch.nan, torch.inf):
            x = torch.randn(3, 8)
            x[1, 2] = bad
            assert kernels.rms_norm(x, torch.ones(8), 1e-6)[1].isnan().any()
            assert kernels.layer_norm(x, torch.ones(8), None, 1e-6)[1].isnan().any()
            assert not kernels.cross_entropy(x.clone(), torch.tensor([0, 1, 2])).isfinite()
            assert not kernels.gated_silu(x, x).isfinite().all()
            assert not kernels.gelu(x).isfinite().all()
            assert not kernels.gelu(x, tanh=True).isfinite().all()


def test_without_a_compiler_it_is_plain(tmp_path):
    code = "from fledge.model import kernels; assert not kernels.available()\nwith kernels.used(): pass"
    environment = {**os.environ, "PATH": str(tmp_path), "CXX": "", "XDG_CACHE_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert not list(tmp_path.iterdir())


@compiled
def test_a_compiler_that_fails_leaves_nothing(tmp_path):
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\ncase $1 in --version) echo broken;; *) exit 1;; esac\n")
    broken.chmod(0o755)
    code = "from fledge.model import kernels; assert not kernels.available()"
    environment = {**os.environ, "CXX": str(broken), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert not list((tmp_path / "cache").rglob("*.so"))
