"""What a classifier model says of texts."""

from collections.abc import Sequence

import numpy as np
import torch

from fledge.data.batches import LabelledTexts
from fledge.evaluation.language import evaluating
from fledge.model import Transformer
from fledge.text.tokenizer import Tokenizer

ROWS = 32


def probabilities(model: Transformer, tokenizer: Tokenizer, texts: Sequence[str], context: int | None = None) -> np.ndarray:
    """The probability of each label for each text, (texts, labels); texts of like length go through together.

    A text longer than `context` tokens (the model's by default) is read up to there, as in training; an empty text raises `ValueError`.
    """
    empty = [number for number, text in enumerate(texts) if not text.strip()]
    if empty:
        raise ValueError(f"text {empty[0] + 1} of {len(texts)} is empty: there is nothing to classify")
    order = np.argsort([len(text) for text in texts], kind="stable")
    batches = LabelledTexts([texts[i] for i in order], [0] * len(texts), tokenizer, context or model.arch.context, ROWS)
    device = model.embedding.weight.device
    found = np.empty((len(texts), len(model.arch.labels)), np.float64)
    done = 0
    with evaluating(model):
        for batch in batches.in_order():
            tokens, positions, document = (torch.from_numpy(part).to(device) for part in (batch.tokens, batch.positions, batch.document))
            chances = model(tokens, positions, document).double().softmax(-1)
            found[order[done : done + len(chances)]] = chances.cpu().numpy()
            done += len(chances)
    return found
