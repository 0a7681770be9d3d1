"""What a person sees while a verb works: lines and bars on standard error, so that standard output holds the result alone."""

import io
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from fledge.report.text import Cell

PLAIN_EVERY = 10.0  # seconds between the lines that stand for a bar
# Control characters, which a model or a file may hold, as pictures of them: a terminal must not obey them.
PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"} | {127: 0x2421} | dict.fromkeys(range(128, 160), 0xFFFD)


def plain(text: str) -> str:
    """Text that a terminal only shows.

    >>> plain("\x1b[31mred")
    '␛[31mred'
    """
    return text.replace("\r\n", "\n").translate(PICTURES)


def lit(text: str, on: bool = True) -> str:
    """Text for standard output that stands out if it is `on`: green in a terminal with colours, else between ⟦ and ⟧."""
    from rich.console import Console

    text, console = plain(text), Console()
    if not on:
        return text
    if console.color_system is None or console.no_color:
        return f"⟦{text}⟧"
    return "\n".join(f"\x1b[1;32m{line}\x1b[0m" if line else "" for line in text.split("\n"))


def say(line: str = "") -> None:
    """Print a line of plain text (nothing in it is read as markup)."""
    _say(_console(), line)


def heading(line: str) -> None:
    """Print the title of a stage, set apart."""
    _say(_console(), f"\n{line}", style="bold")


def _say(console: "Console", line: str, style: str = "") -> None:
    from rich.text import Text

    console.print(Text(plain(line), style), soft_wrap=True)


class Bar:
    """One stage of known length under way; `to(done, note)` moves it, `say` prints a line above it."""

    def __init__(self, title: str, total: float, live: "Progress | None" = None):
        self.title, self.total, self.done, self.note = title, total, 0.0, ""
        self._begun = self._printed = time.monotonic()
        self._live = live

    def to(self, done: float, note: str = "", total: float | None = None) -> None:
        """`done` of `total` is done; the note stands at the end of the line."""
        self.done, self.note, self.total = done, note, total or self.total
        if self._live is not None:
            self._live.update(self._live.task_ids[0], completed=done, total=self.total, note=note)
        elif time.monotonic() - self._printed > PLAIN_EVERY:
            self._printed = time.monotonic()
            say(f"{self.title}: {self.done / max(self.total, 1e-9):.0%}{_left(self)}  {note}".rstrip())

    def begin(self, total: float) -> None:
        """Another stage, of another pace: the time left is told by its own."""
        self.done, self.total, self._begun = 0.0, total, time.monotonic()
        if self._live is not None:
            self._live.reset(self._live.task_ids[0], total=total)

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        _say(_console() if self._live is None else self._live.console, line)


@contextmanager
def bar(title: str, total: float) -> Iterator[Bar]:
    """A progress bar with the time left; plain lines every ten seconds where the output is no terminal."""
    console = _console()
    if not console.is_terminal:
        yield Bar(title, total)
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as live:
        live.add_task(title, total=total, note="")
        yield Bar(title, total, live)


def table(titles: list[str], rows: list[list[str]], best: int | None = None) -> None:
    """Print rows under titles; the first column is text, the others numbers; row `best` stands out."""
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=SIMPLE, pad_edge=False)
    for i, title in enumerate(titles):
        drawn.add_column(Text(plain(title)), justify="left" if i == 0 else "right")
    for i, row in enumerate(rows):
        drawn.add_row(*(Text(plain(cell)) for cell in row), style="bold green" if i == best else None)
    _console().print(drawn)


def drawn(caption: str, titles: Sequence[str], rows: Sequence[Sequence["Cell"]]) -> str:
    """A table as lines of text, as wide as the terminal: numbers stand right and are never broken, texts and titles are."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from fledge.report.text import digits, number
    from fledge.report.text import plain as shown

    drawing = Table(box=SIMPLE, pad_edge=False)
    columns = list(zip(*rows, strict=True)) or [()] * len(titles)
    written = [[plain(number(cell, digits(cells)) if isinstance(cell, float) else shown(cell)) for cell in cells] for cells in columns]
    narrow = sum(max(map(len, [title, *cells])) + 3 for title, cells in zip(titles, written, strict=True)) > _width()
    for title, cells, texts in zip(titles, columns, written, strict=True):
        numeric = any(isinstance(cell, (int, float)) for cell in cells)
        least = max(map(len, [*texts, *title.split()])) if numeric and narrow else None  # as wide as its numbers and the words above
        drawing.add_column(Text(plain(title)), justify="right" if numeric else "left", overflow="fold", width=least)
    for row in zip(*written, strict=True):
        drawing.add_row(*map(Text, row))
    console = Console(file=io.StringIO(), width=_width(), color_system=None)
    with console.capture() as text:
        console.print(drawing)
    return "\n".join([plain(caption), *(line.rstrip() for line in text.get().rstrip().splitlines())])


def wrapped(text: str, indent: str = "") -> str:
    """Text in lines as wide as the terminal."""
    shown = plain(" ".join(text.split()))
    return textwrap.fill(shown, _width(), initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _width() -> int:
    return max(60, min(160, shutil.get_terminal_size((100, 24)).columns))


def pairs(rows: Sequence[tuple[str, str]]) -> None:
    """Print names with what they are, one below the other."""
    from rich.table import Table
    from rich.text import Text

    drawn = Table.grid(padding=(0, 2))
    drawn.add_column(style="bold", no_wrap=True)
    drawn.add_column()
    for name, what in rows:
        drawn.add_row(Text(plain(name)), Text(plain(what)))
    _console().print(drawn)


def confusion(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> None:
    """Print a confusion matrix: rows the truth, columns the prediction, the right ones standing out."""
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=SIMPLE, pad_edge=False, title="rows: the truth, columns: the prediction", title_justify="left")
    drawn.add_column("")
    for label in labels:
        drawn.add_column(Text(plain(label[:6])), justify="right")
    for i, (label, row) in enumerate(zip(labels, counts, strict=True)):
        drawn.add_row(Text(plain(label)), *(Text(str(n) if n else "·", style="bold green" if i == j else "") for j, n in enumerate(row)))
    _console().print(drawn)


def duration(seconds: float) -> str:
    """Seconds as a person says them.

    >>> duration(4.2), duration(75), duration(7320)
    ('4.2 s', '1 min 15 s', '2 h 2 min')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def size(count: float) -> str:
    """A count with the suffix that people read.

    >>> size(950), size(1_050_240), size(13_400_000_000)
    ('950', '1.05M', '13.4B')
    """
    for least, unit, suffix in ((1e9, 1e9, "B"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if count >= least:
            return f"{count / unit:.3g}{suffix}"
    return f"{count:,.0f}"


def memory(count: float) -> str:
    """Bytes as a person says them.

    >>> memory(950), memory(1_050_240), memory(80e9)
    ('950 B', '1.05 MB', '80 GB')
    """
    for unit, suffix in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:.3g} {suffix}" if count < 999.5 * unit else f"{count / unit:,.0f} {suffix}"
    return f"{count:.0f} B"


def _left(under_way: Bar) -> str:
    if under_way.done <= 0:
        return ""
    spent = time.monotonic() - under_way._begun
    return f", {duration(spent * (under_way.total - under_way.done) / under_way.done)} left"


def _console() -> "Console":
    """A console on the standard error of this moment, so that redirected streams are honoured; of processes the first speaks."""
    from rich.console import Console

    return Console(file=sys.stderr, quiet=os.environ.get("RANK", "0") != "0")
