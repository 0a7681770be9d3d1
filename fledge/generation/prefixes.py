"""What prompts began with lately, so that equal beginnings are read once."""

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from torch import Tensor


class Sized(Protocol):
    @property
    def bytes(self) -> int: ...


Value = TypeVar("Value", bound=Sized)


@dataclass(frozen=True)
class Piece:
    """Some tokens of a prompt as they were read: keys and values of each layer, and the hidden state after the last, (1, width)."""

    parts: list[Tensor]
    last: Tensor

    @property
    def bytes(self) -> int:
        return sum(part.numel() * part.element_size() for part in (*self.parts, self.last))


class Prefixes(Generic[Value]):
    """What was read, by the `name` of all tokens up to its end; beyond `most` bytes what was not asked for longest is forgotten."""

    def __init__(self, most: int):
        self.most, self.bytes = most, 0
        self._known: OrderedDict[bytes, tuple[Value, int]] = OrderedDict()

    def get(self, name: bytes) -> Value | None:
        known = self._known.get(name)
        return None if known is None else known[0]

    def add(self, name: bytes, value: Value) -> None:
        size = value.bytes
        if name in self._known or size > self.most:
            return
        self._known[name] = value, size
        self.bytes += size
        while self.bytes > self.most:
            self.bytes -= self._known.popitem(last=False)[1][1]

    def touch(self, names: Iterable[bytes]) -> None:
        """These were asked for now, each after those before it."""
        for name in names:
            if name in self._known:
                self._known.move_to_end(name)


def name(before: bytes, tokens: Sequence[int]) -> bytes:
    """Of a text that goes on with tokens after a text of this name (BLAKE2b, RFC 7693, so that no two texts have the same)."""
    return hashlib.blake2b(before + array("q", tokens).tobytes(), digest_size=32).digest()
