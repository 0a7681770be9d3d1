"""What every benchmark writes: the claim, the command, the machine and versions, the numbers."""

import argparse
import datetime
import json
import platform
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fledge.verbs.machine import look

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "numpy", "tokenizers", "safetensors")


def write(name: str, claim: str, measured: str, runs: list[dict[str, Any]], reached: bool, **more: Any) -> None:
    """Keep the numbers of one benchmark in `results/NAME.json` and print them.

    `measured` says in a few words what came out, `reached` whether the claim holds.
    """
    found = look()
    result = {
        "claim": claim,
        "measured": measured,
        "reached": reached,
        "command": shlex.join(["python", *_without_places(sys.argv)]),
        "date": datetime.date.today().isoformat(),
        "commit": _git("rev-parse", "HEAD"),
        "machine": {
            "processor": found.processor, "cores": found.cores, "memory": found.memory,
            "bf16": found.bf16, "amx": found.amx, "gpus": list(found.gpus),
        },
        "versions": {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}},
        "peers": {},
        "runs": runs,
        **more,
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: result[key] for key in ("claim", "measured", "reached", "runs", *more)}, indent=1))


def data_folder() -> Path:
    """The folder of test data, from `FLEDGE_DATA`."""
    import os

    if "FLEDGE_DATA" not in os.environ:
        raise SystemExit("set FLEDGE_DATA to the folder of test data")
    return Path(os.environ["FLEDGE_DATA"])


@contextmanager
def scratch(folder: str) -> Iterator[Path]:
    """This folder, in which a run that was cut off goes on where it ended; a fresh one that goes away where none is named."""
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        yield Path(folder)
        return
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


def arguments(description: str | None, **defaults: Any) -> argparse.Namespace:
    """`--name VALUE` for each default."""
    parser = argparse.ArgumentParser(description=description)
    for name, default in defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    return parser.parse_args()


def _without_places(words: list[str]) -> list[str]:
    """Without the folder that a run lay in, which changes nothing of what it measured; a base that was given stands there as BASE."""
    kept, words = list[str](), list(words)
    while words:
        word = words.pop(0)
        place = words.pop(0) if word in ("--folder", "--base") and words else None
        kept += [word] if place is None else ["--base", "BASE"] if word == "--base" else []
    return kept


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], capture_output=True, text=True, cwd=Path(__file__).parent).stdout.strip()
