"""Paragraphs that stood before, anywhere in the corpus: found by their hashes while reading, taken out while tokenizing."""

import re

import numpy as np

from fledge.data.corpus import content_hash
from fledge.data.unique.exact import digests

LEAST = 100  # characters of a paragraph that is worth comparing
BLANK = re.compile(r"(\n[^\S\n]*(?:\n[^\S\n]*)+)")
LINE = re.compile(r"(\n)")


def paragraph_digests(text: str, least: int = LEAST) -> np.ndarray:
    """(paragraphs, 2) uint64: hashes of the paragraphs of `least` characters or more, for `exact_duplicates`.

    Paragraphs are what blank lines part; in a text without blank lines, its lines.
    """
    return digests(content_hash(part) for part in _parts(text)[::2] if len(part) >= least)


def without(text: str, repeated: np.ndarray, least: int = LEAST) -> str:
    """`text` without those of its paragraphs of `least` characters or more for which `repeated` (paragraphs,) bool is True.

    >>> without("one\\n\\ntwo\\n\\nthree", np.array([False, True, False]), least=1)
    'one\\n\\nthree'
    """
    if not repeated.any():
        return text
    parts = _parts(text)
    compared = [len(paragraph) >= least for paragraph in parts[::2]]
    if sum(compared) != len(repeated):
        raise ValueError(f"the text has {sum(compared)} paragraphs of {least} characters or more, but {len(repeated)} were compared")
    dropped = np.zeros(len(compared), bool)
    dropped[compared] = repeated
    return "".join(part for number, part in enumerate(parts) if not dropped[number // 2])


def _parts(text: str) -> list[str]:
    """Paragraphs, and between each two the border."""
    parts = BLANK.split(text)
    return parts if len(parts) > 1 else LINE.split(text)
