"""What the engine tells of an answer, in the forms that OpenAI's clients read."""

import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fledge.server.link import Job
from fledge.server.refusal import Refusal
from fledge.server.worker import Told

Mark = dict[str, Any]
Watch = Callable[[float, bool], None]  # is given the seconds since the question, or with True since the piece before


@dataclass
class Form:
    """How one route writes answers: its names, and what it makes of texts and marks."""

    kind: str  # of the object
    prefix: str  # of the id
    whole: Callable[[str], dict[str, Any]]
    piece: Callable[[str], dict[str, Any]]
    marked: Callable[[Sequence[Mark]], dict[str, Any]]
    chunk: str
    opening: dict[str, Any] | None = None  # the first piece of each streamed answer

    def frame(self, model: str, streamed: bool = False) -> dict[str, Any]:
        return {
            "id": f"{self.prefix}-{secrets.token_hex(12)}", "object": self.chunk if streamed else self.kind, "created": int(time.time()),
            "model": model,
        }  # fmt: skip


def _named(mark: Mark) -> dict[str, Any]:
    return {name: mark[name] for name in ("token", "logprob", "bytes")}


def chat_marks(marks: Sequence[Mark]) -> dict[str, Any]:
    return {"content": [{**_named(mark), "top_logprobs": [_named(other) for other in mark["top"]]} for mark in marks], "refusal": None}


def completion_marks(marks: Sequence[Mark]) -> dict[str, Any]:
    """Of two alternatives that are spelled alike, such as halves of characters that are shown alike, the likelier stands there."""
    tops: list[dict[str, float] | None] = []
    for mark in marks:
        likeliest = sorted([*mark["top"], mark], key=lambda other: other["logprob"] or 0.0)
        tops.append(None if mark["logprob"] is None else {other["token"]: other["logprob"] for other in likeliest})
    return {
        "tokens": [mark["token"] for mark in marks],
        "token_logprobs": [mark["logprob"] for mark in marks],
        "top_logprobs": tops,
        "text_offset": [mark["offset"] for mark in marks],
    }


CHAT = Form(
    "chat.completion",
    "chatcmpl",
    lambda text: {"message": {"role": "assistant", "content": text, "refusal": None}},
    lambda text: {"delta": {"content": text} if text else {}},
    chat_marks,
    "chat.completion.chunk",
    {"delta": {"role": "assistant", "content": ""}},
)
COMPLETION = Form("text_completion", "cmpl", lambda text: {"text": text}, lambda text: {"text": text}, completion_marks, "text_completion")


@dataclass
class Count:
    """Tokens read and written, of a request and of each of its answers."""

    read: int = 0
    written: int = 0

    def usage(self) -> dict[str, int]:
        return {"prompt_tokens": self.read, "completion_tokens": self.written, "total_tokens": self.read + self.written}


@dataclass
class Echo:
    """What stands before an answer when its prompt is repeated: the text, and the marks of its tokens."""

    texts: list[str] = field(default_factory=list)
    marks: list[list[Mark]] = field(default_factory=list)
    n: int = 1

    def before(self, choice: int) -> tuple[str, list[Mark]]:
        at = choice // self.n
        return (self.texts[at] if self.texts else "", self.marks[at] if self.marks else [])


@dataclass
class Answers:
    """The answers to one question, as the engine tells of them."""

    job: Job
    form: Form
    choices: int
    n: int
    marked: bool
    count: Count
    echo: Echo = field(default_factory=Echo)

    async def begun(self) -> None:
        """Waits until the question has been read. Raises `Refusal` when it is not answered."""
        told = await self.job.next()
        self.count.read = told["prompt_tokens"]
        self.echo = Echo(told.get("texts", []), told.get("marks", []), self.n)

    async def whole(self) -> dict[str, Any]:
        """The answers once all have ended."""
        found: dict[int, Told] = {}
        async for told in self.job:
            found[told["choice"]] = told
            self.count.written += told["tokens"]
        return {
            **self.form.frame(self.job.model),
            "choices": [self._choice(number, found[number]) for number in sorted(found)],
            "usage": self.count.usage(),
        }

    def _choice(self, number: int, told: Told) -> dict[str, Any]:
        before, marks = self.echo.before(number)
        marks = [*marks, *_moved(told.get("marks", []), len(before))]
        said = self.form.marked(marks) if self.marked else None
        return {"index": number, **self.form.whole(before + told["text"]), "logprobs": said, "finish_reason": told["reason"]}

    async def pieces(self, usage: bool, watch: Watch) -> AsyncIterator[bytes]:
        """Server-sent events, each of a piece that has become certain; after the last one `[DONE]`.

        https://platform.openai.com/docs/api-reference/chat/streaming
        """
        frame = self.form.frame(self.job.model, streamed=True) | ({"usage": None} if usage else {})

        def event(number: int, piece: dict[str, Any], marks: Sequence[Mark] = (), reason: str | None = None) -> bytes:
            said = self.form.marked(marks) if self.marked and marks else None
            return _event({**frame, "choices": [{"index": number, **piece, "logprobs": said, "finish_reason": reason}]})

        for number in range(self.choices):
            before, marks = self.echo.before(number)
            if self.form.opening is not None:
                yield event(number, self.form.opening)
            if before:
                yield event(number, self.form.piece(before), marks)
        began, shown = self.job.began, False
        try:
            async for told in self.job:
                self.count.written += told["tokens"]
                now = time.monotonic()
                watch(now - began, shown)
                began, shown = now, True
                number = told["choice"]
                marks = _moved(told.get("marks", []), len(self.echo.before(number)[0]))
                if told["text"] or marks:
                    yield event(number, self.form.piece(told["text"]), marks)
                if told["reason"]:
                    yield event(number, self.form.piece(""), reason=told["reason"])
        except Refusal as refusal:
            yield _event(refusal.to_json())
            return
        if usage:
            yield _event({**frame, "choices": [], "usage": self.count.usage()})
        yield b"data: [DONE]\n\n"


def _moved(marks: Sequence[Mark], by: int) -> list[Mark]:
    """The marks of an answer whose text begins so many characters later."""
    return [{**mark, "offset": mark["offset"] + by} for mark in marks]


def _event(told: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(told, ensure_ascii=False).encode("utf-8", "replace") + b"\n\n"
