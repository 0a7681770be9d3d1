"""Trials by the hundred: equal shares of each kind and an untouched control, begun again where they were stopped."""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # models of a few thousand parameters, and processes that fork

from record import RESULTS, arguments, write

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.faults import Trial


def campaign(name: str, claim: str, trial: type[Trial], cases: int, doc: str | None) -> None:
    """Try each kind in turn, `cases` times in all, and write how many went wrong into `results/NAME.json`.

    Stopped, it goes on after the last trial, unless the code has changed.
    """
    options = arguments(doc, cases=cases, first=0)
    every = max(10, len(trial.KINDS))  # trials, after which comes an untouched one
    numbers = range(options.first, options.first + options.cases + max(1, options.cases // every))
    log, begun = RESULTS / f"{name}.part.jsonl", json.dumps({"code": _code(), "numbers": [numbers.start, numbers.stop]})
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    if lines[:1] != [begun]:
        lines = [begun]
        log.write_text(begun + "\n", encoding="utf-8")
    done = [json.loads(line) for line in lines[1:]]
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as root, log.open("a", encoding="utf-8") as file:
        attempt = trial(Path(root))
        for number in numbers[len(done) :]:
            start, (rounds, place) = time.perf_counter(), divmod(number, every + 1)
            seed, which = divmod(number - rounds, len(trial.KINDS))
            kind, seed = ("untouched", rounds) if place == every else (trial.KINDS[which], seed)
            wrong = attempt(kind, seed)
            done.append({"kind": kind, "wrong": wrong, "seconds": round(time.perf_counter() - start, 3), "noted": attempt.noted})
            file.write(json.dumps(done[-1]) + "\n")
            file.flush()
            if wrong:
                print(wrong, file=sys.stderr)
    wrong = [one["wrong"] for one in done if one["wrong"]]
    tried = Counter(one["kind"] for one in done)
    run = {
        "tried": dict(tried),
        "wrong": wrong,
        "noted": sum(one["noted"] for one in done),
        "seconds": round(sum(one["seconds"] for one in done), 1),
        "first": options.first,
    }
    write(name, claim, f"{len(wrong)} of {len(done)} wrong ({tried['untouched']} of them untouched controls)", [run], not wrong)
    log.unlink()
    sys.exit(bool(wrong))


def _code() -> str:
    """A name of the code that is tried, changes that are not committed included."""
    tried = (
        "fledge", "tests/faults.py", "tests/train/trials.py", "tests/train/ranks.py", "tests/text/trials.py", "tests/train/toy.py",
        "tests/generation", "tests/data", "benchmarks/campaign.py",
    )  # fmt: skip
    parts = (["rev-parse", *(f"HEAD:{path}" for path in tried)], ["diff", "HEAD", "--", *tried])
    told = [subprocess.run(["git", *part], capture_output=True, cwd=Path(__file__).parents[1]).stdout for part in parts]
    return hashlib.sha256(b"".join(told)).hexdigest()
