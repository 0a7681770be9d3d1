"""What cleaning did, in documents and bytes, so that nothing is lost unseen: tallies of many processes add up."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Count:
    """Of one rule: `documents` it changed or rejected, `bytes` of them, `times` that it did so.

    For a change `bytes` is how much longer the texts became (mostly less than 0), for a rejection what they had before any change.
    """

    documents: int = 0
    bytes: int = 0
    times: int = 0

    def __add__(self, other: "Count") -> "Count":
        return Count(self.documents + other.documents, self.bytes + other.bytes, self.times + other.times)


@dataclass
class Changes:
    """The sum over documents: bytes of texts as UTF-8. `bytes + changed bytes == kept.bytes` + rejected bytes, exactly.

    Rules have the names of their settings, `quality.min_words`. What was changed is counted for kept documents only; by `languages` too.
    """

    came: Count = Count()
    kept: Count = Count()
    changed: dict[str, Count] = field(default_factory=dict)
    rejected: dict[str, Count] = field(default_factory=dict)
    languages: dict[str, Count] = field(default_factory=dict)

    def __add__(self, other: "Changes") -> "Changes":
        return Changes(
            self.came + other.came, self.kept + other.kept, _sum(self.changed, other.changed), _sum(self.rejected, other.rejected),
            _sum(self.languages, other.languages),
        )  # fmt: skip

    def said(self) -> list[str]:
        """Sentences to print: one for each rule that did anything, the largest first."""
        said = [
            f"{rule} changed {count.documents:,} documents ({count.times:,} times, {count.bytes:+,} bytes)"
            for rule, count in sorted(self.changed.items(), key=lambda item: (-abs(item[1].bytes), item[0]))
        ]
        return said + [
            f"{rule} rejected {count.documents:,} documents ({count.bytes:,} bytes)"
            for rule, count in sorted(self.rejected.items(), key=lambda item: (-item[1].documents, item[0]))
        ]


def _sum(one: Mapping[str, Count], other: Mapping[str, Count]) -> dict[str, Count]:
    return {name: one.get(name, Count()) + other.get(name, Count()) for name in sorted({*one, *other})}


def size(text: str) -> int:
    """The bytes of a text as UTF-8; half a surrogate pair counts three."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
