"""Every transition among 1, 2, 3 and 4 processes, in every way to share a model, for all three families, beside a run of one process."""

import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from record import arguments, write

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.train.families import FAMILIES, ODD
from tests.train.ranks import on_ranks
from tests.train.transitions import END, STOP, WAYS, furthest, gradients, losses

LIMIT = 1e-6


def main() -> None:
    options = arguments(__doc__, optimizers="adamw,muon")
    started, wrong, runs = time.perf_counter(), list[str](), list[dict[str, Any]]()
    for name in [*FAMILIES, *ODD]:
        runs.append(compared(name, wrong))
    for family in FAMILIES:
        for optimizer in options.optimizers.split(","):
            runs.append(travelled(family, optimizer, wrong))
    done = sum(run["cases"] for run in runs)
    gradient = max(run["gradient"] for run in runs if "gradient" in run)
    loss = max(run["loss"] for run in runs)
    claim = (
        f"each transition among {len(WAYS)} ways to share a model among 1 to 4 processes, for 3 families: the losses of one process "
        "to 1e-6, every gradient to 1e-6 of the largest"
    )
    found = f"{len(wrong)} of {done} wrong; losses to {loss:.1e}, gradients to {gradient:.1e}"
    write("ranks", claim, found, runs, not wrong, ways=WAYS, wrong=wrong, seconds=round(time.perf_counter() - started))
    sys.exit(bool(wrong))


def compared(name: str, wrong: list[str]) -> dict[str, Any]:
    """The first step's loss and gradients in each way."""
    ((loss, _, alone),) = on_ranks(1, gradients, name, 1)
    most, apart = 0.0, 0.0
    for ranks, tensor in WAYS:
        found, *_ = on_ranks(ranks, gradients, name, tensor)
        off, away = furthest(found[2], alone), abs(found[0] / loss - 1)
        most, apart = max(most, off), max(apart, away)
        if max(off, away) > LIMIT:
            wrong.append(f"{name} on {ranks} ranks, {tensor} to a layer: gradients {off:.1e}, loss {away:.1e}")
    print(f"{name}: gradients to {most:.1e}, losses to {apart:.1e}", flush=True)
    return {"model": name, "cases": len(WAYS), "gradient": most, "loss": apart}


def travelled(family: str, optimizer: str, wrong: list[str]) -> dict[str, Any]:
    """Stopped in each way and continued in each."""
    apart = 0.0
    with tempfile.TemporaryDirectory() as root:
        ((*whole,),) = on_ranks(1, losses, family, optimizer, Path(root, "alone"), 1)
        for before in WAYS:
            folder = Path(root, "-".join(map(str, before)))
            first, *_ = on_ranks(before[0], losses, family, optimizer, folder, before[1], STOP)
            for after in WAYS:
                again = shutil.copytree(folder, Path(root, "again"))
                then, *_ = on_ranks(after[0], losses, family, optimizer, again, after[1], END)
                shutil.rmtree(again)
                away = max(abs(found / wanted - 1) for found, wanted in zip([*first, *then], whole, strict=True))
                apart = max(apart, away)
                if away > LIMIT:
                    wrong.append(f"{family}, {optimizer}: from {before} to {after} losses differ by {away:.1e}")
    print(f"{family}, {optimizer}: losses to {apart:.1e}", flush=True)
    return {"family": family, "optimizer": optimizer, "cases": len(WAYS) ** 2, "loss": apart}


if __name__ == "__main__":
    main()
