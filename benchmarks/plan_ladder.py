"""The one dial: does the size that `pretrain --time` picks do as well as its neighbours in the same time, and does it end when it should?

For each text and budget one run as planned, and four of given sizes, the two next smaller and larger ones of the plan's ladder, each in
a process of its own and with the same time from its start to its end. Run it on a machine that does nothing else. A run that is done is
kept in `--folder`; `--runs 1` ends after one more, and `--texts speeches --budgets 2m` are a part that is only shown.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from record import arguments, scratch, write
from texts import TEXTS, corpus_of

import fledge
from fledge.train.plan import CONTEXT, LADDER
from fledge.verbs.session import seconds_of

BUDGETS = ("2m", "5m")
CHARACTERS, VOCABULARY = 8_000_000, 2048
DIALS = ("width", "depth", "context")
WORSE, SHARE, AROUND = 0.03, 0.1, 0.1  # of the bits per byte; of the time for finding out; of the time at the end
OFF = {120: 0.1, 300: 0.1, 600: 0.05}  # how far the expected bits per byte may be off, by seconds


def run(corpus: Path, budget: str, size: tuple[int, int] | None, folder: Path) -> dict[str, Any]:
    """Train in a process of its own, for so long; the size is the plan's choice where none is given."""
    out = folder / "-".join([corpus.name, budget, *map(str, size or ("planned",))])
    kept = out / "found.json"
    if kept.exists():
        return json.loads(kept.read_text())
    if out.exists():
        raise SystemExit(f"{out} is half of a run, which had to be on time: remove it and begin again")
    words = [sys.executable, "-m", "fledge", "pretrain", str(corpus), "--out", str(out), "--time", budget, "--json"]
    if size is not None:
        words += ["--arch", "fledge-1m", *(f"--set=arch.{name}={value}" for name, value in zip(DIALS, (*size, CONTEXT), strict=True))]
    began = time.monotonic()
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    seconds, told = time.monotonic() - began, json.loads(done.stdout)
    whole = fledge.evaluate([str(out)], on=str(corpus))  # in the time a part of it was scored, another part in each run
    arch = json.loads((out / "run" / "run.json").read_text())["arch"]["decoder"]
    first = json.loads((out / "run" / "metrics.jsonl").read_text().partition("\n")[0])
    found = {
        "text": corpus.name, "budget": seconds_of(budget), "planned": size is None, "width": arch["width"], "depth": arch["depth"],
        "parameters": told["parameters"], "steps": told["steps"], "tokens": told["tokens"], "seconds": round(seconds, 1),
        "finding_out": round(first["seconds"], 1), "bits_per_byte": round(whole.scores[0].value, 4),
        "expected": told["expected"]["bits_per_byte"],
    }  # fmt: skip
    kept.write_text(json.dumps(found), encoding="utf-8")
    return found


def kept_in(folder: Path) -> int:
    return len(list(folder.glob("*/found.json")))


def neighbours(size: tuple[int, int]) -> list[tuple[int, int]]:
    """Two smaller and two larger sizes of the ladder, or those that there are on the other side.

    >>> neighbours(LADDER[0]) == list(LADDER[1:5])
    True
    """
    at = LADDER.index(size)
    first = min(max(0, at - 2), len(LADDER) - 5)
    return [other for other in LADDER[first : first + 5] if other != size]


def cell(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """What the runs of one text and budget say of the plan."""
    planned, best = runs[0], min(runs, key=lambda run: run["bits_per_byte"])
    return {
        "text": planned["text"], "budget": planned["budget"], "picked": [planned["width"], planned["depth"]],
        "best": [best["width"], best["depth"]], "worse_by": round(planned["bits_per_byte"] / best["bits_per_byte"] - 1, 4),
        "finding_out": round(max(run["finding_out"] for run in runs) / planned["budget"], 4),
        "time_off": round(max(abs(run["seconds"] / run["budget"] - 1) for run in runs), 4),
        "expected_off": round(abs(planned["expected"] / planned["bits_per_byte"] - 1), 4),
    }  # fmt: skip


def main() -> None:
    options = arguments(__doc__, texts=",".join(TEXTS), budgets=",".join(BUDGETS), folder="", runs=0)
    cells, runs = list[dict[str, Any]](), list[dict[str, Any]]()
    with scratch(options.folder) as folder:
        before = kept_in(folder)
        for budget in options.budgets.split(","):
            for name in options.texts.split(","):
                corpus = corpus_of(name, folder, CHARACTERS, VOCABULARY, 0.1).folder
                some, sizes = list[dict[str, Any]](), list[tuple[int, int] | None]([None])
                while sizes:
                    some.append(run(corpus, budget, sizes.pop(0), folder))
                    print(some[-1], file=sys.stderr, flush=True)
                    if options.runs and kept_in(folder) - before == options.runs:
                        return
                    if len(some) == 1:
                        sizes += neighbours((some[0]["width"], some[0]["depth"]))
                runs += some
                cells.append(cell(some))
                print(cells[-1], file=sys.stderr, flush=True)
    if not {(name, seconds_of(budget)) for name in TEXTS for budget in BUDGETS} <= {(one["text"], one["budget"]) for one in cells}:
        return
    worst = {name: max(one[name] for one in cells) for name in ("worse_by", "finding_out", "time_off")}
    expected = all(one["expected_off"] <= OFF[int(one["budget"])] for one in cells)
    write(
        "plan_ladder",
        f"the size that the plan picks ends within {WORSE:.0%} (bits per byte) of the best of its neighbours in the same time; at most "
        f"{SHARE:.0%} of the time goes into finding out; it ends within {AROUND:.0%} of it, and foresees the loss to 10 % (5 % of 10 m)",
        f"{worst['worse_by']:.1%} worse at most; {worst['finding_out']:.1%} for finding out; {worst['time_off']:.1%} off the time; "
        f"expected {max(one['expected_off'] for one in cells):.1%} off",
        runs,
        worst["worse_by"] <= WORSE and worst["finding_out"] <= SHARE and worst["time_off"] <= AROUND and expected,
        cells=cells,
    )


if __name__ == "__main__":
    main()
