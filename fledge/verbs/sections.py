"""The same numbers in three shapes: on a page, in a terminal, as Markdown."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fledge.report.page import Example
from fledge.verbs import terminal

if TYPE_CHECKING:
    from fledge.report import Page
    from fledge.report.text import Cell

FEW, BRIEF = 3, 140  # examples of a kind in a terminal, and characters of each of their texts


@dataclass(frozen=True)
class Table:
    """Rows whose first cell names them."""

    caption: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[Cell, ...]]


@dataclass(frozen=True)
class Examples:
    """Some of the texts of a kind."""

    caption: str
    shown: Sequence[Example]


@dataclass(frozen=True)
class Facts:
    """Names with their values."""

    pairs: tuple[tuple[str, Cell], ...]


Drawn = Callable[["Page"], None]
"""A chart, which stands on a page only: its numbers are those of a table beside it."""
Content = str | Facts | Table | Examples | Drawn


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    parts: tuple[Content, ...]


def draw(page: Page, sections: Sequence[Section]) -> None:
    """Put sections on a page."""
    for section in sections:
        page.heading(section.title)
        for part in section.parts:
            match part:
                case str():
                    page.paragraph(part)
                case Facts(pairs):
                    page.facts(pairs)
                case Table(caption, columns, rows):
                    page.table(caption, columns, rows)
                case Examples(caption, shown):
                    page.examples(caption, shown)
                case _:
                    part(page)


def lines_of(sections: Sequence[Section]) -> str:
    """Sections for a terminal: without charts, of examples the first few."""
    lines: list[str] = []
    for section in sections:
        lines += [section.title.upper(), ""]
        for part in section.parts:
            match part:
                case str():
                    lines += [terminal.wrapped(part), ""]
                case Table(caption, columns, rows):
                    lines += [terminal.drawn(caption, columns, rows), ""]
                case Examples(caption, shown):
                    lines.append(f"{caption}\n")
                    for example in shown[:FEW]:
                        lines.append(terminal.wrapped(f"{example.name}: {example.note}" if example.note else example.name, "  "))
                        lines += [terminal.wrapped(brief(text), "    ") for text in example.texts]
                    lines.append("")
    return "\n".join(lines).rstrip()


def brief(text: str) -> str:
    """The beginning of a text that is long."""
    return text if len(text) <= BRIEF else f"{text[: BRIEF - 1]}…"


def markdown(sections: Sequence[Section]) -> str:
    """Sections as Markdown, in which no text from a file is markup."""
    lines: list[str] = []
    for section in sections:
        lines += [f"## {section.title}", ""]
        for part in section.parts:
            match part:
                case str():
                    lines += [marked(part), ""]
                case Table(caption, columns, rows):
                    from fledge.report.text import plain

                    numbers = [all(not isinstance(row[i], str) for row in rows) for i in range(len(columns))]
                    lines += [
                        f"**{marked(caption)}**", "", f"| {' | '.join(map(marked, columns))} |",
                        f"|{'|'.join('---:' if number else '---' for number in numbers)}|",
                        *(f"| {' | '.join(marked(plain(cell)) for cell in row)} |" for row in rows), "",
                    ]  # fmt: skip
    return "\n".join(lines)


def marked(text: str) -> str:
    """Text in which nothing is read as HTML or Markdown."""
    escaped = html.escape(terminal.plain(" ".join(text.split())), quote=False)
    return "".join(f"\\{character}" if character in "\\`*_[]|#!~" else character for character in escaped)
