"""`chat` holds a conversation in the terminal."""

import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from fledge.arch.record import did_you_mean
from fledge.verbs import terminal
from fledge.verbs.entering import Keyboard
from fledge.verbs.model import Model, Precision, Settings, load
from fledge.verbs.session import Name

if TYPE_CHECKING:
    from fledge.generation import Prefixes

CHAT_TOKENS = 300
KNOWN = 2**29  # bytes of what was read of a conversation that are kept


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
    private: bool = False,
    device: str = "auto",
    dtype: Precision = "float32",
    threads: int = 0,
    **settings: Unpack[Settings],
) -> Conversation:
    """Talk with an assistant in the terminal.

    A line that ends with a backslash goes on in the next one, pasted lines stay together, the arrow keys find what was entered before,
    /help tells the commands. Ctrl-C stops an answer, Ctrl-D ends. From a pipe each line is asked, and the answers are written one after
    another. What is not given comes from the model's own generation_config.json.

    Args:
        model: a model folder that was fine-tuned on instructions, or a hub id.
        system: what the assistant is told before the conversation.
        private: neither read nor keep the history of what is entered, which lies in ~/.local/state/fledge and only its owner can read.
        device: auto, cpu or cuda.
        dtype: of the weights and products; int8 holds the weights of the blocks in 8 bits.
        threads: CPU threads; 0 leaves the number to torch.
    """
    opened = load(model, device, dtype, threads)
    if opened.chat_format is None:
        raise ValueError(f"{model} was not trained to converse: fine-tune it with `fledge finetune instruct DATA --from {model} --out DIR`")
    opened.chat_format.usable_with(opened.tokenizer)
    talk = Talk(opened, {"max_tokens": CHAT_TOKENS, **settings}, system or "")
    talk.try_out(talk.system, talk.settings)
    keyboard = Keyboard(private)
    greet(opened.facts)
    stopped = False  # by Ctrl-C, at the last prompt
    while True:
        try:
            entry = keyboard.read()
        except EOFError:
            break
        except KeyboardInterrupt:
            if stopped and not keyboard.begun:
                break
            stopped = refuse_to_end(keyboard)
            continue
        stopped = False
        try:
            if talk.hear(entry):
                break
        except KeyboardInterrupt:
            stopped = refuse_to_end(keyboard)
        except ValueError as complaint:
            terminal.say(str(complaint))
    if keyboard.interactive:
        print(flush=True)
    return Conversation(tuple(talk.messages))


@dataclass
class Talk:
    """A conversation under way: what the assistant is told first, the questions and answers so far, and how answers are made."""

    model: Model
    settings: dict[str, Any]
    system: str = ""
    said: list[dict[str, str]] = field(default_factory=list)
    saved: set[Path] = field(default_factory=set)

    @cached_property
    def known(self) -> "Prefixes":
        """What was read of it."""
        from fledge.generation import Prefixes  # which imports torch

        return Prefixes(KNOWN)

    @property
    def messages(self) -> list[dict[str, str]]:
        return [*([{"role": "system", "content": self.system}] if self.system else []), *self.said]

    def hear(self, entry: str) -> bool:
        """Answer a question or obey a command; whether it was the last one. Raises `ValueError` with what is wrong with either."""
        name, _, rest = entry.partition(" ")
        if entry.startswith("/"):
            if name not in COMMANDS:
                raise ValueError(f"{name} is no command{did_you_mean(name, COMMANDS)} (a text may begin with / after a space)")
            COMMANDS[name].obey(self, rest.strip())
        elif entry.strip():
            self.ask(entry.strip())
        return name == "/quit"

    def ask(self, question: str) -> None:
        """Print the answer as it is made. One that was stopped is kept as far as it came."""
        asked = {"role": "user", "content": question}
        try:
            pieces = self.model.chat_stream([*self.messages, asked], self.known, **self.settings)
        except ValueError as complaint:
            raise ValueError(f"{complaint} (/reset starts anew)" if self.said else str(complaint)) from None
        if answer := spoken(pieces):
            self.said += [asked, {"role": "assistant", "content": answer}]

    def try_out(self, system: str, settings: dict[str, Any]) -> None:
        """Raises `ValueError` with the reason if no question can be answered so."""
        told = [{"role": "system", "content": system}] if system else []
        self.model.chat_stream([*told, {"role": "user", "content": "?"}], **settings)

    def told(self, system: str) -> None:
        self.try_out(system, self.settings)
        self.system = system
        terminal.say("What the assistant is told first has changed." if system else "The assistant is told nothing first.")

    def reset(self, _: str) -> None:
        self.said, self.saved = [], set()
        terminal.say("A new conversation.")

    def save(self, name: str) -> None:
        path = Path(name).expanduser()
        if path.suffix != ".json":
            raise ValueError("name a file that ends with .json: /save talk.json")
        if not self.said:
            raise ValueError("nothing was answered yet, so there is nothing to save")
        if path.exists() and path not in self.saved:
            raise ValueError(f"{path} is there already: give another name")
        try:
            path.write_text(json.dumps([{"messages": self.messages}], ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        except OSError as failed:
            raise ValueError(f"{path} cannot be written: {failed.strerror}") from None
        self.saved.add(path)
        terminal.say(f"{len(self.messages)} messages are in {path}; `fledge finetune instruct` reads it.")

    def set(self, given: str) -> None:
        name, _, value = given.partition(" ")
        if not name:
            now = {**self.model.defaults(), **self.settings}
            terminal.pairs([(name, f"{shown(now.get(name)):<6} {meaning}") for name, meaning in meanings().items()])
            return
        if name not in meanings():
            raise ValueError(f"{name} is no setting{did_you_mean(name, meanings())}")
        if not value.strip():
            raise ValueError(f"{name} needs a value, or default: /settings {name} VALUE")
        changed = {key: kept for key, kept in self.settings.items() if key != name}
        if value.strip() != "default":
            changed |= setting(name, value.strip())
        self.try_out(self.system, changed)
        self.settings = changed
        terminal.say(f"{name} is {shown(changed.get(name, self.model.defaults().get(name)))} from the next answer on.")

    def help(self, _: str) -> None:
        terminal.pairs([*((f"{name} {command.takes}", command.does) for name, command in COMMANDS.items()), *KEYS])


@dataclass(frozen=True)
class Command:
    """What a command takes and does."""

    takes: str
    does: str
    obey: Callable[[Talk, str], None]


COMMANDS = {
    "/system": Command("[TEXT]", "tell the assistant something before the conversation; without TEXT, nothing", Talk.told),
    "/reset": Command("", "begin a new conversation; what the assistant is told first stays, and so do the settings", Talk.reset),
    "/save": Command("FILE.json", "save the conversation, so that `fledge finetune instruct` reads it", Talk.save),
    "/settings": Command("[NAME VALUE]", "how answers are made: show it, or change it (default: as the model's folder says)", Talk.set),
    "/help": Command("", "these lines", Talk.help),
    "/quit": Command("", "end", lambda *_: None),
}
KEYS = (
    ("a line ending with \\", "goes on in the next line; pasted lines stay together"),
    ("arrow keys", "move in the line, and find what was entered before"),
    ("Ctrl-C", "stops an answer, or clears the line; twice at the prompt: ends"),
    ("Ctrl-D", "ends"),
)


def greet(facts: dict[str, Any]) -> None:
    """Say what this model was trained to answer, with an example, and how to talk to it."""
    lesson = facts.get("trained_to")
    if lesson:
        terminal.say(f"This assistant was trained to {lesson['task']}.")
        terminal.say(f"Try, for example:\n\n{lesson['example']}\n")
    terminal.say("/help tells the commands; a line ending with \\ goes on in the next one; Ctrl-C stops an answer, Ctrl-D ends.")


def refuse_to_end(keyboard: Keyboard) -> bool:
    """Say how to end; what comes from a pipe is ended by Ctrl-C at once."""
    if not keyboard.interactive:
        raise KeyboardInterrupt
    terminal.say("\nCtrl-C again ends, and so does Ctrl-D.")
    return True


def spoken(pieces: Iterator[str]) -> str:
    """Print an answer as it is made, until it ends or Ctrl-C stops it; what was printed."""
    shown = terminal.plain if sys.stdout.isatty() else str
    answer = ""
    try:
        for piece in pieces:
            answer += piece
            print(shown(piece), end="", flush=True)
    except KeyboardInterrupt:
        if not sys.stdin.isatty():
            raise
    print(flush=True)
    return answer


@cache
def meanings() -> dict[str, str]:
    """What each setting means, as `Settings` says it."""
    return dict(re.findall(r"^ +(\w+): (.+)$", Settings.__doc__ or "", re.MULTILINE))


def setting(name: str, value: str) -> dict[str, Any]:
    """A setting as the command line reads it. Raises `ValueError` with what is wrong with it."""
    from cyclopts import App, CycloptsError, Parameter

    def read(**settings: Unpack[Settings]) -> None: ...

    try:
        _, bound, _ = App(default_command=read, default_parameter=Parameter(negative=())).parse_args(
            [f"--{name.replace('_', '-')}={value}"], exit_on_error=False, print_error=False
        )
    except CycloptsError as wrong:
        raise ValueError(f"{name} cannot be {value!r}: {str(wrong).partition(': ')[2]}") from None
    return dict(bound.kwargs)


def shown(value: Any) -> str:
    return "none" if value is None else json.dumps(value, ensure_ascii=False)
