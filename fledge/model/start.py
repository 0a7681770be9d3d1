"""Starting weights, in one table."""

import math
from dataclasses import replace

import torch
from torch import nn

from fledge.arch import Classes, Words
from fledge.model.transformer import Transformer, make_head


def initialise(model: Transformer, seed: int = 0) -> Transformer:
    """Fill every parameter, the same for the same seed on every device.

    | parameter | start | source |
    |---|---|---|
    | embedding, learned positions, head | N(0, 0.02²) | GPT-2 (Radford et al., 2019); a tied head so starts near ln V |
    | matrices into a block | N(0, 0.02²) | GPT-2 |
    | matrices out of a block (`o`, `down`) | N(0, 0.02² / 2 depth) | GPT-2: the residual sum keeps its size with depth |
    | gains 1, biases 0 | | |
    """
    generator = torch.Generator().manual_seed(seed)
    inward, outward = 0.02, 0.02 / math.sqrt(2 * model.arch.decoder.depth)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            owner, _, kind = name.rpartition(".")
            if kind == "bias":
                parameter.zero_()
            elif parameter.dim() == 1:
                parameter.fill_(1.0)
            else:
                std = outward if owner.endswith((".o", ".down")) else inward
                parameter.copy_(torch.empty(parameter.shape).normal_(0.0, std, generator=generator))
    return model


def with_new_head(model: Transformer, head: Words | Classes, seed: int = 0) -> Transformer:
    """The same embedding and trunk (shared, not copied) under another head, whose own weights start anew."""
    new = Transformer(replace(model.arch, head=head))
    new.embedding, new.decoder, new.head = model.embedding, model.decoder, make_head(new.arch, model.embedding)
    if isinstance(new.head, nn.Linear):
        nn.init.normal_(new.head.weight, 0.0, 0.02, generator=torch.Generator().manual_seed(seed))
    return new
