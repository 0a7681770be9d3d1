"""Trials of preparing that is killed, and of corpora that are damaged, by kind and seed; each gives a complaint or None.

A small share of them are tests (test_trials.py), all of them campaigns (benchmarks/prepare_kills.py, benchmarks/prepare_damage.py).
"""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

from fledge.data.cleaning import LIGHT
from fledge.data.corpus import Corpus
from fledge.data.documents import Document
from fledge.data.preparation import Recipe, prepare
from fledge.data.sources import find
from fledge.data.unique.near import Near
from fledge.text.tokenizer import Tokenizer
from tests.faults import flip, swap, truncate
from tests.train.trials import Trial

PATIENCE = 300.0  # seconds
WORDS = ("river", "stone", "lamp", "winter", "bread", "harbour", "letter", "violin", "orchard", "mirror", "copper", "meadow")


def stories(count: int, length: int) -> list[str]:
    dice = random.Random(count)
    return [" ".join(dice.choice(WORDS) + dice.choice(("", "s", ",", ".")) for _ in range(length)) for _ in range(count)]


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def whole_life(source: str, out: str, workers: int) -> None:
    """Prepare what the trial of kills prepares: every stage has something to do."""
    recipe = Recipe(512, cleaning=LIGHT, near=Near(), paragraphs=True)
    prepare(find([source]), out, recipe, workers=workers, piece_bytes=20_000)


def children(pid: int) -> list[int]:
    """The processes that a process has started and that live."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
            if int(parent) == pid and state != "Z":
                found.append(int(path.parent.name))
    return found


def alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


class Kills(Trial):
    """Preparing is killed at random points, up to three times; begun again, it ends with the same bytes, and no worker outlives it."""

    KINDS = ("1 worker", "2 workers", "4 workers", "one of 4 workers")

    def __init__(self, root: Path):
        super().__init__(root)
        self.source = root / "notes"
        self.source.mkdir()
        for number, story in enumerate(stories(60, 500)):
            (self.source / f"{number:02}.txt").write_text(story if number % 7 else f"{story}\n\n{story[:1500]}\n\nthe end")
        (self.source / "again.txt").write_text((self.source / "00.txt").read_text())
        (self.source / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in stories(200, 60)) + "{broken\n")
        whole_life(str(self.source), str(root / "whole"), 1)
        self.whole = hashes(root / "whole")
        self.seconds: dict[int, float] = {}

    def begun(self, workers: int) -> subprocess.Popen[str]:
        told = f"from tests.data.trials import whole_life; whole_life({str(self.source)!r}, {str(self.room / 'corpus')!r}, {workers})"
        place = Path(__file__).parents[2]
        return subprocess.Popen([sys.executable, "-c", told], cwd=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def complaint(self, kind: str, dice: random.Random, seed: int) -> str | None:
        self.room.mkdir()
        workers = 1 if kind == "untouched" else int(kind.removeprefix("one of ").split()[0])
        if workers not in self.seconds:
            start = time.monotonic()
            with self.begun(workers) as process:
                said, _ = process.communicate(timeout=PATIENCE)
            if process.returncode:
                return f"it does not end well even if nobody kills it: {said[-300:]}"
            self.seconds[workers] = time.monotonic() - start
            shutil.rmtree(self.room / "corpus")
        kills = 0 if kind == "untouched" else dice.randint(1, 3)
        for _ in range(kills):
            with self.begun(workers) as process:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(dice.uniform(0.1, 1.0) * self.seconds[workers])
                spawned = children(process.pid)
                if kind == "one of 4 workers":
                    for pid in spawned[:1]:
                        with suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
                    said, _ = process.communicate(timeout=PATIENCE)
                    if process.returncode and "fewer --workers" not in said:
                        return f"a killed worker is not told of: {said[-300:]}"
                else:
                    process.kill()
                    process.communicate()
            until = time.monotonic() + 10
            while any(map(alive, spawned)):
                if time.monotonic() > until:
                    return "a worker outlived the process that it worked for"
                time.sleep(0.02)
        with self.begun(workers) as process:
            said, _ = process.communicate(timeout=PATIENCE)
        if process.returncode:
            return f"after {kills} kills it does not go on: {said[-300:]}"
        if hashes(self.room / "corpus") != self.whole:
            return f"after {kills} kills the corpus is another one"
        left = sorted(path.name for path in self.room.iterdir())
        return None if left == ["corpus"] else f"it leaves {left} behind"


class Mutations(Trial):
    """One shard of a corpus is changed: it is refused by name."""

    KINDS = ("bit flipped", "same-size edit", "swapped", "truncated", "id out of range")

    def __init__(self, root: Path):
        super().__init__(root)
        documents = [Document(text, f"{number}.txt") for number, text in enumerate(stories(400, 40))]
        self.corpus = prepare(documents, root / "whole", Recipe(Tokenizer.bytes()), piece_bytes=10_000)

    def complaint(self, kind: str, dice: random.Random, seed: int) -> str | None:
        shutil.copytree(self.corpus.folder, self.room)
        shards = sorted(self.room.glob("*.bin"))
        path = dice.choice(shards if kind == "id out of range" else [*shards, *self.room.glob("*.idx")])
        names = [path.name]
        match kind:
            case "bit flipped":
                flip(path, dice)
            case "same-size edit":
                content = path.read_bytes()
                at = dice.randrange(len(content) - 8)
                path.write_bytes(content[:at] + bytes(byte ^ 0x55 for byte in content[at : at + 8]) + content[at + 8 :])
            case "swapped":
                other = dice.choice([shard for shard in self.room.glob(f"*{path.suffix}") if shard != path])
                swap(path, other)
                names.append(other.name)
            case "truncated":
                truncate(path, dice)
            case "id out of range":
                tokens = np.fromfile(path, "<u2")
                tokens[dice.randrange(len(tokens))] = dice.randrange(self.corpus.tokenizer.size, 1 << 16)
                tokens.tofile(path)
                manifest = json.loads((self.room / "manifest.json").read_text())
                manifest["files"][path.name]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
                (self.room / "manifest.json").write_text(json.dumps(manifest))
        try:
            Corpus.open(self.room)
        except ValueError as refused:
            return None if any(name in str(refused) for name in names) else f"refused without its name: {refused}"
        return None if kind == "untouched" else f"{path.name} was opened"
