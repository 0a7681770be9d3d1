"""The layout that a forecast chooses: it fits, nothing that was fixed is changed, and nothing quicker that fits was passed over."""

from dataclasses import replace

import pytest

from fledge.train import forecast
from fledge.train.devices import DEVICES, Device, known_as
from fledge.train.forecast import Job, Search, said, with_rows
from fledge.train.parallel.tracing import Layout
from fledge.train.run import AdamW
from tests.train.families import CONTEXT, FAMILIES

TINY = Device("tiny", flops=1e9, memory=1e6, bandwidth=1e9, link=1e8, network=1e7, node=2, source="a test")
JOB = Job(FAMILIES["decoder"], CONTEXT, batch=4, tokens=1e6, recipe=AdamW(), device=TINY, devices=2, dtype="float32")


@pytest.fixture(scope="module")
def traces() -> dict:
    """What was traced once."""
    return {}


def with_memory(job: Job, memory: float) -> Job:
    return replace(job, device=replace(job.device, memory=memory))


def test_the_quickest_of_all_that_fit(traces):
    search = Search(JOB, traces=traces)
    every = [with_rows(layout, rows) for layout in search.layouts() for rows in forecast.divisors(layout.accumulate)]
    assert {(layout.tensor, layout.recompute) for layout in every} == {(1, False), (1, True), (2, False), (2, True)}
    tried = [search.forecast(layout) for layout in every]
    for memory in sorted(one.trace.bytes for one in tried):
        job = with_memory(JOB, (memory + 1) / (1 - forecast.SPARE))
        fits = [replace(one, job=job) for one in tried if one.trace.bytes <= job.limit]
        found = Search(job, traces=traces).best()
        assert found is not None
        assert found.fits
        assert forecast.WORTHWHILE * found.step_seconds <= min(one.step_seconds for one in fits)
    assert Search(with_memory(JOB, memory / 10), traces=traces).best() is None


def test_time_is_what_is_computed_and_sent(traces):
    one = Search(replace(JOB, devices=1), recompute=False, traces=traces).best()
    assert one is not None
    assert one.step_seconds == pytest.approx(one.job.flops / one.job.steps / (1e9 * forecast.UTILISATION))
    assert one.exchanging == (0, 0)
    assert one.job.steps == -(-1_000_000 // (4 * CONTEXT))
    many = Search(replace(JOB, devices=4), traces=traces).forecast(Layout(2, 2, 2, 1))
    assert many.job.device.node < many.layout.ranks
    assert {(ranks, span) for _, ranks, span in many.trace.sent} == {(2, 2), (2, 3), (4, 4)}
    data, tensor = many.exchanging
    assert data > many.trace.sent["reduce_scatter_base", 2, 3] / TINY.network > 0
    assert tensor == pytest.approx(many.trace.sent["allreduce", 2, 2] / TINY.link)
    assert many.step_seconds == pytest.approx(max(many.computing, data) + tensor)
    assert many.computing == pytest.approx(one.computing / 4)


def test_what_does_not_fit_gets_the_nearest_that_does(traces):
    whole = Search(JOB, tensor=1, rows=2, recompute=False, traces=traces).least()
    less = Search(JOB, tensor=1, rows=1, recompute=False, traces=traces).least()
    job = with_memory(JOB, (whole.trace.bytes + less.trace.bytes) / 2 / (1 - forecast.SPARE))
    search = Search(job, tensor=1, rows=2, recompute=False, traces=traces)
    assert search.best() is None
    nearest = search.nearest()
    assert nearest is not None
    assert nearest.fits
    assert nearest.layout == replace(less.layout)

    least = Search(JOB, traces=traces).least().trace
    kept = least.bytes - sum(least.peak[kind] for kind in ("weights", "gradients", "optimizer"))
    more = Search(with_memory(JOB, (0.6 * (least.bytes - kept) + 1.1 * kept) / (1 - forecast.SPARE)), traces=traces).nearest()
    assert more is not None
    assert more.fits
    assert more.job.devices > 2
    assert Search(with_memory(JOB, 1000.0), traces=traces).nearest() is None


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"--tensor 8 does not go here: on 2 x tiny a layer .* by 1, 2"):
        Search(JOB, tensor=8).refuse_what_cannot_be()
    with pytest.raises(ValueError, match=r"--rows 3 does not divide the 4 rows .*: use 4"):
        Search(JOB, tensor=2, rows=3).refuse_what_cannot_be()
    with pytest.raises(ValueError, match="a step of 3 rows cannot be shared by 2 data ranks: give --batch-tokens 24"):
        Search(replace(JOB, batch=3), tensor=1).refuse_what_cannot_be()


@pytest.mark.parametrize(
    ("told", "name"),
    [("NVIDIA H100 80GB HBM3", "h100"), ("NVIDIA H200", "h200"), ("NVIDIA GeForce RTX 4090", "rtx4090"), ("NVIDIA L40S", "l40s"),
     ("NVIDIA A100-SXM4-40GB", "a100-40gb"), ("NVIDIA A100-SXM4-80GB", "a100"), ("NVIDIA L4", "l4"), ("Tesla T4", None)],
)  # fmt: skip
def test_devices_are_known_by_what_their_driver_calls_them(told, name):
    found = known_as(told)
    assert (found.name if found else None) == name


def test_every_device_is_whole():
    for name, device in DEVICES.items():
        assert name == device.name
        assert 1e13 < device.flops < 1e16
        assert 1e10 < device.memory < 1e12
        assert device.network <= device.link < device.bandwidth
        assert device.source


def test_a_layout_in_words():
    assert said(Layout(128, 8, 2, 8, True)) == "128 data ranks x 8 tensor ranks, 2 rows at a time, recomputed"
    assert said(Layout()) == "one device, 1 row at a time"
