"""Tokens a second at full load of an engine whose answers do not depend on their neighbours, and of one whose do, in turns.

Twice as many requests as slots, of mixed lengths; nothing is known of a prompt before. Each pair of runs follows one another, the first
of them by turns.
"""

import random
import statistics
import time

import torch
from record import arguments, write

from fledge.generation import Engine, Request, Sampling
from fledge.model import Transformer, initialise
from fledge.presets import qwen3
from fledge.text.tokenizer import Tokenizer

MOST = 1.15  # the time with the guarantee by that without


def main() -> None:
    options = arguments(__doc__, width=512, depth=8, slots=16, rounds=5, longest=256, tokens=64, dtype="float32")
    tokenizer, dice = Tokenizer.bytes(), random.Random(0)
    arch = qwen3(options.width, options.depth, vocabulary=16_384, context=options.longest + options.tokens)
    model = initialise(Transformer(arch)).to(getattr(torch, options.dtype)).eval()
    requests = [
        Request(dice.choices(range(256), k=dice.randint(1, options.longest)), dice.randint(1, options.tokens), Sampling(0.0), ())
        for _ in range(2 * options.slots)
    ]
    engines = {together: Engine(model, tokenizer, options.slots, kept=0, together=together) for together in (False, True)}
    seconds: dict[bool, list[float]] = {False: [], True: []}
    written = sum(len(done.tokens) for done in engines[True].run(requests))
    engines[False].run(requests)
    for number in range(options.rounds):
        for together in (bool(number % 2), not number % 2):
            began = time.perf_counter()
            engines[together].run(requests)
            seconds[together].append(time.perf_counter() - began)
    ratio = statistics.median(kept / free for kept, free in zip(seconds[False], seconds[True], strict=True))
    run = {
        "width": options.width, "depth": options.depth, "dtype": options.dtype, "slots": options.slots, "threads": torch.get_num_threads(),
        "tokens": written, "read": sum(len(request.tokens) for request in requests),
        "with_the_guarantee": [round(one, 3) for one in seconds[False]], "without": [round(one, 3) for one in seconds[True]],
    }  # fmt: skip
    claim = "at full load an engine whose answers do not depend on their neighbours takes at most 15 % more time than one whose do"
    write("co_tenant_cost", claim, f"{ratio:.2f} times the time", [run], ratio <= MOST, ratio=ratio)


if __name__ == "__main__":
    main()
