"""Many processes are one: the same gradients, losses and weights, however a model is cut."""

import pytest
import torch

from fledge.arch import Arch
from fledge.model import Transformer, initialise, starting_weights
from fledge.train.objective import NextWord
from fledge.train.optimizer import Optimizer
from fledge.train.parallel.engine import deal, materialise, mesh_of, on_meta, spread_out
from fledge.train.parallel.spread import spread_of
from fledge.train.run import AdamW
from tests.train.families import FAMILIES, ODD, Steps
from tests.train.ranks import on_ranks

WAYS = [(2, 1), (2, 2), (3, 1), (4, 1), (4, 2), (4, 4)]  # ranks, of which so many share each layer


def spread_model(arch: Arch, tensor: int) -> Transformer:
    model = on_meta(arch)
    spread_out(model, mesh_of("cpu", torch.distributed.get_world_size(), tensor))
    materialise(model, "cpu")
    deal(model, starting_weights(on_meta(arch)))
    return model


def first_gradients(arch: Arch, tensor: int) -> tuple[float, float, dict[str, torch.Tensor]]:
    """Loss, norm and whole gradients of the first step; weights are those of one process, to the bit."""
    model = spread_model(arch, tensor) if tensor else initialise(Transformer(arch))
    if tensor:
        whole = spread_of(model).whole(model)
        if isinstance(whole, Transformer):
            alone = initialise(Transformer(arch))
            assert all(torch.equal(p, alone.get_parameter(name)) for name, p in whole.named_parameters())
    return gradients(model, Steps(arch))


def gradients(model: Transformer, steps: Steps) -> tuple[float, float, dict[str, torch.Tensor]]:
    spread, objective, optimizer = spread_of(model), NextWord(smoothing=0.1), Optimizer(model, AdamW())
    parts = steps.batch_at(0, *spread.data)
    (total,) = spread.sums(sum(objective.count(part) for part in parts))
    loss = torch.zeros(())
    model.train()
    for part in parts:
        lost = objective(model, part) / total
        lost.backward()
        loss += lost.detach()
    optimizer.collect()
    loss, norm = spread.summed(loss), optimizer.norm()
    found = optimizer.gradients()
    if spread.size > 1:
        found = {name: g for name, g in spread.gathered(found) if g is not None}  # pyrefly: ignore[missing-attribute]
    return float(loss), float(norm), {name: g.clone() for name, g in found.items()}


@pytest.mark.parametrize("name", [*FAMILIES, *ODD])
@pytest.mark.parametrize(("ranks", "tensor"), WAYS)
def test_every_gradient_is_that_of_one_process(name, ranks, tensor):
    arch = (FAMILIES | ODD)[name]
    loss, norm, alone = first_gradients(arch, 0)
    found = on_ranks(ranks, first_gradients, arch, tensor)
    assert all(part[:2] == pytest.approx((loss, norm), rel=1e-6) for part in found)
    largest = max(float(g.abs().max()) for g in alone.values())
    assert found[0][2].keys() == alone.keys()
    for key, gradient in found[0][2].items():
        assert float((gradient - alone[key]).abs().max()) <= 1e-6 * largest, key
