"""The steps from a finished model to one that trains on many ranks, each a function of the model and the mesh, in the order of this file.

With a mesh of one rank each of them leaves the model as it is.
"""

from collections.abc import Iterable
from functools import wraps

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.utils.checkpoint import checkpoint

from fledge.model import Transformer, shell, starting_weights
from fledge.model.trunk import Block
from fledge.train.parallel.ranks import ranks
from fledge.train.parallel.spread import Alone, Spread, spread_of
from fledge.train.parallel.tensor import split
from fledge.train.run import Machine


def put_on(model: Transformer, machine: Machine) -> Alone:
    """The model where and how it trains: here, or its part on this rank of many, with the values that it has.

    A model on the meta device starts with those that the machine's seed gives.
    """
    values = {name: parameter.detach() for name, parameter in model.named_parameters()}
    unmade = any(value.is_meta for value in values.values())
    found: Alone = spread_of(model)
    if ranks() > 1:
        found = spread_out(model, mesh_of(torch.device(machine.device).type, ranks(), machine.tensor))
    if machine.recompute:
        recompute(model)
    if unmade or ranks() > 1:
        materialise(model, machine.device)
        deal(model, starting_weights(shell(model.arch), machine.seed) if unmade else values.items())
    else:
        model.to(machine.device)
    return found


def mesh_of(device: str, ranks: int, tensor: int = 1) -> DeviceMesh:
    """All ranks as (data, tensor): those that share each layer are neighbours.

    Raises `ValueError` where `tensor` does not divide their number.
    """
    if ranks % tensor:
        raise ValueError(f"{ranks} processes cannot share each layer by {tensor}: start a multiple of machine.tensor, or set another")
    return init_device_mesh(device, (ranks // tensor, tensor), mesh_dim_names=("data", "tensor"))


def spread_out(model: Transformer, mesh: DeviceMesh) -> Spread:
    """Deal each layer among the tensor ranks, then all that is left among the data ranks (FSDP2); gradients are sums, not means.

    The model loses its values, unless there is one rank; how it lies is kept as `model.spread`.
    """
    if mesh.size() > 1:
        model.to("meta")
    found = Spread(mesh, split(model, mesh["tensor"]))
    if mesh["data"].size() > 1:
        _shard(model, mesh["data"])
    model.__dict__["spread"] = found
    return found


def _shard(model: Transformer, mesh: DeviceMesh) -> None:
    from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

    for block in blocks(model):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for part in model.modules():
        if isinstance(part, FSDPModule):
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)
    for method in ("encode", "hidden"):
        register_fsdp_forward_method(model, method)


def blocks(model: nn.Module) -> list[Block]:
    return [part for part in model.modules() if isinstance(part, Block)]


def recompute(model: nn.Module) -> None:
    """Keep of each block's activations its input alone, and compute the others again in the backward pass, with the same drop-out.

    Chen et al., 2016, arXiv:1604.06174.
    """
    for block in blocks(model):
        block.forward = _recomputed(block.forward)  # pyrefly: ignore[bad-assignment]


def _recomputed(forward):
    @wraps(forward)
    def again(x: Tensor, own: tuple, across: tuple = ()) -> Tensor:
        if not torch.is_grad_enabled():
            return forward(x, own, across)
        if own[0].bias is not None:
            _ = own[0].mask  # shared by all blocks of a stack, so it is not for one of them to compute
        return checkpoint(forward, x, own, across, use_reentrant=False)

    return again


def materialise(model: nn.Module, device: str | torch.device) -> None:
    """Give the parts of a model on the meta device room, not yet values, on this one."""
    model.to_empty(device=device)


def deal(model: nn.Module, whole: Iterable[tuple[str, Tensor]]) -> None:
    """Take this rank's part of each whole tensor, one after the other."""
    spread = spread_of(model)
    fill(model, ((name, tensor[spread.part(name)]) for name, tensor in whole))


def fill(model: nn.Module, parts: Iterable[tuple[str, Tensor]]) -> None:
    """Set the values that lie here of the parameters of these names."""
    held = spread_of(model).held(model)
    with torch.no_grad():
        for name, tensor in parts:
            held[name].copy_(tensor)
