"""The verbs that write: `generate` continues a prompt, `chat` holds a conversation in the terminal."""

import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fledge.verbs import terminal
from fledge.verbs.model import load

MULTILINE = '"""'


def stream(
    model: str,
    prompt: str,
    *,
    max_tokens: int | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    stop: list[str] | None = None,
    shots: Path | None = None,
    seed: int | None = None,
    device: str = "auto",
    dtype: str = "float32",
    threads: int = 0,
) -> Iterator[str]:
    """Continue a prompt.

    What is not given comes from the model's own generation_config.json. The text goes to standard output as it is made.

    Args:
        model: a model folder, or a hub id.
        prompt: the text to continue.
        max_tokens: at most that many new tokens (100).
        temperature: 0 always takes the best word; 1 samples as the model believes; less is safer.
        top_k: sample among the k best words only.
        top_p: sample among the best words that together have this probability.
        min_p: sample among words with at least this share of the best word's probability.
        repetition_penalty: above 1 makes words that stand there already less likely.
        stop: end before this text; may be given several times.
        shots: a file of worked examples put before the prompt: JSONL or JSON with `input` and `output`, or CSV/TSV of two columns.
        seed: the same seed gives the same text.
        device: auto, cpu or cuda.
        dtype: float32 or bfloat16.
        threads: CPU threads; 0 leaves the number to torch.
    """
    _set_threads(threads)
    opened = load(model, device, dtype)
    settings: dict[str, Any] = {
        "max_tokens": max_tokens, "temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p,
        "repetition_penalty": repetition_penalty, "stop": stop, "seed": seed,
    }  # fmt: skip
    if shots is not None:
        prompt, settings["stop"] = few_shot(shots, prompt), [*(stop or []), "\n"]
    yield from opened.stream(prompt, **settings)


@functools.wraps(stream)
def generate(*arguments, **settings) -> str:
    return "".join(stream(*arguments, **settings))


def few_shot(shots: Path, prompt: str) -> str:
    """A prompt that shows worked examples first: `input → output` lines, then the prompt's own line, left open."""
    from fledge.data.tables import table

    lines = []
    for row in table(str(shots)).rows:
        values = [str(value) for value in row.values.values()]
        if len(values) < 2:
            raise ValueError(f"{shots}, line {row.line}: an example needs an input and an output, but this row has {values}")
        lines.append(f"{values[0]} -> {values[-1]}")
    return "\n".join([*lines, f"{prompt} ->"])


def chat(
    model: str,
    *,
    system: str | None = None,
    max_tokens: int = 300,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    seed: int | None = None,
    device: str = "auto",
    dtype: str = "float32",
    threads: int = 0,
) -> None:
    """Talk with an assistant in the terminal.

    Args:
        model: a model folder that was fine-tuned on instructions, or a hub id.
        system: what the assistant is told before the conversation.
        max_tokens: at most that many tokens an answer.
        temperature: 0 always takes the best word; less is safer.
        top_k: sample among the k best words only.
        top_p: sample among the best words that together have this probability.
        min_p: sample among words with at least this share of the best word's probability.
        repetition_penalty: above 1 makes words that stand there already less likely.
        seed: the same seed gives the same answers.
        device: auto, cpu or cuda.
        dtype: float32 or bfloat16.
        threads: CPU threads; 0 leaves the number to torch.
    """
    _set_threads(threads)
    opened = load(model, device, dtype)
    if opened.chat_format is None:
        raise ValueError(f"{model} was not trained to converse: fine-tune it with `fledge finetune instruct DATA --from {model} --out DIR`")
    settings: dict[str, Any] = {
        "max_tokens": max_tokens, "temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p,
        "repetition_penalty": repetition_penalty, "seed": seed,
    }  # fmt: skip
    _greet(opened.facts)
    start = [{"role": "system", "content": system}] if system else []
    messages = list(start)
    for text in _typed():
        if text == "/reset":
            messages = list(start)
            terminal.say("A new conversation.")
            continue
        messages.append({"role": "user", "content": text})
        answer = ""
        try:
            for piece in opened.chat_stream(messages, **settings):
                print(piece, end="", flush=True)
                answer += piece
        except KeyboardInterrupt:
            pass
        except ValueError as complaint:
            terminal.say(str(complaint))
            messages.pop()
            continue
        print(flush=True)
        messages.append({"role": "assistant", "content": answer})


def _greet(facts: dict[str, Any]) -> None:
    lesson = facts.get("trained_to")
    if lesson:
        terminal.say(f"This assistant was trained to {lesson['task']}.")
        terminal.say(f"Try, for example:\n\n{lesson['example']}\n")
    terminal.say(f"An empty line or Ctrl-D ends; /reset starts anew; several lines go between two lines of {MULTILINE}.")


def _typed() -> Iterator[str]:
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


def _set_threads(threads: int) -> None:
    if threads:
        import torch

        torch.set_num_threads(threads)
