"""On a GPU everything is what it is on a CPU: gradients of all families, compiled or not, runs that are taken up again, what is written."""

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch

import fledge
from fledge.data.batches import Batch, Source
from fledge.model import Transformer, initialise, kernels
from fledge.presets.shapes import bert, gemma2, gpt2, gpt_oss, modernbert, olmo2, qwen3, t5
from fledge.train.loop import State, Stopped, on_machine, run_steps
from fledge.train.objective import PredictTokens
from fledge.train.optimizer import Optimizer
from fledge.train.parallel.tracing import Layout, sample, traced
from fledge.train.plan import this_machine
from fledge.train.run import AdamW, Constant, Machine, Muon, Plan
from fledge.verbs.pretraining import Validation
from tests.train.toy import a_run, go

pytestmark = [
    pytest.mark.gpu,
    *(
        pytest.mark.filterwarnings(f"ignore:{what}")  # of the compiler of torch 2.11, at its own code
        for what in (
            ".torch.jit.script",
            "The .grad attribute of a Tensor that is not a leaf",
            "<class 'torch.autograd.function.Function'>",
        )
    ),
]

LENGTH, WORDS = 200, 500
SIZE = {"vocabulary": WORDS, "context": LENGTH, "dropout": 0.0}
FAMILIES = {
    "gpt2": gpt2(64, 2, 4, **SIZE),
    "qwen3": qwen3(64, 2, heads=4, kv_heads=2, head_size=32, mlp=96, **SIZE),
    "modernbert": modernbert(64, 4, heads=4, mlp=96, **SIZE),
    "bert": bert(64, 2, 4, mlp=96, **SIZE),
    "t5": t5(64, 2, heads=4, head_size=16, mlp=96, gated=True, tied=False, **SIZE),
    "gemma2": gemma2(64, 2, heads=4, kv_heads=2, head_size=16, mlp=96, window=32, **SIZE),
    "olmo2": olmo2(64, 2, heads=4, kv_heads=4, mlp=96, **SIZE),
    "gpt_oss": gpt_oss(64, 2, experts=4, chosen=2, heads=4, kv_heads=4, head_size=16, mlp=32, window=32, **SIZE),
}


def packed(both: bool, rows: int = 3) -> Batch:
    """Rows of several documents each, the last of which is padding."""
    random = np.random.default_rng(0)
    document = np.sort(random.integers(4, size=(rows, LENGTH)), axis=1)
    positions = np.stack([np.concatenate([np.arange(n) for n in np.bincount(row, minlength=4)]) for row in document])
    document = np.where(document == 3, -1, document)
    labels = np.where(document < 0, -100, random.integers(WORDS, size=document.shape))
    source = Source(random.integers(WORDS, size=(rows, LENGTH - 7))) if both else None
    return Batch(random.integers(WORDS, size=document.shape), labels, None if both else positions, None if both else document, source)


def plain(both: bool, rows: int = 3) -> Batch:
    """Rows of one document each."""
    random = np.random.default_rng(1)
    tokens, labels = random.integers(WORDS, size=(2, rows, LENGTH))
    return Batch(tokens, labels, source=Source(random.integers(WORDS, size=(rows, LENGTH - 7))) if both else None)


def gradients(name: str, batch: Batch, device: str, half: bool = False, compiled: bool = False) -> tuple[float, dict[str, torch.Tensor]]:
    model = initialise(Transformer(FAMILIES[name])).to(device).train()
    with (
        kernels.used(compiled, device),
        torch.autocast("cuda", torch.bfloat16, cache_enabled=False) if half else nullcontext(),
    ):
        loss = PredictTokens()(model, batch)
    with kernels.used(compiled, device):
        loss.backward()
    return loss.item(), {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}


def apart(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """The largest difference of a gradient, as a share of that gradient; of one that is next to nothing, of a hundredth of the largest."""
    assert ours.keys() == theirs.keys()
    least = 0.01 * max(gradient.norm().item() for gradient in theirs.values())
    return max((ours[name] - theirs[name]).norm().item() / max(least, theirs[name].norm().item()) for name in ours)


@pytest.mark.parametrize("rows", [plain, packed])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_gradient_is_the_cpus(name, rows):
    batch = rows(name == "t5")
    loss, expected = gradients(name, batch, "cpu")
    for compiled in (False, True) if name == "qwen3" else (False,):
        found, ours = gradients(name, batch, "cuda", compiled=compiled)
        assert found == pytest.approx(loss, rel=1e-5)
        assert apart(ours, expected) < 1e-3, compiled


@pytest.mark.parametrize("rows", [plain, packed])
@pytest.mark.parametrize("name", FAMILIES)
def test_in_bf16_compiled_or_not_they_are_near(name, rows):
    batch = rows(name == "t5")
    loss, expected = gradients(name, batch, "cpu")
    for compiled in (False, True):
        found, ours = gradients(name, batch, "cuda", half=True, compiled=compiled)
        assert found == pytest.approx(loss, rel=1e-2)
        assert apart(ours, expected) < 0.15, compiled


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_run_that_is_taken_up_again_gives_the_same_bits(tmp_path, dtype, optimizer):
    def run():
        made = a_run(optimizer, save_steps=3)
        return replace(made, machine=Machine("cuda", dtype, deterministic=True))

    whole, _ = go(run(), tmp_path / "whole")

    def leave(state: State) -> None:
        if state.step == 7:
            raise Stopped("enough", 2)

    with pytest.raises(Stopped):
        go(run(), tmp_path / "parts", after_step=[leave])
    again, _ = go(run(), tmp_path / "parts")
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))


@pytest.mark.parametrize("recipe", [AdamW(), Muon()])
def test_a_step_holds_what_was_traced(recipe):
    arch = qwen3(512, 6, vocabulary=8192, context=512, dropout=0.0)
    expected = traced(arch, 512, Layout(rows=16), recipe, device="cuda").bytes
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    machine = Machine("cuda", "bfloat16")
    with on_machine(machine):
        model = initialise(Transformer(arch)).to("cuda")
        state, batch = State(0, Plan(3), model, Optimizer(model, recipe)), sample(arch, 16, 512)
        run_steps(state, PredictTokens(), lambda step: [batch], Constant(), machine, [])
    assert torch.cuda.max_memory_allocated() - before == pytest.approx(expected, rel=0.1)


def test_it_is_raised_and_writes_and_is_tuned_there(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"The {i % 7}th line says that {i} comes before {i + 1}." for i in range(4000)), encoding="utf-8")
    done = fledge.pretrain([str(text)], out=tmp_path / "base", steps=60, vocab=512, device="cuda")
    assert isinstance(done.validation, Validation)
    assert done.validation.bits_per_byte < 3
    said = [fledge.generate(tmp_path / "base", "The 3th line", max_tokens=20, temperature=0, device=device, dtype="float32")
            for device in ("cpu", "cuda")]  # fmt: skip
    assert said[0] == said[1]
    table = tmp_path / "rows.csv"
    table.write_text("text,label\n" + "".join(f"number {i} is {'even' if i % 2 == 0 else 'odd'},{i % 2}\n" for i in range(200)))
    tuned = fledge.finetune.classify(table, out=tmp_path / "classifier", from_=tmp_path / "base", epochs=2, device="cuda")
    assert tuned.score.accuracy.value > 0.3
    assert fledge.evaluate(tmp_path / "base", device="cuda") is not None
    assert this_machine().device == "cuda"
