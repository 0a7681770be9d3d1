import math
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.evaluation.statistics import Interval
from fledge.report.charts import WIDTH, Line, bars, confusion, intervals, lines, log_ticks, short, ticks
from fledge.report.text import number, plain

finite = st.floats(-1e9, 1e9).filter(lambda x: x == 0 or abs(x) > 1e-9)


@given(finite, finite, st.integers(3, 8))
def test_ticks_are_round_even_and_enclose(a, b, count):
    low, high = min(a, b), max(a, b)
    if 0 < high - low < 1e-6 * max(abs(low), abs(high)):
        return
    found = ticks(low, high, count)
    steps = [after - before for before, after in pairwise(found)]
    assert found[0] <= low + 1e-6 * steps[0]
    assert found[-1] >= high - 1e-6 * steps[0]
    assert 2 <= len(found) <= 2 * count + 2
    assert max(steps) == pytest.approx(min(steps), rel=1e-6)
    assert float(f"{steps[0]:.3e}".split("e")[0]) in (1.0, 2.0, 5.0)


def test_ticks_by_hand():
    assert ticks(0.3, 4.2) == [0, 1, 2, 3, 4, 5]
    assert ticks(0, 0.003, 6) == [0, 0.0005, 0.001, 0.0015, 0.002, 0.0025, 0.003]
    assert log_ticks(4, 2_000_000) == [10, 100, 1000, 10_000, 100_000, 1_000_000]
    assert log_ticks(4, 60) == [5, 10, 20, 50]
    assert [short(x) for x in (0.25, 1200, 20_000, 1_500_000, -3)] == ["0.25", "1,200", "20k", "1.5M", "\N{MINUS SIGN}3"]


def test_numbers_as_people_write_them():
    assert [number(1234567), number(0.8124), number(-0.5, 1), number(math.nan)] == [
        "1,234,567",
        "0.812",
        "\N{MINUS SIGN}0.5",
        "\N{EN DASH}",
    ]
    assert [plain(None), plain(87.1), plain(Interval(1.0, 0.0, 2.0))] == ["\N{EN DASH}", "87.10", "1.000 (0.000 to 2.000)"]


def places(svg, tag, name):
    return [float(x) for x in re.findall(rf'<{tag}[^>]* {name}="(-?[\d.]+)"', svg)]


@pytest.mark.parametrize("log_x", [False, True])
def test_a_curve_stays_inside_keeps_its_ends_and_breaks_at_gaps(log_x):
    x = list(range(1, 5001))
    y = [5 / i**0.5 for i in x]
    y[2500] = math.inf
    svg = lines([Line("a", x, y)], "step", "loss", log_x)
    (path,) = re.findall(r' d="([^"]+)"', svg)
    points = [tuple(map(float, p.split())) for p in re.findall(r"[ML](-?[\d.]+ -?[\d.]+)", path)]
    assert path.count("M") == 2
    assert len(points) < 700
    assert all(0 <= px <= WIDTH and 0 <= py <= 344 for px, py in points)
    assert all(a[0] <= b[0] and a[1] <= b[1] for a, b in pairwise(points))
    assert "a: 5.000 at step 1<" in svg
    assert "a from 5.000 to 0.071" in svg


@pytest.mark.parametrize("curves", [[], [Line("a", [], [])], [Line("a", [1.0], [math.nan])]])
def test_nothing_to_show_is_said(curves):
    assert "Nothing was measured" in lines(curves, "x", "y")


@pytest.mark.parametrize("log_x", [False, True])
def test_a_single_or_constant_point_has_axes(log_x):
    assert "nan" not in lines([Line("a", [3.0], [2.0])], "x", "y", log_x)
    assert "nan" not in lines([Line("a", [3.0, 4.0], [0.0, 0.0])], "x", "y", log_x)


def test_bars_are_proportional_and_intervals_in_order():
    found = places(bars([("a", 1.0), ("b", 0.5), ("c", 0.0)], "F1", "a"), "rect", "width")
    assert found[0] == pytest.approx(2 * found[1], abs=0.1)
    assert found[2] == 0
    svg = intervals([("a", Interval(1.3, 1.2, 1.5)), ("b", Interval(2.0, 1.9, 2.2))], "bits")
    first, second = places(svg, "circle", "cx")
    assert first < second <= WIDTH
    assert "a: 1.300 (1.200 to 1.500)" in svg


def test_a_confusion_matrix_shows_counts_and_says_shares():
    svg = confusion(["ham", "spam"], [[9, 1], [0, 0]])
    assert "ham called spam: 1 of 10" in svg
    assert "ham 9 of 10 right; spam 0 of 0 right" in svg
    assert svg.count('class="cell"') == 4
