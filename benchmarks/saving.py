"""What a save costs training: the pause of the copy, and how much slower the steps are while another thread writes it to disk."""

import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from record import arguments, write
from trained import Trained

from fledge.presets import gpt2, qwen3
from fledge.train import checkpoint
from fledge.train.plan import this_machine
from fledge.train.run import Save
from fledge.train.training import Snapshot

SHAPES = {  # rows, context, and whether by Muon
    "default, 384 wide, 6 deep, Muon": (qwen3(384, 6, vocabulary=4096, context=256), 16, 256, True),
    "GPT-2 124M, AdamW": (gpt2(768, 12, vocabulary=50_257, context=512, dropout=0.0), 2, 512, False),
}
MOST = 0.05


def main() -> None:
    options = arguments(__doc__, rounds=5, alone=5, threads=0, folder="")
    interval, runs, shares = Save().seconds, [], {}
    for name, (arch, rows, context, muon) in SHAPES.items():
        trained = Trained(arch, rows, context, this_machine(threads=options.threads), muon)
        trained.step()
        costs = []
        with tempfile.TemporaryDirectory(dir=options.folder or None) as folder, ThreadPoolExecutor(1) as writer:
            for _ in range(options.rounds):
                for _ in range(options.alone):
                    trained.step()
                alone = statistics.median(trained.seconds[-options.alone :])
                start, step = time.perf_counter(), trained.state.step
                copy = Snapshot.of(trained.state, {})
                pause = time.perf_counter() - start
                saving = writer.submit(checkpoint.save, Path(folder), step, copy.weights, copy.optimizer, {})
                while not saving.done():
                    trained.step()
                saving.result()
                took, steps = time.perf_counter() - start, trained.state.step - step
                checkpoint.prune(Path(folder), 1)
                costs.append({"pause": pause, "beside": took - pause, "steps": steps, "alone": alone, "cost": took - steps * alone})
        shares[name] = statistics.median(cost["cost"] for cost in costs) / interval
        runs.append({"shape": name, "saves": costs, "share": shares[name]})
    claim = f"saves lengthen the average step by at most 5 %, with one save in {interval:.0f} s"
    measured = "; ".join(
        f"{name}: {shares[name]:.2%}, of which training stands still for {statistics.median(s['pause'] for s in run['saves']):.2f} s"
        for name, run in zip(shares, runs, strict=True)
    )
    write("saving", claim, measured, runs, max(shares.values()) <= MOST)


if __name__ == "__main__":
    main()
