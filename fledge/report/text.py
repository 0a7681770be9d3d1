"""Strings and numbers as a page shows them: escaped, printable, with thousands apart."""

import html
import math
import re
from collections.abc import Iterable

from fledge.evaluation.statistics import Interval

MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"

Cell = str | int | float | Interval | None

_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069\ufffe\uffff]")


def escaped(text: object) -> str:
    """`text` as HTML text or attribute; control characters, lone surrogates and marks that turn the writing direction become pictures."""
    return html.escape(_UNPRINTABLE.sub(_picture, str(text)))


def _picture(found: re.Match) -> str:
    code = ord(found[0])
    return chr(0x2400 + code) if code < 32 else "\ufffd"


def number(value: float, digits: int = 3) -> str:
    """Whole numbers with thousands apart, others with so many decimals: `1,234`, `0.812`; nothing measured is a dash."""
    if not math.isfinite(value):
        return DASH
    text = f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"
    return text.replace("-", MINUS)


def digits(cells: Iterable[Cell]) -> int:
    """How many decimals suit the largest of some numbers: 3 below ten, then fewer, so that a column lines up."""
    values = [abs(cell.value if isinstance(cell, Interval) else cell) for cell in cells if isinstance(cell, (float, Interval))]
    largest = max((value for value in values if math.isfinite(value)), default=0.0)
    return 3 if largest < 10 else 2 if largest < 100 else 1 if largest < 10_000 else 0


def plain(cell: Cell) -> str:
    """A cell as unescaped text."""
    match cell:
        case None:
            return DASH
        case Interval(value, low, high):
            return f"{number(value)} ({number(low)} to {number(high)})"
        case bool() | str():
            return str(cell)
        case _:
            return number(cell, digits([cell]))
