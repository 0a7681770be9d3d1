"""The book's first pretraining: GPT-2's 124M shape on a 20 kB story, 10 epochs in batches of 2 x 256.

Raschka, 2024, Build a Large Language Model (From Scratch), chapter 5, prints 10.98 nats per token on both parts before
training, and 0.391 (training) and 6.452 (validation) after it, on a CPU.
"""

import tempfile
from pathlib import Path

import numpy as np
from record import arguments, data_folder, write

import fledge
from fledge.data.documents import Document
from fledge.data.preparation import Recipe, prepare
from fledge.evaluation.language import document_score
from fledge.model import Transformer, initialise
from fledge.presets import PRESETS
from fledge.text import Tokenizer

SETTINGS = [
    "arch.context=256", "arch.tied=false", "arch.dropout=0.1", "batch.rows=2", "batch.context=256", "optimizer.kind=AdamW",
    "optimizer.rate=4e-4", "optimizer.weight_decay=0.1", "optimizer.betas=[0.9, 0.999]", "optimizer.clip=0",
    "schedule.kind=Constant", "data.moving=false",  # as the book: PyTorch's AdamW, no clipping, the same rows in each epoch
    "save.evaluate=1000000",  # only at the end: the last weights are wanted, not the best
]  # fmt: skip


def main() -> None:
    options = arguments(__doc__, epochs=10, seed=0)
    text = (data_folder() / "text/the-verdict.txt").read_text()
    border = int(0.9 * len(text))
    parts = {"training": text[:border], "validation": text[border:]}
    tokenizer = Tokenizer.load(data_folder() / "tokenizers/gpt2")
    with tempfile.TemporaryDirectory() as folder:
        documents = [Document(part, name) for name, part in parts.items()]
        corpus = prepare(documents, Path(folder, "corpus"), Recipe(tokenizer, lambda document: document.source == "validation"))
        steps = options.epochs * (corpus.train.tokens // (2 * 256))
        arch = PRESETS["gpt2"].arch(context=256, tied=False, dropout=0.1)
        before = scores(initialise(Transformer(arch), options.seed), tokenizer, parts)
        out = Path(folder, "model")
        done = fledge.pretrain([str(corpus.folder)], out=out, arch="gpt2", steps=steps, set=SETTINGS, seed=options.seed)
        after = scores(fledge.load(out).network, tokenizer, parts)
    reached = all(abs(loss - 10.98) <= 0.05 for loss in before.values()) and after["training"] <= 0.6 and after["validation"] <= 6.6
    runs = [{"before": before, "after": after, "steps": steps, "seconds": round(done.seconds, 1)}]
    claim = "starts at 10.98 ± 0.05 nats per token on both parts, ends at 0.6 or less in training and 6.6 or less in validation"
    measured = " and ".join(f"{before[part]:.2f} to {after[part]:.3f} in {part}" for part in parts)
    write("the_verdict", claim, measured, runs, reached, settings=SETTINGS)


def scores(model: Transformer, tokenizer: Tokenizer, parts: dict[str, str]) -> dict[str, float]:
    """Nats per token of each part with drop-out off, every token scored once, in rows that begin where those of training do."""
    found = {}
    for name, text in parts.items():
        tokens = np.array(tokenizer.encode(text))
        found[name] = round(
            document_score(model, [tokens], [len(text.encode())], tokenizer.end_of_text, stride=256).nats_per_token.value, 3
        )
    return found


if __name__ == "__main__":
    main()
