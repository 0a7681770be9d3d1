"""How much each token looks at each other one, head by head."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fledge.arch import Words
from fledge.data.framing import Framed
from fledge.model import Transformer
from fledge.model.attention import Attention, attention_weights


@dataclass(frozen=True, eq=False)
class Looked:
    """One layer of attention by its `name`: `weights` (heads, query, key), rows adding up to one, less what sinks take.

    A layer that looks `across` has queries of the target and keys of the source.
    """

    name: str
    weights: np.ndarray
    across: bool = False

    def summary(self, head: int, pieces: Sequence[str]) -> tuple[str, float, float]:
        """What a head looks at most over all queries, the share of its attention that this gets, and how many tokens away it looks."""
        weights = self.weights[head]
        most = weights.mean(0).argmax()
        distance = np.abs(np.subtract.outer(np.arange(weights.shape[0]), np.arange(weights.shape[1])))
        return pieces[most], float(weights.mean(0)[most]), float((weights * distance).sum() / max(1e-9, weights.sum()))


def looked(model: Transformer, row: Framed) -> list[Looked]:
    """What every layer looks at when the model reads a row of tokens, encoder and decoder alike.

    A decoder beside an encoder reads what it does in use: for a classifier the same one place later, else the start of a target.
    """
    found: list[Looked] = []
    names = {
        part: f"{stack} {int(name.split('.')[1]) + 1}" + (", across" if ".across." in f".{name}" else "")
        for stack in model.arch.stacks
        for name, part in getattr(model, stack).named_modules()
        if isinstance(part, Attention)
    }

    def look(module: Attention, arguments: tuple) -> None:
        x, view, _, *source = arguments
        weights = attention_weights(module, x, view, *source)[0].float().cpu().numpy()
        found.append(Looked(names[module], weights, names[module].endswith("across")))

    hooks = [part.register_forward_pre_hook(look) for part in names]
    tokens = torch.from_numpy(row.tokens)[None].to(model.embedding.weight.device)
    types = None if row.types is None or model.types is None else torch.from_numpy(row.types)[None].to(tokens.device)
    try:
        with torch.no_grad():
            if len(model.arch.stacks) == 2 and isinstance(model.arch.head, Words):
                model(torch.full_like(tokens[:, :1], model.arch.start or 0), memory=model.encode(tokens))
            else:
                model(tokens, types=types)
    finally:
        for hook in hooks:
            hook.remove()
    return found
