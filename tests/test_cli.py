"""The command line itself: help, exit codes, JSON; what the verbs do is tested with them."""

import errno
import json
import os
import re
import shlex
import subprocess
import sys
from types import SimpleNamespace

import pytest

from fledge import cli, verbs
from fledge.__main__ import TUNABLES
from fledge.verbs import display, pretraining


def test_help_lists_the_verbs_in_the_order_of_a_models_life(capsys):
    assert cli.main(["--help"]) == 0
    listed = re.findall(r"^│ (\w+)  ", capsys.readouterr().out, re.MULTILINE)
    assert " ".join(listed) == "demo prepare pretrain finetune evaluate generate chat predict explain embed serve import export plan show"


@pytest.mark.parametrize(
    "verb",
    [
        "demo",
        "prepare",
        "pretrain",
        "finetune classify",
        "finetune instruct",
        "finetune pairs",
        "finetune prefer",
        "finetune reward",
        "finetune distill",
        "evaluate",
        "generate",
        "chat",
        "predict",
        "explain",
        "embed",
        "import",
        "export",
        "plan",
        "show",
    ],
)
def test_every_argument_is_explained(capsys, monkeypatch, verb):
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.main([*verb.split(), "--help"]) == 0
    rows = re.findall(r"^│ (?:[* ]  )? *(--[\w-]+|[A-Z]+)(?: [A-Z]+)?(?:\.\.\.)? *(.*?) *│$", capsys.readouterr().out, re.MULTILINE)
    assert rows
    assert not [name for name, words in rows if not words or words.startswith("[")]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("genrate runs/x hello", "generate"),
        ("show gpt2 --verfy", "--verify"),
        ("finetune clasify x", "classify"),
        ("prepare a.txt", "--out"),
        ("show gpt22", "did you mean gpt2"),
        ("show gpt2 gpt2-medium", "gpt2-medium"),
        ("load x", "load"),
    ],
)
def test_wrong_use_ends_with_2_and_says_what_is_near(capsys, words, expected):
    assert cli.main(words.split()) == 2
    said = capsys.readouterr()
    assert expected in said.err
    assert not said.out


def test_json_is_one_object_and_nothing_else(capsys):
    assert cli.main(["show", "gpt2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] == 124_439_808
    assert cli.main(["--json", "show", "gpt2"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "gpt2"


class Stop(Exception):
    exit_code = 143


@pytest.mark.parametrize(
    ("ending", "code", "words"),
    [
        (ValueError("a reason"), 2, "a reason"),
        (FileNotFoundError(errno.ENOENT, "x", "a/b"), 2, "a/b does not exist"),
        (NotADirectoryError(errno.ENOTDIR, "x", "a/b"), 2, "a/b cannot be made"),
        (PermissionError(errno.EACCES, "x", "a/b"), 1, "no permission to"),
        (OSError(errno.EROFS, "x", "a/b"), 1, "no permission"),
        (OSError(errno.ENOSPC, "x"), 1, "the disk is full (x); what was saved before is whole"),
        (FloatingPointError("the loss is nan"), 1, "the loss is nan"),
        (Stop("saved."), 143, "saved.\n  "),
    ],
)
def test_exit_codes(capsys, monkeypatch, ending, code, words):
    def launch(*_, **__):
        raise ending

    monkeypatch.setattr(cli, "app", SimpleNamespace(meta=launch))
    assert cli.main(["show", "gpt2"]) == code
    said = capsys.readouterr().err
    assert said.startswith("fledge: ")
    assert words in said


@pytest.mark.parametrize(
    ("mode", "name", "words"),
    [
        (0o555, "shut/new", "write in {}/shut"),
        (0o555, "shut/new/below/it", "write in {}/shut"),
        (0o000, "shut/file", "look into {}/shut"),
        (0o000, "shut", "look into {}/shut"),
        (0o200, "file", "read {}/file"),
        (0o400, "file", "write {}/file"),
    ],
)
def test_what_is_not_allowed_is_named_where_it_is_not(tmp_path, mode, name, words):
    (tmp_path / "shut").mkdir()
    (tmp_path / "shut" / "file").touch()
    (tmp_path / "file").touch()
    place = tmp_path / name.split("/")[0]
    place.chmod(mode)
    try:
        if os.access(place, os.R_OK | os.W_OK):
            pytest.skip("this user may read and write everything")
        assert cli.denied(str(tmp_path / name)) == words.format(tmp_path)
    finally:
        place.chmod(0o700)


def test_stopped_before_there_is_anything_to_save(capsys, monkeypatch, tmp_path):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(pretraining, "look", interrupt)
    words = ["pretrain", "a file.txt", "--out", str(tmp_path / "m"), "--steps", "3"]
    assert cli.main(words) == 130
    assert shlex.split(capsys.readouterr().err.splitlines()[-1])[1:] == words
    monkeypatch.setattr(display, "drawing", interrupt)
    assert cli.main(["show", "gpt2"]) == 130
    assert capsys.readouterr().err.endswith("fledge: stopped.\n")


def test_a_crash_is_not_swallowed(monkeypatch):
    def launch(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "app", SimpleNamespace(meta=launch))
    with pytest.raises(ZeroDivisionError):
        cli.main(["show", "gpt2"])


def test_pieces_are_printed_as_they_come_and_verbs_speak_to_standard_error_under_json(capsys, monkeypatch):
    def pieces():
        yield "one "
        print("aside")
        yield "two"

    parsed = pieces, SimpleNamespace(args=(), kwargs={}), None
    monkeypatch.setattr(cli, "app", SimpleNamespace(parse_args=lambda *_, **__: parsed))
    cli.launch("generate")
    assert capsys.readouterr().out == "one aside\ntwo\n"
    cli.launch("generate", json=True)
    said = capsys.readouterr()
    assert json.loads(said.out) == {"text": "one two"}
    assert said.err == "aside\n"


def test_every_verb_is_a_function_of_the_package():
    import fledge

    assert {name for name in verbs.__all__ if name != "stream"} == set(fledge.__all__)


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
@pytest.mark.parametrize("given", [None, "glibc.rtld.optional_static_tls=512", "glibc.malloc.check=0"])
def test_a_command_that_trains_starts_with_glibc_told_so_and_leaves_no_trace(given, tmp_path):
    """It is the same process, with the same words; what a user set there stays."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nprint(os.getpid(), sys.orig_argv[1:], os.environ.get('GLIBC_TUNABLES'), file=sys.stderr)\n"
        "import atexit\natexit.register(lambda: print('then', os.environ.get('GLIBC_TUNABLES'), file=sys.stderr))"
    )
    places = os.pathsep.join([str(tmp_path), *sys.path])
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"} | {"PYTHONPATH": places}
    environment |= {"GLIBC_TUNABLES": given} if given else {}

    def starts(*words: str) -> list[str]:
        done = subprocess.run([sys.executable, "-m", "fledge", *words], env=environment, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0
        return done.stderr.splitlines()

    assert len(starts("show", "--help")) == 2  # one start and its end
    first, *others = starts("pretrain", "--help")
    assert others.pop() == f"then {given}"
    if given == "glibc.malloc.check=0":  # somebody else has set up its memory
        assert not others
    else:
        told = f"{given}:{TUNABLES}" if given else TUNABLES
        assert others == [first.removesuffix(str(given)) + told]


@pytest.mark.parametrize(("words", "threads", "bound"), [([], None, True), ([], "1", False), (["--set", "machine.threads=1"], None, False)])
def test_threads_keep_to_cores_of_their_own_where_they_are_as_many(monkeypatch, words, threads, bound):
    """Of several commands with fewer threads each would otherwise take the same first cores."""
    monkeypatch.setattr(os, "environ", {"OMP_NUM_THREADS": threads} if threads else {})
    assert cli.main(["show", "gpt2", *words, "--nothing"]) == 2
    assert os.environ.get("OMP_PROC_BIND") == ("true" if bound and sys.platform == "linux" else None)
