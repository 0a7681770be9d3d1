"""Chat formats that come as a Jinja template: rendered in a sandbox, contents taken apart from it, each piece tokenized apart."""

import hashlib
import json
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

from fledge.arch.record import did_you_mean
from fledge.text import rendering
from fledge.text.chat import FORMATS, ChatFormat, Message, Turns, check_order
from fledge.text.messages import RESPONSE, is_response, marked
from fledge.text.tokenizer import Tokenizer

OWN, ELSE = "the model's own chat template", "choose another with --format of fledge finetune"
NAMED = ("bos_token", "eos_token", "pad_token", "unk_token")  # control tokens that templates know by these names


class Renderer:
    """A Jinja template in a process that is started when it is needed; `fledge.text.rendering` says what it may cost."""

    def __init__(self, template: str):
        self._template, self._lock = template, threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def __call__(self, **variables: Any) -> str:
        """The text. Raises `ValueError` in the template's or Jinja's own words, and where it needs more than it may."""
        with self._lock:
            if self._process is None:
                self._start()
            return self._answer(variables)

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", rendering.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, encoding="utf-8", start_new_session=True,  # so that Ctrl-C, which stops an answer, does not end it
        )  # fmt: skip
        self._end = weakref.finalize(self, self._process.communicate)  # which closes its pipes and waits
        self._answer({"template": self._template})

    def _answer(self, given: dict[str, Any]) -> str:
        assert self._process is not None
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            stdin.write(json.dumps(given) + "\n")
            stdin.flush()
            line = stdout.readline()
        except BrokenPipeError:
            line = ""
        except BaseException:  # an answer that nobody waits for would be taken for the next one's
            self._close()
            raise
        answer = (
            json.loads(line) if line else {"error": f"it needs more than {rendering.SECONDS:g} second of the processor, or too much memory"}
        )
        if not line or ("template" in given and "error" in answer):
            self._close()
        if "error" in answer:
            raise ValueError(answer["error"])
        return answer["text"]

    def _close(self) -> None:
        self._end()
        self._process = None


class Template:
    """A chat format given by the `text` of a Jinja template, used as a `ChatFormat` is.

    It is rendered with a placeholder for each content and cut there, so that no token spans a content and a piece of the format, and
    contents spell no control token. It is rendered with the contents too, and one that alters them is refused. Trained on is what the
    model has to say itself: from where the template opens an answer to the first control token after its content. Contents lose the
    white space at their ends, as in every format.
    """

    name = OWN
    stop_strings = ()

    def __init__(self, text: str, tokens: tuple[tuple[str, str], ...]):
        """`tokens`: the names of control tokens in the template, such as `bos_token`, and their texts."""
        self.text, self._tokens, self._render = text, dict(tokens), Renderer(text)
        self._mark = hashlib.sha256(text.encode()).hexdigest()[:12]
        self._around = cache(self._pieces)

    def encode(self, tokenizer: Tokenizer, messages: list[Message], answer: bool = False, everything: bool = False) -> Turns:
        """As `ChatFormat.encode`. Raises `ValueError` with the reason for messages that the template refuses, leaves out or alters."""
        check_order(messages, answer)
        roles, contents = tuple(message.role for message in messages), [message.content.strip() for message in messages]
        pieces = self._around(roles, answer, tuple(map(is_response, contents)))
        self._compare(roles, contents, pieces, answer)
        turns = Turns([], [])

        def add(tokens: list[int], trained: bool = False) -> None:
            turns.tokens.extend(tokens)
            turns.trained.extend([trained or everything] * len(tokens))

        ending, opening = self._ending(tokenizer), self._around(("user",), True, (False,))[-1]
        for number, piece in enumerate(pieces):
            if number and roles[number - 1] == "assistant" and ending and piece.startswith(ending):
                add(_written(tokenizer, ending), trained=True)
                piece = piece.removeprefix(ending)
            answers = number < len(roles) and roles[number] == "assistant"
            said = piece.removeprefix(opening) if answers and piece.startswith(opening) else ""
            add(_written(tokenizer, piece.removesuffix(said)))
            add(_written(tokenizer, said), trained=True)
            if number < len(roles):
                add(tokenizer.encode(contents[number]), trained=answers)
        return turns

    def usable_with(self, tokenizer: Tokenizer) -> None:
        """Raises `ValueError` with the reason if not even a question and an answer can be written with it."""
        self.encode(tokenizer, [Message("user", "a"), Message("assistant", "b")])

    def stop_tokens(self, tokenizer: Tokenizer) -> list[int]:
        """The ids that end an answer: the first control token that stands after one, if any does, and the end of a text."""
        ends = [part for part in tokenizer.controlled(self._ending(tokenizer)) if isinstance(part, int)]
        return list(dict.fromkeys([*ends, tokenizer.end_of_text]))

    def template(self) -> str:
        """The text of the template."""
        return self.text

    def _ending(self, tokenizer: Tokenizer) -> str:
        """What the template writes after the content of an answer, up to the first control token; empty if there is none."""
        before = ""
        for part in tokenizer.controlled(self._around(("user", "assistant"), False, (False, False))[-1]):
            if isinstance(part, int):
                return before + tokenizer.piece(part)
            before += part
        return ""

    def _pieces(self, roles: tuple[str, ...], answer: bool, responses: tuple[bool, ...]) -> list[str]:
        """What the template writes before the content of each message, and after the last one.

        The place of what a tool has said (`responses`) is marked as that is, for Qwen 3's template looks for the last question.
        """
        marks = [f"{self._mark}x{number}x" for number in range(len(roles))]
        marks = [marked(RESPONSE, mark) if response else mark for mark, response in zip(marks, responses, strict=True)]
        rest, pieces = self._whole(roles, marks, answer), []
        for number, mark in enumerate(marks, 1):
            if rest.count(mark) != 1:
                does = "repeats" if mark in rest else "leaves out, moves or alters"
                raise ValueError(f"{OWN} {does} what message {number} ({roles[number - 1]}) says: {ELSE}")
            piece, _, rest = rest.partition(mark)
            pieces.append(piece)
        return [*pieces, rest]

    def _compare(self, roles: Sequence[str], contents: Sequence[str], pieces: Sequence[str], answer: bool) -> None:
        written, expected = self._whole(roles, contents, answer), ""
        for number, (piece, content) in enumerate(zip(pieces, [*contents, ""], strict=True), 1):
            expected += piece + content
            if not written.startswith(expected):
                altered = min(number, len(roles))
                raise ValueError(f"{OWN} alters what message {altered} ({roles[altered - 1]}) says: {ELSE}")

    def _whole(self, roles: Sequence[str], contents: Sequence[str], answer: bool) -> str:
        messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
        try:
            return self._render(messages=messages, add_generation_prompt=answer, tools=None, documents=None, **self._tokens)
        except ValueError as reason:
            raise ValueError(f"{OWN} cannot write this conversation ({reason}): {ELSE}") from None


def _written(tokenizer: Tokenizer, piece: str) -> list[int]:
    """The ids of a piece of the format, in which control tokens are spelled."""
    return [token for part in tokenizer.controlled(piece) for token in ([part] if isinstance(part, int) else tokenizer.encode(part))]


def chat_format(chat: str, tokenizer: Tokenizer) -> ChatFormat | Template:
    """The chat format of this name, or of this Jinja template.

    Raises `ValueError` with the nearest name for another text.
    """
    if chat in FORMATS:
        return FORMATS[chat]
    if not is_template(chat):
        raise ValueError(f"chat format {chat!r} is unknown{did_you_mean(chat, FORMATS)}")
    ours = next((form for form in FORMATS.values() if form.template() == chat), None)
    return ours or _template(chat, tuple(tokenizer.named(NAMED).items()))


def is_template(chat: str) -> bool:
    """Whether this is the text of a Jinja template, and no name."""
    return "{{" in chat or "{%" in chat


_template = lru_cache(maxsize=8)(Template)  # each has a process of its own
