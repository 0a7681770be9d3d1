"""The items of a test of one's own: a question with the answers that are accepted, and perhaps the choices among which one is right."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from fledge.data.files import mended
from fledge.data.instructions import LAYOUTS, Asked, Conversation, needed, read_instructions
from fledge.data.tables import Row, columns_of, rows, table
from fledge.text.chat import Message, check_order

QUESTIONS = ("question", "prompt", "ctx", "query", "context", "instruction", "input")
CHOICES = ("choices", "endings", "options")
ANSWERS = ("answers", "answer", "label", "answerKey", "gold", "target", "correct", "completion", "output")
PAIRS = tuple(needed(layout) for layout in LAYOUTS.values() if isinstance(layout, Asked) and layout.more is None)
INSTRUCTIONS = tuple(found for layout in LAYOUTS.values() if (found := needed(layout)) not in PAIRS)


@dataclass(frozen=True)
class Item:
    """What is asked at `line` of a file (of instructions the row), the accepted `answers` (at least one), and `choices`.

    Where there are choices, the first answer is one of them.
    `before` is the conversation that led to the question: perhaps a system's message, then questions with their answers.
    """

    question: str
    answers: tuple[str, ...]
    line: int
    choices: tuple[str, ...] = ()
    before: tuple[Message, ...] = ()

    @property
    def right(self) -> int:
        """The number of the choice that is right."""
        return self.choices.index(self.answers[0])


@dataclass(frozen=True)
class Items:
    """The items of one file, and the columns they were found in."""

    path: str
    items: tuple[Item, ...]
    layout: str

    @property
    def chosen(self) -> bool:
        """Whether answers are chosen, not written."""
        return bool(self.items[0].choices)


def asks(path: str) -> bool:
    """Whether a table has the columns of a test: looked for in its first rows."""
    sample = [row for _, row in zip(range(20), rows(path, (*QUESTIONS, *ANSWERS)), strict=False)]
    return layout(columns_of(sample)) is not None


def layout(names: Collection[str]) -> tuple[str, ...] | None:
    """The columns of a test among `names`: question, choices, answer · question, answers · or one of those of instructions."""
    question, choices, answer = (next((name for name in known if name in names), None) for known in (QUESTIONS, CHOICES, ANSWERS))
    if question and choices and answer:
        return question, choices, answer
    if question and "answers" in names:
        return question, "answers"
    return next((some for some in (*INSTRUCTIONS, *PAIRS) if set(some) <= set(names)), None)


def read_items(path: str) -> Items:
    """The items of a table in one of these layouts, told apart by its columns:

    a question (also `prompt`, `ctx`), `choices` (also `endings`, `options`; a list, or ARC's `text` and `label`), and the `answer` (also
    `label`, `answerKey`) as the number from 0, the letter or the text of a choice · a question and its `answers`, a list of those that are
    accepted (or SQuAD's, with `text`) · what instructions may be: `question` and `answer`, `instruction`, `input` and `output`, `messages`.

    Raises `ValueError` naming file and line for a row that is broken, does not fit the layout, asks or answers nothing, or whose
    messages are out of order; and the columns, where they are those of no test.
    """
    whole = table(path, (*QUESTIONS, *CHOICES, *ANSWERS))
    found = layout(whole.columns)
    if found is None:
        raise ValueError(
            f"{path} has columns {', '.join(whole.columns) or 'none'}, but a test needs a question and an answer, or answers, "
            "or choices and the answer among them; or instruction and output, or messages"
        )
    if found in INSTRUCTIONS:
        conversations = read_instructions(path).conversations
        items = tuple(_at(path, f"row {conversation.row}", _of_conversation, conversation) for conversation in conversations)
    else:
        items = tuple(_at(path, f"line {row.line}", _of_row, row, found) for row in whole.rows)
    return Items(path, items, " + ".join(found))


def _at(path: str, where: str, make: Any, *given: Any) -> Item:
    try:
        return make(*given)
    except ValueError as complaint:
        raise ValueError(f"{path}, {where}: {complaint}") from None


def _of_conversation(conversation: Conversation) -> Item:
    *before, last = conversation.messages or (Message("user", ""),)
    if last.role != "assistant":
        raise ValueError(f"the last message is the {last.role}'s, but a test needs the assistant's answer there")
    if not last.content.strip():
        raise ValueError("the answer is empty")
    check_order([*before, last])
    return Item(before[-1].content, (last.content,), conversation.row, before=tuple(before[:-1]))


def _of_row(row: Row, names: Sequence[str]) -> Item:
    question = row.values.get(names[0])
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f"{names[0]} is {question!r}, but a question is needed")
    question = mended(question)[0]
    if len(names) == 2:
        return Item(question, _accepted(row.values.get(names[1]), names[1]), row.line)
    choices, letters = _choices(row.values.get(names[1]), names[1])
    right = _chosen(row.values.get(names[2]), choices, letters, names[2])
    return Item(question, (choices[right],), row.line, choices)


def _listed(value: Any) -> Any:
    """A list that stands as text in a cell."""
    return json.loads(value) if isinstance(value, str) and value.startswith("[") and value.rstrip().endswith("]") else value


def _accepted(value: Any, name: str) -> tuple[str, ...]:
    given = value.get("text") if isinstance(value, dict) else _listed(value) if name == "answers" else value
    given = [str(one) if isinstance(one, int | float) else one for one in (given if isinstance(given, list) else [given])]
    if not given or not all(isinstance(one, str) and one.strip() for one in given):
        raise ValueError(f"{name} is {value!r}, but an answer is needed, or a list of them, none of them empty")
    return tuple(dict.fromkeys(mended(one)[0] for one in given))


def _choices(value: Any, name: str) -> tuple[tuple[str, ...], list[str]]:
    """The choices and what each is called."""
    letters = [str(letter) for letter in value.get("label") or ()] if isinstance(value, dict) else []
    given = value.get("text") if isinstance(value, dict) else _listed(value)
    if not isinstance(given, list) or len(given) < 2 or not all(isinstance(one, str) and one.strip() for one in given):
        raise ValueError(f"{name} is {value!r}, but a list of two texts or more is needed, none of them empty")
    choices = tuple(mended(one)[0] for one in given)
    if len(set(choices)) < len(choices):
        raise ValueError(f"{name} holds the same text twice: {next(one for one in choices if choices.count(one) > 1)!r}")
    return choices, letters if len(letters) == len(choices) else [chr(ord("A") + number) for number in range(len(choices))]


def _chosen(value: Any, choices: Sequence[str], letters: Sequence[str], name: str) -> int:
    if isinstance(value, str):
        for known in (choices, letters):
            if value in known:
                return known.index(value)
        value = int(value) if value.isdecimal() else value
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(choices):
        return value
    raise ValueError(
        f"{name} is {value!r}, but one of {len(choices)} choices is needed: its number from 0 to {len(choices) - 1}, "
        f"its letter ({', '.join(letters)}) or its text"
    )
