"""Preferences to learn from: the same question with a chosen and a rejected answer."""

import json
import re
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass

from fledge.data.files import mended
from fledge.data.instructions import LAYOUTS, Asked, Conversation, is_whole, of_row, row_named, split
from fledge.data.tables import Row, counted, table
from fledge.text.chat import ChatFormat, Message, Turns, check_order
from fledge.text.messages import as_turns
from fledge.text.templates import Template
from fledge.text.tokenizer import Tokenizer

SIDES = ("chosen", "rejected")
ASKED = tuple(layout for layout in LAYOUTS.values() if isinstance(layout, Asked))  # whose questions stand beside both answers
SPOKEN = re.compile(r"\n*(Human|Assistant): ?")  # Bai et al., 2022, arXiv:2204.05862: how their dialogues are written
ROLES = {"Human": "user", "Assistant": "assistant"}


@dataclass(frozen=True)
class Preferred:
    """Two conversations that differ in their last answer alone."""

    chosen: Conversation
    rejected: Conversation

    @property
    def row(self) -> int:
        return self.chosen.row


@dataclass(frozen=True)
class Preferences:
    """Preferences from one file, the columns of their questions, and how many rows were left out."""

    pairs: tuple[Preferred, ...]
    columns: tuple[str, ...]
    left_out: int

    def said(self) -> list[str]:
        """Sentences to print."""
        where = f"questions in {' and '.join(map(repr, self.columns))}" if self.columns else "questions with their answers"
        said = [f"{counted(len(self.pairs), 'pair')}: {where}, answers in 'chosen' and 'rejected'"]
        if self.left_out:
            rows = counted(self.left_out, "row")
            said.append(f"{rows} left out: a question or an answer is empty, or both answers are the same")
        return said


def read_preferences(path: str, prompt_column: str | None = None) -> Preferences:
    """The preferences of a table with `chosen` and `rejected`, each of them

    an answer to the question in one of the `LAYOUTS` of instructions, or in the column that is named · a list of messages, after those of
    the question if there are some · a whole dialogue of `Human:` and `Assistant:`. Rows with an empty question or answer, or with two
    equal ones, are left out.

    Raises `ValueError` naming file and row for rows that fit none of them, and for messages out of order.
    """
    whole = table(path, SIDES)
    if set(SIDES) - set(whole.columns):
        raise ValueError(f"{path} has columns {', '.join(whole.columns) or 'none'}, but preferences need chosen and rejected")
    given = [Asked(whole.column(prompt_column, "--prompt-column"), "")] if prompt_column is not None else ASKED
    layout = _fitting(whole.columns, given)
    found = []
    for number, row in enumerate(whole.rows, 1):
        try:
            pair = _preferred(number, row, layout)
            for side in (pair.chosen, pair.rejected):
                if is_whole(side):
                    check_order(list(side.messages))
        except ValueError as complaint:
            raise ValueError(f"{path}, {row_named(number, row)}: {complaint}") from None
        found.append(pair)
    kept = [pair for pair in found if is_whole(pair.chosen) and is_whole(pair.rejected) and pair.chosen.messages != pair.rejected.messages]
    if not kept:
        raise ValueError(f"{path} has no row with a question and two different answers")
    columns = () if layout is None else _present(whole.columns, layout)
    return Preferences(tuple(kept), columns, len(found) - len(kept))


def _present(columns: Collection[str], layout: Asked) -> tuple[str, ...]:
    """Of the columns that may ask those that are there."""
    return tuple(name for name in (layout.system, layout.question, layout.more) if name is not None and name in columns)


def _fitting(columns: Collection[str], layouts: Sequence[Asked]) -> Asked | None:
    """Of the layouts whose question is there the one of which the most is there; none where nothing asks."""
    fitting = [layout for layout in layouts if layout.question in columns]
    return max(fitting, key=lambda layout: len(_present(columns, layout)), default=None)


def _preferred(number: int, row: Row, layout: Asked | None) -> Preferred:
    before = () if layout is None else _asked(row, layout)
    one, other = (_said(row.values.get(name), name, before) for name in SIDES)
    if one[:-1] != other[:-1]:
        raise ValueError("chosen and rejected differ before the last answer, but they must answer the same")
    if any(not side or side[-1].role != "assistant" for side in (one, other)):
        raise ValueError("chosen and rejected end with another's words, but the assistant's are compared")
    return Preferred(Conversation(one, number), Conversation(other, number))


def _asked(row: Row, layout: Asked) -> tuple[Message, ...]:
    system, question, more = (row.values.get(name or "") for name in (layout.system, layout.question, layout.more))
    if (turns := _listed(question)) is not None:
        return turns
    texts = [mended(part)[0] for part in (question, more) if isinstance(part, str) and part.strip()]
    said = [Message("system", mended(system)[0])] if isinstance(system, str) and system.strip() else []
    return (*said, Message("user", "\n\n".join(texts))) if texts else ()


def _said(value: object, name: str, before: tuple[Message, ...]) -> tuple[Message, ...]:
    """All messages up to this answer, which may be given with what comes before it."""
    if (turns := _listed(value)) is not None:
        return turns if turns[: len(before)] == before else (*before, *turns)
    if not isinstance(value, str):
        raise ValueError(f"{name} is {value!r}, but a text or a list of messages is needed")
    value = mended(value)[0]
    if not before:
        _, *parts = SPOKEN.split(value)
        if not parts:
            raise ValueError(f"there is no question: give a column prompt, or {name} as a dialogue of Human: and Assistant:")
        return tuple(Message(ROLES[who], words.strip()) for who, words in zip(parts[::2], parts[1::2], strict=True))
    return (*before, Message("assistant", value))


def _listed(value: object) -> tuple[Message, ...] | None:
    """The messages of a list, which a CSV file holds as JSON; none of another value."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        with suppress(json.JSONDecodeError):
            value = json.loads(value)
    if not isinstance(value, list) or not value or not all(isinstance(turn, dict) for turn in value):
        return None
    return tuple(Message(message.role, mended(message.content)[0]) for message in as_turns(value))


def divided(pairs: Sequence[Preferred], validation: float = 0.1, seed: int = 0) -> tuple[list[Preferred], list[Preferred]]:
    """Train and validation, chosen by what is asked, as conversations are."""
    by_identity = {id(pair.chosen): pair for pair in pairs}
    training, held_out = split([pair.chosen for pair in pairs], validation, seed)
    return [by_identity[id(c)] for c in training], [by_identity[id(c)] for c in held_out]


def answers(pair: Preferred, form: ChatFormat | Template, tokenizer: Tokenizer) -> tuple[Turns, Turns]:
    """The tokens of both conversations, of which the last answers alone are trained on.

    Raises `ValueError` naming the row that the format cannot write.
    """
    with of_row(pair.row):
        return answered(pair.chosen, form, tokenizer), answered(pair.rejected, form, tokenizer)


def answered(conversation: Conversation, form: ChatFormat | Template, tokenizer: Tokenizer) -> Turns:
    """The tokens of a conversation, of which the last answer alone is trained on."""
    messages = list(conversation.messages)
    whole = form.encode(tokenizer, messages)
    before = len(form.encode(tokenizer, messages[:-1], answer=True).tokens)
    return Turns(whole.tokens, [on and place >= before for place, on in enumerate(whole.trained)])
