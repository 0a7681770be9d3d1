"""Tokens by name, as `logprobs` tells them: each with its text, its bytes, and its place in the text."""

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from fledge.generation.pieces import UNFINISHED, Pieces
from fledge.text import Tokenizer
from fledge.text.bulk import BYTES

LEAST = -9999.0  # OpenAI's logarithm of no probability at all, which JSON cannot tell
BYTE = re.compile(r"<0x([0-9A-F]{2})>")  # SentencePiece's tokens for bytes


class Spelling:
    """The tokens of a growing text that goes on from the tokens `before` it."""

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int] = ()):
        self.tokenizer, self.before = tokenizer, list(before)[-1:]
        self.pieces, self.length = Pieces(tokenizer.decode, self.before), 0

    def add(self, token: int, logprob: float | None, alternatives: Sequence[tuple[int, float]]) -> dict[str, Any]:
        """What is told of the next token: its text and bytes, how probable it was, where its character begins, and what else was likely."""
        told = {**self._named(token, logprob), "offset": self.length, "top": [self._named(*other) for other in alternatives]}
        self.length += len(self.pieces.add(token))
        self.before = [token]
        return told

    def _named(self, token: int, logprob: float | None) -> dict[str, Any]:
        text, raw = named(self.tokenizer, self.before, token)
        return {"id": token, "token": text, "bytes": list(raw), "logprob": None if logprob is None else max(logprob, LEAST)}


def named(tokenizer: Tokenizer, before: Sequence[int], token: int) -> tuple[str, bytes]:
    """A token's text behind the tokens `before` it, and its bytes; what is no whole character is written as OpenAI does, `bytes:\\xe2`."""
    name = tokenizer.backend.id_to_token(token)
    if name is None or name in tokenizer.controls:
        return name or "", (name or "").encode()
    raw = _raw(tokenizer, name)
    if raw is None:
        known = tokenizer.decode(before)
        text = tokenizer.decode([*before, token]).removeprefix(known.rstrip(UNFINISHED))
        return text, text.encode("utf-8", "replace")
    try:
        return raw.decode(), raw
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw), raw


def _raw(tokenizer: Tokenizer, name: str) -> bytes | None:
    """The bytes that a token's name stands for, where it stands for bytes."""
    if (found := BYTE.fullmatch(name)) is not None:
        return bytes([int(found[1], 16)])
    return bytes(BYTES[c] for c in name) if _of_bytes(tokenizer) and all(c in BYTES for c in name) else None


@lru_cache(maxsize=32)
def _of_bytes(tokenizer: Tokenizer) -> bool:
    """Whether each character of a token's name stands for a byte."""
    return '"ByteLevel"' in json.dumps(json.loads(tokenizer.backend.to_str())["decoder"])
