"""Megabytes a second that `tokenizers`, `tiktoken` and sentencepiece encode of the same text with the same ids, one thread each."""

import gzip
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any, get_args

os.environ["TOKENIZERS_PARALLELISM"] = "false"

from record import arguments, data_folder, write

from fledge.text import Tokenizer
from fledge.text.tokenizer import Kind


def main() -> None:
    options = arguments(__doc__, megabytes=4, rounds=3)
    with gzip.open(data_folder() / "text" / "wikipedia.jsonl.gz", "rt", encoding="utf-8") as file:
        texts, size = list[str](), 0
        while size < options.megabytes * 1e6:
            texts.append(json.loads(file.readline())["text"])
            size += len(texts[-1].encode())
    files = data_folder() / "tokenizers"
    made = {"gpt2": Tokenizer.load(files / "gpt2"), "cl100k": Tokenizer.load(files / "tiktoken"), "t5": Tokenizer.load(files / "t5")}
    made |= {kind: Tokenizer.train(texts[:200], 8192, kind) for kind in get_args(Kind)}
    runs: list[dict[str, Any]] = []
    for name, tokenizer in made.items():
        ways: dict[str, Callable[[], list[list[int]]]] = {"tokenizers": lambda t=tokenizer: [list(t.encode(text)) for text in texts]}
        if tokenizer._bulk is not None:
            ways["tiktoken"] = lambda t=tokenizer: [t.encode_batch([text])[0] for text in texts]
        if name == "t5":
            from sentencepiece import SentencePieceProcessor

            theirs = SentencePieceProcessor(model_file=str(files / "t5" / "spiece.model"))
            ways["sentencepiece"] = lambda theirs=theirs: theirs.encode(texts, num_threads=1)
        found, taken = dict[str, list[list[int]]](), dict[str, list[float]]()
        for _ in range(options.rounds):  # in turns, so that a busy moment meets all
            for way, work in ways.items():
                start = time.perf_counter()
                found[way] = work()
                taken.setdefault(way, []).append(time.perf_counter() - start)
        unequal = sum(len({tuple(ids[i]) for ids in found.values()}) > 1 for i in range(len(texts)))
        speeds = {way: round(size / 1e6 / statistics.median(times), 2) for way, times in taken.items()}
        runs.append({"tokenizer": name, "ids": tokenizer.size, "megabytes_per_second": speeds, "documents": len(texts), "unequal": unequal})
        print(runs[-1], flush=True)
    both = [run for run in runs if "tiktoken" in run["megabytes_per_second"]]
    ratios = [run["megabytes_per_second"]["tiktoken"] / run["megabytes_per_second"]["tokenizers"] for run in both]
    measured = f"tiktoken is {min(ratios):.1f} to {max(ratios):.1f} times as fast as tokenizers on byte-level BPE"
    claim = "byte-level BPE is encoded in bulk by tiktoken, with the ids of tokenizers, because it is at least twice as fast"
    write("encoders", claim, measured, runs, min(ratios) >= 2 and not any(run["unequal"] for run in both))


if __name__ == "__main__":
    main()
