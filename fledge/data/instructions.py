"""Conversations to learn from: Alpaca rows, `messages` rows, prompts with completions; checked before they are trained on."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from fledge.data.corpus import content_hash, share
from fledge.data.files import mended
from fledge.data.tables import Row, counted, table
from fledge.text.chat import ChatFormat, Message, Turns
from fledge.text.tokenizer import Tokenizer

PAIRS = (("prompt", "completion"), ("prompt", "response"), ("question", "answer"), ("instruction", "response"))
LISTS = ("messages", "conversations")
ROLES = {
    "human": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "user": "user",
    "assistant": "assistant",
    "system": "system",
}


@dataclass(frozen=True)
class Conversation:
    """Messages in turn, and the line of the file they stood at."""

    messages: tuple[Message, ...]
    line: int

    @property
    def prompt(self) -> str:
        """Everything before the first answer."""
        before = []
        for message in self.messages:
            if message.role == "assistant":
                break
            before.append(message.content)
        return "\n\n".join(before)


@dataclass(frozen=True)
class Instructions:
    """Conversations from one file, and the columns they were found in."""

    conversations: tuple[Conversation, ...]
    layout: str
    replaced: int = 0


def read_instructions(path: str) -> Instructions:
    """The conversations of a table in one of these layouts, told apart by its columns:

    `instruction`, `input` (may be absent or empty), `output`, as Alpaca has them · `messages`, a list of `role` and `content`
    (or ShareGPT's `conversations` of `from` and `value`) · a prompt and its answer: `prompt` and `completion`, `question` and `answer`.
    Empty system messages are dropped.

    Raises `ValueError` naming file and line for rows that cannot be read or do not fit the layout of the file.
    """
    whole = table(path)
    layout = _layout(path, whole.columns)
    found, replaced = [], 0
    for row in whole.rows:
        try:
            found.append(Conversation(_messages(row, layout), row.line))
        except ValueError as complaint:
            raise ValueError(f"{path}, line {row.line}: {complaint}") from None
        replaced += row.replaced
    return Instructions(tuple(found), " + ".join(layout), replaced)


def _layout(path: str, names: Collection[str]) -> tuple[str, ...]:
    for name in LISTS:
        if name in names:
            return (name,)
    if "instruction" in names and "output" in names:
        return ("instruction", "input", "output") if "input" in names else ("instruction", "output")
    for pair in PAIRS:
        if set(pair) <= set(names):
            return pair
    known = "instruction and output (and input), messages, " + ", ".join(" and ".join(pair) for pair in PAIRS)
    raise ValueError(f"{path} has columns {', '.join(names) or 'none'}, but instructions need {known}")


def _messages(row: Row, layout: tuple[str, ...]) -> tuple[Message, ...]:
    if len(layout) == 1:
        turns = row.values.get(layout[0])
        turns = json.loads(turns) if isinstance(turns, str) and turns.startswith("[") else turns
        if not isinstance(turns, list):
            raise ValueError(f"{layout[0]} is {turns!r}, but a list of messages is needed")
        messages = [_message(turn) for turn in turns]
        return tuple(message for message in messages if message.role != "system" or message.content.strip())
    parts = [_text(row.values.get(name), name) for name in layout]
    return Message("user", "\n\n".join(part for part in parts[:-1] if part.strip())), Message("assistant", parts[-1])


def _message(turn: Any) -> Message:
    if not isinstance(turn, dict):
        raise ValueError(f"a message is {turn!r}, but role and content are needed")
    role = turn.get("role", turn.get("from"))
    if role not in ROLES:
        raise ValueError(f"role {role!r} is unknown: use system, user or assistant")
    return Message(ROLES[role], _text(turn.get("content", turn.get("value")), "content"))


def _text(value: Any, name: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{name} is {value!r}, but a text is needed")
    return mended(value)[0]


@dataclass(frozen=True)
class Lint:
    """What stands in the way of learning: line numbers of rows by their fault, and how much is trained on."""

    rows: int
    empty: tuple[int, ...]
    truncated: tuple[int, ...]
    duplicated: tuple[int, ...]
    unended: tuple[int, ...]
    tokens: int
    trained: int

    def said(self) -> list[str]:
        """Sentences to print."""
        said = [f"{counted(self.rows, 'conversation')}, {self.tokens:,} tokens, {self.trained:,} of them trained on"]
        for lines, what in (
            (self.empty, "without a question or an answer, left out"),
            (self.truncated, "longer than the context, cut"),
            (self.duplicated, "equal to an earlier one"),
            (self.unended, "whose last answer loses its end: the model would not learn to stop there"),
        ):
            if lines:
                where = "line" if len(lines) == 1 else "lines"
                said.append(f"{len(lines):,} {what} ({where} {', '.join(map(str, lines[:5]))}{', ...' if len(lines) > 5 else ''})")
        return said


def is_whole(conversation: Conversation) -> bool:
    """Whether there is an answer and nothing said is empty; rows that are not are left out and counted by `lint`."""
    return any(message.role == "assistant" for message in conversation.messages) and all(
        message.content.strip() for message in conversation.messages
    )


def tokenized(conversations: Sequence[Conversation], form: ChatFormat, tokenizer: Tokenizer, everything: bool = False) -> list[Turns]:
    """The tokens of each conversation, none for those that are not whole; trained on are the answers, or `everything`.

    Raises `ValueError` naming the line where messages are out of order, or if the format cannot be used with the tokenizer.
    """
    form.usable_with(tokenizer)
    found = []
    for conversation in conversations:
        try:
            whole = is_whole(conversation)
            found.append(form.encode(tokenizer, list(conversation.messages), everything=everything) if whole else Turns([], []))
        except ValueError as complaint:
            raise ValueError(f"line {conversation.line}: {complaint}") from None
    return found


def lint(conversations: Sequence[Conversation], turns: Sequence[Turns], context: int, ends: Collection[int]) -> Lint:
    """Looks through conversations and their tokens (`turns`, as `tokenized` gives them) before the first step.

    `ends` are the tokens that end an answer (`stop_tokens` of the chat format).

    Raises `ValueError` when within `context` no end of an answer is trained on: the model would never stop.
    """
    empty, truncated, duplicated, unended = [], [], [], []
    seen, ended, tokens, trained = set(), False, 0, 0
    for conversation, turn in zip(conversations, turns, strict=True):
        if not turn.tokens:
            empty.append(conversation.line)
            continue
        if len(turn.tokens) > context + 1:
            truncated.append(conversation.line)
        key = tuple((message.role, content_hash(message.content)) for message in conversation.messages)
        if key in seen:
            duplicated.append(conversation.line)
        seen.add(key)
        learnt = [token for token, on in zip(turn.tokens[: context + 1], turn.trained, strict=False) if on]
        taught = zip(turn.tokens, turn.trained, strict=True)
        if max((place for place, (token, on) in enumerate(taught) if on and token in ends), default=context + 1) > context:
            unended.append(conversation.line)
        ended |= any(token in ends for token in learnt)
        tokens += min(len(turn.tokens), context + 1)
        trained += len(learnt)
    if not ended:
        raise ValueError(
            f"in none of {len(turns)} conversations an end of turn is trained on within {context} tokens, so the model would never stop: "
            "use a larger context, or answers that are shorter"
        )
    return Lint(len(turns), tuple(empty), tuple(truncated), tuple(duplicated), tuple(unended), tokens, trained)


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
    return sorted(train, key=lambda c: c.line), sorted(held_out, key=lambda c: c.line)
