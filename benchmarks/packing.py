"""Best-fit packing of documents of log-normal lengths: seconds and memory for the index of all rows, and microseconds to find one row."""

import resource
import sys
import time

import numpy as np
from record import arguments, write

from fledge.data.corpus import Shards
from fledge.data.packing import Packed

SECONDS, BYTES = 1.0, 64  # a million documents; a document


def main() -> None:
    options = arguments(__doc__, documents=4_000_000)
    random, runs = np.random.default_rng(0), []
    for documents in (options.documents // 4, options.documents):
        lengths = np.clip(random.lognormal(6, 1.2, documents), 2, 200_000).astype(np.int64)
        index = np.column_stack([np.cumsum(lengths) - lengths, lengths])
        shards = Shards([np.broadcast_to(np.uint16(0), int(lengths.sum()))], [index])
        for context in (256, 2048, 8192):
            held, started = peak(), time.process_time()
            packed = Packed(shards, context, batch=8)
            seconds, held = time.process_time() - started, peak() - held
            rows, started = random.integers(packed.examples, size=1000).tolist(), time.process_time()
            for row in rows:
                packed.spans(1, row)
            each = (time.process_time() - started) / len(rows)
            found = packed.packing
            assert found.cut == int((lengths > context).sum())
            runs.append(
                {
                    "documents": documents, "context": context, "rows": found.rows, "cut": found.cut, "cut_by_stream": found.cut_by_stream,
                    "padded": round(found.padded / (found.rows * context), 6), "seconds": round(seconds, 3),
                    "more_memory_at_peak": held, "seconds_a_row": round(each, 7),
                }
            )  # fmt: skip
    slowest = max(run["seconds"] / run["documents"] * 1e6 for run in runs)
    memory = max(run["more_memory_at_peak"] / run["documents"] for run in runs)
    write(
        "packing",
        f"best-fit packing takes at most {SECONDS:g} s and {BYTES} MB for a million documents, and cuts only those longer than a row",
        f"{slowest:.2f} s, {memory:.0f} MB",
        runs,
        slowest <= SECONDS and memory <= BYTES,
    )


def peak() -> int:
    """Bytes of memory that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
