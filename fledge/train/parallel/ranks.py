"""The processes that `torchrun` starts, as one run: they meet at a board, watch over each other, and end together."""

import itertools
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from typing import Any

import torch
from torch.distributed import PrefixStore, TCPStore

from fledge.train.parallel.watch import Watch

PATIENCE = timedelta(days=1)  # of those who wait at the board: the watch ends what takes too long


def rank() -> int:
    """This process's number, 0 where it is the only one."""
    return int(os.environ.get("RANK", "0"))


def ranks() -> int:
    """How many processes `torchrun` started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


class Followed(SystemExit):
    """The end of a rank that has nothing left to do while rank 0 measures and writes."""


_watch: Watch | None = None
_meetings, _runs = itertools.count(), itertools.count()


@contextmanager
def joined() -> Iterator[None]:
    """Inside, this process is one of those that `torchrun` started; gloo serves what lies on the CPU, NCCL what lies on a GPU.

    When one of them fails, hangs or dies, all end within half a minute, and one of them says which and in which step.
    """
    global _watch
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo")
    _watch = Watch(_store(), _store(), rank(), ranks())
    try:
        yield
    except Followed:
        _watch.leave()
        raise
    except Exception as failure:
        _end(_watch, failure)
        raise
    else:
        _watch.leave()
        torch.distributed.destroy_process_group()
    finally:
        _watch = None


def _store() -> PrefixStore:
    """A line of its own to the job's store, so that one who waits there holds up nobody else."""
    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=PATIENCE)
    return PrefixStore(f"fledge/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _end(watch: Watch, failure: Exception) -> None:
    """Say it if nobody has said it yet; who was only torn along by another's end is silent."""
    if watch.torn_along(failure):
        raise SystemExit(1) from None
    sentence = f"{type(failure).__name__}: {failure}"
    if not watch.end(sentence):
        raise SystemExit(getattr(failure, "exit_code", 2 if isinstance(failure, ValueError) else 1)) from None
    if not isinstance(failure, ValueError | FloatingPointError) and not hasattr(failure, "exit_code"):
        traceback.print_exception(failure)
        print(f"fledge: {watch.described(rank())} failed ({sentence}). {watch.LAST}", file=sys.stderr, flush=True)
        raise SystemExit(1) from None


def alive(doing: str, step: int | None = None) -> None:
    """Tell the watch that this rank moves on."""
    if _watch is not None:
        _watch.moved(doing, step)


def follow(run: int = 0) -> None:
    """Wait until rank 0 has planned the run of this number, counted from the job's start, and its folder says so."""
    if _watch is not None and rank() > 0:
        _watch.store.get(f"begun/{run}")


def begin() -> None:
    """Rank 0 says that the folder of the next run says what it is, and the others wait for that."""
    run = next(_runs)
    if _watch is not None and rank() == 0:
        _watch.store.set(f"begun/{run}", "1")
    follow(run)


def only_first() -> None:
    """From here on rank 0 is alone: the others end."""
    if _watch is not None and rank() > 0:
        raise Followed(0)


class Board:
    """Where ranks leave what others wait for: apart from all collectives, so that any thread may use it."""

    def __init__(self, rank: int, size: int):
        self.rank, self.size = rank, size

    @cached_property
    def store(self) -> PrefixStore:
        return _store()

    def after_all(self, act: Callable[[], Any], then: Callable[[list[Any]], object]) -> None:
        """All act at once, and rank 0 does `then` with what each came to; what goes wrong is raised everywhere as an `OSError`."""
        key = f"meeting/{next(_meetings)}"
        own, failure = attempted(act)
        self.store.set(f"{key}/{self.rank}", json.dumps(own))
        if self.rank == 0:
            said = [json.loads(self.store.get(f"{key}/{rank}")) for rank in range(self.size)]
            outcome = next((one for one in said if "failed" in one), None)
            if outcome is None:
                outcome, failure = attempted(lambda: then([one["came to"] for one in said]))
            self.store.set(f"{key}/end", json.dumps({**outcome, "came to": None}))
        outcome = json.loads(self.store.get(f"{key}/end"))
        if failure is not None:
            raise failure
        if "failed" in outcome:
            raise OSError(outcome["errno"], outcome["failed"])


def attempted(act: Callable[[], Any]) -> tuple[dict[str, Any], Exception | None]:
    """What came of it, or of its failure, as JSON can hold it."""
    try:
        return {"came to": act()}, None
    except Exception as failure:
        return {"failed": getattr(failure, "strerror", None) or str(failure), "errno": getattr(failure, "errno", None)}, failure
