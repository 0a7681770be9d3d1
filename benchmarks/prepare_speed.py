"""How quickly text becomes tokens on disk, beside the bare tokenizer library and the preparations of litgpt and nanoGPT.

FLEDGE_PEERS=DIR python benchmarks/prepare_speed.py --rounds 3 --processes 2 [--only fledge,bare]
All read the same .txt files, Wikipedia's articles, and write GPT-2's tokens; by turns, each whole run timed from start to end.
"""

import gzip
import json
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import peers
from record import arguments, data_folder, write

WORKERS = Path(__file__).parent / "workers"
FLOORS = {"bare": 0.9, "litgpt": 2.0, "nanogpt": 1.2}  # how much quicker than each we want to be


def texts(folder: Path, size: int) -> int:
    """Articles as files, of about so many bytes in all; returns how many bytes. After the last they come again, with a number ahead."""
    with gzip.open(data_folder() / "text" / "wikipedia.jsonl.gz", "rt", encoding="utf-8") as file:
        articles = [json.loads(line)["text"] for line in file]
    done = number = 0
    while done < size:
        again, article = divmod(number, len(articles))
        text = f"{again}\n{articles[article]}" if again else articles[article]
        (folder / f"{number:06}.txt").write_text(text, encoding="utf-8")
        done, number = done + len(text.encode()), number + 1
    return done


def command(name: str, told: dict, out: Path) -> list[str]:
    if name == "fledge":
        flags = ["--clean", "off", "--tokenizer", told["gpt2"], "--workers", str(told["processes"]), "--out", str(out / "corpus")]
        return [sys.executable, "-m", "fledge", "prepare", told["text"], *flags, "--discard"]
    script = {"bare": "bare.py", "litgpt": "lit_prepare.py", "nanogpt": "nano_prepare.py"}[name]
    python = sys.executable if name == "bare" else peers.python()
    return [python, str(WORKERS / script), json.dumps({**told, "out": str(out)})]


def interval(ratios: list[float]) -> list[float]:
    """The 95 % bootstrap interval of the median."""
    dice = random.Random(0)
    medians = sorted(statistics.median(dice.choices(ratios, k=len(ratios))) for _ in range(2000))
    return [medians[50], medians[1949]]


def main() -> None:
    options = arguments(__doc__, rounds=3, processes=2, megabytes=400, only="fledge,bare,litgpt,nanogpt")
    names = options.only.split(",")
    with TemporaryDirectory() as root:
        folder = Path(root, "text")
        folder.mkdir()
        size = texts(folder, options.megabytes * 1_000_000)
        told = {"text": str(folder), "gpt2": str(data_folder() / "tokenizers" / "gpt2"), "processes": options.processes}
        if set(names) & {"litgpt", "nanogpt"}:
            told["nanogpt"] = str(peers.folder() / "nanoGPT")
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        here = Path(__file__).parents[1]
        seconds: dict[str, list[float]] = {name: [] for name in names}
        for number in range(options.rounds):
            for name in names:
                out = Path(root, f"{name}{number}")
                out.mkdir()
                start = time.monotonic()
                ended = subprocess.run(command(name, told, out), env=environment, capture_output=True, text=True, cwd=here)
                seconds[name].append(time.monotonic() - start)
                if ended.returncode:
                    raise SystemExit(f"{name} ended with {ended.returncode}:\n{ended.stderr[-3000:]}")
        ratios: dict[str, dict[str, Any]] = {}
        for name in names[1:]:
            each = [theirs / ours for theirs, ours in zip(seconds[name], seconds["fledge"], strict=True)]
            ratios[name] = {"ratio": statistics.median(each), "interval": interval(each), "wanted": FLOORS[name]}
        rates = {name: size / 1e6 / statistics.median(spent) for name, spent in seconds.items()}
        write(
            "prepare_speed",
            "with cleaning off at least 0.9 times the bare tokenizer library, 2 times litgpt's and 1.2 times nanoGPT's preparation",
            ", ".join(f"{name} {rate:.1f} MB/s" for name, rate in rates.items()),
            [{"name": name, "seconds": spent} for name, spent in seconds.items()],
            all(found["ratio"] >= found["wanted"] for found in ratios.values()), ratios=ratios, bytes=size, processes=options.processes,
        )  # fmt: skip


if __name__ == "__main__":
    main()
