"""Starting weights, in one table."""

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from fledge.arch import Head, Words
from fledge.model.attention import Attention
from fledge.model.head import head as make_head
from fledge.model.norm import OffsetRmsNorm
from fledge.model.positions import Learned
from fledge.model.transformer import Transformer


def initialise(model: Transformer, seed: int = 0) -> Transformer:
    """Fill every parameter from `starting_weights`."""
    with torch.no_grad():
        for name, value in starting_weights(model, seed):
            model.get_parameter(name).copy_(value)
    return model


def starting_weights(model: Transformer, seed: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Each parameter's name and start, on the CPU, the same for the same seed everywhere; a model on the meta device will do.

    | parameter | start | source |
    |---|---|---|
    | embedding, learned positions, head | N(0, 0.02²) | GPT-2 (Radford et al., 2019); a tied head so starts near ln V |
    | the first two of a decoder with a head of its own | N(0, 1) | PyTorch's Embedding: tokens differ from the start |
    | matrices into a block | N(0, 0.02²) | GPT-2 |
    | matrices out of a block (`o`, `down`) | N(0, 0.02² / 2 depth) | GPT-2: the residual sum keeps its size with depth |
    | queries of scores that are not scaled by 1/√size | the above times the share that is missing | Raffel et al., 2019: T5's code |
    | gains 1, biases and sinks 0 | | |
    """
    generator = torch.Generator().manual_seed(seed)
    apart = model.arch.encoder is None and isinstance(model.arch.head, Words) and not model.arch.head.tied
    shares = query_shares(model)
    for name, parameter in model.named_parameters():
        owner, _, kind = name.rpartition(".")
        shape, dtype = parameter.shape, parameter.dtype
        if kind.endswith("bias") or kind == "sinks":
            yield name, torch.zeros(shape, dtype=dtype)
        elif parameter.dim() == 1:
            module = model.get_submodule(owner)
            yield name, torch.full(shape, 1.0 - module.offset if isinstance(module, OffsetRmsNorm) else 1.0, dtype=dtype)
        else:
            outward = owner.endswith((".o", ".down")) or kind == "down"
            std = 0.02 / math.sqrt(2 * model.arch.stacks[owner.split(".")[0]].depth) if outward else 0.02
            if apart and isinstance(model.get_submodule(owner), nn.Embedding | Learned):
                std = 1.0
            yield name, torch.empty(shape).normal_(0.0, std * shares.get(name, 1.0), generator=generator)


def query_shares(model: nn.Module) -> dict[str, float]:
    """By the name of a query's matrix its `Attention.query_share`, where that is not 1: of its start, and of each step."""
    parts = ((name, part.spec.query_share) for name, part in model.named_modules() if isinstance(part, Attention))
    return {f"{name}.q.weight": share for name, share in parts if share != 1}


def with_new_head(model: Transformer, head: Head, seed: int = 0) -> Transformer:
    """The same embedding and trunks (shared, not copied) under another head, whose own weights start anew, but for an equal transform."""
    new = Transformer(replace(model.arch, head=head))
    for name in ("embedding", "types", "encoder", "decoder"):
        setattr(new, name, getattr(model, name))
    new.head = make_head(new.arch, model.embedding)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in new.head.named_parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, 0.0, 0.02, generator=generator)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
    before = getattr(model.arch.head, "transform", None)
    if before is not None and before == getattr(head, "transform", None):
        new.head.transform = model.head.transform
    return new
