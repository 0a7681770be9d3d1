"""One tiny model of each kind, raised once for all tests of the verbs."""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import fledge
from fledge.cli import main

TINY = ["arch.width=32", "arch.depth=1", "arch.context=256", "batch.rows=4", "batch.context=64"]


@dataclass(frozen=True)
class Said:
    """How a command ended: its exit code, and what it wrote to standard output and standard error."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict:
        """The one object on standard output."""
        [line] = self.out.splitlines()
        return json.loads(line)


@pytest.fixture
def command(capsys) -> Callable[..., Said]:
    """Runs `fledge ...` in this process."""

    def run(*words) -> Said:
        capsys.readouterr()
        code = main([str(word) for word in words])
        return Said(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def text() -> Path:
    """A text that every machine with Python has."""
    return Path(argparse.__file__)


@pytest.fixture(scope="session")
def base(text, tmp_path_factory) -> Path:
    """A language model over bytes."""
    out = tmp_path_factory.mktemp("models") / "base"
    fledge.pretrain([str(text)], out=out, arch="fledge-1m", tokenizer="bytes", steps=40, set=TINY, prompt="def ")
    return out


@pytest.fixture(scope="session")
def encoder(base, tmp_path_factory) -> Path:
    """A BERT over bytes that knows its text a little."""
    out = tmp_path_factory.mktemp("models") / "encoder"
    settings = ["arch.width=32", "arch.heads=2", "arch.depth=1", "arch.context=128", "batch.rows=4", "batch.context=64"]
    fledge.pretrain([str(base / "run" / "corpus")], out=out, arch="bert-base", steps=60, set=settings)
    return out


@pytest.fixture(scope="session")
def denoiser(tmp_path_factory) -> Path:
    """A T5 over words that has read a little."""
    place = tmp_path_factory.mktemp("models")
    (place / "text.txt").write_text(" ".join(["one two three four five six seven"] * 400), encoding="utf-8")
    settings = ["arch.width=64", "arch.depth=1", "arch.context=64", "batch.rows=16", "batch.context=36"]
    fledge.pretrain([str(place / "text.txt")], out=place / "denoiser", objective="denoise", vocab=448, steps=30, set=settings)
    return place / "denoiser"


@pytest.fixture(scope="session")
def messages(tmp_path_factory) -> Path:
    """Labelled texts: three in four are ham."""
    path = tmp_path_factory.mktemp("data") / "messages.csv"
    rows = [f"{'spam' if i % 4 == 0 else 'ham'},{i} {'free prize' if i % 4 == 0 else 'see you'}" for i in range(80)]
    path.write_text("\n".join(["label,text", *rows]) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def classifier(base, messages, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("models") / "classifier"
    fledge.finetune.classify(str(messages), out=str(out), from_=str(base), epochs=12, set=["optimizer.rate=2e-2"])
    return out


@pytest.fixture(scope="session")
def questions(tmp_path_factory) -> Path:
    """Conversations of one or two questions."""
    path = tmp_path_factory.mktemp("data") / "questions.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for i in range(30):
            turns = [("user", f"Repeat {i}."), ("assistant", f"{i}!")] * (1 + i % 2)
            file.write(json.dumps({"messages": [{"role": role, "content": content} for role, content in turns]}) + "\n")
    return path


@pytest.fixture(scope="session")
def assistant(base, questions, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("models") / "assistant"
    fledge.finetune.instruct(questions, out=out, from_=str(base), epochs=2, set=["batch.rows=2", "batch.context=128"])
    return out
