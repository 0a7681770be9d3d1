"""A process for `torchrun` to start, on one rank of which something happens: troubled.py FOLDER HOW."""

import json
import os
import signal
import sys
import time
from pathlib import Path

from fledge.train.loop import State
from fledge.train.parallel import ranks
from tests.train.toy import a_run, go

STEP, RANK = 7, 1


def strike(folder: Path, how: str) -> None:
    """What happens, once in the life of a folder; when and to which process is noted in it."""
    note = folder / "struck.json"
    if note.exists():
        return
    note.write_text(json.dumps({"at": time.time(), "pid": os.getpid()}))
    match how:
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stopped":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "hangs":
            time.sleep(1000)
        case "fails":
            raise RuntimeError("the fan has stopped")


def main() -> None:
    folder, how = Path(sys.argv[1]), sys.argv[2]

    def look(state: State) -> None:
        with (folder / f"pids-{ranks.rank()}").open("a") as file:
            file.write(f"{os.getpid()}\n")
        if state.step == STEP and ranks.rank() == RANK:
            strike(folder, how)

    with ranks.joined():
        go(a_run(steps=12, dropout=0.0, save_steps=5), folder, evaluate=None, after_step=[look], say=print)
        ranks.only_first()


if __name__ == "__main__":
    main()
