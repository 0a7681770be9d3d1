"""A page, from the first heading to the file: each method adds one thing, in the order of the calls."""

import os
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fledge.evaluation.statistics import Interval
from fledge.report import charts
from fledge.report.charts import Line
from fledge.report.style import STYLE
from fledge.report.text import DASH, Cell, digits, escaped, number, plain

NARROW = 3  # columns that stand side by side on a phone too; of more, each row stands as a block of its own there
_DEEPEST = 45  # percent of colour behind a word: its text still has a contrast of 4.5
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


@dataclass(frozen=True)
class Sample:
    """What a model wrote at some time: `when` is a label ("step 200"), `note` stands small beside it."""

    when: str
    text: str
    prompt: str = ""
    note: str = ""


@dataclass(frozen=True)
class Example:
    """Texts that belong together, such as a copy and its original: `name` says whose they are, `note` stands small beside it."""

    name: str
    texts: tuple[str, ...]
    note: str = ""


@dataclass(frozen=True)
class Weighed:
    """A text in pieces, each with a weight: above 0 for, below 0 against. `name` says what it is, `note` stands small beside it."""

    name: str
    pieces: tuple[tuple[str, float], ...]
    note: str = ""


class Page:
    """A self-contained HTML page: no script, nothing fetched, every given string escaped.

    With `reload` a browser reads it anew after so many seconds.
    """

    def __init__(self, title: str, subtitle: str = "", reload: int | None = None):
        self.title, self.subtitle, self.reload = title, subtitle, reload
        self._parts: list[str] = []
        self._sections: list[str] = []

    def heading(self, text: str, level: int = 2) -> None:
        """A section (2) or a part of one (3). Raises `ValueError` for another level, or a part before any section."""
        if level not in (2, 3) or (level == 3 and not self._sections):
            raise ValueError(f"a heading of level {level} here: use 2, or 3 after a 2")
        if level == 2:
            self._sections.append(text)
            self._parts.append(f'<h2 id="s{len(self._sections)}">{escaped(text)}</h2>')
        else:
            self._parts.append(f"<h3>{escaped(text)}</h3>")

    def paragraph(self, text: str) -> None:
        self._parts.append(f"<p>{escaped(text)}</p>")

    def facts(self, pairs: Iterable[tuple[str, Cell]]) -> None:
        """Names with their values, as a grid of cards."""
        cards = (f"<div><dt>{escaped(name)}</dt><dd>{escaped(plain(value))}</dd></div>" for name, value in pairs)
        self._parts.append(f"<dl>{''.join(cards)}</dl>")

    def table(
        self,
        caption: str,
        columns: Sequence[str],
        rows: Sequence[Sequence[Cell]],
        best: tuple[str, Callable[[Iterable[float]], float]] | None = None,
    ) -> None:
        """Rows whose first cell names them; numbers stand right, an `Interval` shows its bounds.

        `best=("bits per byte", min)` marks the row that is lowest in that column. Raises `ValueError` for rows of another length.
        """
        for row in rows:
            if len(row) != len(columns):
                raise ValueError(f"a row of {len(row)} cells, but the table has {len(columns)} columns: {', '.join(columns)}")
        numeric = [
            any(_is_number(row[j]) for row in rows) and all(row[j] is None or _is_number(row[j]) for row in rows)
            for j in range(len(columns))
        ]
        many = len(columns) > NARROW
        places = [digits(row[j] for row in rows) for j in range(len(columns))]
        chosen = None if best is None else _best([row[columns.index(best[0])] for row in rows], best[1])
        head = "".join(f'<th scope="col"{_numeric(right)}>{escaped(name)}</th>' for name, right in zip(columns, numeric, strict=True))
        body = []
        for i, row in enumerate(rows):
            badge = '<span class="badge">best</span>' if i == chosen else ""
            cells = [f'<th scope="row"{_numeric(numeric[0])}>{_BORDER.sub("<wbr>", _cell(row[0], places[0]))}{badge}</th>']
            cells += [
                f"<td{_numeric(right)}{_named(name, many)}>{_cell(cell, place)}</td>"
                for cell, name, right, place in zip(row[1:], columns[1:], numeric[1:], places[1:], strict=True)
            ]
            opening = '<tr class="best">' if i == chosen else "<tr>"
            body.append(f"{opening}{''.join(cells)}</tr>")
        inside = f"<caption>{escaped(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody>"
        opening = '<table class="many">' if many else "<table>"
        self._parts.append(
            f'<figure><div class="wide" tabindex="0" role="group" aria-label="{escaped(caption)}">{opening}{inside}</table></div></figure>'
        )

    def lines(self, title: str, curves: Sequence[Line], x: str, y: str, log_x: bool = False) -> None:
        """Curves over common axes, named `x` and `y` with their units."""
        self._figure(title, charts.lines(curves, x, y, log_x))

    def bars(self, title: str, rows: Sequence[tuple[str, float]], unit: str, chosen: str | None = None) -> None:
        """Horizontal bars from zero; the row named `chosen` stands out, where one is."""
        self._figure(title, charts.bars(rows, unit, chosen))

    def intervals(self, title: str, rows: Sequence[tuple[str, Interval]], unit: str, chosen: str | None = None) -> None:
        """Values with their 95 % intervals on one axis; the row named `chosen` stands out."""
        self._figure(title, charts.intervals(rows, unit, chosen))

    def confusion(self, title: str, labels: Sequence[str], matrix: Sequence[Sequence[int]]) -> None:
        """Counts, `(truth, predicted)`, as a coloured square."""
        self._figure(title, charts.confusion(labels, matrix))

    def timeline(self, title: str, samples: Iterable[Sample]) -> None:
        """What a model wrote as it learnt, from the first to the last."""
        items = []
        for sample in samples:
            prompt = f'<span class="prompt">{escaped(sample.prompt)}</span>' if sample.prompt else ""
            label = f'<div class="label"><b>{escaped(sample.when)}</b>{escaped(sample.note)}</div>'
            items.append(f'<li>{label}<div class="sample">{prompt}{escaped(sample.text)}</div></li>')
        self._figure(title, f'<ol class="samples">{"".join(items)}</ol>')

    def examples(self, title: str, examples: Iterable[Example]) -> None:
        """Pieces of text, each under its name."""
        items = []
        for example in examples:
            label = f'<div class="label"><b>{escaped(example.name)}</b>{escaped(example.note)}</div>'
            texts = "".join(f'<div class="sample">{escaped(text)}</div>' for text in example.texts)
            items.append(f"<li>{label}{texts}</li>")
        self._figure(title, f'<ul class="examples">{"".join(items)}</ul>')

    def tokens(self, title: str, pieces: Sequence[tuple[str, bool]]) -> None:
        """Tokens one after another as text, those that are trained on coloured and underlined; spaces and line ends can be seen."""
        count = sum(trained for _, trained in pieces)
        counts = f'<li><span class="token trained">trained on</span> {count:,}</li>'
        counts += f'<li><span class="token">read only</span> {len(pieces) - count:,}</li>'
        kinds = ("read", "trained")
        strip = "".join(f'<span class="{kinds[trained]}">{_seen(piece)}</span>' for piece, trained in pieces)
        self._figure(title, f'<ul class="legend">{counts}</ul><div class="tokens">{strip}</div>')

    def words(self, title: str, texts: Iterable[Weighed], kinds: tuple[str, str] = ("spoke for it", "spoke against it")) -> None:
        """Texts whose pieces are as deep in colour as they weigh within their text; what weighs below 0 is dotted, too."""
        items = []
        for text in texts:
            most = max((abs(weight) for _, weight in text.pieces), default=0.0) or 1.0
            spans = []
            for piece, weight in text.pieces:
                depth = round(_DEEPEST * abs(weight) / most)
                side = ("for", "against")[weight < 0]
                spans.append(f'<span class="{side}" style="--depth:{depth}%">{escaped(piece)}</span>' if depth else escaped(piece))
            label = f'<div class="label"><b>{escaped(text.name)}</b>{escaped(text.note)}</div>'
            items.append(f'<li>{label}<div class="sample words">{"".join(spans)}</div></li>')
        sides = "".join(
            f'<li class="words"><span class="{side}" style="--depth:{_DEEPEST}%">{escaped(kind)}</span></li>'
            for side, kind in zip(("for", "against"), kinds, strict=True)
            if kind
        )
        self._figure(title, f'<ul class="legend">{sides}</ul><ul class="examples">{"".join(items)}</ul>')

    def attention(self, title: str, queries: Sequence[str], keys: Sequence[str], heads: Sequence[Sequence[Sequence[float]]]) -> None:
        """What one layer looks at, (heads, query, key): the mean of its heads with the words, and each head small below."""
        mean = [[sum(cells) / len(heads) for cells in zip(*rows, strict=True)] for rows in zip(*heads, strict=True)]
        small = charts.heads([f"head {number}" for number in range(1, len(heads) + 1)], heads)
        self._figure(title, charts.attention(queries, keys, mean) + small)

    def code(self, text: str) -> None:
        """Code or commands, as they are."""
        self._parts.append(f'<pre tabindex="0"><code>{escaped(text)}</code></pre>')

    def html(self) -> str:
        """The whole page; from three sections on with links to them."""
        links = "".join(f'<li><a href="#s{i}">{escaped(text)}</a></li>' for i, text in enumerate(self._sections, 1))
        contents = f'<nav aria-label="Contents"><ol>{links}</ol></nav>' if len(self._sections) > 2 else ""
        subtitle = f"<p>{escaped(self.subtitle)}</p>" if self.subtitle else ""
        body = "\n".join(self._parts)
        title = escaped(self.title)
        again = f'\n<meta http-equiv="refresh" content="{self.reload}">' if self.reload else ""
        until = f" It reads itself anew every {self.reload} seconds, until what it tells of is over." if self.reload else ""
        return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">{again}
<title>{title}</title>
<style>{STYLE}</style>
</head>
<body>
<header><h1>{title}</h1>{subtitle}</header>
<main>
{contents}
{body}
</main>
<footer>Written by fledge. This page is one file: it loads nothing and runs nothing.{until}</footer>
</body>
</html>
"""

    def write(self, path: Path | str) -> None:
        """Puts the page at `path` by one rename, so that a reader finds the old page or the new one, whole."""
        path = Path(path)
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            try:
                os.fchmod(file.fileno(), 0o644)
                file.write(self.html())
                file.flush()
                os.fsync(file.fileno())
                os.replace(file.name, path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise

    def _figure(self, title: str, inside: str) -> None:
        self._parts.append(f"<figure><figcaption>{escaped(title)}</figcaption>{inside}</figure>")


def _is_number(cell: Cell) -> bool:
    return isinstance(cell, (int, float, Interval)) and not isinstance(cell, bool)


def _best(cells: Sequence[Cell], choose: Callable[[Iterable[float]], float]) -> int | None:
    values = {
        i: cell.value if isinstance(cell, Interval) else float(cell)
        for i, cell in enumerate(cells)
        if isinstance(cell, (int, float, Interval))
    }
    return next((i for i, value in values.items() if value == choose(values.values())), None)


def _named(column: str, many: bool) -> str:
    """What a cell is called where it stands below its row's name instead of below its column's."""
    return f' data-name="{escaped(column)}"' if many else ""


def _numeric(right: bool) -> str:
    return ' class="number"' if right else ""


_BORDER = re.compile(r"(?<=[/._])(?=[^\W\d])")  # where a path or a setting's name may go on in another line


def _cell(cell: Cell, places: int) -> str:
    match cell:
        case Interval(value, low, high):
            return f"{number(value, places)}<small>{number(low, places)}{DASH}{number(high, places)}</small>"
        case float():
            return number(cell, places)
        case _:
            return escaped(plain(cell))


def _seen(piece: str) -> str:
    """A token's text with its outer spaces as dots and its line ends as arrows."""
    return escaped(piece).replace(" ", "<i>·</i>").replace("\t", "<i>→</i>\t").replace("\n", "<i>↵</i>\n")
