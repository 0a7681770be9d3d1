"""The kernels are judged by the plain lines; a machine without a compiler, or with a wrong one, computes plainly."""

import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from fledge.arch import Yarn
from fledge.model import Transformer, initialise, kernels
from fledge.model.kernels.checks import disagreements
from fledge.model.kernels.library import library
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
