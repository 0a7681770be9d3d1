"""What is printed is only shown: no markup, no escape sequences; numbers as people say them."""

import io
import sys

import pytest

from fledge.verbs import terminal
from fledge.verbs.session import seconds_of, settings_of

WILD = "[red]not red[/red] :smile: \x1b[31mesc \x07bell\r\n next [/] \x9b1A"
TAMED = "[red]not red[/red] :smile: ␛[31mesc ␇bell\n next [/] \ufffd1A"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_lines_where_the_output_is_no_terminal(monkeypatch, capsys):
    monkeypatch.setattr(terminal, "PLAIN_EVERY", -1)
    with terminal.bar("Training", 10) as bar:
        bar.to(5, "[red]note")
        bar.say(WILD)
    terminal.say(WILD)
    lines = capsys.readouterr().err
    assert lines.startswith("Training: 50%")
    assert "[red]note" in lines
    assert lines.count(TAMED) == 2


def test_a_bar_in_a_terminal_with_lines_above_it(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with terminal.bar("Training", 10) as bar:
        bar.to(4)
        bar.say(WILD)
        bar.to(10, "[/red] loss 2.4", total=20)
    assert TAMED in screen.getvalue()
    assert "[/red] loss 2.4" in screen.getvalue()
    assert "50%" in screen.getvalue()


def test_tables_and_headings_show_what_they_are_given(capsys):
    terminal.heading("[b]title")
    terminal.table(["", "[x]"], [["\x1b[2J", "1"]], best=0)
    terminal.confusion(["[a]", "b"], [[1, 0], [0, 2]])
    said = capsys.readouterr().err
    assert "[b]title" in said
    assert "␛[2J" in said
    assert "[a]" in said


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("1h30m", 5400), ("2d", 172800), ("45", 45), (1.5, 1.5)])
def test_times(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["abc", "", "10x", "m10", "1h 30m", "0s", "0", 0, -5, "nan", "inf"])
def test_times_that_are_none(text):
    with pytest.raises(ValueError, match="for example 90s"):
        seconds_of(text)


def test_settings():
    assert settings_of(["a.b=1", "c=x=y"]) == settings_of({"a.b": 1, "c": "x=y"}) == {"a.b": "1", "c": "x=y"}
    with pytest.raises(ValueError, match="name=value"):
        settings_of(["a.b"])
