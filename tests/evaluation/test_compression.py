import gzip
import lzma

import pytest

from fledge.evaluation.compression import compression_scores


def test_every_file_by_itself_in_bits_per_utf8_byte():
    texts = ["the sky is blue. " * 40, "Überraschung " * 9, "x"]
    files = [text.encode() for text in texts]
    scores = {score.name: score.bits_per_byte.value for score in compression_scores(texts)}
    total = sum(map(len, files))
    assert scores["gzip -9"] == pytest.approx(8 * sum(len(gzip.compress(f, 9)) for f in files) / total)
    assert scores["xz -9"] == pytest.approx(8 * sum(len(lzma.compress(f, preset=9)) for f in files) / total)


def test_noise_cannot_be_compressed_and_repetition_can():
    import random

    noise = "".join(random.Random(0).choices([chr(c) for c in range(128)], k=20_000))
    (score, _) = compression_scores([noise])
    assert 7 < score.bits_per_byte.value < 7.3
    assert compression_scores(["a" * 20_000])[1].bits_per_byte.value < 0.1
