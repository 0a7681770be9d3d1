"""A million letters, blanks, digits or marks without a break, by every kind of tokenizer: seconds for 250,000 of them and for 1,000,000."""

import gc
import random
import time
from collections.abc import Callable
from functools import partial
from typing import Any, get_args

from record import arguments, data_folder, write

from fledge.text import Tokenizer
from fledge.text.tokenizer import Kind

SIZES = (250_000, 1_000_000)
AT_MOST = 5  # times as long for four times the text
LEAST = 0.1  # seconds, below which a factor says more about the clock than about the work
DICE = random.Random(0)
RUNS: dict[str, Callable[[int], str]] = {
    "a": lambda size: "a" * size,
    "blanks": lambda size: " " * size,
    "newlines": lambda size: "\n" * size,
    "ab": lambda size: "ab" * (size // 2),
    "digits": lambda size: "".join(DICE.choices("0123456789", k=size)),
    "letters": lambda size: "".join(DICE.choices("etaoinshrdlu", k=size)),
    "marks": lambda size: "e" + "".join(map(chr, DICE.choices(range(0x300, 0x370), k=size - 1))),
    "punctuation": lambda size: "".join(DICE.choices("=-_.!?", k=size)),
    "words": lambda size: " ".join("".join(DICE.choices("etaoinshrdlu", k=6)) for _ in range(size // 7)),
}
TRAINED_ON = ("a", "blanks", "ab", "digits", "letters", "marks")
OWN = ("gpt2", "bert-base-uncased", "t5", "tiktoken")


def seconds(work: Callable[[], object], times: int) -> float:
    """The least of so many tries."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return min(taken)


def main() -> None:
    options = arguments(__doc__, largest=SIZES[1])
    gc.disable()  # its pauses follow what was made before, not what is measured
    sizes = (options.largest // 4, options.largest)
    words = [RUNS["words"](20_000)]
    made = {kind: Tokenizer.train(words, 640, kind) for kind in get_args(Kind)}
    made |= {"bytes": Tokenizer.bytes()} | {name: Tokenizer.load(data_folder() / "tokenizers" / name) for name in OWN}
    runs: list[dict[str, Any]] = []
    for name, run in RUNS.items():
        texts = [run(size) for size in sizes]
        ways: dict[tuple[str, str], Callable[[str], object]] = {}
        for kind, tokenizer in made.items():
            tokenizer.encode_batch(["a é"])  # what is built at first use
            ways[kind, "encode"] = tokenizer.encode
            ways[kind, "encode_batch"] = lambda text, tokenizer=tokenizer: tokenizer.encode_batch([text])
        for kind in get_args(Kind) if name in TRAINED_ON else ():
            ways[kind, "train"] = lambda text, kind=kind: Tokenizer.train([text], 640, kind)
        for (kind, way), work in ways.items():
            short, long = (seconds(partial(work, text), 1 if way == "train" else 2) for text in texts)
            row = {"text": name, "tokenizer": kind, "way": way, "seconds": [round(short, 3), round(long, 3)]}
            runs.append({**row, "factor": round(long / max(short, 1e-6), 2)})
            print(runs[-1], flush=True)
    slow = [run for run in runs if run["factor"] > AT_MOST and run["seconds"][1] > LEAST]
    worst = max(run["factor"] for run in runs if run["seconds"][1] > LEAST)
    longest = max(runs, key=lambda run: run["seconds"][1])
    measured = f"{len(slow)} of {len(runs)} grow by more; the largest factor is {worst}, the longest took {longest['seconds'][1]} s"
    claim = (
        f"four times as long a run without a break takes at most {AT_MOST} times as long to encode, alone and in a batch, and to train on"
    )
    write("long_runs", claim, measured, runs, not slow)


if __name__ == "__main__":
    main()
