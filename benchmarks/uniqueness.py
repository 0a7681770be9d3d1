"""What finding duplicates and contamination takes: megabytes a second on one core, and the memory of near duplicates by documents."""

import gzip
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from record import arguments, data_folder, write

from fledge.data.corpus import content_hash
from fledge.data.unique.contamination import Contamination
from fledge.data.unique.near import Near, near_groups
from fledge.data.unique.rows import Rows

PIECE = 10_000
WORDS = 50  # of a generated document
TWINS = 10  # of which one is nearly equal to the one before it
VOCABULARY = [f"{chr(97 + number % 26)}{number}" for number in range(20_000)]


def text_of(number: int) -> str:
    """A generated document; every tenth is the one before it with three words changed."""
    twin = number % TWINS == TWINS - 1
    words = random.Random(number - twin).choices(VOCABULARY, k=WORDS)
    return " ".join([*words[:10], "a", "changed", "place", *words[13:]] if twin else words)


def peak() -> int:
    """Bytes that this program has held at most; `getrusage` would also count what its parent held when it was started."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) << 10


def child(folder: Path) -> None:
    """Says what finding the groups takes, after what is loaded in any case, on stdout."""
    signatures = Rows(tuple(sorted(folder.glob("*.npy"))))
    Near().signatures(["what is loaded in any case"])
    before, started = peak(), time.perf_counter()
    roots = near_groups(signatures, text_of, Near())
    seconds = time.perf_counter() - started
    found = int((roots != np.arange(len(roots))).sum())
    print(json.dumps({"documents": len(roots), "bytes": peak() - before, "seconds": round(seconds, 1), "found": found}))


def memory(folder: Path, documents: int) -> dict[str, float]:
    """Signatures of so many documents in `folder`, whose groups another process then finds."""
    for start in range(0, documents, PIECE):
        np.save(folder / f"{start:09}.npy", Near().signatures([text_of(number) for number in range(start, min(start + PIECE, documents))]))
    run = json.loads(subprocess.run([sys.executable, __file__, "--child", str(folder)], capture_output=True, text=True, check=True).stdout)
    return {**run, "planted": documents // TWINS, "file_bytes": sum(path.stat().st_size for path in folder.glob("*.npy"))}


def speed(work: Callable[[list[str]], object], texts: list[str]) -> float:
    """Megabytes of text a second, the best of three."""
    size, seconds = sum(len(text.encode()) for text in texts), []
    for _ in range(3):
        started = time.perf_counter()
        work(texts)
        seconds.append(time.perf_counter() - started)
    return round(size / min(seconds) / 1e6, 1)


def main() -> None:
    options = arguments(__doc__, documents=400_000, child="")
    if options.child:
        child(Path(options.child))
        return
    data = data_folder()
    with gzip.open(data / "text" / "wikipedia.jsonl.gz", "rt", encoding="utf-8") as rows:
        articles = [json.loads(row)["text"] for _, row in zip(range(400), rows, strict=False)]
    paragraphs = [part for text in articles for part in text.split("\n") if part]
    looked = Contamination.of([str(data / "benchmarks" / "hellaswag-500.jsonl.gz")])
    near = Near()
    kinds = {
        "content hash": lambda texts: [content_hash(text) for text in texts],
        "signatures": near.signatures,
        "contamination": looked.found_each,
    }
    for work in kinds.values():
        work(["what is loaded at first"])
    speeds = [
        {"what": what, "of": of, "megabytes_per_second": speed(work, texts)}
        for what, work in kinds.items()
        for of, texts in (("articles", articles), ("paragraphs", paragraphs))
    ]
    runs = []
    for documents in (options.documents // 2, options.documents):
        with tempfile.TemporaryDirectory() as folder:
            runs.append(memory(Path(folder), documents))
    few, many = runs
    million = (many["bytes"] - few["bytes"]) / (many["documents"] - few["documents"]) * 1e6
    disk = many["file_bytes"] / many["documents"] * 1e6
    slowest = {what: min(one["megabytes_per_second"] for one in speeds if one["what"] == what) for what in kinds}
    reached = slowest["signatures"] >= 5 and slowest["contamination"] >= 20
    measured = ", ".join(f"{what} {rate} MB/s" for what, rate in slowest.items())
    measured += f"; near duplicates take {million / 1e6:,.0f} MB of memory and {disk / 1e6:,.0f} MB on disk for each million documents"
    claim = "on one core signatures are made of 5 MB/s of text or more, and contamination is looked for in 20 MB/s or more"
    write("uniqueness", claim, measured, [*speeds, *runs], reached, bytes_per_million_documents=round(million))


if __name__ == "__main__":
    main()
