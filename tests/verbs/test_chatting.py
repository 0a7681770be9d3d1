"""`chat`: the real command in a pseudo-terminal, and over pipes."""

import io
import json
import os
import re
import select
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

import fledge
from fledge.data.instructions import read_instructions
from fledge.generation import Prefixes
from fledge.model import Transformer, initialise
from fledge.presets import qwen3
from fledge.text import Tokenizer
from fledge.verbs import chatting, entering
from fledge.verbs.model import Settings
from fledge.weights import save_model

OWN_TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt %}[ai] a{% endif %}"
BEHIND = """import fcntl, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGINT, signal.default_int_handler)  # which tests in the background of a shell have not
from fledge.cli import main
sys.exit(main())"""


@pytest.fixture(scope="module")
def talker(tmp_path_factory) -> Path:
    """A model that says its last letter again and again, and converses in a template of its own."""
    folder, tokenizer = tmp_path_factory.mktemp("models") / "talker", Tokenizer.bytes()
    arch = qwen3(width=32, depth=1, head_size=16, mlp=48, vocabulary=tokenizer.size, context=16384)
    save_model(folder, initialise(Transformer(arch), seed=0), tokenizer, OWN_TEMPLATE, {}, {"do_sample": False}, "")
    return folder


class Screen:
    """The real command in a terminal of its own: what is typed, and what has come since."""

    def __init__(self, *words, state: Path, kind: str = "xterm"):
        ours, theirs = os.openpty()
        environment = {**os.environ, "XDG_STATE_HOME": str(state), "TERM": kind, "PYTHONPATH": str(Path(fledge.__file__).parents[1])}
        command = [sys.executable, "-W", "error", "-c", BEHIND, "chat", *map(str, words)]
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
        )  # fmt: skip
        os.close(theirs)
        self._terminal, self._came, self._read = ours, "", 0

    def type(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def interrupt(self) -> None:
        """Ctrl-C as late as a person types it: Python's readline notices one only while it waits for a key, not while it shows one."""
        time.sleep(0.3)
        self.type("\x03")

    def until(self, pattern: str, seconds: float = 60) -> str:
        """What has come up to the end of the first match, which is waited for; without what only moves the cursor."""
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, shown := re.sub(r"\x1b\[[?0-9;]*[A-Za-z]|\r", "", self._came)[self._read :])):
            assert time.monotonic() < end, f"{pattern!r} did not come, but {shown[-2000:]!r}"
            if select.select([self._terminal], [], [], 0.1)[0]:
                try:
                    self._came += os.read(self._terminal, 1 << 16).decode(errors="replace")
                except OSError:  # Linux's end of a terminal
                    pytest.fail(f"it ended before {pattern!r}: {shown[-2000:]!r}")
        self._read += found.end()
        return shown[: found.end()]

    def ends(self) -> int:
        return self.process.wait(60)

    def __enter__(self) -> "Screen":
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        os.close(self._terminal)


PROMPT = "\n> "


@pytest.mark.timeout(300)  # of a process that starts on a busy machine
def test_a_conversation_in_a_terminal(talker, tmp_path):
    saved, history = tmp_path / "talk.json", entering.History(tmp_path / "state" / "fledge" / "chat.jsonl")
    history.add("asked yesterday")
    with Screen(talker, "--temperature", 0, "--max-tokens", 12000, state=tmp_path / "state") as screen:
        screen.until(PROMPT)
        screen.type("tell me\r")
        screen.until("aaaaaaaa")  # as it is made
        screen.type("\x03")
        assert len(screen.until(PROMPT)) < 11000  # the answer stops, the program does not
        screen.type("/settings max_tokens 3\r")
        screen.until("max_tokens is 3 from the next answer on")
        screen.type("two \\\rlines\r")
        screen.until(r"\| .*lines")
        screen.until("\naaa\n" + PROMPT)
        screen.type("\x1b[200~pasted\nlines\x1b[201~\r")
        screen.until("\naaa\n" + PROMPT)
        screen.type(f"/save {saved}\r")
        screen.until("6 messages are in")
        [conversation] = read_instructions(str(saved)).conversations
        assert [message.role for message in conversation.messages] == ["user", "assistant"] * 3
        assert [message.content for message in conversation.messages[::2]] == ["tell me", "two \nlines", "pasted\nlines"]
        assert set(conversation.messages[1].content) == {"a"}
        screen.until(PROMPT)
        screen.type("\x10" * 6)  # the history's keys, up to what was there before
        screen.until("asked yesterday")
        screen.interrupt()
        screen.until("Ctrl-C again ends")
        screen.until(PROMPT)
        screen.type("begun")
        screen.until("begun")
        screen.interrupt()  # clears it
        screen.until("Ctrl-C again ends")
        screen.until(PROMPT)
        screen.interrupt()
        assert screen.ends() == 0
    assert history.entries() == [
        "asked yesterday", "tell me", "/settings max_tokens 3", "two \nlines", "pasted\nlines", f"/save {saved}",
    ]  # fmt: skip
    assert stat.S_IMODE(history.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(history.path.parent.stat().st_mode) == 0o700


@pytest.mark.timeout(300)
def test_a_private_conversation_in_a_plain_terminal_leaves_nothing(talker, tmp_path):
    entering.History(tmp_path / "fledge" / "chat.jsonl").add("asked yesterday")
    with Screen(talker, "--private", "--temperature", 0, "--max-tokens", 2, state=tmp_path, kind="dumb") as screen:
        screen.until(PROMPT)
        screen.type("one\rtwo\r")  # pasted: both lines are there at once
        screen.until(r"\| .*two\naa\n" + PROMPT)
        screen.type("\x10\x10\x10\r")
        assert "yesterday" not in screen.until("\naa\n" + PROMPT)
        screen.type("\x04")
        assert screen.ends() == 0
    assert (tmp_path / "fledge" / "chat.jsonl").read_text() == '"asked yesterday"\n'


def test_a_history_outlasts_what_may_happen_to_its_file(tmp_path, capsys):
    path = tmp_path / "state" / "chat.jsonl"
    for number in range(3 * entering.KEPT):
        entering.History(path).add(f"line {number}\nof two")
    path.chmod(0o644)
    with path.open("ab") as file:
        file.write(b'"torn')
    entries = entering.History(path).entries()
    assert entries == [f"line {number}\nof two" for number in range(2 * entering.KEPT, 3 * entering.KEPT)]
    assert entering.History(path).entries() == entries
    assert len(path.read_text().splitlines()) == entering.KEPT
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    nowhere = entering.History(path / "below" / "chat.jsonl")
    nowhere.add("a")
    nowhere.add("b")
    assert capsys.readouterr().err.count("No history is kept") == 1


def talk(monkeypatch, command, model, typed: str, *flags):
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    return command("chat", model, "--seed", 0, "--max-tokens", 6, *flags)


def test_a_conversation_over_pipes(assistant, monkeypatch, command):
    said = talk(monkeypatch, command, assistant, "Repeat 3.\n\n/reset\nRepeat\\\n4.\\", "--system", "Be short.", "--json")
    assert said.code == 0
    roles = [message["role"] for message in said.json["messages"]]
    assert roles[0] == "system"
    assert said.json["messages"][1]["content"] == "Repeat\n4."
    plain = talk(monkeypatch, command, assistant, "Repeat 3.\n/quit\nRepeat 4.\n")
    assert "/help tells the commands" in plain.err
    asked = [{"role": "user", "content": "Repeat 3."}]
    assert plain.out == fledge.load(assistant).chat(asked, seed=0, max_tokens=6) + "\n"


def test_what_the_assistant_is_told_and_its_settings_change_on_the_way(talker, monkeypatch, command, tmp_path):
    typed = f"""one
/system Be kind.
/settings max_tokens 2
two
/settings max_tokens default
/settings temperature
/settings temprature 1
/settings temperature hot
/settings temperature -1
/settings
/save {tmp_path}/talk.txt
/save {tmp_path}/talk.json
/sav x
 /etc is a folder
/system
/save {tmp_path}/talk.json
/save {tmp_path}/nowhere/talk.json
/help
"""
    said = talk(monkeypatch, command, talker, typed, "--temperature", 0)
    assert said.code == 0
    assert said.out == f"{'a' * 6}\naa\n{'a' * 100}\n"
    for sentence in (
        "temperature needs a value",
        "temprature is no setting: did you mean temperature?",
        "temperature cannot be 'hot': unable to convert",
        "temperature -1.0 is not a number from 0 on",
        "name a file that ends with .json",
        "/sav is no command: did you mean /save?",
        "talk.json; `fledge finetune instruct` reads it",
        "nowhere/talk.json cannot be written: No such file",
    ):
        assert sentence in said.err
    assert set(re.findall(r"^(/\w+) ", said.err, re.MULTILINE)) >= chatting.COMMANDS.keys()
    [[before, *_], *_] = [row["messages"] for row in json.loads((tmp_path / "talk.json").read_text())]
    assert before["role"] == "user"  # after `/system` without a text
    again = talk(monkeypatch, command, talker, f"one\n/save {tmp_path}/talk.json\n")
    assert "is there already" in again.err


def test_every_setting_has_its_meaning_and_is_read_as_on_the_command_line():
    assert chatting.meanings().keys() == Settings.__annotations__.keys()
    read = {"temperature": "0.5", "top_k": "none", "stop": "the end", "seed": "7"}
    assert {name: chatting.setting(name, value)[name] for name, value in read.items()} == {
        "temperature": 0.5, "top_k": None, "stop": ["the end"], "seed": 7,
    }  # fmt: skip


def test_a_question_that_is_too_long_is_left_out(talker, monkeypatch, command):
    said = talk(monkeypatch, command, talker, f"Repeat 1.\n{'long ' * 4000}\nRepeat 2.\n", "--temperature", 0, "--json")
    assert said.code == 0
    assert "/reset starts anew" in said.err
    assert [message["content"] for message in said.json["messages"][::2]] == ["Repeat 1.", "Repeat 2."]


def test_what_does_not_converse_is_refused_and_so_are_wrong_settings(base, talker, command):
    said = command("chat", base)
    assert said.code == 2
    assert "fledge finetune instruct" in said.err
    said = command("chat", talker, "--top-p", 3)
    assert said.code == 2
    assert "top_p 3.0 is not in" in said.err


def test_a_long_conversation_is_not_read_again(talker, monkeypatch):
    model, known, read = fledge.load(talker), Prefixes(2**24), list[int]()
    hidden = model.network.hidden
    monkeypatch.setattr(
        model.network, "hidden", lambda tokens, *more, **named: read.append(tokens.numel()) or hidden(tokens, *more, **named)
    )
    asked = [{"role": "user", "content": "a long question " * 50}]
    answer = "".join(model.chat_stream(asked, known, max_tokens=3))
    assert sum(read) > 800
    more = [*asked, {"role": "assistant", "content": answer}, {"role": "user", "content": "and?"}]
    plain = model.chat(more, max_tokens=3)
    read.clear()
    assert "".join(model.chat_stream(more, known, max_tokens=3)) == plain
    assert sum(read) < 256 + 3
