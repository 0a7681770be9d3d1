"""Tokens as they come → text that can be shown: no half characters, no part of a stop string."""

from collections.abc import Callable, Sequence

UNFINISHED = "\ufffd"  # what decoding gives for bytes that are no character, or not yet


class Pieces:
    """Text of a growing list of tokens, given out as soon as it can no longer change.

    The pieces together are `decode(tokens)`, cut before the stop string that is complete first (the longest of those that end
    together). `context` is what was read just before: some tokenizers write a word differently at the start of a text.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], context: Sequence[int] = (), stops: Sequence[str] = ()):
        self.decode, self.stops = decode, stops
        self.stopped = False
        known = decode(context)
        self._tokens, self._known = ([], "") if known.endswith(UNFINISHED) else (list(context), known)
        self._settled = len(self._tokens)
        self._held = ""

    def add(self, token: int) -> str:
        """The text that has become certain with one more token, often none."""
        self._tokens.append(token)
        text = self.decode(self._tokens)
        if text.endswith(UNFINISHED):
            return ""
        new = text[len(self._known) :]
        self._tokens = self._tokens[self._settled :]
        self._known, self._settled = self.decode(self._tokens), len(self._tokens)
        return self._show(new)

    def finish(self) -> str:
        """What was held back, when no more tokens come."""
        if self.stopped:
            return ""
        shown = self._show(self.decode(self._tokens)[len(self._known) :])
        rest, self._held = self._held, ""
        return shown + rest

    def _show(self, text: str) -> str:
        text = self._held + text
        matches = [(at + len(stop), at) for stop in self.stops if (at := text.find(stop)) >= 0]
        if matches:
            self.stopped, self._held = True, ""
            return text[: min(matches)[1]]
        held = max((n for stop in self.stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]
