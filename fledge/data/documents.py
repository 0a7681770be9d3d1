"""What reading gives: documents, and what gave none with the reason, file and line."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fledge.data.tables import counted


@dataclass(frozen=True)
class Document:
    """One text: a file, a part of one that begins at `line`, or the `column` of one row at `line` of a table.

    `replaced` counts its invalid characters; `group` is the name that a person gave its source, as in `general=wiki/`;
    `language` is set where it was identified.
    """

    text: str
    source: str
    line: int | None = None
    column: str | None = None
    replaced: int = 0
    group: str = ""
    language: str = ""


@dataclass(frozen=True)
class Rejected:
    """A file, or a row or part of one, that gives no document: `reason` is a kind to count, `detail` what is wrong with this one.

    `bytes` are its own as stored; 0 where nobody knows, as after the place where a file breaks off.
    """

    reason: str
    source: str
    line: int | None = None
    detail: str = ""
    bytes: int = 0

    def __str__(self) -> str:
        place = self.source if self.line is None else f"{self.source}, line {self.line}"
        return f"{place}: {self.reason}" + (f" ({self.detail})" if self.detail else "")


Item = Document | Rejected
EXAMPLES = 100  # of what was rejected that are kept
SHOWN = 3  # of them that are said


def noted(items: Sequence[Item]) -> tuple[dict[str, str], dict[str, int], tuple[str, ...], int]:
    """The column of each table, how many items were rejected for which reason, some of them, and the invalid characters replaced."""
    kept = [item for item in items if isinstance(item, Document)]
    rejected = [item for item in items if isinstance(item, Rejected)]
    columns = {item.source: item.column for item in kept if item.column is not None}
    reasons = dict(Counter(item.reason for item in rejected))
    return columns, reasons, tuple(str(item) for item in rejected[:EXAMPLES]), sum(item.replaced for item in kept)


def remarks(columns: Mapping[str, str], rejected: Mapping[str, int], examples: Sequence[str], replaced: int) -> list[str]:
    """What `noted` found, as sentences to print."""
    said = [f"the text of {path} is its column {column!r} (another: --text-column)" for path, column in columns.items()]
    if rejected:
        said.append("rejected: " + ", ".join(f"{count:,} {reason}" for reason, count in rejected.items()))
        said += [f"  {example}" for example in examples[:SHOWN]] + ["  ..."] * (sum(rejected.values()) > SHOWN)
    if replaced:
        said.append(f"{counted(replaced, 'invalid UTF-8 sequence')} replaced")
    return said
