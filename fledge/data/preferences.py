"""Preferences to learn from: the same question with a chosen and a rejected answer."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from fledge.data.instructions import Conversation, is_whole, split
from fledge.data.tables import Row, table
from fledge.text.chat import ChatFormat, Message, Turns
from fledge.text.tokenizer import Tokenizer

ASKED = (("instruction", "input"), ("instruction",), ("prompt",), ("question",))
SPOKEN = re.compile(r"\n*(Human|Assistant): ?")  # Bai et al., 2022, arXiv:2204.05862: how their dialogues are written
ROLES = {"Human": "user", "Assistant": "assistant"}


@dataclass(frozen=True)
class Preferred:
    """Two conversations that differ in their last answer alone."""

    chosen: Conversation
    rejected: Conversation

    @property
    def line(self) -> int:
        return self.chosen.line


@dataclass(frozen=True)
class Preferences:
    """Preferences from one file, and the columns that they were found in."""

    pairs: tuple[Preferred, ...]
    layout: str
    left_out: int


def read_preferences(path: str) -> Preferences:
    """The preferences of a table with `chosen` and `rejected` in one of these layouts:

    answers to `prompt`, `question` or `instruction` (and `input`) · lists of messages, after those of `prompt` if there are some ·
    whole dialogues of `Human:` and `Assistant:`. Rows with an empty question or answer, or with two equal ones, are left out.

    Raises `ValueError` naming file and line for rows that fit none of them.
    """
    whole = table(path)
    lacking = [name for name in ("chosen", "rejected") if name not in whole.columns]
    if lacking:
        raise ValueError(f"{path} has columns {', '.join(whole.columns) or 'none'}, but preferences need chosen and rejected")
    asked = next((names for names in ASKED if set(names) <= set(whole.columns)), ())
    found = []
    for row in whole.rows:
        try:
            found.append(_preferred(row, asked))
        except ValueError as complaint:
            raise ValueError(f"{path}, line {row.line}: {complaint}") from None
    kept = [pair for pair in found if is_whole(pair.chosen) and is_whole(pair.rejected) and pair.chosen.messages != pair.rejected.messages]
    if not kept:
        raise ValueError(f"{path} has no row with a question and two different answers")
    return Preferences(tuple(kept), " + ".join((*asked, "chosen", "rejected")), len(found) - len(kept))


def _preferred(row: Row, asked: Sequence[str]) -> Preferred:
    before = _asked(row, asked)
    one, other = (_said(row.values.get(name), name, before) for name in ("chosen", "rejected"))
    if one[:-1] != other[:-1]:
        raise ValueError("chosen and rejected differ before the last answer, but they must answer the same")
    if one[-1].role != "assistant" or other[-1].role != "assistant":
        raise ValueError("chosen and rejected end with another's words, but the assistant's are compared")
    return Preferred(Conversation(one, row.line), Conversation(other, row.line))


def _asked(row: Row, names: Sequence[str]) -> tuple[Message, ...]:
    parts = [row.values.get(name) for name in names]
    if len(parts) == 1 and isinstance(parts[0], list):
        return _messages(parts[0])
    texts = [part for part in parts if isinstance(part, str) and part.strip()]
    return (Message("user", "\n\n".join(texts)),) if texts else ()


def _said(value: object, name: str, before: tuple[Message, ...]) -> tuple[Message, ...]:
    """All messages up to this answer, which may be given with what comes before it."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = json.loads(value)
    if isinstance(value, list):
        messages = _messages(value)
        return messages if messages[: len(before)] == before else (*before, *messages)
    if not isinstance(value, str):
        raise ValueError(f"{name} is {value!r}, but a text or a list of messages is needed")
    if not before:
        _, *parts = SPOKEN.split(value)
        if not parts:
            raise ValueError(f"there is no question: give a column prompt, or {name} as a dialogue of Human: and Assistant:")
        return tuple(Message(ROLES[who], words.strip()) for who, words in zip(parts[::2], parts[1::2], strict=True))
    return (*before, Message("assistant", value))


def _messages(turns: list) -> tuple[Message, ...]:
    for turn in turns:
        if not isinstance(turn, dict) or not {"role", "content"} <= turn.keys():
            raise ValueError(f"a message is {turn!r}, but role and content are needed")
    return tuple(Message(turn["role"], turn["content"]) for turn in turns)


def divided(pairs: Sequence[Preferred], validation: float = 0.1, seed: int = 0) -> tuple[list[Preferred], list[Preferred]]:
    """Train and validation, chosen by what is asked, as conversations are."""
    by_identity = {id(pair.chosen): pair for pair in pairs}
    training, held_out = split([pair.chosen for pair in pairs], validation, seed)
    return [by_identity[id(c)] for c in training], [by_identity[id(c)] for c in held_out]


def answers(pair: Preferred, form: ChatFormat, tokenizer: Tokenizer) -> tuple[Turns, Turns]:
    """The tokens of both conversations, of which the last answers alone are trained on.

    Raises `ValueError` naming the line where messages are out of order.
    """
    try:
        return answered(pair.chosen, form, tokenizer), answered(pair.rejected, form, tokenizer)
    except ValueError as complaint:
        raise ValueError(f"line {pair.line}: {complaint}") from None


def answered(conversation: Conversation, form: ChatFormat, tokenizer: Tokenizer) -> Turns:
    """The tokens of a conversation, of which the last answer alone is trained on."""
    messages = list(conversation.messages)
    whole = form.encode(tokenizer, messages)
    before = len(form.encode(tokenizer, messages[:-1], answer=True).tokens)
    return Turns(whole.tokens, [on and place >= before for place, on in enumerate(whole.trained)])
