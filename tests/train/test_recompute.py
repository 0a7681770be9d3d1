"""What is computed again is what was there, to the bit, and the memory for it was free meanwhile."""

import weakref
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fledge.model import Transformer, initialise, kernels
from fledge.train.objective import PredictTokens
from fledge.train.parallel.engine import recompute
from tests.train.families import FAMILIES, ODD, Steps


class Peak(TorchDispatchMode):
    """The most bytes that the tensors made inside took at once."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self.seen = weakref.WeakSet[torch.UntypedStorage]()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage()) not in self.seen:
                self.seen.add(storage)
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self.freed, storage.nbytes())
        return made

    def freed(self, size: int) -> None:
        self.now -= size


def trained(name: str, again: bool, used: bool) -> tuple[dict[str, torch.Tensor], int]:
    arch = replace((FAMILIES | ODD)[name], dropout=0.2).with_stacks(lambda stack: replace(stack, depth=4))
    model, objective = initialise(Transformer(arch)).train(), PredictTokens()
    if again:
        recompute(model)
    torch.manual_seed(3)
    with kernels.used(used), Peak() as peak:
        for part in Steps(arch).batch_at(0):
            objective(model, part).backward()
    return {key: p.grad for key, p in model.named_parameters() if p.grad is not None}, peak.most


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("name", [*FAMILIES, "experts"])
def test_gradients_are_the_same_bits_with_less_memory(name, used):
    plain, most = trained(name, False, used)
    found, less = trained(name, True, used)
    assert found.keys() == plain.keys()
    assert all(torch.equal(found[key], plain[key]) for key in plain)
    assert less < 0.8 * most, (less, most)
