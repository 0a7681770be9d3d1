"""The verbs that write: `generate` continues a prompt, `chat` holds a conversation in the terminal."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack, overload

from fledge.verbs import terminal
from fledge.verbs.model import CONTRACTS, Dtype, Settings, load
from fledge.verbs.session import Name, Place

CHAT_TOKENS = 300
MULTILINE = '"""'


def stream(
    model: Name,
    prompt: str,
    /,
    *,
    shots: Place | None = None,
    device: str = "auto",
    dtype: Dtype = "float32",
    threads: int = 0,
    **settings: Unpack[Settings],
) -> Iterator[str]:
    """Continue a prompt.

    The text goes to standard output as it is made. What is not given comes from the model's own generation_config.json.

    Args:
        model: a model folder, or a hub id.
        prompt: the text to continue.
        shots: a file of worked examples put before the prompt: JSONL or JSON with `input` and `output`, or CSV/TSV of two columns.
        device: auto, cpu or cuda.
        dtype: of the weights and products.
        threads: CPU threads; 0 leaves the number to torch.
    """
    opened = load(model, device, dtype, threads)
    if shots is not None:
        prompt, settings = few_shot(shots, prompt), one_line(settings)
    yield from opened.stream(prompt, **settings)


@overload
def generate(
    model: Name, prompt: str, /, *, shots: Place | None = None, device: str = "auto", dtype: Dtype = "float32",
    threads: int = 0, **settings: Unpack[Settings],
) -> str: ...  # fmt: skip
@overload
def generate(
    model: Name, prompt: Sequence[str], /, *, shots: Place | None = None, device: str = "auto", dtype: Dtype = "float32",
    threads: int = 0, **settings: Unpack[Settings],
) -> list[str]: ...  # fmt: skip
def generate(model, prompt, /, *, shots=None, device="auto", dtype: Dtype = "float32", threads=0, **settings: Unpack[Settings]):
    """The continuation of a prompt, or those of a list made side by side; arguments as `fledge generate` takes them."""
    opened = load(model, device, dtype, threads)
    if shots is not None:
        prompt = few_shot(shots, prompt) if isinstance(prompt, str) else [few_shot(shots, one) for one in prompt]
        settings = one_line(settings)
    return opened.generate(prompt, **settings)


def few_shot(shots: str | Path, prompt: str) -> str:
    """A prompt that shows worked examples first: `input -> output` lines, then the prompt's own line, left open."""
    from fledge.data.tables import table

    if not Path(shots).is_file():
        raise ValueError(f"--shots {shots} is no file: give a table of examples with an input and an output each")
    lines = []
    for row in table(str(shots), ("input", "output")).rows:
        values = (
            row.values if {"input", "output"} <= row.values.keys() else dict(zip(("input", "output"), row.values.values(), strict=False))
        )
        pair = [str(values.get(name, "")).strip() for name in ("input", "output")]
        if not all(pair) or any("\n" in text for text in pair):
            raise ValueError(f"{shots}, line {row.line}: an example needs an input and an output of one line each, but this row has {pair}")
        lines.append(" -> ".join(pair))
    return "\n".join([*lines, f"{prompt} ->"])


def one_line(settings: Settings) -> Settings:
    """Settings with which an answer ends where its line does, as those of the examples do, or where its contract says."""
    if any(settings.get(name) for name in CONTRACTS):
        return settings
    stop = settings.get("stop") or ()
    return {**settings, "stop": [*([stop] if isinstance(stop, str) else stop), "\n"]}


@dataclass(frozen=True)
class Conversation:
    """What was said, in turn; nothing of it is printed again."""

    messages: tuple[dict[str, str], ...]

    def __str__(self) -> str:
        return ""


def chat(
    model: Name,
    /,
    *,
    system: str | None = None,
    device: str = "auto",
    dtype: Dtype = "float32",
    threads: int = 0,
    **settings: Unpack[Settings],
) -> Conversation:
    """Talk with an assistant in the terminal.

    Ctrl-C stops an answer. What is not given comes from the model's own generation_config.json.

    Args:
        model: a model folder that was fine-tuned on instructions, or a hub id.
        system: what the assistant is told before the conversation.
        device: auto, cpu or cuda.
        dtype: of the weights and products.
        threads: CPU threads; 0 leaves the number to torch.
    """
    opened = load(model, device, dtype, threads)
    if opened.chat_format is None:
        raise ValueError(f"{model} was not trained to converse: fine-tune it with `fledge finetune instruct DATA --from {model} --out DIR`")
    opened.chat_format.usable_with(opened.tokenizer)
    greet(opened.facts)
    settings = {"max_tokens": CHAT_TOKENS, **settings}
    start = [{"role": "system", "content": system}] if system else []
    messages = list(start)
    for text in typed():
        if text == "/reset":
            messages = list(start)
            terminal.say("A new conversation.")
            continue
        asked = [*messages, {"role": "user", "content": text}]
        try:
            answer = spoken(opened.chat_stream(asked, **settings))
        except ValueError as complaint:
            terminal.say(f"{complaint} (/reset starts anew)")
            continue
        if answer:
            messages = [*asked, {"role": "assistant", "content": answer}]
    return Conversation(tuple(messages))


def spoken(pieces: Iterator[str]) -> str:
    """Print an answer as it is made, until it ends or Ctrl-C stops it; what was printed."""
    shown = terminal.plain if sys.stdout.isatty() else str
    answer = ""
    try:
        for piece in pieces:
            answer += piece
            print(shown(piece), end="", flush=True)
    except KeyboardInterrupt:
        pass
    print(flush=True)
    return answer


def greet(facts: dict[str, Any]) -> None:
    """Say what this model was trained to answer, with an example, and how to talk to it."""
    lesson = facts.get("trained_to")
    if lesson:
        terminal.say(f"This assistant was trained to {lesson['task']}.")
        terminal.say(f"Try, for example:\n\n{lesson['example']}\n")
    terminal.say(f"An empty line or Ctrl-D ends; /reset starts anew; several lines go between two lines of {MULTILINE}.")


def typed() -> Iterator[str]:
    """What a person enters: a line, or the lines between two lines of three quotation marks."""
    prompt = "\n> " if sys.stdin.isatty() else ""
    while True:
        try:
            line = input(prompt)
            if line.strip() == MULTILINE:
                lines = []
                while (more := input()).strip() != MULTILINE:
                    lines.append(more)
                line = "\n".join(lines)
        except (EOFError, KeyboardInterrupt):
            return
        if not line.strip():
            return
        yield line
