"""Thousands of requests of every kind, valid and not, to every route of a server: none may end in a fault or hang, or change an answer."""

import sys
import tempfile
import warnings
from pathlib import Path

from record import arguments, write

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.server import models
from tests.server.starting import running
from tests.server.trials import Fuzz, shares


def main() -> None:
    options = arguments(__doc__, cases=5000, seed=0, round=100)
    warnings.simplefilter("ignore")  # of schemathesis about its own dependencies
    with tempfile.TemporaryDirectory() as place:
        folders = models.made(Path(place))
        named = [f"{name}={folders[name]}" for name in ("base", "assistant", "classifier", "encoder")]
        with running(*named, "--tokens", 8) as server:
            fuzz = Fuzz(server.url)
            before = fuzz.golden()
            for kind, cases in shares(options.cases).items():
                for number in range(2 + 2 * cases // options.round):  # not every draw is a new one
                    if fuzz.tried[kind] < cases:
                        fuzz.run(kind, min(options.round, cases - fuzz.tried[kind]), options.seed + number)
                        print(kind, fuzz.tried[kind], "of", cases, "-", len(fuzz.wrong), "wrong", file=sys.stderr)
            same, left = fuzz.golden() == before, sum(server.answers().values())
            fuzz.close()
            alive = server.process.poll() is None
    statuses = dict(sorted(fuzz.statuses.items()))
    run = {"tried": dict(fuzz.tried), "statuses": statuses, "wrong": fuzz.wrong[:50], "slowest": round(fuzz.slowest, 3)}
    reached = not fuzz.wrong and same and alive and not left
    claim = "requests of every kind, valid and not, to every route: none ends in a fault or hangs, and answers afterwards are those before"
    measured = f"{len(fuzz.wrong)} of {sum(fuzz.tried.values())} wrong, the slowest took {fuzz.slowest:.2f} s; golden answers "
    measured += "as before" if same else "NOT as before"
    write("serve_fuzz", claim, measured, [run], reached)


if __name__ == "__main__":
    main()
