"""Measuring for as long as there is time."""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Part = TypeVar("Part")


def in_time(parts: Iterable[Part], until: float) -> Iterator[Part]:
    """The first part, and others for as long as one more, which may take as long as the longest so far, is done before `until` on the
    clock of `time.monotonic`.

    In random order they are a sample of all.
    """
    longest, began = 0.0, time.monotonic()
    for number, part in enumerate(parts):
        if number and began + longest > until:
            return
        yield part
        longest, began = max(longest, time.monotonic() - began), time.monotonic()
