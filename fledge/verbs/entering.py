"""What a person enters in the terminal: edited lines, with a history that only its owner reads; or the lines of a pipe."""

import importlib
import io
import json
import os
import select
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from fledge.verbs import terminal

KEPT = 1000  # entries of earlier sessions


def state_folder() -> Path:
    """Where programs keep what should outlast them (XDG Base Directory Specification 0.8)."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "fledge"


class Keyboard:
    """Reads entries of one line or several: a line that ends with a backslash goes on in the next one, and pasted lines stay together.

    In a terminal the arrow keys edit, and find earlier entries; those of earlier sessions too, unless this one is `private`, which leaves
    nothing behind either.
    """

    def __init__(self, private: bool = False):
        self.interactive = sys.stdin.isatty() and sys.stdout.isatty()
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(errors="replace")
        self.begun = False
        self._editor = _editor() if self.interactive else None
        self._history = None if private or self._editor is None else History(state_folder() / "chat.jsonl")
        if self._editor is not None:
            self._editor.clear_history()
            for entry in self._history.entries() if self._history is not None else ():
                self._editor.add_history(entry)

    def read(self) -> str:
        """The next entry. Raises `EOFError` where there is none, and `KeyboardInterrupt` at Ctrl-C, which gives up what was `begun`."""
        if self.interactive:
            print(flush=True)
        lines: list[str] = []
        try:
            lines.append(self._line("> "))
            while lines[-1].endswith("\\") or self._pasted():
                lines[-1] = lines[-1].removesuffix("\\")
                lines.append(self._line("| "))
        except EOFError:
            if not lines:  # else of a last line that wanted to go on
                raise
        except KeyboardInterrupt:
            self.begun = bool(lines or (self._editor is not None and self._editor.get_line_buffer()))
            raise
        entry = "\n".join(lines)
        if entry.strip() and self._editor is not None:
            self._editor.add_history(entry)
            if self._history is not None:
                self._history.add(entry)
        return entry

    def _line(self, prompt: str) -> str:
        return input(prompt if self.interactive else "")

    def _pasted(self) -> bool:
        """Whether more lines are here already, in a terminal that does not mark what is pasted, so that they come one by one."""
        return self.interactive and not _marks_pastes(self._editor) and bool(select.select([sys.stdin], [], [], 0)[0])


def _editor() -> Any:
    """Python's readline, set up for entries of several lines; none where Python has none (Windows), and lines cannot be edited."""
    try:
        readline = importlib.import_module("readline")
    except ImportError:
        return None
    readline.set_auto_history(False)  # an entry is added whole
    if _marks_pastes(readline):
        readline.parse_and_bind("set enable-bracketed-paste on")  # which Python turns off
    return readline


def _marks_pastes(editor: Any) -> bool:
    """GNU's readline asks the terminal to mark what is pasted, unless that is a dumb one; libedit (macOS) does not."""
    return editor is not None and "GNU" in (editor.__doc__ or "") and os.environ.get("TERM", "dumb") != "dumb"


class History:
    """Entries in a file of JSON lines, readable by its owner only; where it cannot be kept that is said, once."""

    def __init__(self, path: Path):
        self.path, self._works = path, True

    def entries(self) -> list[str]:
        """The last `KEPT` entries, oldest first; older ones are dropped from the file."""
        found = []
        try:
            lines = self.path.read_bytes().splitlines()
            for line in lines:
                with suppress(ValueError):  # of a line that was written in part
                    found.append(json.loads(line))
            found = [entry for entry in found if isinstance(entry, str)]
            if len(lines) > 2 * KEPT:
                self._write(found[-KEPT:], os.O_TRUNC)
        except FileNotFoundError:
            pass
        except OSError as failed:
            self._give_up(failed)
        return found[-KEPT:]

    def add(self, entry: str) -> None:
        if not self._works:
            return
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._write([entry], os.O_APPEND)
        except OSError as failed:
            self._give_up(failed)

    def _write(self, entries: list[str], how: int) -> None:
        with os.fdopen(os.open(self.path, os.O_WRONLY | os.O_CREAT | how, 0o600), "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o600)  # also of a file that was there
            file.write("".join(json.dumps(entry) + "\n" for entry in entries))

    def _give_up(self, failed: OSError) -> None:
        self._works = False
        terminal.say(f"No history is kept: {failed.strerror} ({self.path})")
