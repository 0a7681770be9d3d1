from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.train.run import Constant, Cosine, InverseRoot, Plan, Stable
from fledge.train.schedule import factor

schedules = st.one_of(
    st.builds(Stable, warmup=st.integers(0, 30), decay=st.floats(0, 1), final=st.floats(0, 1)),
    st.builds(Cosine, warmup=st.integers(0, 30), final=st.floats(0, 1)),
    st.just(Constant()),
)


@st.composite
def plans(draw):
    plan, step = Plan(draw(st.integers(1, 200))), 0
    for _ in range(draw(st.integers(0, 4))):
        step = draw(st.integers(step + 1, step + 60))
        if step >= plan.total(step):
            break
        plan = plan.revised(step, draw(st.integers(step + 1, step + 200)))
    return plan


def test_a_trapezoid_by_hand():
    assert [factor(Stable(warmup=2, decay=0.5), step, Plan(8)) for step in range(8)] == [0.5, 1, 1, 1, 1, 0.75, 0.5, 0.25]


def test_a_cosine_by_hand():
    values = [factor(Cosine(warmup=2, final=0.0), step, Plan(10)) for step in range(11)]
    assert values == pytest.approx([0.5, 1, 1, 0.96194, 0.853553, 0.691342, 0.5, 0.308658, 0.146447, 0.03806, 0], abs=1e-5)


@given(schedules, plans())
def test_a_revision_never_changes_a_step_before_it(schedule, plan):
    for cut in range(len(plan.revisions)):
        earlier = Plan(plan.steps, revisions=plan.revisions[:cut])
        for step in range(plan.revisions[cut][0]):
            assert factor(schedule, step, earlier) == factor(schedule, step, plan)


@given(schedules, plans())
def test_rates_stay_in_bounds_and_fall_to_the_final_one(schedule, plan):
    end = plan.total(10**9)
    values = [factor(schedule, step, plan) for step in range(end + 1)]
    assert all(0 <= value <= 1 for value in values)
    if isinstance(schedule, Stable) and schedule.warmup < end and schedule.decay * end >= 2:
        assert values[-1] == pytest.approx(schedule.final, abs=1e-9)
    after = values[getattr(schedule, "warmup", 0) :]
    assert all(a >= b - 1e-12 for a, b in pairwise(after))


def test_only_the_start_of_the_decay_moves():
    schedule, plan = Stable(warmup=10, decay=0.2), Plan(100)
    for total in (80, 120, 200):
        revised = plan.revised(50, total)
        values = [factor(schedule, step, revised) for step in range(total + 1)]
        begin = total - total // 5
        assert values[10 : begin + 1] == [1.0] * (begin - 9)
        assert values[begin + 1] < 1
        assert values[total] == pytest.approx(0)


def test_inverse_root_is_the_formula_of_2017():
    """Eq. 3 of arXiv:1706.03762, min(step^-0.5, step warmup^-1.5), as a share of its peak."""
    warmup = 40
    peak = warmup**-0.5
    for step in (1, 7, 40, 41, 90, 1000):
        assert factor(InverseRoot(warmup), step - 1, Plan(100)) == pytest.approx(min(step**-0.5, step * warmup**-1.5) / peak)
