"""What general compressors make of the same held-out text: bits per byte of gzip -9 and xz -9, each file by itself."""

import gzip
import lzma
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fledge.arch.record import to_json
from fledge.evaluation.statistics import Interval, ratio


def _gzip(data: bytes) -> int:
    return len(gzip.compress(data, 9, mtime=0))


def _xz(data: bytes) -> int:
    """A dictionary longer than the file changes no size, but to set up the 64 MiB of -9 takes eight times as long as all else."""
    dictionary = min(64 << 20, max(4096, len(data)))
    return len(lzma.compress(data, filters=[{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": dictionary}]))


COMPRESSORS = {"gzip -9": _gzip, "xz -9": _xz}


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
        CompressionScore(name, ratio(8 * np.array([compress(file) for file in files]), sizes, seed=seed))
        for name, compress in COMPRESSORS.items()
    )
