"""Every transition among 1, 2, 3 and 4 processes, in every way to share a model, for all three families, beside a run of one process."""

import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from record import arguments, write

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.train.families import FAMILIES
from tests.train.ranks import on_ranks
from tests.train.transitions import STOP, WAYS, all_gradients, all_losses, furthest, losses

LIMIT = 1e-6
SECONDS = 1800.0  # of patience with a busy machine


def main() -> None:
    options = arguments(__doc__, optimizers="adamw,muon")
    started, wrong = time.perf_counter(), list[str]()
    runs = compared(wrong)
    for family in FAMILIES:
        for optimizer in options.optimizers.split(","):
            runs.append(travelled(family, optimizer, wrong))
    gradient = max(run["gradient"] for run in runs if "gradient" in run)
    loss = max(run["loss"] for run in runs)
    claim = (
        f"each transition among {len(WAYS)} ways to share a model among 1 to 4 processes, for 3 families: the losses of one process "
        "to 1e-6, every gradient to 1e-6 of the largest"
    )
    found = f"{len(wrong)} of {sum(run['cases'] for run in runs)} wrong; losses to {loss:.1e}, gradients to {gradient:.1e}"
    write("ranks", claim, found, runs, not wrong, ways=WAYS, wrong=wrong, seconds=round(time.perf_counter() - started))
    sys.exit(bool(wrong))


def compared(wrong: list[str]) -> list[dict[str, Any]]:
    """The first step's loss and gradients of each model in each way."""
    (alone,) = on_ranks(1, all_gradients, 1, seconds=SECONDS)
    runs = {name: {"model": name, "cases": 0, "gradient": 0.0, "loss": 0.0} for name in alone}
    for ranks, tensor in WAYS:
        found, *_ = on_ranks(ranks, all_gradients, tensor, seconds=SECONDS)
        for name, run in runs.items():
            gradient, loss = furthest(found[name][2], alone[name][2]), abs(found[name][0] / alone[name][0] - 1)
            run |= {"cases": run["cases"] + 1, "gradient": max(run["gradient"], gradient), "loss": max(run["loss"], loss)}
            if max(gradient, loss) > LIMIT:
                wrong.append(f"{name} on {ranks} ranks, {tensor} to a layer: gradients {gradient:.1e}, loss {loss:.1e}")
        print(f"{ranks} ranks, {tensor} to a layer: compared", flush=True)
    return list(runs.values())


def travelled(family: str, optimizer: str, wrong: list[str]) -> dict[str, Any]:
    """Stopped in each way and continued in each."""
    apart = 0.0
    with tempfile.TemporaryDirectory() as root:
        ((*whole,),) = on_ranks(1, losses, family, optimizer, Path(root, "alone"), 1, seconds=SECONDS)
        begun, folders = list[list[float]](), [Path(root, "-".join(map(str, way))) for way in WAYS]
        for (ranks, tensor), folder in zip(WAYS, folders, strict=True):
            begun.append(on_ranks(ranks, losses, family, optimizer, folder, tensor, STOP, seconds=SECONDS)[0])
        for ranks, tensor in WAYS:
            again = [Path(shutil.copytree(folder, Path(root, "again", folder.name))) for folder in folders]
            ended, *_ = on_ranks(ranks, all_losses, family, optimizer, again, tensor, seconds=SECONDS)
            shutil.rmtree(Path(root, "again"))
            for before, first, then in zip(WAYS, begun, ended, strict=True):
                away = max(abs(found / wanted - 1) for found, wanted in zip([*first, *then], whole, strict=True))
                apart = max(apart, away)
                if away > LIMIT:
                    wrong.append(f"{family}, {optimizer}: from {before} to {(ranks, tensor)} losses differ by {away:.1e}")
    print(f"{family}, {optimizer}: losses to {apart:.1e}", flush=True)
    return {"family": family, "optimizer": optimizer, "cases": len(WAYS) ** 2, "loss": apart}


if __name__ == "__main__":
    main()
