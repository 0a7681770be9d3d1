"""Published models as rows: how a shape becomes an `Arch`, the dials of each model, its source and parameter count."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field

from fledge.arch import Arch, Attention, Block, LayerNorm, Learned, Mlp, RmsNorm, Rope, Stack, Words
from fledge.arch.record import did_you_mean


def gpt2(
    width: int,
    depth: int,
    heads: int | None = None,
    vocabulary: int = 50_257,
    context: int = 1024,
    mlp: int | None = None,
    tied: bool = True,
    dropout: float = 0.1,
) -> Arch:
    """GPT-2's shape: learned positions, layer norm before each part, biases everywhere, tanh GELU (Radford et al., 2019).

    Without `heads` each is 64 wide, as in all four published sizes.
    """
    heads = heads or max(1, width // 64)
    if width % heads:
        raise ValueError(f"width {width} does not divide into {heads} heads")
    norm = LayerNorm(1e-5)
    attention = Attention(heads, heads, width // heads, bias=True, bias_out=True)
    block = Block(attention, Mlp(mlp or 4 * width, "gelu_tanh", gated=False, bias=True), norm_in=norm)
    return Arch(vocabulary, context, Stack(width, depth, (block,), Learned(context), norm), Words(tied), dropout)


def qwen3(
    width: int, depth: int, heads: int | None = None, kv_heads: int | None = None, head_size: int = 64, mlp: int | None = None,
    vocabulary: int = 32_768, context: int = 2048, rope_base: float = 10_000.0, tied: bool = True, dropout: float = 0.0,
) -> Arch:  # fmt: skip
    """Qwen 3's shape: rotary positions, grouped attention, RMS norms also on queries and keys, gated SiLU (arXiv:2505.09388).

    What is not given follows from the width: `heads` to fill it, half as many `kv_heads`, an MLP three times
    as wide (the ratios of Qwen3-0.6B and 1.7B).
    """
    heads = heads or max(1, width // head_size)
    kv_heads = kv_heads or (heads // 2 if heads % 2 == 0 else heads)
    mlp = mlp or 3 * width
    norm = RmsNorm(1e-6)
    attention = Attention(heads, kv_heads, head_size, positions=Rope(rope_base), q_norm=norm, k_norm=norm)
    block = Block(attention, Mlp(mlp), norm_in=norm)
    return Arch(vocabulary, context, Stack(width, depth, (block,), None, norm), Words(tied), dropout)


@dataclass(frozen=True)
class Preset:
    """A row: `shape(**dials)` is the `Arch`; `parameters` is its exact count."""

    shape: Callable[..., Arch]
    dials: dict
    parameters: int
    source: str
    hub: str | None = field(default=None)

    @property
    def dial_names(self) -> tuple[str, ...]:
        return tuple(inspect.signature(self.shape).parameters)

    def arch(self, **changes) -> Arch:
        """The preset's `Arch` with some dials changed; those that follow from the width follow it anew.

        Raises `ValueError` for a dial that this shape does not have.
        """
        for name in changes:
            if name not in self.dial_names:
                raise ValueError(f"arch.{name} is unknown{did_you_mean(name, self.dial_names)}")
        return self.shape(**{**self.dials, **changes})


_GPT2 = "Radford et al., 2019, Language Models are Unsupervised Multitask Learners, table 2; sizes as in the published weights"
_OURS = "fledge's default shape: Qwen 3 (arXiv:2505.09388) at this size"

PRESETS: dict[str, Preset] = {
    "gpt2": Preset(gpt2, {"width": 768, "depth": 12}, 124_439_808, _GPT2, "openai-community/gpt2"),
    "gpt2-medium": Preset(gpt2, {"width": 1024, "depth": 24}, 354_823_168, _GPT2, "openai-community/gpt2-medium"),
    "gpt2-large": Preset(gpt2, {"width": 1280, "depth": 36}, 774_030_080, _GPT2, "openai-community/gpt2-large"),
    "gpt2-xl": Preset(gpt2, {"width": 1600, "depth": 48}, 1_557_611_200, _GPT2, "openai-community/gpt2-xl"),
    "fledge-1m": Preset(qwen3, {"width": 128, "depth": 4, "vocabulary": 2048}, 1_050_240, _OURS),
    "fledge-3m": Preset(qwen3, {"width": 192, "depth": 5, "vocabulary": 4096}, 3_185_344, _OURS),
    "fledge-7m": Preset(qwen3, {"width": 256, "depth": 6, "vocabulary": 8192}, 6_819_840, _OURS),
    "fledge-15m": Preset(qwen3, {"width": 384, "depth": 7, "vocabulary": 8192}, 15_538_688, _OURS),
    "fledge-35m": Preset(qwen3, {"width": 512, "depth": 8, "vocabulary": 16_384}, 33_564_160, _OURS),
    "fledge-100m": Preset(qwen3, {"width": 768, "depth": 11, "vocabulary": 32_768}, 103_041_664, _OURS),
    "fledge-300m": Preset(qwen3, {"width": 1024, "depth": 22, "vocabulary": 32_768}, 310_427_392, _OURS),
    "fledge-500m": Preset(qwen3, {"width": 1280, "depth": 24, "vocabulary": 32_768}, 513_868_032, _OURS),
    "fledge-1b": Preset(qwen3, {"width": 1792, "depth": 26, "vocabulary": 32_768}, 1_060_732_928, _OURS),
}
