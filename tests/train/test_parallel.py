"""Many processes are one: the same starting weights, gradients, losses, however a model is cut, and wherever a run goes on."""

import random

import pytest
import torch

from fledge.model import Transformer, initialise
from tests.train.families import FAMILIES, ODD
from tests.train.ranks import on_ranks
from tests.train.transitions import END, OPTIMIZERS, STOP, WAYS, furthest, gradients, losses, weights

pytestmark = pytest.mark.timeout(600)
MANY = [way for way in WAYS if way[0] > 1]


def as_alone(name: str, ranks: int, tensor: int) -> None:
    """Loss, norm and every gradient are those of one process."""
    loss, norm, alone = gradients(name, 1)
    found = on_ranks(ranks, gradients, name, tensor)
    for part in found:
        assert part[:2] == pytest.approx((loss, norm), rel=1e-6)
    assert furthest(found[0][2], alone) <= 1e-6


@pytest.mark.parametrize("name", FAMILIES)
def test_every_gradient_is_that_of_one_process(name):
    as_alone(name, 4, 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FAMILIES, *ODD])
@pytest.mark.parametrize(("ranks", "tensor"), MANY)
def test_every_gradient_is_that_of_one_process_in_every_way(name, ranks, tensor):
    as_alone(name, ranks, tensor)


def test_weights_start_as_in_one_process_to_the_bit():
    arch = FAMILIES["both"]
    found, *others = on_ranks(3, weights, "both", 1)
    assert others == [[None, None]] * 2
    for whole, seed in zip(found, (0, 7), strict=True):
        alone = initialise(Transformer(arch), seed).state_dict()
        assert whole.keys() == alone.keys()
        assert all(torch.equal(whole[name], alone[name]) for name in alone)


def goes_on(family: str, optimizer: str, before: tuple[int, int], after: tuple[int, int], folder) -> None:
    """Stopped on some ranks and continued on others, every loss is that of one process, and all ranks have the same."""
    whole = losses(family, optimizer, folder / "alone", 1)
    first = on_ranks(before[0], losses, family, optimizer, folder / "run", before[1], STOP)
    then = on_ranks(after[0], losses, family, optimizer, folder / "run", after[1], END)
    for part in first:
        assert part == first[0]
    for part in then:
        assert part == then[0]
    assert first[0] + then[0] == pytest.approx(whole, rel=1e-6)


def test_a_run_goes_on_on_another_number_of_ranks(tmp_path):
    goes_on("decoder", "muon", (4, 2), (3, 1), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_transitions(tmp_path, seed):
    draw = random.Random(seed)
    goes_on(draw.choice([*FAMILIES]), draw.choice([*OPTIMIZERS]), draw.choice(WAYS), draw.choice(WAYS), tmp_path)
