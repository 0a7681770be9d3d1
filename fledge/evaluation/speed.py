"""How fast a model reads and writes here, and the memory that it takes."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from fledge.generation import Engine, Request, Sampling
from fledge.model import Transformer
from fledge.text.tokenizer import Tokenizer
from fledge.train.meter import memory_in_use

READ, WRITTEN = 256, 64  # tokens


@dataclass(frozen=True)
class Pace:
    """Tokens a second, the bytes of the weights, and those held at most (0 where the system does not tell)."""

    reading: float
    writing: float
    weights: int
    peak: int


def pace(model: Transformer, tokenizer: Tokenizer, text: Sequence[int]) -> Pace:
    """Reads up to 256 tokens of a text (again and again where it is shorter) and writes 64 more one after another; once before that is
    not counted."""
    length = min(READ, model.arch.context // 2)
    prompt = (list(text) * (length // len(text) + 1))[:length]
    count = min(WRITTEN, model.arch.context - length)
    engine = Engine(model, tokenizer, capacity=length + count, together=True)

    def took(tokens: int) -> float:
        began = time.perf_counter()
        engine.run([Request(prompt, tokens, Sampling(temperature=0.0), stop_tokens=())])
        return time.perf_counter() - began

    took(2)
    first, all_ = took(1), took(count)
    weights = sum(part.nbytes for part in (*model.parameters(), *model.buffers()))
    return Pace(length / first, (count - 1) / max(all_ - first, 1e-9), weights, memory_in_use(model.embedding.weight.device)[1])
