"""Messages as files and clients write them, as the turns that every chat format knows."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from typing import Any

from fledge.text.chat import Message

ROLES = {
    "system": "system",
    "developer": "system",  # OpenAI's name for it since 2024
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",  # LLaMA-Factory's names for the turns of tools in ShareGPT's layout
    "observation": "tool",
    "tool": "tool",
    "function": "tool",
    "ipython": "tool",
}
# As Nous Research's Hermes 2 Pro and Qwen 2.5 mark them in their templates.
CALL, RESPONSE, TOOLS = "tool_call", "tool_response", "tools"


def as_turns(given: Sequence[Any]) -> tuple[Message, ...]:
    """Messages with a `role` and its `content`, or ShareGPT's `from` and `value`, as turns.

    What tools do is kept as content: a call stands in the assistant's turn between `<tool_call>` and `</tool_call>`, what a tool says is
    a user's turn between `<tool_response>` and `</tool_response>`, one turn for several that follow each other. Of content in parts the
    texts are joined. Empty system messages are dropped.

    Raises `ValueError` with the number (from 1) of a message that has no role of `ROLES`, or no text.
    """
    read = [_read(number, message) for number, message in enumerate(given, 1)]
    turns: list[Message] = []
    for from_tool, group in groupby(read, key=lambda turn: turn[0] == "tool"):
        if from_tool:
            turns.append(Message("user", "\n".join(marked(RESPONSE, content) for _, content in group)))
        else:
            turns += [Message(role, content) for role, content in group]
    return tuple(turn for turn in turns if turn.role != "system" or turn.content.strip())


def _read(number: int, message: Any) -> tuple[str, str]:
    if not isinstance(message, Mapping) or not {"role", "from"} & message.keys():
        raise ValueError(f"message {number} is {message!r}, but role and content are needed")
    named = message.get("role", message.get("from"))
    if named not in ROLES:
        raise ValueError(f"message {number} has the role {named!r}, but a role is one of system, user, assistant and tool")
    role, content = ROLES[named], _content(number, message.get("content", message.get("value")), loose=ROLES[named] == "tool")
    if named == "function_call":
        content = marked(CALL, content)
    calls = message.get("tool_calls") or ([message["function_call"]] if message.get("function_call") else [])
    return role, "\n".join(part for part in (content, *(marked(CALL, _called(number, call)) for call in calls)) if part)


def _content(number: int, content: Any, loose: bool) -> str:
    """A text; of a list of parts their texts. What a tool says (`loose`) may be any JSON."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and content and all(isinstance(part, Mapping) and "type" in part for part in content):
        strange = next((part["type"] for part in content if part["type"] != "text"), None)
        if strange is not None:
            raise ValueError(f"message {number} holds a part of type {strange!r}, but a part is a text")
        return "".join(_content(number, part.get("text"), loose=False) for part in content)
    if loose:
        return json.dumps(content, ensure_ascii=False)
    raise ValueError(f"message {number} has the content {content!r}, but a text is needed")


def _called(number: int, call: Any) -> str:
    """A call in OpenAI's form as JSON, its arguments as an object where they are one."""
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or "name" not in function:
        raise ValueError(f"message {number} calls {call!r}, but a call has a name and arguments")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        with suppress(ValueError):
            arguments = json.loads(arguments)
    return json.dumps({"name": function["name"], "arguments": arguments}, ensure_ascii=False)


def with_tools(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Messages whose system message ends with these functions, as JSON between `<tools>` and `</tools>`, and with how one is called."""
    listed = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    call = marked(CALL, '{"name": "NAME", "arguments": {"PARAMETER": "VALUE"}}')
    told = f"You can call these functions:\n{marked(TOOLS, listed)}\nTo call one, answer:\n{call}"
    first, rest = (messages[0], messages[1:]) if messages and ROLES.get(messages[0].get("role", "")) == "system" else ({}, messages)
    before = _content(1, first.get("content"), loose=False)
    return [{"role": "system", "content": "\n\n".join(filter(None, (before, told)))}, *rest]


def is_response(content: str) -> bool:
    """Whether this is all a tool's."""
    return content.startswith(f"<{RESPONSE}>") and content.endswith(f"</{RESPONSE}>")


def marked(mark: str, content: str) -> str:
    """Content between `<mark>` and `</mark>`, unless it stands there already."""
    stripped = content.strip()
    return stripped if stripped.startswith(f"<{mark}>") else f"<{mark}>\n{stripped}\n</{mark}>"
