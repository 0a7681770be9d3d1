"""One tiny model of each family, some that are hard to cut, and batches that are a function of the step."""

from dataclasses import dataclass, replace

import numpy as np

from fledge.arch import Arch, Block, Moe
from fledge.data.batches import IGNORED, PADDING, Batch, Source
from fledge.presets.shapes import bert, gemma2, gpt2, gpt_oss, modernbert, olmo2, qwen3, t5

VOCABULARY, CONTEXT = 42, 12  # 42 words fall unevenly on four ranks
SIZES = {"vocabulary": VOCABULARY, "context": CONTEXT, "dropout": 0.0}


def unbalanced(arch: Arch) -> Arch:
    """Without the balancing loss, which looks at the rows of one rank: no sum over rows."""

    def plain(block: Block) -> Block:
        assert isinstance(block.mlp, Moe)
        return replace(block, mlp=replace(block.mlp, balance=0.0))

    return arch.with_stacks(lambda stack: replace(stack, pattern=tuple(map(plain, stack.pattern))))


FAMILIES: dict[str, Arch] = {
    "decoder": qwen3(32, 2, heads=4, kv_heads=4, head_size=8, mlp=48, **SIZES),
    "encoder": modernbert(32, 2, heads=4, mlp=48, **SIZES),
    "both": t5(32, 2, heads=4, head_size=8, mlp=48, gated=True, tied=False, **SIZES),
}
ODD: dict[str, Arch] = {  # biases, transforms, capped scores, norms over the width, too few heads, sinks, experts
    "gpt2": gpt2(32, 2, 4, **SIZES),
    "bert": bert(32, 2, 4, mlp=48, **SIZES),
    "gemma2": gemma2(32, 2, heads=4, kv_heads=2, head_size=8, mlp=48, window=8, **SIZES),
    "olmo2": olmo2(32, 2, heads=4, kv_heads=4, mlp=48, **SIZES),
    "experts": unbalanced(qwen3(32, 2, heads=4, kv_heads=2, head_size=8, mlp=16, experts=4, chosen=2, **SIZES)),
    "gpt_oss": unbalanced(gpt_oss(32, 2, experts=4, chosen=2, heads=4, kv_heads=4, head_size=8, mlp=16, window=8, **SIZES)),
}


@dataclass(frozen=True)
class Steps:
    """Two micro-batches of five rows a step: the first padded, with masked labels, the second full."""

    arch: Arch
    rows: int = 5

    def batch_at(self, step: int, place: int = 0, places: int = 1) -> list[Batch]:
        parts = [self.part(2 * step), self.part(2 * step + 1)]
        return [found for part in parts if (found := part.share(place, places)) is not None]

    def part(self, number: int) -> Batch:
        random = np.random.default_rng(number)
        shape = (self.rows, CONTEXT)
        tokens, labels = random.integers(VOCABULARY, size=shape), random.integers(VOCABULARY, size=shape)
        labels[random.random(shape) < 0.3] = IGNORED
        positions = document = source = None
        if number % 2 == 0:
            positions = np.tile(np.arange(CONTEXT), (self.rows, 1))
            document = np.where(positions < random.integers(6, CONTEXT, size=(self.rows, 1)), 0, PADDING)
            labels[document == PADDING] = IGNORED
        if len(self.arch.stacks) == 2:
            source = Source(random.integers(VOCABULARY, size=(self.rows, CONTEXT - 2)))
        return Batch(tokens, labels, positions, document, source)
