"""Presets are rows: their counts are known, their dials turn, what follows from the width follows it."""

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch

from fledge.arch import Learned, Mlp, Words, parameter_count
from fledge.model import shell
from fledge.presets import PRESETS, gpt2, qwen3
from fledge.weights.families import FAMILIES, family_name


@pytest.mark.parametrize("name", PRESETS)
def test_counts_are_exact(name):
    assert parameter_count(PRESETS[name].arch()) == PRESETS[name].parameters


@pytest.mark.parametrize(
    ("name", "width", "depth", "heads", "parameters"),
    [
        ("gpt2", 768, 12, 12, 124_439_808),  # counts and shapes of the published weights
        ("gpt2-medium", 1024, 24, 16, 354_823_168),
        ("gpt2-large", 1280, 36, 20, 774_030_080),
        ("gpt2-xl", 1600, 48, 25, 1_557_611_200),
    ],
)
def test_gpt2_is_as_published(name, width, depth, heads, parameters):
    arch = PRESETS[name].arch()
    block = arch.trunk.pattern[0]
    assert isinstance(block.mlp, Mlp)
    assert (arch.trunk.width, arch.trunk.depth, block.attention.heads, block.mlp.width) == (width, depth, heads, 4 * width)
    assert (arch.vocabulary, arch.context, arch.trunk.positions, arch.head) == (50_257, 1024, Learned(1024), Words(tied=True))
    assert parameter_count(arch) == parameters


def test_sizes_are_what_the_names_say():
    for name, preset in PRESETS.items():
        if name.startswith("fledge-"):
            millions = float(name.rpartition("-")[2].replace("b", "000").removesuffix("m"))
            assert preset.parameters / 1e6 == pytest.approx(millions, rel=0.1), name


SHAPES = {preset.shape: preset for preset in reversed(PRESETS.values())}


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_dials_turn_and_the_rest_follows(shape):
    preset = SHAPES[shape]
    sizes = {"heads": 4, "kv_heads": 2} if "kv_heads" in preset.dial_names else {"heads": 4}
    small = preset.arch(width=128, depth=3, vocabulary=500, context=64, mlp=None, **sizes)
    assert small.vocabulary == 500
    assert small.context == 64
    for stack in small.stacks.values():
        assert (stack.width, stack.depth) == (128, 3)
        assert not isinstance(stack.positions, Learned) or stack.positions.length == 64
    assert preset.arch(dropout=0.3).dropout == 0.3
    if "tied" in preset.dial_names:
        heads = [preset.arch(tied=tied).head for tied in (True, False)]
        assert [head.tied for head in heads if isinstance(head, Words)] == [True, False]


@pytest.mark.parametrize("name", ["gpt2", "gpt2-xl", "fledge-1m", "fledge-1b"])
def test_our_own_shapes_follow_from_the_width(name):
    preset = PRESETS[name]
    block = preset.arch(width=128, depth=3, vocabulary=500, context=64).trunk.pattern[0]
    assert block.attention.heads * block.attention.head_size == 128
    assert isinstance(block.mlp, Mlp)
    assert block.mlp.width == {gpt2: 512, qwen3: 384}[preset.shape]


# Table 2.1 of arXiv:2005.14165: parameters, layers, width, heads, head size; XL and 13B as its own other columns have them.
GPT3 = {
    "gpt3-125m": (125e6, 12, 768, 12, 64),
    "gpt3-350m": (350e6, 24, 1024, 16, 64),
    "gpt3-760m": (760e6, 24, 1536, 16, 96),
    "gpt3-1.3b": (1.3e9, 24, 2048, 16, 128),
    "gpt3-2.7b": (2.7e9, 32, 2560, 32, 80),
    "gpt3-6.7b": (6.7e9, 32, 4096, 32, 128),
    "gpt3-13b": (13e9, 40, 5120, 40, 128),
    "gpt3-175b": (175e9, 96, 12_288, 96, 128),
}
# No reading serves both of these rows (docs/decisions/0013-gpt-3s-sizes.md).
FARTHER = {"gpt3-350m": 0.017, "gpt3-2.7b": 0.018}


@pytest.mark.parametrize("name", GPT3)
def test_gpt3_is_the_table(name):
    nominal, depth, width, heads, size = GPT3[name]
    arch = PRESETS[name].arch()
    dense, banded = arch.trunk.pattern
    assert (arch.trunk.depth, arch.trunk.width) == (depth, width)
    assert (dense.attention.heads, dense.attention.head_size, dense.mlp) == (heads, size, Mlp(4 * width, "gelu_tanh", False, True))
    assert (dense.attention.sees, banded.attention.sees) == ((None, 0), (127, 0))
    assert banded == replace(dense, attention=replace(dense.attention, sees=(127, 0)))
    assert (arch.context, arch.vocabulary) == (2048, 50_257)
    assert parameter_count(arch) == pytest.approx(nominal, rel=FARTHER.get(name, 0.015))


@pytest.mark.parametrize("name", PRESETS)
def test_the_model_has_these_parameters(name):
    model = shell(PRESETS[name].arch())
    assert sum(parameter.numel() for parameter in model.parameters()) == PRESETS[name].parameters


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PRESETS if not name.startswith(("gpt3", "fledge"))])
def test_transformers_makes_as_many_of_our_config(name):
    import transformers

    arch = PRESETS[name].arch()
    config: dict[str, Any] = FAMILIES[family_name(arch)].config(arch)
    kind = getattr(transformers, config["architectures"][0])
    family = config["model_type"]
    with torch.device("meta"):
        model = kind(transformers.AutoConfig.for_model(config.pop("model_type"), **{"pad_token_id": 1, **config}))
    made = sum(p.numel() for part, p in model.named_parameters() if not (family == "marian" and "embed_positions" in part))
    if name.startswith("bart"):
        made += arch.vocabulary  # the bias of its scores, a buffer there
    if name.startswith("t5-v1.1"):
        made += arch.vocabulary * arch.trunk.width  # transformers 5 ties the head of every T5 that it makes
    assert made == PRESETS[name].parameters


def test_unknown_dials_are_sentences():
    with pytest.raises(ValueError, match=r"arch.dept is unknown: did you mean depth\?"):
        PRESETS["gpt2"].arch(dept=3)
    with pytest.raises(ValueError, match=r"arch.kv_heads is unknown: did you mean heads"):
        PRESETS["gpt2"].arch(kv_heads=3)
    with pytest.raises(ValueError, match="does not divide into 7 heads"):
        PRESETS["gpt2"].arch(heads=7)


def test_no_torch_is_imported():
    code = "import sys, fledge, fledge.presets, fledge.arch; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
