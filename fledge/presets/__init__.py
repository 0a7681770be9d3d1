"""Published models as rows: the shape and dials of each, its source and exact parameter count."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fledge.arch import Arch, ByWavelength
from fledge.arch.record import did_you_mean
from fledge.presets.shapes import bart, bert, gemma2, gemma3, gpt2, gpt_oss, llama, modernbert, olmo2, qwen3, t5, transformer

__all__ = ["PRESETS", "Preset", "gpt2", "modernbert", "qwen3", "t5"]


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


def _row(shape: Callable[..., Arch], parameters: int, source: str, hub: str | None, /, width: int, depth: int, **dials: Any) -> Preset:
    return Preset(shape, {"width": width, "depth": depth, **dials}, parameters, source, hub)


_GPT2 = "Radford et al., 2019, Language Models are Unsupervised Multitask Learners, table 2; sizes as in the published weights"
_GPT3 = "Brown et al., 2020, arXiv:2005.14165, table 2.1"
_OURS = "fledge's default shape: Qwen 3 (arXiv:2505.09388) at this size"
_OURS_ENCODER = "fledge's default encoder: ModernBERT (arXiv:2412.13663) at this size"
_OURS_BOTH = "fledge's default encoder with a decoder: T5 v1.1 (arXiv:2002.05202) at this size"
_LLAMA2 = "Touvron et al., 2023, arXiv:2307.09288, and its config.json"
_LLAMA3 = "Grattafiori et al., 2024, arXiv:2407.21783, and its config.json"
_MISTRAL = "Jiang et al., 2023, arXiv:2310.06825, and its config.json"
_MIXTRAL = "Jiang et al., 2024, arXiv:2401.04088, and its config.json"
_QWEN2 = "Qwen Team, 2024, arXiv:2412.15115, and its config.json"
_QWEN3 = "Qwen Team, 2025, arXiv:2505.09388, and its config.json"
_GEMMA2 = "Gemma Team, 2024, arXiv:2408.00118, and its config.json"
_GEMMA3 = "Gemma Team, 2025, arXiv:2503.19786, and its config.json"
_PHI3 = "Abdin et al., 2024, arXiv:2404.14219, and its config.json"
_OLMO2 = "OLMo Team, 2024, arXiv:2501.00656, and its config.json"
_SMOLLM2 = "Ben Allal et al., 2025, arXiv:2502.02737, and its config.json"
_SMOLLM3 = "Hugging Face, 2025, huggingface.co/blog/smollm3, and its config.json"
_GPT_OSS = "OpenAI, 2025, arXiv:2508.10925, and its config.json"
_BERT = "Devlin et al., 2018, arXiv:1810.04805, and its config.json"
_ROBERTA = "Liu et al., 2019, arXiv:1907.11692, and its config.json"
_DISTILBERT = "Sanh et al., 2019, arXiv:1910.01108, and its config.json"
_MINILM = "Wang et al., 2020, arXiv:2002.10957, as sentence-transformers publishes it"
_MODERNBERT = "Warner et al., 2024, arXiv:2412.13663, and its config.json"
_ELECTRA = "Clark et al., 2020, arXiv:2003.10555, and the discriminator's config.json"
_2017 = "Vaswani et al., 2017, arXiv:1706.03762, table 3, with its 37,000 tokens of English and German"
_T5 = "Raffel et al., 2019, arXiv:1910.10683, and its config.json"
_BART = "Lewis et al., 2019, arXiv:1910.13461, and its config.json"

_GPT3_DIALS = {
    "context": 2048,
    "banded": 128,
}  # the width of the bands is not said; its source, arXiv:1904.10509, had 128
_LLAMA3_DIALS = {"vocabulary": 128_256, "context": 8192, "rope_base": 500_000.0, "kv_heads": 8}
_LONG = {**_LLAMA3_DIALS, "context": 131_072}
_QWEN2_DIALS = {"vocabulary": 151_936, "context": 32_768, "rope_base": 1e6, "eps": 1e-6, "qkv_bias": True}
_QWEN3_DIALS = {"vocabulary": 151_936, "context": 40_960, "rope_base": 1e6, "head_size": 128}
_SMOLLM2_DIALS = {"vocabulary": 49_152, "context": 8192, "rope_base": 100_000.0, "tied": True}
_ROBERTA_DIALS = {"vocabulary": 50_265, "types": 1, "offset": 2, "eps": 1e-5}
_T5_GATED = {"gated": True, "tied": False}

PRESETS: dict[str, Preset] = {
    "gpt2": _row(gpt2, 124_439_808, _GPT2, "openai-community/gpt2", 768, 12),
    "gpt2-medium": _row(gpt2, 354_823_168, _GPT2, "openai-community/gpt2-medium", 1024, 24),
    "gpt2-large": _row(gpt2, 774_030_080, _GPT2, "openai-community/gpt2-large", 1280, 36),
    "gpt2-xl": _row(gpt2, 1_557_611_200, _GPT2, "openai-community/gpt2-xl", 1600, 48),
    "fledge-1m": _row(qwen3, 1_049_984, _OURS, None, 128, 4, vocabulary=2048),
    "fledge-encoder-1m": _row(modernbert, 971_008, _OURS_ENCODER, None, 128, 4, vocabulary=3072, context=512),
    "fledge-both-2m": _row(t5, 1_967_744, _OURS_BOTH, None, 128, 2, vocabulary=3072, dropout=0.0, **_T5_GATED),
    "fledge-3m": _row(qwen3, 3_000_864, _OURS, None, 192, 5, vocabulary=4096),
    "fledge-7m": _row(qwen3, 6_819_840, _OURS, None, 256, 6, vocabulary=8192),
    "fledge-15m": _row(qwen3, 15_538_688, _OURS, None, 384, 7, vocabulary=8192),
    "fledge-35m": _row(qwen3, 33_564_160, _OURS, None, 512, 8, vocabulary=16_384),
    "fledge-100m": _row(qwen3, 103_041_664, _OURS, None, 768, 11, vocabulary=32_768),
    "fledge-300m": _row(qwen3, 310_427_392, _OURS, None, 1024, 22, vocabulary=32_768),
    "fledge-500m": _row(qwen3, 513_868_032, _OURS, None, 1280, 24, vocabulary=32_768),
    "fledge-1b": _row(qwen3, 1_060_732_928, _OURS, None, 1792, 26, vocabulary=32_768),
    "gpt3-125m": _row(gpt2, 125_226_240, _GPT3, None, 768, 12, heads=12, **_GPT3_DIALS),
    # 1.7 % above its name, as 2.7B is 1.8 % below its: no reading of the table serves both (docs/decisions/0013-gpt-3s-sizes.md).
    "gpt3-350m": _row(gpt2, 355_871_744, _GPT3, None, 1024, 24, heads=16, **_GPT3_DIALS),
    "gpt3-760m": _row(gpt2, 760_300_032, _GPT3, None, 1536, 24, heads=16, **_GPT3_DIALS),
    # The table has 24 heads of 128 here, which is no width of 2,048, and with 3,072 the count would be 1.52B: 16 heads of 128 are.
    "gpt3-1.3b": _row(gpt2, 1_315_723_264, _GPT3, None, 2048, 24, heads=16, **_GPT3_DIALS),
    "gpt3-2.7b": _row(gpt2, 2_651_553_280, _GPT3, None, 2560, 32, heads=32, **_GPT3_DIALS),
    "gpt3-6.7b": _row(gpt2, 6_658_404_352, _GPT3, None, 4096, 32, heads=32, **_GPT3_DIALS),
    # The table has a width of 5,140 here, but its 40 heads of 128 make 5,120.
    "gpt3-13b": _row(gpt2, 12_853_386_240, _GPT3, None, 5120, 40, heads=40, **_GPT3_DIALS),
    "gpt3-175b": _row(gpt2, 174_604_259_328, _GPT3, None, 12_288, 96, heads=96, **_GPT3_DIALS),
    "llama-2-7b": _row(llama, 6_738_415_616, _LLAMA2, "meta-llama/Llama-2-7b-hf", 4096, 32, mlp=11_008),
    "llama-2-13b": _row(llama, 13_015_864_320, _LLAMA2, "meta-llama/Llama-2-13b-hf", 5120, 40, mlp=13_824),
    "llama-2-70b": _row(llama, 68_976_648_192, _LLAMA2, "meta-llama/Llama-2-70b-hf", 8192, 80, kv_heads=8, mlp=28_672),
    "llama-3-8b": _row(llama, 8_030_261_248, _LLAMA3, "meta-llama/Meta-Llama-3-8B", 4096, 32, mlp=14_336, **_LLAMA3_DIALS),
    "llama-3-70b": _row(llama, 70_553_706_496, _LLAMA3, "meta-llama/Meta-Llama-3-70B", 8192, 80, mlp=28_672, **_LLAMA3_DIALS),
    "llama-3.1-8b": _row(
        llama, 8_030_261_248, _LLAMA3, "meta-llama/Llama-3.1-8B", 4096, 32, mlp=14_336, stretch=ByWavelength(8.0, 8192), **_LONG
    ),
    "llama-3.1-405b": _row(
        llama, 405_853_388_800, _LLAMA3, "meta-llama/Llama-3.1-405B", 16_384, 126, mlp=53_248, stretch=ByWavelength(8.0, 8192), **_LONG
    ),
    "llama-3.2-1b": _row(
        llama, 1_235_814_400, _LLAMA3, "meta-llama/Llama-3.2-1B", 2048, 16, heads=32, mlp=8192, stretch=ByWavelength(32.0, 8192),
        tied=True, **_LONG,
    ),
    "llama-3.2-3b": _row(
        llama, 3_212_749_824, _LLAMA3, "meta-llama/Llama-3.2-3B", 3072, 28, mlp=8192, stretch=ByWavelength(32.0, 8192), tied=True, **_LONG
    ),
    "mistral-7b": _row(
        llama, 7_241_732_096, _MISTRAL, "mistralai/Mistral-7B-v0.1", 4096, 32, kv_heads=8, mlp=14_336, context=32_768, window=4096
    ),
    "mistral-7b-v0.3": _row(
        llama, 7_248_023_552, _MISTRAL, "mistralai/Mistral-7B-v0.3", 4096, 32, kv_heads=8, mlp=14_336, context=32_768, rope_base=1e6,
        vocabulary=32_768,
    ),
    "mixtral-8x7b": _row(
        llama, 46_702_792_704, _MIXTRAL, "mistralai/Mixtral-8x7B-v0.1", 4096, 32, kv_heads=8, mlp=14_336, context=32_768, rope_base=1e6,
        experts=8,
    ),
    "qwen2.5-0.5b": _row(
        llama, 494_032_768, _QWEN2, "Qwen/Qwen2.5-0.5B", 896, 24, heads=14, kv_heads=2, mlp=4864, tied=True, **_QWEN2_DIALS
    ),
    "qwen2.5-1.5b": _row(
        llama, 1_543_714_304, _QWEN2, "Qwen/Qwen2.5-1.5B", 1536, 28, kv_heads=2, mlp=8960, tied=True, **{**_QWEN2_DIALS, "context": 131_072}
    ),
    "qwen2.5-3b": _row(llama, 3_085_938_688, _QWEN2, "Qwen/Qwen2.5-3B", 2048, 36, kv_heads=2, mlp=11_008, tied=True, **_QWEN2_DIALS),
    "qwen2.5-7b": _row(
        llama, 7_615_616_512, _QWEN2, "Qwen/Qwen2.5-7B", 3584, 28, kv_heads=4, mlp=18_944,
        **{**_QWEN2_DIALS, "context": 131_072, "vocabulary": 152_064},
    ),
    "qwen3-0.6b": _row(qwen3, 596_049_920, _QWEN3, "Qwen/Qwen3-0.6B", 1024, 28, heads=16, **_QWEN3_DIALS),
    "qwen3-1.7b": _row(qwen3, 1_720_574_976, _QWEN3, "Qwen/Qwen3-1.7B", 2048, 28, heads=16, **_QWEN3_DIALS),
    "qwen3-4b": _row(qwen3, 4_022_468_096, _QWEN3, "Qwen/Qwen3-4B", 2560, 36, heads=32, kv_heads=8, mlp=9728, **_QWEN3_DIALS),
    "qwen3-8b": _row(qwen3, 8_190_735_360, _QWEN3, "Qwen/Qwen3-8B", 4096, 36, heads=32, kv_heads=8, tied=False, **_QWEN3_DIALS),
    "qwen3-14b": _row(
        qwen3, 14_768_307_200, _QWEN3, "Qwen/Qwen3-14B", 5120, 40, heads=40, kv_heads=8, mlp=17_408, tied=False, **_QWEN3_DIALS
    ),
    "qwen3-32b": _row(
        qwen3, 32_762_123_264, _QWEN3, "Qwen/Qwen3-32B", 5120, 64, heads=64, kv_heads=8, mlp=25_600, tied=False, **_QWEN3_DIALS
    ),
    "qwen3-30b-a3b": _row(
        qwen3, 30_532_122_624, _QWEN3, "Qwen/Qwen3-30B-A3B", 2048, 48, heads=32, kv_heads=4, mlp=768, experts=128, tied=False,
        **_QWEN3_DIALS,
    ),
    "qwen3-235b-a22b": _row(
        qwen3, 235_093_634_560, _QWEN3, "Qwen/Qwen3-235B-A22B", 4096, 94, heads=64, kv_heads=4, mlp=1536, experts=128, tied=False,
        **_QWEN3_DIALS,
    ),
    "gemma-2-2b": _row(gemma2, 2_614_341_888, _GEMMA2, "google/gemma-2-2b", 2304, 26),
    "gemma-2-9b": _row(gemma2, 9_241_705_984, _GEMMA2, "google/gemma-2-9b", 3584, 42, heads=16, kv_heads=8),
    "gemma-2-27b": _row(
        gemma2, 27_227_128_320, _GEMMA2, "google/gemma-2-27b", 4608, 46, heads=32, kv_heads=16, head_size=128, mlp=36_864, scaled_as=144
    ),
    "gemma-3-270m": _row(gemma3, 268_098_176, _GEMMA3, "google/gemma-3-270m", 640, 18, mlp=2048),
    "gemma-3-1b": _row(gemma3, 999_885_952, _GEMMA3, "google/gemma-3-1b-pt", 1152, 26, mlp=6912),
    "phi-3-mini": _row(
        llama, 3_821_079_552, _PHI3, "microsoft/Phi-3-mini-4k-instruct", 3072, 32, heads=32, mlp=8192, vocabulary=32_064, window=2047
    ),
    "olmo-2-1b": _row(olmo2, 1_484_916_736, _OLMO2, "allenai/OLMo-2-0425-1B", 2048, 16, mlp=8192),
    "olmo-2-7b": _row(olmo2, 7_298_617_344, _OLMO2, "allenai/OLMo-2-1124-7B", 4096, 32, mlp=11_008),
    "olmo-2-13b": _row(olmo2, 13_716_198_400, _OLMO2, "allenai/OLMo-2-1124-13B", 5120, 40, mlp=13_824),
    "olmo-2-32b": _row(olmo2, 32_234_279_936, _OLMO2, "allenai/OLMo-2-0325-32B", 5120, 64, kv_heads=8, mlp=27_648),
    "smollm2-135m": _row(
        llama, 134_515_008, _SMOLLM2, "HuggingFaceTB/SmolLM2-135M", 576, 30, heads=9, kv_heads=3, mlp=1536, **_SMOLLM2_DIALS
    ),
    "smollm2-360m": _row(
        llama, 361_821_120, _SMOLLM2, "HuggingFaceTB/SmolLM2-360M", 960, 32, heads=15, kv_heads=5, mlp=2560, **_SMOLLM2_DIALS
    ),
    "smollm2-1.7b": _row(
        llama, 1_711_376_384, _SMOLLM2, "HuggingFaceTB/SmolLM2-1.7B", 2048, 24, heads=32, mlp=8192,
        **{**_SMOLLM2_DIALS, "rope_base": 130_000.0},
    ),
    "smollm3-3b": _row(
        llama, 3_075_098_624, _SMOLLM3, "HuggingFaceTB/SmolLM3-3B-Base", 2048, 36, kv_heads=4, mlp=11_008, vocabulary=128_256,
        context=65_536, rope_base=5e6, eps=1e-6, unturned=4, tied=True,
    ),
    "gpt-oss-20b": _row(gpt_oss, 20_914_757_184, _GPT_OSS, "openai/gpt-oss-20b", 2880, 24, heads=64, kv_heads=8),
    "gpt-oss-120b": _row(gpt_oss, 116_829_156_672, _GPT_OSS, "openai/gpt-oss-120b", 2880, 36, experts=128, heads=64, kv_heads=8),
    "bert-base": _row(bert, 109_514_298, _BERT, "google-bert/bert-base-uncased", 768, 12),
    "bert-large": _row(bert, 335_174_458, _BERT, "google-bert/bert-large-uncased", 1024, 24),
    "roberta-base": _row(bert, 124_697_433, _ROBERTA, "FacebookAI/roberta-base", 768, 12, **_ROBERTA_DIALS),
    "roberta-large": _row(bert, 355_412_057, _ROBERTA, "FacebookAI/roberta-large", 1024, 24, **_ROBERTA_DIALS),
    "distilbert": _row(bert, 66_985_530, _DISTILBERT, "distilbert/distilbert-base-uncased", 768, 6, types=0),
    "minilm-l6": _row(bert, 22_713_216, _MINILM, "sentence-transformers/all-MiniLM-L6-v2", 384, 6, heads=12, head="hidden"),
    "minilm-l12": _row(bert, 33_360_000, _MINILM, "sentence-transformers/all-MiniLM-L12-v2", 384, 12, heads=12, head="hidden"),
    "modernbert-base": _row(modernbert, 149_655_232, _MODERNBERT, "answerdotai/ModernBERT-base", 768, 22),
    "modernbert-large": _row(modernbert, 395_881_664, _MODERNBERT, "answerdotai/ModernBERT-large", 1024, 28, mlp=2624),
    "electra-small": _row(bert, 13_549_057, _ELECTRA, "google/electra-small-discriminator", 256, 12, embedding=128, head="replaced"),
    "electra-base": _row(bert, 109_483_009, _ELECTRA, "google/electra-base-discriminator", 768, 12, head="replaced"),
    "electra-large": _row(bert, 335_142_913, _ELECTRA, "google/electra-large-discriminator", 1024, 24, head="replaced"),
    "transformer-base": _row(transformer, 63_082_496, _2017, None, 512, 6),
    "transformer-big": _row(transformer, 214_245_376, _2017, None, 1024, 6, dropout=0.3),
    "t5-small": _row(t5, 60_506_624, _T5, "google-t5/t5-small", 512, 6),
    "t5-base": _row(t5, 222_903_552, _T5, "google-t5/t5-base", 768, 12),
    "t5-large": _row(t5, 737_668_096, _T5, "google-t5/t5-large", 1024, 24),
    "t5-3b": _row(t5, 2_851_598_336, _T5, "google-t5/t5-3b", 1024, 24, heads=32, head_size=128, mlp=16_384),
    "t5-11b": _row(t5, 11_307_321_344, _T5, "google-t5/t5-11b", 1024, 24, heads=128, head_size=128, mlp=65_536),
    "t5-v1.1-small": _row(t5, 76_961_152, _T5, "google/t5-v1_1-small", 512, 8, heads=6, mlp=1024, **_T5_GATED),
    "t5-v1.1-base": _row(t5, 247_577_856, _T5, "google/t5-v1_1-base", 768, 12, mlp=2048, **_T5_GATED),
    "t5-v1.1-large": _row(t5, 783_150_080, _T5, "google/t5-v1_1-large", 1024, 24, mlp=2816, **_T5_GATED),
    "t5-v1.1-xl": _row(t5, 2_849_757_184, _T5, "google/t5-v1_1-xl", 2048, 24, mlp=5120, **_T5_GATED),
    "t5-v1.1-xxl": _row(t5, 11_135_332_352, _T5, "google/t5-v1_1-xxl", 4096, 24, mlp=10_240, **_T5_GATED),
    "bart-base": _row(bart, 139_470_681, _BART, "facebook/bart-base", 768, 6),
    "bart-large": _row(bart, 406_341_721, _BART, "facebook/bart-large", 1024, 12),
}  # fmt: skip
