"""Where the numbers of a run go beside `metrics.jsonl`, for those who want them there: TensorBoard, Weights & Biases, trackio."""

import os
import uuid
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from fledge.arch.record import did_you_mean, to_json
from fledge.train.run import Run

TrackerName = Literal["tensorboard", "wandb", "trackio"]
INSTALLED_BY = {"tensorboard": "'fledge[track]'", "wandb": "wandb", "trackio": "trackio"}
PROJECT = "fledge"


class Tracker(Protocol):
    """Takes the numbers of one step, by names such as `loss` or `validation/loss`."""

    def log(self, step: int, numbers: dict[str, float]) -> None: ...
    def close(self) -> None: ...


class TensorBoard:
    """Event files in `run/tensorboard`; what a resumed run takes back, TensorBoard leaves out (`purge_step`)."""

    def __init__(self, place: Path, run: Run, step: int):
        writer = import_module("torch.utils.tensorboard").SummaryWriter
        self.writer = writer(str(place / "tensorboard"), purge_step=step + 1, flush_secs=10)

    def log(self, step: int, numbers: dict[str, float]) -> None:
        for name, number in numbers.items():
            self.writer.add_scalar(name, number, step)

    def close(self) -> None:
        self.writer.close()


class Wandb:
    """A run of Weights & Biases that goes on when ours does; `WANDB_MODE=offline` and the like hold."""

    def __init__(self, place: Path, run: Run, step: int):
        self.run = import_module("wandb").init(
            project=os.environ.get("WANDB_PROJECT", PROJECT), name=place.parent.name, id=_identity(place), resume="allow",
            dir=str(place), config=to_json(run),
        )  # fmt: skip

    def log(self, step: int, numbers: dict[str, float]) -> None:
        self.run.log(numbers, step=step)

    def close(self) -> None:
        self.run.finish()


class Trackio:
    """A run of trackio, in its own folder (`TRACKIO_DIR`), where `trackio show` finds it."""

    def __init__(self, place: Path, run: Run, step: int):
        self.library = import_module("trackio")
        self.library.init(project=PROJECT, name=f"{place.parent.name}-{_identity(place)}", resume="allow", config=to_json(run))

    def log(self, step: int, numbers: dict[str, float]) -> None:
        self.library.log(numbers, step=step)

    def close(self) -> None:
        self.library.finish()


TRACKERS: dict[str, Callable[[Path, Run, int], Tracker]] = {"tensorboard": TensorBoard, "wandb": Wandb, "trackio": Trackio}


def wanted(names: Iterable[str] | None) -> tuple[str, ...]:
    """The names of trackers, each known and installed.

    Raises `ValueError` for one that is not, with the command that installs it.
    """
    names = tuple(names or ())
    for name in names:
        if name not in TRACKERS:
            raise ValueError(f"--track {name!r} is unknown{did_you_mean(name, get_args(TrackerName))}")
        if find_spec(name) is None:
            raise ValueError(f"--track {name} needs a library that is not installed: pip install {INSTALLED_BY[name]}")
    return names


def opened(names: Sequence[str], place: Path, run: Run, step: int) -> list[Tracker]:
    """The trackers of a run whose record is in `place`, after `step` steps."""
    return [TRACKERS[name](place, run, step) for name in names]


def numbers_of(facts: dict[str, Any], of: str = "") -> dict[str, float]:
    """The numbers among facts, those within parts under `part/name`.

    >>> numbers_of({"loss": 2.5, "validation": {"loss": 2.75}})
    {'loss': 2.5, 'validation/loss': 2.75}
    """
    found: dict[str, float] = {}
    for name, value in facts.items():
        if isinstance(value, dict):
            found |= numbers_of(value, f"{of}{name}/")
        elif isinstance(value, (int, float)):
            found[of + name] = value
    return found


def _identity(place: Path) -> str:
    """A name of this run that no other has, kept beside its record."""
    path = place / "track.id"
    if not path.exists():
        path.write_text(uuid.uuid4().hex[:8], encoding="utf-8")
    return path.read_text(encoding="utf-8")
