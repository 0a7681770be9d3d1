"""One vector per text, of what a model makes of its tokens."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

from fledge.arch import Reads
from fledge.data.framing import Frames, LabelledTexts
from fledge.data.labelled import Text, joined, refuse_empty
from fledge.evaluation.language import evaluating
from fledge.model import Transformer
from fledge.model.head import pooled
from fledge.text.tokenizer import Tokenizer

ROWS = 32


def vectors(
    model: Transformer,
    tokenizer: Tokenizer,
    texts: Sequence[Text],
    reads: Reads = "mean",
    normalised: bool = False,
    context: int | None = None,
) -> np.ndarray:
    """Vectors (texts, width) in fp32: the mean of the last hidden states, or the first or last of them; `normalised` to length 1.

    With an encoder beside a decoder the states are the encoder's. Texts of like length go through together; a text longer than
    `context` tokens (at most and by default the model's) is read up to there. Raises `ValueError` for an empty text.
    """
    refuse_empty(texts, "embed")
    order = np.argsort([len(joined(text)) for text in texts], kind="stable")
    frames = Frames([texts[i] for i in order], tokenizer, min(context or model.arch.context, model.arch.context))
    batches = LabelledTexts(frames, np.zeros(len(texts), np.int64), ROWS)
    device = model.embedding.weight.device
    found = np.empty((len(texts), model.arch.trunk.width), np.float32)
    done = 0
    with evaluating(model):
        for batch in batches.in_order():
            tokens, positions, document = (torch.from_numpy(part).to(device) for part in (batch.tokens, batch.positions, batch.document))
            both = len(model.arch.stacks) == 2
            types = None if batch.types is None or model.types is None else torch.from_numpy(batch.types).to(device)
            states = model.encode(tokens, positions, document).hidden if both else model.hidden(tokens, positions, document, types=types)
            rows = pooled(states.float(), document, reads)
            found[order[done : done + len(rows)]] = (F.normalize(rows, dim=-1) if normalised else rows).cpu().numpy()
            done += len(rows)
    return found
