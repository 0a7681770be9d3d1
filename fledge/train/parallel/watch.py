"""A thread on each rank that sees who is dead, who hangs and who failed, and ends all of them, so that nobody waits for ever."""

import json
import math
import os
import signal
import socket
import sys
import threading
import time
from collections import deque
from pathlib import Path

import torch
from torch.distributed import Store

BEAT = 0.5  # seconds
SILENT = 12.0  # seconds without a beat: dead, stopped, or its machine is
HANGS = 15.0  # seconds without moving on within a step, unless steps take longer here
SLOW = 5  # times the longest of the latest steps: this hangs too
UNMEASURED = 3600.0  # seconds for the first steps, a batch of validation, a save; what comes before and after training may take for ever
GRACE = 5.0  # seconds for the main thread to end by itself
END, DONE = "end", "done"
try:
    HERE = f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"  # where a process can be looked up by its number
except OSError:
    HERE = socket.gethostname()


class Watch(threading.Thread):
    """Beats, and listens to the beats of the others. A beat says where its rank stands and whether it waits for others."""

    LAST = "The whole job ends; the same command goes on from the last checkpoint."

    def __init__(self, store: Store, own: Store, rank: int, ranks: int):
        super().__init__(name="watch", daemon=True)
        self.store, self.own, self.rank, self.ranks = store, own, rank, ranks
        self.doing, self.step, self.since = "starting", -1, time.monotonic()
        self.began: float | None = None  # of the step under way, unless it also validates or saves
        self.met, self.steps = 0, deque[float](maxlen=100)  # steps begun here, and what the latest took, but for the first
        self.left = threading.Event()  # this rank ends as it should, or has said why not
        self.beats = 0
        self.heard = {other: (-1, time.monotonic()) for other in range(ranks)}  # the latest beat of each, and when it came
        self.said: dict[int, dict] = {}
        self.beat()
        self.start()

    def moved(self, doing: str, step: int | None = None) -> None:
        """The main thread has come so far."""
        now = time.monotonic()
        if step is None:
            self.began = None
        elif step != self.step:
            if self.began is not None and self.met > 1:
                self.steps.append(now - self.began)
            self.step, self.began, self.met = step, now, self.met + 1
        self.doing, self.since = doing, now

    def leave(self) -> None:
        """This rank ends as it should; the thread has ended when this returns."""
        self.left.set()
        self._ended()
        self.beat(self.store)  # the last word: no beat of the thread comes after it

    def end(self, sentence: str) -> bool:
        """Whether this rank is the first to say why all end."""
        mine = json.dumps([self.rank, self.step, sentence])
        self.left.set()
        first = self.store.compare_set(END, "", mine).decode() == mine
        self._ended()
        return first

    def _ended(self) -> None:
        """Wait for the thread: one that comes back from the store while Python ends takes the process with it (abort)."""
        self.join(GRACE)

    def torn_along(self, failure: Exception) -> bool:
        """Whether this failure is only that another rank has gone, which is then said."""
        lost = isinstance(failure, torch.distributed.DistError) or (
            isinstance(failure, RuntimeError)
            and any(word in str(failure) for word in ("gloo", "Connection", "connection", "NCCL", "store"))
        )
        if lost and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun ends the others at once: the thread has yet to say whose fault it is
        until = time.monotonic() + SILENT + GRACE
        while lost and time.monotonic() < until:
            if self.store.check([END]):
                return True
            time.sleep(BEAT / 5)
        return False

    def run(self) -> None:
        suspected = None
        try:
            while not self.left.is_set():
                self.beat()
                self.listen()
                culprit = self.culprit()
                if culprit is not None and culprit == suspected:  # a thread may wait long for its turn, and the other have left meanwhile
                    self.blame(*culprit)
                suspected = culprit
                if self.own.check([END]) and not self.left.wait(GRACE):  # the main thread may be about to end in order
                    os._exit(1)
                self.left.wait(BEAT)
        except torch.distributed.DistError:
            if not self.left.wait(GRACE):
                print(f"fledge: {self.described(self.rank)} has lost the job's store. {self.LAST}", file=sys.stderr, flush=True)
                os._exit(1)

    def beat(self, store: Store | None = None) -> None:
        self.beats += 1
        stuck = 0.0 if self.left.is_set() else max(0.0, time.monotonic() - self.since - self.limit())
        waiting = stuck > 0 and (self.doing == "waiting" or waits())
        told = {
            "beat": self.beats, "step": self.step, "doing": self.doing, "stuck": stuck, "waits": waiting,
            "left": self.left.is_set(), "pid": os.getpid(), "host": HERE,
        }  # fmt: skip
        (store or self.own).set(f"beat/{self.rank}", json.dumps(told))

    def limit(self) -> float:
        """The seconds after which this rank hangs if it has not moved on."""
        if self.doing in ("training", "waiting") and self.steps:
            return max(HANGS, SLOW * max(self.steps))
        return UNMEASURED if self.step >= 0 and self.doing != DONE else math.inf

    def listen(self) -> None:
        for other in range(self.ranks):
            key = f"beat/{other}"
            if self.own.check([key]):
                told = json.loads(self.own.get(key))
                self.said[other] = told
                if told["beat"] != self.heard[other][0]:
                    self.heard[other] = told["beat"], time.monotonic()

    def culprit(self) -> tuple[int, str] | None:
        """Who holds up all others, and how."""
        for other, told in sorted(self.said.items()):
            if told["left"] or other == self.rank:
                continue
            if told["host"] == HERE and gone(told["pid"]):
                return other, "is dead"
            if time.monotonic() - self.heard[other][1] > SILENT:
                return other, f"has given no sign of life for {SILENT:.0f} s"
        stuck = {other: told for other, told in self.said.items() if told["stuck"] > 0 and not told["left"]}
        for other, told in sorted(stuck.items()):
            if not told["waits"]:
                return other, "hangs"
        if stuck and min(told["stuck"] for told in stuck.values()) > GRACE:
            return min(stuck), "waits for the others, as they do for it"
        return None

    def blame(self, other: int, how: str) -> None:
        """End everything; the first to say so says it, and ends the culprit where it is on this machine."""
        if self.left.is_set():
            return
        mine = json.dumps([self.rank, self.step, f"{other} {how}"])
        if self.own.compare_set(END, "", mine).decode() == mine:
            print(f"fledge: {self.described(other)} {how}. {self.LAST}", file=sys.stderr, flush=True)
        told = self.said[other]
        if told["host"] == HERE and other != self.rank and not gone(told["pid"]):
            os.kill(told["pid"], signal.SIGKILL)
        os._exit(1)

    def described(self, other: int) -> str:
        step = self.step if other == self.rank else max(self.step, self.said[other]["step"])  # none is a step ahead of another
        where = f"in step {step:,}" if step >= 0 else "before the first step"
        return f"rank {other} of {self.ranks}, {where},"


def gone(pid: int) -> bool:
    """Whether a process of this machine has ended."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except ProcessLookupError:
        return True
    except OSError:  # no Linux, or not ours to look at
        return False


def waits() -> bool:
    """Whether a thread of this process stands in a call to the others."""
    for thread, frame in sys._current_frames().items():
        if thread != threading.get_ident() and "torch/distributed/" in frame.f_code.co_filename.replace(os.sep, "/"):
            return True
    return False
