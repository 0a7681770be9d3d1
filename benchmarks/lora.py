"""Adapters beside full fine-tuning on two tasks, and beside transformers with peft on the same shape, data and rank, in turns.

`--base` is a model to start from; without one it is made by the recipe of `base.py`. The peers run where FLEDGE_PEERS says.
"""

import statistics
import tempfile
from pathlib import Path
from typing import Any

from base import base_of, facts_of
from peers import ADAPTERS, PINNED, Task, Took, characters, measured
from record import arguments, data_folder, scratch, write

import fledge

SHAPES = ((384, 6, 6, 256, 16), (768, 12, 12, 512, 4))  # width, depth, heads, context, rows


def main() -> None:
    options = arguments(__doc__, base="", rank=8, epochs=4, rounds=2, steps=10, seeds=3, threads=2, peers=1, tasks=1, shapes=2, folder="")
    with scratch(options.folder) as folder:
        beside = of_peers(options) if options.peers else []  # first: on Linux a new process's peak begins at what this one has held
        base = base_of(options, Path(folder))
        made_by = facts_of(base)
        tasks = of_tasks(options, base, Path(folder)) if options.tasks else []
    runs = [*tasks, *beside]
    quality, memory = min((run["quality"] for run in tasks), default=0.0), max((run["memory"] for run in tasks), default=1.0)
    speed, held = min((run["speed"] for run in beside), default=0.0), max((run["peak"] for run in beside), default=1.0)
    claim = (
        f"LoRA of rank {options.rank}: at least 98 % of full fine-tuning's quality on two tasks, {options.seeds} seeds each, in at most a "
        "third of its gradients and optimiser; faster and smaller than transformers + peft"
    )
    found = (
        f"{100 * quality:.1f}% of the quality in {100 * memory:.1f}% of the memory; "
        f"{speed:.2f} times the speed of peft, {held:.2f} times its memory, at least"
    )
    reached = quality >= 0.98 and memory <= 1 / 3 and speed > 1 and held < 1
    write(
        "lora", claim, found, runs, reached, peers_pinned=PINNED, rank=options.rank, epochs=options.epochs, seeds=options.seeds,
        base=made_by,
    )  # fmt: skip


def of_tasks(options: Any, base: Path, folder: Path) -> list[dict[str, Any]]:
    """Spam by accuracy and instructions by the loss of held-out answers, full and by an adapter, on average over the seeds."""
    found: list[dict[str, Any]] = []
    for name in ("spam", "instructions"):
        sides: dict[str, list[dict[str, Any]]] = {"full": [], "adapter": []}
        for seed in range(options.seeds):
            for kind, several in sides.items():
                out, rank = folder / f"{name}-{kind}-{seed}", options.rank if kind == "adapter" else None
                given: dict[str, Any] = {"out": out, "from_": base, "lora": rank, "epochs": options.epochs, "seed": seed}
                if name == "spam":
                    classified = fledge.finetune.classify(data_folder() / "classify/sms-spam.tsv", **given)
                    score, seconds = classified.score.accuracy.value, classified.seconds
                else:
                    instructed = fledge.finetune.instruct(data_folder() / "instruct/instruction-data.json", **given)
                    score, seconds = instructed.validation["loss"], instructed.seconds
                several.append({"score": round(score, 4), "seconds": round(seconds, 1), "bytes": kept(out)})
        full, adapter = ({what: statistics.fmean(one[what] for one in sides[kind]) for what in ("score", "bytes")} for kind in sides)
        quality = adapter["score"] / full["score"] if name == "spam" else full["score"] / adapter["score"]
        found.append({
            "task": name, "score": "accuracy" if name == "spam" else "loss", **sides, "quality": round(quality, 4),
            "memory": round(adapter["bytes"] / full["bytes"], 4),
        })  # fmt: skip
    return found


def kept(out: Path) -> int:
    """The bytes of gradients and of the optimiser's state, as a checkpoint holds them: each trained weight has a gradient of its size."""
    step = max((out / "run").glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))
    return sum((step / f"{part}.safetensors").stat().st_size for part in ("weights", "optimizer"))


def of_peers(options: Any) -> list[dict[str, Any]]:
    """Speed and memory of training steps, ours and peft's in turns."""
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        letters = characters(data_folder() / "text/tinyshakespeare.txt", place / "characters.bin")
        for width, depth, heads, context, rows in SHAPES[: options.shapes]:
            name = f"{depth} x {width}, rank {options.rank}"
            task = Task(name, width, depth, heads, context, rows, letters, place / "characters.bin", options.rank)
            took: dict[str, list[Took]] = {name: [] for name in ADAPTERS}
            for _ in range(options.rounds):
                for name in ADAPTERS:
                    took[name].append(measured(name, task, options.steps, place, options.threads))
            seconds = {name: statistics.median(second for one in several for second in one.seconds) for name, several in took.items()}
            peak = {name: statistics.median(one.memory for one in several) for name, several in took.items()}
            ours, theirs = ADAPTERS
            found.append({
                "model": task.name, "tokens_per_second": {name: round(task.step_tokens / took) for name, took in seconds.items()},
                "peak_memory": peak, "speed": round(seconds[theirs] / seconds[ours], 3), "peak": round(peak[ours] / peak[theirs], 3),
            })  # fmt: skip
    return found


if __name__ == "__main__":
    main()
