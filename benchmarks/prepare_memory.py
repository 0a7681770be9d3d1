"""The most memory that preparing holds, all its processes together, over a stream of 2 GB and over single lines of 1 GB.

python benchmarks/prepare_memory.py --gigabytes 2 --workers 2
Shared pages count once (PSS); the tokenizer is GPT-2's, for training one is a stage of its own that the limit is not about.
"""

import json
import random
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from record import arguments, data_folder, write

LIMIT = 512 << 20
EVERY = 0.2  # seconds


def prepared(source: str, out: str, tokenizer: str, workers: int) -> None:
    """What is measured; tells how far it is on standard output."""
    from fledge.data.cleaning import LIGHT
    from fledge.data.preparation import Recipe, prepare
    from fledge.data.sources import find
    from fledge.text import Tokenizer

    def progress(stage: str, done: int, total: int) -> None:
        print(json.dumps([stage, done / max(total, 1)]), flush=True)

    recipe = Recipe(Tokenizer.load(tokenizer), cleaning=LIGHT)
    corpus = prepare(find([source]), out, recipe, workers=workers, progress=progress)
    print(json.dumps(["summary", corpus.summary.documents, corpus.summary.rejected, corpus.summary.bytes]), flush=True)


def held(pid: int) -> int:
    """Bytes that a process and all that descend from it hold."""
    above: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            above[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    family = {pid}
    while more := {child for child, parent in above.items() if parent in family} - family:
        family |= more
    total = 0
    for one in family:
        with suppress(OSError):
            text = Path(f"/proc/{one}/smaps_rollup").read_text()
            total += next(int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith("Pss:"))
    return total


def measured(source: Path, folder: Path, workers: int) -> dict:
    """The peak of each tenth of each stage, and how it ended."""
    words = f"from prepare_memory import prepared; prepared({str(source)!r}, {str(folder / 'out')!r}, {str(gpt2())!r}, {workers})"
    started = time.monotonic()
    with (folder / "said").open("w+") as said:
        process = subprocess.Popen([sys.executable, "-c", words], cwd=Path(__file__).parent, stdout=said)
        peaks: dict[str, list[int]] = {}
        reader = (folder / "said").open()
        at = ("look", 0.0)
        while process.poll() is None:
            for line in reader:
                with suppress(ValueError):
                    at = tuple(json.loads(line)[:2])
            tenths = peaks.setdefault(str(at[0]), [0] * 10)
            if isinstance(at[1], float):
                tenth = min(9, int(at[1] * 10))
                tenths[tenth] = max(tenths[tenth], held(process.pid))
            time.sleep(EVERY)
    if process.returncode:
        raise SystemExit(f"preparing {source} ended with {process.returncode}")
    _, documents, rejected, size = json.loads((folder / "said").read_text().splitlines()[-1])
    found = {"documents": documents, "rejected": rejected, "bytes": size, "seconds": round(time.monotonic() - started, 1)}
    return {"source": source.name, **found, "peak": max(map(max, peaks.values())), "peaks": peaks}


def gpt2() -> Path:
    return data_folder() / "tokenizers" / "gpt2"


def generated(path: Path, size: int) -> None:
    """Rows of random words, of 20 bytes to 20 kB."""
    dice = random.Random(0)
    words = ["".join(dice.choices("abcdefghijklmnopqrstuvwxyz", k=dice.randint(2, 9))) for _ in range(5000)]
    with path.open("w") as file:
        while file.tell() < size:
            text = " ".join(dice.choices(words, k=int(2 ** dice.uniform(2, 12))))
            file.write(json.dumps({"text": text}) + "\n")


def main() -> None:
    options = arguments(__doc__, gigabytes=2.0, line=1.0, workers=2, scratch="")
    with TemporaryDirectory(dir=options.scratch or None) as root:
        runs = []
        stream = Path(root, "stream.jsonl")
        generated(stream, int(options.gigabytes * 1e9))
        one = Path(root, "line.txt")
        with one.open("w") as file:
            for _ in range(int(options.line * 1000)):
                file.write("a line without an end " * 45455)
        row = Path(root, "row.jsonl")
        with row.open("w") as file:
            file.write('{"text": "short"}\n{"text": "')
            for _ in range(int(options.line * 1000)):
                file.write("a row without an end  " * 45455)
            file.write('"}\n{"text": "short as well"}\n')
        for source in (stream, one, row):
            place = Path(root, source.stem)
            place.mkdir()
            runs.append(measured(source, place, options.workers))
            source.unlink()
        flat = {stage: max(tenths[2:]) / max(max(tenths[:2]), 1) for stage, tenths in runs[0]["peaks"].items() if min(tenths)}
        peak = max(run["peak"] for run in runs)
        named = runs[2]["rejected"] == {"line too long": 1} or sum(runs[2]["rejected"].values()) == 1
        write(
            "prepare_memory",
            "peak memory of all processes is at most 512 MB whatever the input, and flat from 10 % of a 2 GB stream on",
            f"{peak >> 20} MB at the most; later in the stream {max(flat.values(), default=0):.2f} times what its first fifth held",
            runs, peak <= LIMIT and max(flat.values(), default=9) <= 1.1 and named, flat=flat, workers=options.workers,
        )  # fmt: skip


if __name__ == "__main__":
    main()
