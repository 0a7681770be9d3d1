"""Tokens by name, as `logprobs` tells them: each with its text, its bytes, and its place in the text."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from fledge.generation.contracts import token_bytes
from fledge.generation.pieces import UNFINISHED, Pieces
from fledge.text import Tokenizer

LEAST = -9999.0  # OpenAI's logarithm of no probability at all, which JSON cannot tell


class Spelling:
    """The tokens of a growing text that goes on from the tokens `before` it."""

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int] = ()):
        self.tokenizer, self.before = tokenizer, list(before)[-1:]
        self.pieces, self.length = Pieces(tokenizer.decode, self.before), 0

    def add(self, token: int, logprob: float | None, alternatives: Sequence[tuple[int, float]]) -> dict[str, Any]:
        """What is told of the next token: its text and bytes, how probable it was, its place in the text, and what else was likely.

        A part of a character has the place where what is held back begins, for it is not certain yet what comes of it.
        """
        told, begun = self._named(token, logprob), self.length
        told["top"] = [self._named(*other) for other in alternatives]
        self.length += len(self.pieces.add(token))
        told["offset"] = max(begun, self.length - len(told["token"]))
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
    if (known := _bytes(tokenizer)) is None:
        text = tokenizer.decode([*before, token]).removeprefix(tokenizer.decode(before).rstrip(UNFINISHED))
        return text, text.encode("utf-8", "replace")
    raw = known[token]
    try:
        return raw.decode(), raw
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw), raw


@lru_cache(maxsize=32)
def _bytes(tokenizer: Tokenizer) -> list[bytes] | None:
    """What each token stands for, of a tokenizer that can write any bytes."""
    try:
        return token_bytes(tokenizer)
    except ValueError:
        return None
