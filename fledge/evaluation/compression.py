"""What general compressors make of the same held-out text: bits per byte of gzip -9 and xz -9, each file by itself."""

import gzip
import lzma
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fledge.arch.record import to_json
from fledge.evaluation.statistics import Interval, ratio

COMPRESSORS = {
    "gzip -9": lambda data: gzip.compress(data, 9, mtime=0),
    "xz -9": lambda data: lzma.compress(data, preset=9),
}


@dataclass(frozen=True)
class CompressionScore:
    name: str
    bits_per_byte: Interval

    def to_json(self) -> dict:
        return to_json(self)


def compression_scores(texts: Sequence[str], seed: int = 0) -> tuple[CompressionScore, ...]:
    """Bits per UTF-8 byte of every compressor, headers included, with an interval by file."""
    files = [text.encode() for text in texts]
    sizes = np.array([len(file) for file in files])
    return tuple(
        CompressionScore(name, ratio(8 * np.array([len(compress(file)) for file in files]), sizes, seed=seed))
        for name, compress in COMPRESSORS.items()
    )
