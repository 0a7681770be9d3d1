"""Conversations to learn from, in the layouts that such files have; checked before they are trained on."""

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

from fledge.data.corpus import content_hash, share
from fledge.data.files import mended
from fledge.data.tables import Row, Table, counted, table
from fledge.text.chat import ChatFormat, Message, Turns, check_order
from fledge.text.messages import as_turns
from fledge.text.templates import Template
from fledge.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Listed:
    """A column with a list of messages."""

    column: str


@dataclass(frozen=True)
class Asked:
    """A column that asks and one that answers; where they are there, one with `more` of the question and one of a `system`."""

    question: str
    answer: str
    more: str | None = None
    system: str = "system"


Layout = Listed | Asked
LAYOUTS: dict[str, Layout] = {  # a file is in the first whose columns it has
    "messages": Listed("messages"),  # OpenAI, 2023
    "ShareGPT": Listed("conversations"),
    "conversation": Listed("conversation"),
    "Alpaca": Asked("instruction", "output", more="input"),  # Taori et al., 2023
    "Dolly": Asked("instruction", "response", more="context"),  # Conover et al., 2023
    "OpenOrca": Asked("question", "response", system="system_prompt"),  # Lian et al., 2023
    "GSM8K (question and answer)": Asked("question", "answer"),  # Cobbe et al., 2021
    "prompt and completion": Asked("prompt", "completion"),
    "prompt and response": Asked("prompt", "response"),
    "prompt and answer": Asked("prompt", "answer"),
    "prompt and output": Asked("prompt", "output"),
    "input and output": Asked("input", "output"),
}


@dataclass(frozen=True)
class Conversation:
    """Messages in turn, and the number of their row in the file, from 1."""

    messages: tuple[Message, ...]
    row: int

    @property
    def prompt(self) -> str:
        """Everything before the first answer."""
        before = []
        for message in self.messages:
            if message.role == "assistant":
                break
            before.append(message.content)
        return "\n\n".join(before)

    @property
    def asked(self) -> tuple[Message, ...]:
        """Everything before the last answer."""
        return self.messages[: self._last_answer]

    @property
    def answer(self) -> str:
        """The last answer."""
        return self.messages[self._last_answer].content

    @property
    def _last_answer(self) -> int:
        return max(number for number, message in enumerate(self.messages) if message.role == "assistant")


@dataclass(frozen=True)
class Instructions:
    """Conversations from one file, the name of its layout and the columns they were found in; `others` would have fitted too."""

    conversations: tuple[Conversation, ...]
    layout: str
    columns: tuple[str, ...]
    others: tuple[str, ...] = ()
    replaced: int = 0

    def said(self) -> list[str]:
        """Sentences to print."""
        *before, last = (f"'{column}'" for column in self.columns)
        where = f"questions in {' and '.join(before)}, answers in {last}" if before else f"messages in {last}"
        said = [f"{counted(len(self.conversations), 'conversation')} in the layout of {self.layout}: {where}"]
        if self.others:
            said.append(f"the columns would fit {' and '.join(self.others)} too (--prompt-column and --answer-column name others)")
        if self.replaced:
            said.append(f"{self.replaced:,} characters that are no UTF-8 were replaced")
        return said


def read_instructions(path: str, prompt_column: str | None = None, answer_column: str | None = None) -> Instructions:
    """The conversations of a table in one of `LAYOUTS`, told apart by its columns, or in the two columns that are named.

    A question is what stands in its columns, a blank line between them; messages are read by `as_turns`.

    Raises `ValueError` naming file and row for rows that cannot be read or do not fit the layout of the file, and for messages out of
    order; and for a file in which nothing is both asked and answered.
    """
    named = [name for name in (prompt_column, answer_column) if name is not None]
    whole = table(path, {*named, *(name for layout in LAYOUTS.values() for name in needed(layout))})
    fitting = _chosen(whole, prompt_column, answer_column) if named else _fitting(path, whole.columns)
    (name, layout), others = fitting[0], tuple(name for name, _ in fitting[1:])
    found, replaced = [], 0
    for number, row in enumerate(whole.rows, 1):
        try:
            conversation = Conversation(_messages(row, layout), number)
            if is_whole(conversation):  # others are left out, and counted by `lint`
                check_order(list(conversation.messages))
        except ValueError as complaint:
            raise ValueError(f"{path}, {row_named(number, row)}: {complaint}") from None
        found.append(conversation)
        replaced += row.replaced
    if not any(map(is_whole, found)):
        raise ValueError(f"{path}: none of {counted(len(found), 'conversation')} has both a question and an answer, from row 1 on")
    present = (name for name in _columns(layout) if name in whole.columns)
    return Instructions(tuple(found), name, tuple(present), others, replaced)


def row_named(number: int, row: Row) -> str:
    """A row by its number, and by its line where that is another."""
    return f"row {number}" if row.line == number else f"row {number} (line {row.line})"


def needed(layout: Layout) -> tuple[str, ...]:
    """The columns without which a file is not in this layout."""
    return (layout.column,) if isinstance(layout, Listed) else (layout.question, layout.answer)


def _columns(layout: Layout) -> tuple[str, ...]:
    """All that a row may have, the answer last."""
    if isinstance(layout, Listed):
        return (layout.column,)
    return (layout.system, layout.question, *([layout.more] if layout.more else []), layout.answer)


def _chosen(whole: Table, prompt: str | None, answer: str | None) -> list[tuple[str, Layout]]:
    if prompt is None or answer is None:
        raise ValueError("--prompt-column and --answer-column belong together: name both")
    return [("your own", Asked(whole.column(prompt, "--prompt-column"), whole.column(answer, "--answer-column")))]


def _fitting(path: str, columns: Collection[str]) -> list[tuple[str, Layout]]:
    """The layouts whose columns are there, in their capitals; of those that share their answers or messages the first."""
    actual = {name.strip().lower(): name for name in reversed(list(columns))}
    found: dict[str, tuple[str, Layout]] = {}
    for name, layout in LAYOUTS.items():
        if all(column in actual for column in needed(layout)):
            written = {field: actual.get(column, column) for field, column in asdict(layout).items() if column is not None}
            found.setdefault(needed(layout)[-1], (name, type(layout)(**written)))
    if not found:
        known = "; ".join(f"{' and '.join(needed(layout))}" for layout in LAYOUTS.values())
        raise ValueError(
            f"{path} has columns {', '.join(columns) or 'none'}, but instructions need one of: {known}; "
            "or name two columns with --prompt-column and --answer-column"
        )
    return list(found.values())


def _messages(row: Row, layout: Layout) -> tuple[Message, ...]:
    if isinstance(layout, Listed):
        turns = row.values.get(layout.column)
        if isinstance(turns, str):  # of a CSV file
            with suppress(json.JSONDecodeError):
                turns = json.loads(turns)
        if not isinstance(turns, list):
            raise ValueError(f"{layout.column} is {turns!r}, but a list of messages is needed")
        return tuple(Message(message.role, mended(message.content)[0]) for message in as_turns(turns))
    system, *asked, answer = (_text(row.values.get(name), name) for name in _columns(layout))
    question = Message("user", "\n\n".join(part for part in asked if part.strip()))
    said = (question, Message("assistant", answer))
    return (Message("system", system), *said) if system.strip() else said


def _text(value: Any, name: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{name} is {value!r}, but a text is needed")
    return mended(value)[0]


@dataclass(frozen=True)
class Lint:
    """What stands in the way of learning: the numbers of rows by their fault, and how much is trained on."""

    rows: int
    unanswered: tuple[int, ...]
    empty: tuple[int, ...]
    truncated: tuple[int, ...]
    emptied: tuple[int, ...]
    overlong: tuple[int, ...]
    duplicated: tuple[int, ...]
    unended: tuple[int, ...]
    tokens: int
    trained: int

    @property
    def faults(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """What may be wrong with a row, and the numbers of those with which it is."""
        return (
            ("without an answer, left out", self.unanswered),
            ("with an empty question or turn, left out", self.empty),
            ("longer than a row of training, cut", self.truncated),
            ("cut before their first answer, left out", self.emptied),
            ("longer than the model's own context", self.overlong),
            ("equal to an earlier one", self.duplicated),
            ("whose last answer loses its end: the model would not learn to stop there", self.unended),
        )

    def said(self) -> list[str]:
        """Sentences to print."""
        said = [f"{counted(self.rows, 'conversation')}, {self.tokens:,} tokens, {self.trained:,} of them trained on"]
        return said + [f"{len(rows):,} {what} ({places(rows)})" for what, rows in self.faults if rows]


def places(rows: Sequence[int]) -> str:
    """`row 7`, `rows 7, 9, 12, 15, 20, ...`."""
    return f"{'row' if len(rows) == 1 else 'rows'} {', '.join(map(str, rows[:5]))}{', ...' if len(rows) > 5 else ''}"


def is_answered(conversation: Conversation) -> bool:
    """Whether the assistant says something in it."""
    return any(message.role == "assistant" and message.content.strip() for message in conversation.messages)


def is_whole(conversation: Conversation) -> bool:
    """Whether there is an answer and nothing said is empty; rows that are not are left out and counted by `lint`."""
    return is_answered(conversation) and all(message.content.strip() for message in conversation.messages)


def tokenized(
    conversations: Sequence[Conversation], form: ChatFormat | Template, tokenizer: Tokenizer, everything: bool = False
) -> list[Turns]:
    """The tokens of each conversation, none for those that are not whole; trained on are the answers, or `everything`.

    Raises `ValueError` naming the row where messages are out of order, or if the format cannot be used with the tokenizer.
    """
    form.usable_with(tokenizer)
    found = []
    for conversation in conversations:
        with of_row(conversation.row):
            whole = is_whole(conversation)
            found.append(form.encode(tokenizer, list(conversation.messages), everything=everything) if whole else Turns([], []))
    return found


@contextmanager
def of_row(number: int) -> Iterator[None]:
    """Inside, a `ValueError` names the row that it is about."""
    try:
        yield
    except ValueError as complaint:
        raise ValueError(f"row {number}: {complaint}") from None


def lint(conversations: Sequence[Conversation], turns: Sequence[Turns], context: int, ends: Collection[int], longest: int) -> Lint:
    """Looks through conversations and their tokens (`turns`, as `tokenized` gives them) before the first step.

    `context` is the length of a row of training and `longest` that of the model; `ends` are the tokens that end an answer (`stop_tokens`
    of the chat format).

    Raises `ValueError` when within `context` no end of an answer is trained on: the model would never stop.
    """
    found: dict[str, list[int]] = {
        name: [] for name in ("unanswered", "empty", "truncated", "emptied", "overlong", "duplicated", "unended")
    }
    seen, ended, endable, tokens, trained = set(), False, False, 0, 0
    for conversation, turn in zip(conversations, turns, strict=True):
        if not turn.tokens:
            found["empty" if is_answered(conversation) else "unanswered"].append(conversation.row)
            continue
        learnt = [token for token, on in zip(turn.tokens[: context + 1], turn.trained, strict=False) if on]
        closing = [place for place, (token, on) in enumerate(zip(turn.tokens, turn.trained, strict=True)) if on and token in ends]
        key = tuple((message.role, content_hash(message.content)) for message in conversation.messages)
        for fault, holds in (
            ("truncated", len(turn.tokens) > context + 1),
            ("emptied", not learnt),
            ("overlong", len(turn.tokens) > longest + 1),
            ("duplicated", key in seen),
            ("unended", max(closing, default=context + 1) > context),
        ):
            if holds:
                found[fault].append(conversation.row)
        seen.add(key)
        ended |= min(closing, default=context + 1) <= context
        endable |= bool(closing)
        tokens += min(len(turn.tokens), context + 1) if learnt else 0
        trained += len(learnt)
    if not ended:
        raise ValueError(
            f"in none of {len(turns)} conversations an end of turn is trained on within {context} tokens, so the model would never stop: "
            + (
                "use a larger context, or answers that are shorter"
                if endable
                else "this chat format ends no answer with a token of its own, choose another with --format"
            )
        )
    return Lint(len(turns), **{name: tuple(rows) for name, rows in found.items()}, tokens=tokens, trained=trained)


def split(conversations: Sequence[Conversation], validation: float = 0.1, seed: int = 0) -> tuple[list[Conversation], list[Conversation]]:
    """Train and validation, chosen by what is asked: conversations that ask the same are on one side.

    Raises `ValueError` when fewer than two different things are asked.
    """
    groups: dict[bytes, list[Conversation]] = {}
    for conversation in conversations:
        groups.setdefault(content_hash(conversation.prompt), []).append(conversation)
    if len(groups) < 2:
        raise ValueError(f"{len(conversations)} conversations ask {len(groups)} different things, but a split needs at least two")
    order = sorted(groups.values(), key=lambda group: share(group[0].prompt, seed))
    held = min(max(1, round(validation * len(order))), len(order) - 1)
    sides = {id(group): number < held for number, group in enumerate(order)}
    train = [conversation for group in groups.values() if not sides[id(group)] for conversation in group]
    held_out = [conversation for group in groups.values() if sides[id(group)] for conversation in group]
    return sorted(train, key=lambda c: c.row), sorted(held_out, key=lambda c: c.row)
