"""How soon the command answers: medians of 15 runs, interleaved with an empty Python."""

import statistics
import subprocess
import sys
import time

from record import arguments, write

COMMANDS = {
    "python, nothing": [sys.executable, "-c", "pass"],
    "import fledge": [sys.executable, "-c", "import fledge"],
    "fledge --help": [sys.executable, "-m", "fledge", "--help"],
}


def main() -> None:
    options = arguments(__doc__, runs=15)
    took: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(options.runs):
        for name, command in COMMANDS.items():
            began = time.perf_counter()
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            took[name].append(time.perf_counter() - began)
    runs = [
        {"what": name, "median": round(statistics.median(seconds), 3), "least": round(min(seconds), 3), "most": round(max(seconds), 3)}
        for name, seconds in took.items()
    ]
    medians = {run["what"]: run["median"] for run in runs}
    reached = medians["fledge --help"] < 0.4 and medians["import fledge"] < 0.3
    measured = f"{medians['fledge --help']:.2f} s and {medians['import fledge']:.2f} s, Python itself {medians['python, nothing']:.2f} s"
    write("startup", "fledge --help < 0.4 s, import fledge < 0.3 s", measured, runs, reached)


if __name__ == "__main__":
    main()
