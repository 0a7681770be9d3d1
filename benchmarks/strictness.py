"""Mutated model folders, equal shares of each kind and an untouched control: each must be refused by name, nothing outside opened."""

import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from record import arguments, write

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.weights.mutations import KINDS, Audit, Bases, try_one


def main() -> None:
    options = arguments(__doc__, cases=408, first=0)
    audit, kinds, wrong, started = Audit(), [*KINDS, "untouched"], list[str](), time.perf_counter()
    tried = Counter[str]()
    with tempfile.TemporaryDirectory() as root:
        bases = Bases(Path(root) / "bases")
        for number in range(options.first, options.first + options.cases + options.cases // len(KINDS)):
            kind, seed = kinds[number % len(kinds)], number // len(kinds)
            complaint = try_one(bases, Path(root) / "room", audit, kind, seed)
            tried[kind] += 1
            wrong += [complaint] if complaint else []
    run = {"tried": dict(tried), "wrong": wrong, "seconds": round(time.perf_counter() - started, 1), "first": options.first}
    claim = "each of 400 mutated folders is refused with the tensor or file named, an untouched one opens, and no other file is opened"
    write("strictness", claim, f"{len(wrong)} of {sum(tried.values())} wrong", [run], not wrong)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
