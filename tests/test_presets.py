"""Presets are rows: their counts are known, their dials turn, what follows from the width follows it."""

import subprocess
import sys

import pytest

from fledge.arch import Learned, Mlp, Words, parameter_count
from fledge.presets import PRESETS, gpt2, qwen3


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
            millions = float(name.removeprefix("fledge-").replace("b", "000").removesuffix("m"))
            assert preset.parameters / 1e6 == pytest.approx(millions, rel=0.1), name


@pytest.mark.parametrize("name", PRESETS)
def test_dials_turn_and_the_rest_follows(name):
    preset = PRESETS[name]
    small = preset.arch(width=128, depth=3, vocabulary=500, context=64)
    assert (small.trunk.width, small.trunk.depth, small.vocabulary, small.context) == (128, 3, 500, 64)
    block = small.trunk.pattern[0]
    assert block.attention.heads * block.attention.head_size == 128
    assert isinstance(block.mlp, Mlp)
    assert block.mlp.width == {gpt2: 512, qwen3: 384}[preset.shape]
    assert small.trunk.positions in (None, Learned(64))
    assert preset.arch(tied=False).head == Words(tied=False)
    assert preset.arch(dropout=0.3).dropout == 0.3


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
