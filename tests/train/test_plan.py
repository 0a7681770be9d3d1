from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fledge.arch import parameter_count
from fledge.model import kernels
from fledge.presets import gpt2
from fledge.train import plan
from fledge.train.plan import (
    Difficulty,
    Speed,
    default_arch,
    expected_bits,
    pace,
    probe,
    propose,
    revised_total,
    this_machine,
    training_bytes,
    training_flops,
    worth_compiling,
)
from fledge.train.run import Batch, Machine, Plan

LIBRARY = Difficulty(ngrams=1.952, copied=0.248)  # Python's standard library
SPEECHES, WIKIPEDIA, NOVELS = Difficulty(1.578, 0.041), Difficulty(2.206, 0.081), Difficulty(2.054, 0.023)
LAPTOP = Speed(((1e6, 30_000.0), (1e8, 600.0)))  # 30 and 60 GFLOP/s


def proposed(seconds: float = 180, tokens: int = 4_000_000, speed: Speed = LAPTOP, **more) -> plan.Proposal:
    return propose(seconds, tokens, 3.5, 2048, speed, LIBRARY, **more)


def test_more_time_and_faster_machines_make_larger_and_better_models():
    ladder = [proposed(seconds) for seconds in (20, 60, 300, 3600, 36_000)]
    sizes, bits = [parameter_count(p.arch) for p in ladder], [p.bits_per_byte for p in ladder]
    assert sizes == sorted(sizes)
    assert sizes[-1] > 4 * sizes[0]
    assert bits == sorted(bits, reverse=True)
    fast = Speed(tuple((flops, 1000 * speed) for flops, speed in LAPTOP.points))
    assert parameter_count(proposed(speed=fast, tokens=10**9).arch) > 10 * parameter_count(proposed(tokens=10**9).arch)


@given(seconds=st.floats(20, 1e5), tokens=st.integers(1000, 10**9))
def test_a_proposal_fits_its_time_and_its_text(seconds, tokens):
    p = proposed(seconds, tokens)
    assert p.seconds <= seconds * 1.001
    assert p.plan.steps >= plan.FEWEST_STEPS
    assert p.epochs * tokens == pytest.approx(p.tokens_per_second * seconds)
    assert p.batch.context <= p.arch.context


def test_the_impossible_is_refused_with_the_nearest_possible():
    with pytest.raises(ValueError, match=r"the text has 100 tokens, but one context of 256 needs 257: .* batch\.context=99"):
        proposed(tokens=100)
    with pytest.raises(ValueError, match=r"2 s are too short .* the least that teaches anything is \d+ s"):
        proposed(seconds=2)
    with pytest.raises(ValueError, match="too short to train 124,439,808 parameters"):
        proposed(seconds=60, arch=gpt2(768, 12, 12))
    large = gpt2(1600, 48, 25, vocabulary=50_257)
    with pytest.raises(ValueError, match=r"needs [\d,]+ bytes of memory and .* are free"):
        proposed(10**6, arch=large, batch=Batch(4096, 1, 1024))


def test_an_arch_and_a_batch_as_given_are_kept():
    arch = gpt2(64, 2, 2, vocabulary=2048, context=64)
    p = proposed(arch=arch, batch=Batch(7, 1, 32))
    assert (p.arch, p.batch) == (arch, Batch(7, 1, 32))
    assert "steps of 224 tokens" in p.sentence()


def test_repeats_are_worth_less_and_nothing_is_worth_more():
    new, repeated, once = (expected_bits(10**6, read, text, LIBRARY) for read, text in ((1e8, 1e9), (1e8, 1e7), (1e7, 1e7)))
    assert new < repeated < once


@pytest.mark.parametrize(
    ("difficulty", "parameters", "megabytes", "measured"),
    [
        (LIBRARY, 328_384, 29.4, 1.444),
        (LIBRARY, 1_049_984, 17.4, 1.271),
        (LIBRARY, 2_164_800, 12.6, 1.518),
        (LIBRARY, 2_164_800, 34.6, 1.188),
        (NOVELS, 3_050_496, 7.1, 1.768),
        (NOVELS, 3_672_832, 28.7, 1.690),
        (SPEECHES, 853_056, 8.9, 1.416),
        (SPEECHES, 2_164_800, 14.3, 1.303),
        (SPEECHES, 3_672_832, 60.8, 1.225),
        (WIKIPEDIA, 229_760, 26.4, 2.115),
        (WIKIPEDIA, 1_443_840, 13.0, 1.943),
        (WIKIPEDIA, 3_672_832, 48.8, 1.719),
    ],
)
def test_the_expectation_is_near_what_was_measured(difficulty, parameters, megabytes, measured):
    """Runs of two, five and ten minutes on four texts, docs/decisions/0011."""
    assert expected_bits(parameters, megabytes * 1e6, 7.5e6, difficulty) == pytest.approx(measured, rel=0.05)


@pytest.mark.parametrize(
    ("difficulty", "text", "read"),
    [
        (WIKIPEDIA, 7.49e6, {853_056: 8.1, 1_049_984: 6.5, 328_384: 14.1, 229_760: 26.4, 1_443_840: 4.4}),
        (WIKIPEDIA, 7.49e6, {853_056: 26.5, 1_049_984: 19.7, 1_443_840: 13.0, 2_164_800: 8.9, 328_384: 39.2}),
        (SPEECHES, 7.06e6, {853_056: 8.9, 1_049_984: 6.8, 328_384: 16.6, 1_443_840: 4.9, 2_164_800: 4.5}),
        (SPEECHES, 7.06e6, {2_164_800: 14.3, 1_049_984: 23.9, 1_443_840: 16.6, 3_050_496: 8.1, 3_672_832: 7.3}),
    ],
)
def test_of_sizes_that_had_the_same_time_the_best_is_expected_to_be(difficulty, text, read):
    """Megabytes by parameters in two or five minutes each, the first of which ended best; docs/decisions/0011."""
    expected = [expected_bits(parameters, megabytes * 1e6, text, difficulty) for parameters, megabytes in read.items()]
    assert min(expected) == expected[0]


def test_a_step_that_does_not_fit_into_memory_is_taken_in_parts(monkeypatch):
    whole = proposed(1e6, 10**9)
    monkeypatch.setattr(plan, "free_memory", lambda: training_bytes(whole.arch, replace(whole.batch, rows=max(2, whole.batch.rows // 4))))
    parted = proposed(1e6, 10**9, arch=whole.arch)
    assert parted.batch.accumulate > whole.batch.accumulate
    assert parted.batch.tokens == whole.batch.tokens


def test_speed_passes_through_what_was_measured():
    arch = gpt2(64, 2, 2, vocabulary=2048, context=64)
    speed = Speed(((training_flops(arch, 64), 123.0), (1e12, 5.0)))
    assert speed.tokens_per_second(arch, 64) == pytest.approx(123.0)


def test_the_probe_times_real_steps_and_leaves_torch_as_it_was():
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    archs = [gpt2(32, 1, 2, vocabulary=64, context=16), gpt2(64, 2, 2, vocabulary=64, context=16)]
    speed = probe(Machine(threads=1), 64, Batch(2, 1, 16), seconds=0.5, archs=archs)
    assert 1 <= len(speed.points) <= 2
    assert all(tokens > 0 for _, tokens in speed.points)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.get_num_threads() == threads


def test_planning_again_needs_a_reason():
    now = Plan(1000, seconds=100.0)
    assert revised_total(now, 400, 60.0, 0.1) is None
    assert revised_total(now, 400, 60.0, 0.103) is None
    assert revised_total(now, 400, 60.0, 0.12) == 900
    assert revised_total(now, 400, 60.0, 0.05) == 1600
    assert revised_total(now, 995, 0.2, 0.1) is None
    assert revised_total(now, 900, -1.0, 0.1) == 900


def test_this_machine_refuses_what_is_not_here():
    assert this_machine(device="cpu", dtype="float32", threads=1, seed=3) == Machine("cpu", "float32", 1, False, 3, kernels.available())
    with pytest.raises(ValueError, match="float16"):
        this_machine(dtype="float16")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="not on this machine"):
            this_machine(device="cuda")


def test_a_slow_moment_weighs_no_more_than_its_time():
    steady = [(0, 100.0), (105, 115.0), (210, 130.0), (315, 145.0), (420, 160.0)]
    assert pace(steady) == pytest.approx(1 / 7)
    assert pace([*steady[:1], (70, 110.0)]) == pytest.approx(1 / 7)
    hindered = [*steady, (425, 175.0)]
    assert pace(hindered) == pytest.approx(45 / 215)
    hindered += [(430, 190.0), (435, 205.0), (440, 220.0), (445, 235.0)]
    assert pace(hindered) == pytest.approx(3.0, rel=0.01)


def test_a_gpu_compiles_what_takes_long(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr("fledge.model.kernels.find_spec", lambda name: name)
    assert [this_machine(seconds=seconds).kernels for seconds in (0.0, 299.0, 300.0, None)] == [False, False, True, True]
    assert not this_machine(seconds=None, deterministic=True).kernels
    monkeypatch.setattr("fledge.model.kernels.find_spec", lambda name: None)
    assert not this_machine(seconds=None).kernels


def test_a_number_of_steps_is_compiled_where_it_takes_long(monkeypatch):
    monkeypatch.setattr("fledge.train.plan.matrix_rate", lambda machine: 1e15)
    arch, batch = default_arch(512, 8, 8192, 256), Batch(rows=128, context=256)
    seconds = training_flops(arch, 256) * batch.tokens / (0.42 * 1e15)
    gpu = Machine("cuda", "bfloat16", kernels=True)
    assert [worth_compiling(gpu, arch, batch, round(took / seconds)) for took in (1, 280, 320)] == [False, False, True]
    assert not worth_compiling(replace(gpu, kernels=False), arch, batch, 10**9)
    assert worth_compiling(Machine(kernels=True), arch, batch, 1)
