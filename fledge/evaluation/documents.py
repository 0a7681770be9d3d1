"""What is scored, by every method alike: each document's tokens and the `<|endoftext|>` that closes it, and the bytes of its text."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from fledge.data.corpus import Shards


def closed_documents(shards: "Shards", end_of_text: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Every document `(length,)` with its closing `end_of_text`, and the UTF-8 bytes of each text without it, `(documents,)`."""
    read = [shards.document(number) for number in range(shards.documents)]
    return [np.append(tokens, end_of_text) for tokens, _ in read], np.array([size for _, size in read])
