"""Opening a model of a billion parameters from shards: seconds until it is there, and the peak of anonymous memory in each number type."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from record import arguments, write

CHILD = """
import json, sys, threading, time
import torch
from fledge.weights import open_model

def anonymous():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("RssAnon"))

folder, dtype = sys.argv[1], {"stored": None, "float32": torch.float32, "bfloat16": torch.bfloat16}[sys.argv[2]]
before, peak, done = anonymous(), 0, threading.Event()

def watch():
    global peak
    while not done.wait(0.002):
        peak = max(peak, anonymous())

threading.Thread(target=watch, daemon=True).start()
started = time.perf_counter()
model, _, _ = open_model(folder, dtype=dtype)
seconds = time.perf_counter() - started
done.set()
size = sum(p.numel() * p.element_size() for p in model.parameters())
with torch.no_grad():
    started = time.perf_counter()
    model(torch.tensor([[1, 2, 3]]))
print(json.dumps({
    "seconds": round(seconds, 3), "first_use_seconds": round(time.perf_counter() - started, 2), "bytes": size,
    "peak_anonymous_bytes": max(peak, anonymous()) - before, "ratio": round((max(peak, 0) - before) / size, 3),
}))
"""


def main() -> None:
    options = arguments(__doc__, models="fledge-1b,gpt2-large", shard_megabytes=500)
    runs: list[dict[str, Any]] = []
    for name in options.models.split(","):
        with tempfile.TemporaryDirectory() as folder:
            make(name, Path(folder), options.shard_megabytes * 10**6)
            for wanted in ("stored", "bfloat16", "float32"):
                said = subprocess.run([sys.executable, "-c", CHILD, folder, wanted], check=True, capture_output=True, text=True).stdout
                runs.append({"model": name, "stored": "bfloat16", "wanted": wanted, **json.loads(said)})
    lazy = all(run["seconds"] < 2 for run in runs if run["wanted"] == "stored" and run["model"] == "fledge-1b")
    claim = "1B parameters are there in under 2 s, and opening takes at most 1.1 times the model's size of anonymous memory"
    opened = next(run["seconds"] for run in runs if run["wanted"] == "stored")
    measured = f"{opened:.2f} s; {max(run['ratio'] for run in runs):.2f} times at most"
    write("load", claim, measured, runs, lazy and all(run["ratio"] <= 1.1 for run in runs))


def make(name: str, folder: Path, shard: int) -> None:
    """A folder of random weights in bf16."""
    import torch

    from fledge.model import Transformer, initialise
    from fledge.presets import PRESETS
    from fledge.text.tokenizer import Tokenizer
    from fledge.weights import save_model

    model = initialise(Transformer(PRESETS[name].arch()))
    save_model(folder, model, Tokenizer.bytes(), None, {}, None, "# random", torch.bfloat16, shard)


if __name__ == "__main__":
    main()
