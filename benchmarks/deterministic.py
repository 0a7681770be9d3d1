"""Seconds of whole training steps with `--deterministic` and without, in turns on the same batch."""

import statistics
from dataclasses import replace

from record import arguments, write
from trained import SHAPES, Trained

from fledge.train.plan import this_machine

MOST = 1.1


def main() -> None:
    options = arguments(__doc__, rounds=12, threads=0)
    here = this_machine(threads=options.threads)
    runs, costs = [], {}
    for name, (arch, rows, context, muon) in SHAPES.items():
        variants = {strict: Trained(arch, rows, context, replace(here, deterministic=strict), muon) for strict in (False, True)}
        for _ in range(options.rounds):
            for variant in variants.values():
                variant.step()
        free, strict = (variants[kind].seconds[1:] for kind in (False, True))  # the first step builds what the others use
        costs[name] = statistics.median(b / a for a, b in zip(free, strict, strict=True))
        runs.append({"shape": name, "seconds": free, "deterministic": strict, "ratio": costs[name]})
    claim = "--deterministic costs at most 10 % of a step"
    measured = "; ".join(f"{name}: {cost - 1:+.1%}" for name, cost in costs.items())
    write("deterministic", claim, measured, runs, max(costs.values()) <= MOST, dtype=here.dtype)


if __name__ == "__main__":
    main()
