"""lm-evaluation-harness with our model behind it, beside its own `hf` backend on the same folder: log-likelihoods, scores, time on a CPU.

Wants `fledge[harness]` and accelerate. The weights are random (of GPT-2's 124M by default): what is compared does not depend on them.
"""

import gzip
import os
import time
from pathlib import Path
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from record import arguments, data_folder, scratch, write

from fledge.evaluation.harness import Backend, loaded, run
from fledge.model import Transformer, initialise
from fledge.presets import PRESETS
from fledge.text import Tokenizer
from fledge.weights import open_model, save_model

BATCHES = (1, 8)  # of theirs; the quicker one counts
CLAIM = (
    "lm-evaluation-harness through our backend and through its hf backend on the same folder: log-likelihoods of every item equal to 1e-4, "
    "same scores, ours at least as fast on a CPU"
)


def main() -> None:
    options = arguments(__doc__, preset="gpt2", rows=50, shots=0, repeats=3, threads=0, folder="")
    if options.threads:
        torch.set_num_threads(options.threads)
    with scratch(options.folder) as place:
        folder, task = made(place, options.preset), items(place, options.rows)
        network, tokenizer, _ = open_model(folder)
        theirs = {size: HFLM(str(folder), device="cpu", dtype="float32", batch_size=size) for size in BATCHES}
        runs: list[dict[str, Any]] = []
        answers: dict[str, Any] = {}
        for repeat in range(options.repeats):  # in turns, so that a busy machine is so for all
            for name in ("ours", *(f"hf, batches of {size}" for size in BATCHES)):
                backend = Backend(network, tokenizer) if name == "ours" else theirs[int(name.split()[-1])]
                tasks = loaded([task], options.shots)
                began = time.perf_counter()
                found = run(backend, tasks)
                runs.append({"backend": name, "repeat": repeat, "seconds": round(time.perf_counter() - began, 2)})
                answers[name] = found
    ours = answers["ours"]
    apart = max(difference(ours, other) for name, other in answers.items() if name != "ours")
    scores = {name: {key: value for key, value in found["results"]["hellaswag"].items() if "," in key} for name, found in answers.items()}
    equal = all(one[key] == scores["ours"][key] for one in scores.values() for key in ("acc,none", "acc_norm,none"))
    seconds = {name: sorted(one["seconds"] for one in runs if one["backend"] == name)[options.repeats // 2] for name in answers}
    best = min(value for name, value in seconds.items() if name != "ours")
    measured = (
        f"log-likelihoods at most {apart:.1e} apart, scores {'equal' if equal else 'not equal'}; "
        f"{seconds['ours']:.1f} s, theirs {best:.1f} s ({best / seconds['ours']:.1f} times as fast)"
    )
    write(
        "harness", CLAIM, measured, runs, apart <= 1e-4 and equal and seconds["ours"] <= best, preset=options.preset, rows=options.rows,
        shots=options.shots, scores=scores, seconds=seconds, largest_difference=apart, threads=torch.get_num_threads(),
    )  # fmt: skip


def made(place: Path, preset: str) -> Path:
    """A model folder of random weights with GPT-2's tokenizer."""
    folder = place / preset
    if not folder.exists():
        tokenizer = Tokenizer.load(data_folder() / "tokenizers" / "gpt2")
        arch = PRESETS[preset].arch()
        save_model(folder, initialise(Transformer(arch), 0), tokenizer, None, {}, None, "random weights")
    return folder


def items(place: Path, rows: int) -> str:
    """The task: so many of HellaSwag's items."""
    with gzip.open(data_folder() / "benchmarks" / "hellaswag-500.jsonl.gz", "rt", encoding="utf-8") as file:
        kept = [line for line, _ in zip(file, range(rows), strict=False)]
    (place / "hellaswag.jsonl").write_text("".join(kept), encoding="utf-8")
    return f"hellaswag={place / 'hellaswag.jsonl'}"


def difference(ours: dict[str, Any], theirs: dict[str, Any]) -> float:
    """The largest between the log-likelihoods of any choice of any item."""
    pairs = zip(ours["samples"]["hellaswag"], theirs["samples"]["hellaswag"], strict=True)
    return max(
        abs(float(one[0][0]) - float(other[0][0])) for a, b in pairs for one, other in zip(a["resps"], b["resps"], strict=True)
    )  # fmt: skip


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
