"""Chat formats as data: messages to tokens, and which of them are trained on."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby

from fledge.text.tokenizer import Tokenizer

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Message:
    """What one role says: `system` (first or never), `user`, `assistant`."""

    role: str
    content: str


@dataclass(frozen=True)
class Turns:
    """The tokens of a conversation and, for each, whether it is trained on."""

    tokens: list[int]
    trained: list[bool]


@dataclass(frozen=True)
class Control:
    """A control token by its text; `None` is whichever ends a text in the tokenizer at hand."""

    name: str | None


Piece = str | Control
END = Control(None)


@dataclass(frozen=True)
class Turn:
    """The pieces around a role's content; the assistant's `end` is trained on, so that it learns to stop."""

    before: tuple[Piece, ...]
    end: tuple[Piece, ...]
    after: tuple[Piece, ...] = ()


@dataclass(frozen=True)
class ChatFormat:
    """How a conversation is written: `start`, then each message between the pieces of its role.

    Every piece and every content is tokenized apart, so no token spans two of them and contents hold no control token.
    Contents lose the white space at their ends, as in Llama 3's own template: a line break of the format and one of the
    content would otherwise be one token where a rendered text is tokenized whole. `preamble` stands in for a missing
    system message.
    """

    name: str
    turns: dict[str, Turn] = field(hash=False)
    start: tuple[Piece, ...] = ()
    preamble: str | None = None
    stop_strings: tuple[str, ...] = ()

    def encode(self, tokenizer: Tokenizer, messages: list[Message], answer: bool = False, everything: bool = False) -> Turns:
        """The tokens of `messages`; trained on are the assistant's contents and the end of its turns, or `everything`.

        `answer` appends the opening of an assistant's turn, from which a model goes on. Raises `ValueError` with the number
        (from 1) of a message that is empty or out of order, or if the tokenizer lacks a control token.
        """
        turns = Turns([], [])
        for piece, trained in self._pieces(messages, answer):
            tokens = [self._control(tokenizer, piece)] if isinstance(piece, Control) else tokenizer.encode(piece)
            turns.tokens.extend(tokens)
            turns.trained.extend([trained or everything] * len(tokens))
        return turns

    def _pieces(self, messages: list[Message], answer: bool) -> Iterator[tuple[Piece, bool]]:
        check_order(messages, answer)
        if self.preamble is not None and messages[0].role != "system":
            messages = [Message("system", self.preamble), *messages]
        yield from ((piece, False) for piece in self.start)
        for message in messages:
            turn, trained = self.turns[message.role], message.role == "assistant"
            yield from ((piece, False) for piece in turn.before)
            yield from ((piece, trained) for piece in (message.content.strip(), *turn.end))
            yield from ((piece, False) for piece in turn.after)
        if answer:
            yield from ((piece, False) for piece in self.turns["assistant"].before)

    def _control(self, tokenizer: Tokenizer, control: Control) -> int:
        if control.name is None:
            return tokenizer.end_of_text
        number = tokenizer.special(control.name)
        if number is None:
            raise ValueError(
                f"the {self.name} format needs the control token {control.name}, which this tokenizer lacks: "
                "use the format alpaca or plain, which need none"
            )
        return number

    def _all_pieces(self) -> Iterator[Piece]:
        yield from self.start
        for turn in self.turns.values():
            yield from (*turn.before, *turn.end, *turn.after)
        if self.preamble is not None:
            yield self.preamble

    def usable_with(self, tokenizer: Tokenizer) -> None:
        """Raises `ValueError` if the tokenizer lacks a control token of this format or cannot write its words."""
        for piece in self._all_pieces():
            if isinstance(piece, Control):
                self._control(tokenizer, piece)
            elif tokenizer.decode(tokenizer.encode(piece)) != piece:
                raise ValueError(
                    f"the {self.name} format writes {piece!r}, but this tokenizer lacks some of its characters: use one of bytes, or bpe"
                )

    def stop_tokens(self, tokenizer: Tokenizer) -> list[int]:
        """The ids that end an answer: the end of the assistant's turn and the end of a text."""
        ends = [piece for piece in (*self.turns["assistant"].end, END) if isinstance(piece, Control)]
        return list(dict.fromkeys(self._control(tokenizer, piece) for piece in ends))

    def template(self) -> str:
        """The same format as a Jinja template, for `chat_template.jinja`.

        chatml and llama3: transformers tokenizes what it renders to the very ids of `encode`, with a byte-level BPE split by
        Llama 3's pattern and contents that spell no control token (there, only `encode` keeps them apart). alpaca and plain have
        no control token before each border: the rendered text is the same, its tokens at the borders may differ.
        """
        lines = ["{{- " + _jinja(self.start) + " }}"] if self.start else []
        if self.preamble is not None:
            system = self.turns["system"]
            unsaid = _jinja((*system.before, self.preamble, *system.end, *system.after))
            lines += ["{%- if messages[0]['role'] != 'system' %}{{- " + unsaid + " }}{%- endif %}"]
        lines += ["{%- for message in messages %}"]
        for branch, role in zip(("if", "elif", "elif"), ROLES, strict=True):
            turn = self.turns[role]
            parts = [_jinja(turn.before), "message['content'] | trim", _jinja((*turn.end, *turn.after))]
            lines += ["{%- " + branch + f" message['role'] == '{role}' " + "%}{{- " + " ~ ".join(filter(None, parts)) + " }}"]
        lines += [
            "{%- else %}{{- raise_exception('the role of a message is one of system, user, assistant') }}{%- endif %}",
            "{%- endfor %}",
        ]
        opening = _jinja(self.turns["assistant"].before)
        if opening:
            lines += ["{%- if add_generation_prompt %}{{- " + opening + " }}{%- endif %}"]
        return "\n".join(lines)


def check_order(messages: list[Message], answer: bool = False) -> None:
    """Raises `ValueError` unless `messages` are: perhaps a system's, then a user's and an assistant's in turn, none empty.

    With `answer`, the last must be a user's. The message at fault is named by its number, from 1.
    """
    if not messages:
        raise ValueError("a conversation without messages: it needs a user's message at least")
    expected = "user"
    for number, message in enumerate(messages, 1):
        if message.role not in ROLES:
            raise ValueError(f"message {number} has the role {message.role!r}, but a role is one of {', '.join(ROLES)}")
        if not message.content.strip():
            raise ValueError(f"message {number} ({message.role}) is empty")
        if message.role == "system":
            if number > 1:
                raise ValueError(f"message {number} is the system's, but only message 1 can be")
        elif message.role != expected:
            raise ValueError(
                f"message {number} is the {message.role}'s, but it is the {expected}'s turn: user and assistant take turns, the user begins"
            )
        else:
            expected = "assistant" if expected == "user" else "user"
    last = messages[-1].role
    if last == "system" or (answer and last == "assistant"):
        raise ValueError(f"message {len(messages)}, the last, is the {last}'s, but a user's must stand before an answer")


def _jinja(pieces: tuple[Piece, ...]) -> str:
    """The pieces as a Jinja expression; nothing for no pieces."""
    texts = [piece.name if isinstance(piece, Control) else piece for piece in pieces]
    runs = [(end, "".join(filter(None, run))) for end, run in groupby(texts, key=lambda text: text is None)]
    return " ~ ".join("eos_token" if end else json.dumps(text) for end, text in runs)


def _chatml(role: str) -> Turn:
    return Turn((Control("<|im_start|>"), f"{role}\n"), (Control("<|im_end|>"),), ("\n",))


def _llama3(role: str) -> Turn:
    return Turn((Control("<|start_header_id|>"), role, Control("<|end_header_id|>"), "\n\n"), (Control("<|eot_id|>"),))


FORMATS = {
    # OpenAI, 2023; Qwen's templates write turns alike.
    "chatml": ChatFormat("chatml", {role: _chatml(role) for role in ROLES}),
    # Meta, 2024: the template of Llama-3-8B-Instruct.
    "llama3": ChatFormat("llama3", {role: _llama3(role) for role in ROLES}, start=(Control("<|begin_of_text|>"),)),
    # Taori et al., 2023, github.com/tatsu-lab/stanford_alpaca: prompt_no_input; an input is part of the instruction.
    "alpaca": ChatFormat(
        "alpaca",
        {
            "system": Turn((), ()),
            "user": Turn(("\n\n### Instruction:\n",), ()),
            "assistant": Turn(("\n\n### Response:\n",), (END,)),
        },
        preamble="Below is an instruction that describes a task. Write a response that appropriately completes the request.",
        stop_strings=("\n\n### Instruction:",),
    ),
    # Each message on a line of its own.
    "plain": ChatFormat("plain", {"system": Turn((), ("\n",)), "user": Turn((), ("\n",)), "assistant": Turn((), (END,))}),
}  # fmt: skip
