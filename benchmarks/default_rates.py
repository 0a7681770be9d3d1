"""The rates that fledge takes by itself beside a quarter, half, twice and four times of them: two texts, three widths, the same steps each.

Bits per byte of held-out documents. A text's first three million characters are read, in batches of 2,048 tokens, as the plan has them for
minutes. A run that was cut off goes on in its `--folder`, where others may be done apart: `--texts speeches --widths 96 --factors 0.5,2`.
"""

import json
import sys
from pathlib import Path
from typing import Any

from record import arguments, scratch, write
from texts import TEXTS, corpus_of

import fledge
from fledge.data.corpus import Corpus
from fledge.train.plan import default_arch, optimizer_for

CHARACTERS, VOCABULARY, CONTEXT, ROWS = 3_000_000, 2048, 256, 8
SIZES = {96: (3, 480), 192: (3, 320), 384: (2, 200)}  # width: depth, steps
FACTORS = (1.0, 0.5, 2.0, 0.25, 4.0)
LIMIT = 0.02  # of the bits per byte


def run(corpus: Corpus, width: int, factor: float, seed: int, folder: Path) -> dict[str, Any]:
    """Train once, unless it was done before: which rate it was says what a run is."""
    depth, steps = SIZES[width]
    usual = optimizer_for(default_arch(width, depth, corpus.tokenizer.size, CONTEXT), ROWS * CONTEXT)
    rates = {"rate": usual.rate * factor, "adamw_rate": usual.adamw_rate * factor}
    out = folder / f"{corpus.folder.name}-{width}-{rates['rate']:.5g}-{rates['adamw_rate']:.5g}-{seed}"
    kept = out / "found.json"
    if not kept.exists():
        settings = [
            f"arch.width={width}", f"arch.depth={depth}", f"arch.context={CONTEXT}", f"batch.rows={ROWS}", f"batch.context={CONTEXT}",
            f"save.evaluate={steps}", *(f"optimizer.{name}={rate}" for name, rate in rates.items() if factor != 1),
        ]  # fmt: skip
        done = fledge.pretrain([str(corpus.folder)], out=out, arch="fledge-1m", steps=steps, set=settings, seed=seed)
        found = {"bits_per_byte": round(done.validation.bits_per_byte, 4), "seconds": round(done.seconds, 1)}  # pyrefly: ignore[missing-attribute]
        kept.write_text(json.dumps(found), encoding="utf-8")
    shape = {"text": corpus.folder.name, "width": width, "depth": depth, "steps": steps, "seed": seed}
    return {**shape, "factor": factor, **{name: round(rate, 6) for name, rate in rates.items()}, **json.loads(kept.read_text())}


def main() -> None:
    every = {"texts": list(TEXTS), "widths": list(SIZES), "factors": list(FACTORS)}
    options = arguments(__doc__, folder="", seed=0, **{name: ",".join(map(str, values)) for name, values in every.items()})
    texts, widths, factors = (getattr(options, name).split(",") for name in every)
    runs: list[dict[str, Any]] = []
    with scratch(options.folder) as folder:
        corpora = [corpus_of(name, folder, CHARACTERS, VOCABULARY, 1 / 30) for name in texts]
        for factor in map(float, factors):
            for width in map(int, widths):
                for corpus in corpora:
                    runs.append(run(corpus, width, factor, options.seed, folder))
                    print(runs[-1], file=sys.stderr, flush=True)
    if len(runs) < len(TEXTS) * len(SIZES) * len(FACTORS):
        return
    cells, worse = list[dict[str, Any]](), list[float]()
    for name in TEXTS:
        for width in SIZES:
            bits = {r["factor"]: r["bits_per_byte"] for r in runs if (r["text"], r["width"]) == (name, width)}
            best = min(bits, key=lambda factor: bits[factor])
            worse.append(bits[1.0] / bits[best] - 1)
            cells.append({"text": name, "width": width, "bits": bits, "best": best, "worse_by": round(worse[-1], 4)})
    write(
        "default_rates",
        f"two texts, three widths: the default rates end within {LIMIT:.0%} (bits per byte) of the best of five",
        f"{max(worse):.1%} off at most, {sum(worse) / len(worse):.1%} on average",
        runs,
        max(worse) <= LIMIT,
        cells=cells,
    )


if __name__ == "__main__":
    main()
