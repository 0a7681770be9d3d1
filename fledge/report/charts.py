"""Charts as inline SVG: lines, bars, intervals, a confusion matrix. Colours come from the page's style sheet."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fledge.evaluation.statistics import Interval
from fledge.report.text import MINUS, escaped, number

WIDTH = 760
_CHARACTER = 7.6  # mean width of a character of the 13 px labels
_DENSITY = 1.5  # points of a curve closer than this are one, in the units of WIDTH
_SPOTS = 11.0  # nor do the spots with tooltips overlap
_COLOURS = 6
_FAINT = 0.02  # weights of attention below it are not drawn
_LEVELS = 10  # of depth, in the small squares of heads


_Drawn = tuple[float, float, float, float, bool]  # where on the picture, the values, whether a gap lies before it


@dataclass(frozen=True)
class Line:
    """One curve: `y[i]` at `x[i]`; what is not finite leaves a gap."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers (1, 2 or 5 times a power of ten) from below `low` to above `high`.

    >>> ticks(0.3, 4.2)
    [0, 1, 2, 3, 4, 5]
    """
    if high <= low:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    rough = (high - low) / count
    power = 10 ** math.floor(math.log10(rough))
    step = min((factor * power for factor in (1, 2, 5, 10)), key=lambda s: abs(math.log(s / rough)))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return [round(i * step, decimals) if decimals else round(i * step) for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten within the bounds, with 2 and 5 times them where there are few; the bounds themselves where there are none."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 2, 5)):
        found = [factor * 10.0**decade for decade in decades for factor in factors if low * 0.999 <= factor * 10.0**decade <= high * 1.001]
        if len(found) >= 3:
            return found
    return found or [low, high]


def short(value: float) -> str:
    """A tick's label: `20k`, `1.5M`, `0.25`."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if suffix == 'k' else size):g}{suffix}".replace("-", MINUS)
    return f"{value:,.6g}".replace("-", MINUS)


def lines(curves: Sequence[Line], x: str, y: str, log_x: bool = False) -> str:
    """Curves over common axes, named `x` and `y`; a logarithmic x shows positive values only."""
    shown = [_kept(curve, log_x) for curve in curves]
    if not any(shown):
        return _empty()
    xs, ys = [p[0] for points in shown for p in points], [p[1] for points in shown for p in points]
    marks_y = ticks(min(ys), max(ys))
    marks_x = log_ticks(min(xs), max(xs)) if log_x else ticks(min(xs), max(xs), 7)
    left, right, top, bottom, height = 24 + _CHARACTER * max(len(short(t)) for t in marks_y), WIDTH - 28, 26, 300, 344
    scale = math.log10 if log_x else float
    x_low, x_high = (scale(min(xs)), scale(max(xs)))
    if not log_x:
        marks_x = [t for t in marks_x if x_low - 1e-9 <= t <= x_high + 1e-9] or marks_x
    wide = (x_high - x_low) or 1.0

    def place(px: float, py: float) -> tuple[float, float]:
        return left + (scale(px) - x_low) / wide * (right - left), bottom - (py - marks_y[0]) / (marks_y[-1] - marks_y[0]) * (bottom - top)

    parts = [f'<text x="0" y="12">{escaped(y)}</text>']
    for tick in marks_y:
        at = place(xs[0], tick)[1]
        parts.append(f'<line class="grid" x1="{left:.1f}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{left - 8:.1f}" y="{at + 4.5:.1f}" text-anchor="end">{short(tick)}</text>')
    parts.append(f'<line class="axis" x1="{left:.1f}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    for tick in marks_x:
        at = place(tick, marks_y[0])[0]
        parts.append(f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{bottom}" y2="{bottom + 5}"/>')
        parts.append(f'<text x="{at:.1f}" y="{bottom + 20}" text-anchor="middle">{short(tick)}</text>')
    parts.append(f'<text x="{right}" y="{height - 4}" text-anchor="end">{escaped(f"{x} (logarithmic)" if log_x else x)}</text>')
    for i, points in reversed(list(enumerate(shown))):
        drawn = [(*place(px, py), px, py, gap) for px, py, gap in points]
        path = " ".join(f"{'M' if gap else 'L'}{a:.1f} {b:.1f}" for a, b, _, _, gap in _thinned(drawn, _DENSITY))
        parts.append(f'<path class="line s{i % _COLOURS} d{i % _COLOURS}" d="{path}"/>')
        for a, b, px, py, _ in _thinned(drawn, _SPOTS):
            tip = f"{curves[i].name}: {number(float(py))} at {x} {short(px)}"
            parts.append(f'<circle class="spot" cx="{a:.1f}" cy="{b:.1f}" r="7"><title>{escaped(tip)}</title></circle>')
    told = "; ".join(
        f"{c.name} from {number(float(p[0][1]))} to {number(float(p[-1][1]))}" for c, p in zip(curves, shown, strict=True) if p
    )
    return _legend([curve.name for curve in curves]) + _svg(height, f"{y} over {x}", told, parts)


def _kept(curve: Line, log_x: bool) -> list[tuple[float, float, bool]]:
    """The points that can be drawn, each with whether a gap lies before it."""
    points, gap = [], True
    for px, py in zip(curve.x, curve.y, strict=True):
        if math.isfinite(px) and math.isfinite(py) and (px > 0 or not log_x):
            points.append((px, py, gap))
            gap = False
        else:
            gap = True
    return points


def _thinned(drawn: list[_Drawn], apart: float) -> list[_Drawn]:
    """Points that are at least so far `apart` along x, the last and every one after a gap among them."""
    kept: list[_Drawn] = []
    for i, point in enumerate(drawn):
        if point[4] or i == len(drawn) - 1 or point[0] - kept[-1][0] >= apart:
            kept.append(point)
    return kept


def bars(rows: Sequence[tuple[str, float]], unit: str, chosen: str | None = None) -> str:
    """Horizontal bars from zero; the row named `chosen` is the coloured one, or every row where none is."""
    values = [value for _, value in rows]
    if not rows:
        return _empty()
    left, top, pitch = _names([name for name, _ in rows]), 22, 34
    largest = max(*values, 0.0, 1e-12)
    wide = WIDTH - left - max(72, 12 + _CHARACTER * max(len(number(value)) for value in values))
    parts = [f'<text x="{left:.1f}" y="12">{escaped(unit)}</text>']
    for i, ((name, _), value) in enumerate(zip(rows, values, strict=True)):
        y, length = top + i * pitch, max(0.0, value) / largest * wide
        weight, colour = _emphasis(name == chosen) if chosen is not None else ("strong", "first")
        parts.append(f'<text class="{weight}" x="{left - 12:.1f}" y="{y + 18}" text-anchor="end">{escaped(_cut(name))}</text>')
        parts.append(f'<rect class="{colour}" x="{left:.1f}" y="{y + 3}" width="{length:.1f}" height="{pitch - 12}" rx="3">')
        parts.append(f"<title>{escaped(name)}: {number(value)} {escaped(unit)}</title></rect>")
        parts.append(f'<text class="{weight}" x="{left + length + 8:.1f}" y="{y + 18}">{number(value)}</text>')
    told = "; ".join(f"{name} {number(value)}" for (name, _), value in zip(rows, values, strict=True))
    return _svg(top + len(rows) * pitch + 2, unit, told, parts)


def intervals(rows: Sequence[tuple[str, Interval]], unit: str, chosen: str | None = None) -> str:
    """A dot per row with its 95 % interval as a whisker, on one axis that need not start at zero."""
    if not rows:
        return _empty()
    marks = ticks(min(i.low for _, i in rows), max(i.high for _, i in rows), 6)
    left, right, top, pitch = _names([name for name, _ in rows]), WIDTH - 64, 22, 36
    bottom = top + len(rows) * pitch

    def place(value: float) -> float:
        return left + 8 + (value - marks[0]) / (marks[-1] - marks[0]) * (right - left - 8)

    parts = [f'<text x="{left + 8:.1f}" y="12">{escaped(unit)}, 95 % interval</text>']
    for tick in marks:
        parts.append(f'<line class="grid" x1="{place(tick):.1f}" x2="{place(tick):.1f}" y1="{top}" y2="{bottom}"/>')
        parts.append(f'<text x="{place(tick):.1f}" y="{bottom + 17}" text-anchor="middle">{short(tick)}</text>')
    for i, (name, found) in enumerate(rows):
        y = top + i * pitch + pitch / 2
        weight, colour = _emphasis(name == chosen)
        parts.append(f'<text class="{weight}" x="{left - 12:.1f}" y="{y + 4.5}" text-anchor="end">{escaped(_cut(name))}</text>')
        parts.append("<g><title>" + escaped(f"{name}: {found}") + "</title>")
        parts.append(f'<line class="whisker {colour}" x1="{place(found.low):.1f}" x2="{place(found.high):.1f}" y1="{y}" y2="{y}"/>')
        parts.append(f'<circle class="{colour}" style="fill-opacity:1" cx="{place(found.value):.1f}" cy="{y}" r="5.5"/></g>')
        parts.append(f'<text class="{weight}" x="{place(found.high) + 12:.1f}" y="{y + 4.5}">{number(found.value)}</text>')
    told = "; ".join(f"{name} {found}" for name, found in rows)
    return _svg(bottom + 24, unit, told, parts)


def confusion(labels: Sequence[str], matrix: Sequence[Sequence[int]]) -> str:
    """Rows the truth, columns the prediction; a cell's depth is its share of the row, its number the count."""
    if not labels:
        return _empty()
    left = _names([*labels, "truth"])
    cell = min(60.0, (WIDTH - left - 8) / len(labels))
    top = 36 + min(110.0, _CHARACTER * 0.72 * max(len(_cut(name)) for name in labels))
    parts = [
        f'<text x="{left:.1f}" y="12">predicted</text>',
        f'<text x="{left - 12:.1f}" y="{top - 10:.1f}" text-anchor="end">truth</text>',
    ]
    told = []
    for i, (name, row) in enumerate(zip(labels, matrix, strict=True)):
        total, y = sum(row), top + i * cell
        told.append(f"{name} {row[i]} of {total} right")
        at = left + (i + 0.5) * cell
        parts.append(f'<text class="strong" transform="translate({at + 4:.1f} {top - 8:.1f}) rotate(-45)">{escaped(_cut(name))}</text>')
        parts.append(
            f'<text class="strong" x="{left - 12:.1f}" y="{y + cell / 2 + 4.5:.1f}" text-anchor="end">{escaped(_cut(name))}</text>'
        )
        for j, count in enumerate(row):
            share = count / total if total else 0.0
            x, tip = left + j * cell, f"{name} called {labels[j]}: {count} of {total}"
            parts.append(f'<g><title>{escaped(tip)}</title><rect class="cell" style="fill-opacity:{_depth(share):.2f}" ')
            parts.append(f'x="{x + 1:.1f}" y="{y + 1:.1f}" width="{cell - 2:.1f}" height="{cell - 2:.1f}" rx="3"/>')
            if count:
                side = "over" if share > 0.5 else "strong"
                parts.append(
                    f'<text class="{side}" x="{x + cell / 2:.1f}" y="{y + cell / 2 + 4.5:.1f}" text-anchor="middle">{short(count)}</text>'
                )
            parts.append("</g>")
    return _svg(top + len(labels) * cell + 4, "Confusion matrix", "; ".join(told), parts)


def attention(queries: Sequence[str], keys: Sequence[str], weights: Sequence[Sequence[float]]) -> str:
    """Rows the words that look, columns those looked at; a cell's depth is the weight, which its tooltip tells."""
    if not queries:
        return _empty()
    left = _names(queries)
    cell = min(34.0, (WIDTH - left - 8) / len(keys))
    top = 20 + min(110.0, _CHARACTER * 0.72 * max(len(_cut(name)) for name in keys))
    parts = []
    for i, name in enumerate(keys):
        at = left + (i + 0.5) * cell
        parts.append(f'<text class="strong" transform="translate({at + 4:.1f} {top - 8:.1f}) rotate(-45)">{escaped(_cut(name))}</text>')
    for i, (name, row) in enumerate(zip(queries, weights, strict=True)):
        y = top + i * cell
        parts.append(
            f'<text class="strong" x="{left - 12:.1f}" y="{y + cell / 2 + 4.5:.1f}" text-anchor="end">{escaped(_cut(name))}</text>'
        )
        for j, weight in enumerate(row):
            if weight >= _FAINT:
                tip = escaped(f"{name} looks at {keys[j]}: {number(float(weight))}")
                parts.append(f'<g><title>{tip}</title><rect class="cell" style="fill-opacity:{min(1.0, weight):.2f}" ')
                parts.append(
                    f'x="{left + j * cell + 0.5:.1f}" y="{y + 0.5:.1f}" width="{cell - 1:.1f}" height="{cell - 1:.1f}" rx="2"/></g>'
                )
    told = "; ".join(f"{name} at {keys[max(range(len(row)), key=row.__getitem__)]}" for name, row in zip(queries, weights, strict=True))
    return _svg(top + len(queries) * cell + 4, "Which word looks at which", f"most of all {told}", parts)


def heads(names: Sequence[str], weights: Sequence[Sequence[Sequence[float]]]) -> str:
    """A small square for each head, rows the words that look, columns those looked at, as deep as the weight."""
    drawn = []
    for name, matrix in zip(names, weights, strict=True):
        tall, wide = len(matrix), len(matrix[0])
        levels: dict[int, list[str]] = {}
        for i, row in enumerate(matrix):
            for j, weight in enumerate(row):
                if (level := math.ceil(min(1.0, weight) * _LEVELS - _FAINT * _LEVELS)) > 0:
                    levels.setdefault(level, []).append(f"M{j} {i}h1v1h-1z")
        paths = "".join(
            f'<path class="cell" style="fill-opacity:{level / _LEVELS:.2f}" d="{"".join(cells)}"/>'
            for level, cells in sorted(levels.items())
        )
        told = f"<title>{escaped(name)}</title><desc>Which word looks at which</desc>"
        picture = f'<svg class="head" role="img" viewBox="0 0 {wide} {tall}">{told}{paths}</svg>'
        drawn.append(f"<li>{picture}<span>{escaped(name)}</span></li>")
    return f'<ul class="heads">{"".join(drawn)}</ul>'


def _depth(share: float) -> float:
    """How opaque a cell is: the middle is left out, where neither dark nor light numbers can be read."""
    return 0.05 + 0.6 * share if share <= 0.5 else 0.84 + 0.16 * share


def _emphasis(chosen: bool) -> tuple[str, str]:
    """The classes of a row's text and of its mark."""
    return ("bold", "first") if chosen else ("strong", "other")


def _names(names: Sequence[str]) -> float:
    """The room that row labels need to their left."""
    return 18 + _CHARACTER * max(len(_cut(name)) for name in names)


def _cut(name: str) -> str:
    return name if len(name) <= 32 else f"{name[:31]}…"


def _legend(names: Sequence[str]) -> str:
    if len(names) < 2:
        return ""
    items = []
    for i, name in enumerate(names):
        stroke = f'<line class="line s{i % _COLOURS} d{i % _COLOURS}" x1="1" x2="27" y1="5" y2="5"/>'
        items.append(f'<li><svg viewBox="0 0 28 10" aria-hidden="true">{stroke}</svg>{escaped(name)}</li>')
    return f'<ul class="legend">{"".join(items)}</ul>'


def _svg(height: float, title: str, description: str, parts: Sequence[str]) -> str:
    inside = f"<title>{escaped(title)}</title><desc>{escaped(description)}</desc>{''.join(parts)}"
    picture = f'<svg class="chart" role="img" viewBox="0 0 {WIDTH} {height:.0f}">{inside}</svg>'
    return f'<div class="wide" tabindex="0" role="group" aria-label="{escaped(title)}">{picture}</div>'


def _empty() -> str:
    return '<p class="label">Nothing was measured.</p>'
