"""Cleaning: MB/s of each preset on one core, what `web` rejects and drops of good texts by rule, and datatrove's decisions beside ours.

`DATATROVE_PYTHON` names the Python of an environment that has datatrove and spacy; without it that part is left out.
"""

import gzip
import json
import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from record import arguments, data_folder, write

from fledge.data.cleaning import CLEANINGS, Changes, Cleaning, Lines, Privacy, Quality, Repetition, cleaner
from fledge.data.documents import Document, Rejected

SETTINGS = {**CLEANINGS, "web and privacy": replace(CLEANINGS["web"], privacy=Privacy())}
WORDS = "the be to of and that have with river stone lantern 12 345 # ... … - • { } javascript cookie policy lorem ipsum"
TARGETS = {"light": 60, "web": 10}  # MB/s; light on ASCII, web on pages as long as Wikipedia's


def main() -> None:
    options = arguments(__doc__, articles=400, novels=8, repeats=3)
    texts = {
        "ascii": [(data_folder() / "text/tinyshakespeare.txt").read_text(encoding="utf-8")] * 8,
        "wikipedia": list(rows("wikipedia", options.articles)),
        "novels": list(rows("novels", options.novels)),
    }
    runs: list[dict[str, Any]] = []
    for name, settings in SETTINGS.items():
        clean = cleaner(settings)
        for what, some in texts.items():
            runs.append({"settings": name, "text": what, **measured(clean, some, options.repeats)})
    speed = {(run["settings"], run["text"]): run["megabytes_per_second"] for run in runs}
    peers = {}
    if python := os.environ.get("DATATROVE_PYTHON"):
        asked = [python, "-c", "from importlib.metadata import version; print(version('datatrove'))"]
        peers = {"datatrove": subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()}
        runs += [compared(python, plain, texts) for plain in (True, False)]
    reached = speed["light", "ascii"] >= TARGETS["light"] and speed["web", "wikipedia"] >= TARGETS["web"]
    claim = "light cleans ASCII at 60 MB/s or more, web pages at 10 MB/s or more, on one core"
    said = f"light on ASCII {speed['light', 'ascii']:.0f} MB/s, web on Wikipedia {speed['web', 'wikipedia']:.1f}"
    write("cleaning", claim, said, runs, reached, peers=peers)


def rows(name: str, count: int) -> Iterator[str]:
    with gzip.open(data_folder() / f"text/{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        for _, line in zip(range(count), file, strict=False):
            yield json.loads(line)["text"]


def measured(clean, texts: list[str], repeats: int) -> dict[str, Any]:
    """The best of some passes, since what disturbs one only ever slows it."""
    size = sum(len(text.encode()) for text in texts)
    seconds, tally = [], Changes()
    for _ in range(repeats):
        tally = Changes()
        started = time.process_time()
        for text in texts:
            clean(Document(text, "a.txt"), tally)
        seconds.append(time.process_time() - started)
    return {
        "megabytes": round(size / 1e6, 1),
        "megabytes_per_second": round(size / 1e6 / max(1e-9, min(seconds)), 1),
        "documents": tally.came.documents,
        "rejected": shares(tally.rejected, tally.came.documents),
        "bytes_changed": {rule: round(count.bytes / size, 5) for rule, count in tally.changed.items()},
    }


def shares(counts: Mapping[str, Any], total: int) -> dict[str, float]:
    return {rule: round(count.documents / total, 4) for rule, count in counts.items()}


def compared(python: str, plain: bool, texts: Mapping[str, list[str]]) -> dict[str, Any]:
    """How often datatrove and fledge decide alike, rule by rule: with the same words, and with the words of its own tokenizer."""
    sample = [text[:20_000] for text in texts["wikipedia"][:150]] + [text[100_000:120_000] for text in texts["novels"]] + ugly()
    worker = Path(__file__).parent / "workers" / "datatrove_rules.py"
    command = [python, str(worker), *["--plain-words"] * plain]
    theirs = json.loads(subprocess.run(command, input=json.dumps(sample), capture_output=True, text=True, check=True).stdout)
    ours = {
        "quality": cleaner(Cleaning(quality=Quality())),
        "repetition": cleaner(Cleaning(repetition=Repetition())),
        "lines": cleaner(Cleaning(lines=Lines(min_sentences=None))),
    }
    alike: Counter[str] = Counter()
    differences: Counter[str] = Counter()
    rejected: Counter[str] = Counter()
    for text, decided in zip(sample, theirs, strict=True):
        for rule, clean in ours.items():
            item = clean(Document(text, "a.txt"))
            reason = item.reason if isinstance(item, Rejected) else ""
            rejected[rule] += bool(reason)
            same = bool(reason) == bool(decided[rule]) or reason == "empty text"
            alike[rule] += same
            if not same:
                differences[f"{rule}: {reason or 'kept'} here, {decided[rule] or 'kept'} there"] += 1
            if rule == "lines" and isinstance(item, Document) and not decided[rule]:
                kept = [line.strip() for line in item.text.split("\n") if line.strip()]
                equal = kept == [line for line in decided["kept"].split("\n") if line.strip()]
                alike["kept lines"] += equal
                differences["kept lines"] += not equal
    return {
        "datatrove": "the same words" if plain else "its own words",
        "documents": len(sample),
        "rejected_here": dict(rejected),
        "alike": dict(alike),
        "differences": dict(differences),
    }


def ugly() -> list[str]:
    """400 documents of which every rule rejects some."""
    dice = random.Random(5)
    words = WORDS.split()
    found = []
    for _ in range(400):
        some = dice.sample(words, dice.randint(4, len(words)))
        lines = [
            " ".join(dice.choices(some, k=dice.randint(1, 14))) + dice.choice(["", ".", "...", "!"]) for _ in range(dice.randint(1, 30))
        ]
        found.append(dice.choice(["\n", "\n\n"]).join(dice.choices(lines, k=len(lines) * dice.randint(1, 2))))
    return found


if __name__ == "__main__":
    main()
