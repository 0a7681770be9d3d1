"""The engine's process: questions in, what was generated out, a line of JSON each; every engine goes on one step at a time."""

from __future__ import annotations

import json
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from fledge.generation import Engine, Request
    from fledge.generation.engine import Row
    from fledge.server.spelling import Spelling
    from fledge.text import Tokenizer

READERS = 2  # threads that make tokens of texts while the engines work
AT_ONCE = 8  # texts that are embedded or classified between two steps
Told = dict[str, Any]


class Served(Protocol):
    """What the server needs of a model; each method raises `ValueError` for what the model cannot do or read.

    `about` is what `/v1/models` tells of it; there is an `engine` where it writes.
    """

    about: dict[str, Any]
    tokenizer: Tokenizer

    @property
    def engine(self) -> Engine | None: ...
    def prompt(self, text: str) -> list[int]: ...
    def conversation(self, messages: Sequence[Mapping[str, Any]]) -> list[int]: ...
    def request(self, tokens: Sequence[int], settings: Mapping[str, Any]) -> Request: ...
    def scored(self, tokens: Sequence[int], top: int) -> tuple[list[float | None], list[list[tuple[int, float]]]]: ...
    def embedded(self, texts: Sequence[str]) -> tuple[list[list[float]], int]: ...
    def classified(self, texts: Sequence[Any]) -> tuple[list[dict[str, Any]], int]: ...
    def weighed(self, text: Any) -> list[dict[str, Any]]: ...


Opening = Callable[[], Mapping[str, Served]]


@dataclass
class Answer:
    """One answer under way, and how much of it was told."""

    row: Row
    spelling: Spelling | None
    text: int = 0
    tokens: int = 0

    def news(self) -> Told:
        """What has been added since it was asked last."""
        row, begun = self.row, self.tokens
        told: Told = {"text": row.text[self.text :], "tokens": len(row.tokens) - begun, "reason": row.reason}
        if self.spelling is not None:
            alternatives = row.alternatives[begun:] or [[]] * told["tokens"]
            marks = zip(row.tokens[begun:], row.logprobs[begun:], alternatives, strict=True)
            told["marks"] = [self.spelling.add(*mark) for mark in marks]
        self.text, self.tokens = len(row.text), len(row.tokens)
        return told


@dataclass
class Writing:
    """The answers that one question asked for; with `stream` each piece is told as soon as it is certain."""

    engine: Engine
    stream: bool
    answers: dict[int, Answer]

    def news(self) -> Iterator[Told]:
        for number, answer in list(self.answers.items()):
            row, ended = answer.row, answer.row.reason is not None
            fresh = len(row.text) > answer.text or (answer.spelling is not None and len(row.tokens) > answer.tokens)
            if ended or (self.stream and fresh):
                yield {"choice": number, **answer.news()}
            if ended:
                del self.answers[number]


def work(line: socket.socket, opening: Opening) -> None:
    """Open the models, say so, and answer until nobody asks any more."""
    for number in (signal.SIGINT, signal.SIGTERM):  # which a terminal or a system gives to all processes; the server says when to end
        signal.signal(number, signal.SIG_IGN)
    with line:
        try:
            models = opening()
        except (ValueError, OSError, ImportError) as reason:
            line.sendall(_line({"event": "unusable", "message": str(reason)}))
            return
        line.sendall(_line({"event": "ready", "models": {name: served.about for name, served in models.items()}}))
        Worker(line, models).run()


class Worker:
    """Reads questions in threads of their own, so that the engines never wait for a text or a template."""

    def __init__(self, line: socket.socket, models: Mapping[str, Served]):
        self.line, self.models = line, models
        self.engines = [served.engine for served in models.values() if served.engine is not None]
        self.inbox: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self.open: set[int] = set()  # questions that somebody waits for
        self.writing: dict[int, Writing] = {}
        self.parts: deque[tuple[int, Iterator[Told]]] = deque()  # of what is no generation, computed a part at a time
        self.news: list[Told] = []

    def run(self) -> None:
        threading.Thread(target=self._receive, daemon=True).start()
        while self._take():
            for engine in self.engines:
                self._step(engine)
            self._part()
            for job, writing in list(self.writing.items()):
                self.news += ({"job": job, **told} for told in writing.news())
                if not writing.answers:
                    del self.writing[job]
                    self._end(job)
            if self.news:
                self.line.sendall(b"".join(map(_line, self.news)))
                self.news.clear()

    def _receive(self) -> None:
        """Read questions as they come; none come any more when the server has ended."""
        with ThreadPoolExecutor(READERS) as readers, self.line.makefile("rb") as lines:
            for text in lines:
                asked = json.loads(text)
                if asked["do"] == "leave":
                    self.open.discard(asked["job"])
                    self.inbox.put(lambda job=asked["job"]: self._leave(job))
                else:
                    self.open.add(asked["job"])
                    readers.submit(self._prepare, asked)
        self.inbox.put(None)

    def _take(self) -> bool:
        """Do what came in since the last step, waiting for something where nothing is under way; whether to go on."""
        idle = not (self.writing or self.parts or self.news)
        while True:
            try:
                do = self.inbox.get(block=idle)
            except Empty:
                return True
            if do is None:
                return False
            do()
            idle = False

    def _prepare(self, asked: Told) -> None:
        """Make of a question what the engine takes, in a reader's thread."""
        job = asked["job"]
        try:
            begin = self._begin(asked) if job in self.open else None
        except Exception as reason:
            begin = self._complained(job, reason)
        if begin is not None:
            self.inbox.put(lambda: begin() if job in self.open else None)

    def _begin(self, asked: Told) -> Callable[[], None]:
        job, served = asked["job"], self.models[asked["model"]]
        match asked["do"]:
            case "write":
                return self._to_write(job, served, asked)
            case "embed":
                parts = self._embedded(served, asked["texts"])
            case "classify":
                parts = self._classified(served, asked["texts"], asked["explain"])
            case other:
                raise ValueError(f"nothing is known of {other!r}")
        return lambda: self.parts.append((job, parts))

    def _to_write(self, job: int, served: Served, asked: Told) -> Callable[[], None]:
        from fledge.server.spelling import Spelling
        from fledge.text.messages import with_tools

        if served.engine is None:
            other = "classify" if served.about["kind"] == "classifier" else "embeddings"
            raise ValueError(f"{asked['model']} writes no text: use /v1/{other}")
        if asked["messages"] is not None:
            tools = asked["tools"]
            prompts = [served.conversation(with_tools(asked["messages"], tools) if tools else asked["messages"])]
        else:
            prompts = [served.prompt(text) if isinstance(text, str) else known(text, served.tokenizer) for text in asked["prompts"]]
        requests, extra = [], dict[str, Any]()
        if asked["top"]:
            extra["top_logprobs"] = asked["top"]
        if asked["contract"]:
            from fledge.generation.contracts import Contract  # which needs llguidance

            [(kind, said)] = asked["contract"].items()
            extra["contract"] = contract = getattr(Contract, kind)(said)
            contract.matcher(served.tokenizer, served.engine.model.arch.vocabulary)  # made here, so that no step waits for it
        for prompt in prompts:
            for number in range(asked["n"]):
                seed = asked["settings"].get("seed")
                settings = asked["settings"] | ({} if seed is None else {"seed": (seed + number) % 2**64})
                requests.append(replace(served.request(prompt, settings), **extra))
        told: Told = {"job": job, "begun": True, "prompt_tokens": sum(map(len, prompts))}
        if asked["echo"]:
            told["texts"] = [served.tokenizer.decode(prompt) for prompt in prompts]
        if asked["echo"] and asked["marks"]:
            told["marks"] = []
            for prompt in prompts:
                spelling = Spelling(served.tokenizer)
                told["marks"].append([spelling.add(*mark) for mark in zip(prompt, *served.scored(prompt, asked["top"]), strict=True)])

        def begin() -> None:
            engine = served.engine
            assert engine is not None
            rows: list[Row] = []
            try:
                for request in requests if asked["write"] else ():
                    rows.append(engine.submit(request))
            except Exception as reason:
                for row in rows:
                    engine.cancel(row)
                self._complained(job, reason)()
                return
            unwritten = range(len(rows), len(requests))
            self.news += [told, *({"job": job, "choice": number, "text": "", "tokens": 0, "reason": "length"} for number in unwritten)]
            answers = {
                number: Answer(row, Spelling(served.tokenizer, row.prompt) if asked["marks"] else None) for number, row in enumerate(rows)
            }
            self.writing[job] = Writing(engine, asked["stream"], answers)

        return begin

    def _step(self, engine: Engine) -> None:
        """One step; when it fails, such as for scores that are not finite, all that were under way in this engine hear of it."""
        try:
            engine.step()
        except Exception as reason:
            for job, writing in list(self.writing.items()):
                if writing.engine is engine:
                    self._leave(job)
                    self._complained(job, reason, 500)()

    def _part(self) -> None:
        """Compute the next part of the question that has waited longest."""
        if not self.parts:
            return
        job, parts = self.parts.popleft()
        try:
            told = next(parts, None) if job in self.open else None
        except Exception as reason:
            self._complained(job, reason)()
            return
        if told is not None:
            self.news.append({"job": job, **told})
            self.parts.append((job, parts))
        else:
            self._end(job)

    def _embedded(self, served: Served, texts: Sequence[str]) -> Iterator[Told]:
        for start in range(0, len(texts), AT_ONCE):
            vectors, tokens = served.embedded(texts[start : start + AT_ONCE])
            yield {"vectors": vectors, "prompt_tokens": tokens}

    def _classified(self, served: Served, texts: Sequence[Any], explain: bool) -> Iterator[Told]:
        for start in range(0, len(texts), AT_ONCE):
            part = texts[start : start + AT_ONCE]
            said, tokens = served.classified(part)
            yield {"said": said, "prompt_tokens": tokens}
        for text in texts if explain else ():
            yield {"words": served.weighed(text)}

    def _complained(self, job: int, reason: Exception, status: int = 400) -> Callable[[], None]:
        """Tells why a question is not answered: of bad input the sentence; of a fault nothing that might hold a text."""
        message = str(reason)
        if not isinstance(reason, ValueError | RecursionError):
            print(f"fledge: {where(reason)}", file=sys.stderr)
            status, message = 500, "the question could not be answered, by a fault of the server: its log tells where"

        def refuse() -> None:
            self.news.append({"job": job, "status": status, "message": message})
            self.open.discard(job)

        return refuse

    def _end(self, job: int) -> None:
        if job in self.open:
            self.news.append({"job": job, "end": True})
            self.open.discard(job)

    def _leave(self, job: int) -> None:
        """Nobody waits for this any more: its slots are free at once."""
        if (writing := self.writing.pop(job, None)) is not None:
            for answer in writing.answers.values():
                writing.engine.cancel(answer.row)


def known(tokens: list[int], tokenizer: Tokenizer) -> list[int]:
    """Tokens that a client has made. Raises `ValueError` for one that is none."""
    if strange := [token for token in tokens if not 0 <= token < tokenizer.size]:
        raise ValueError(
            f"the prompt holds token {strange[0]}, but the vocabulary has 0 to {tokenizer.size - 1:,}: send text, or the model's own"
        )
    return tokens


def _line(told: Told) -> bytes:
    return json.dumps(told).encode() + b"\n"


def where(fault: Exception) -> str:
    """The kind of a fault and the place in the code where it arose, but not what it says, which may hold a text."""
    trace = fault.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = "" if trace is None else f" at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
    return type(fault).__name__ + place
