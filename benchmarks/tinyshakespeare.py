"""Characters of tinyshakespeare with a 4-layer, 128-wide GPT-2 shape: nats per character after 2,000 steps of 12 x 64.

nanoGPT publishes 1.88 for this setting on a CPU (its README), from a sample of the validation text. Here every character of
the last tenth is scored once, in windows of 64 that do not overlap.
"""

import tempfile
from pathlib import Path

import numpy as np
from record import arguments, data_folder, write

import fledge
from fledge.data.documents import Document
from fledge.data.preparation import Recipe, prepare
from fledge.evaluation.language import document_score

LIMIT = 1.88
SETTINGS = [
    "arch.depth=4", "arch.width=128", "arch.heads=4", "arch.context=64", "arch.dropout=0.0", "batch.rows=12", "batch.context=64",
]  # fmt: skip


def main() -> None:
    options = arguments(__doc__, seeds=3, steps=2000)
    text = (data_folder() / "text/tinyshakespeare.txt").read_text()
    border = int(0.9 * len(text))
    parts = [Document(text[:border], "train"), Document(text[border:], "validation")]
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        corpus = prepare(parts, Path(folder, "corpus"), Recipe("characters", lambda document: document.source == "validation"))
        held_out = corpus.tokenizer.encode(text[border:])
        for seed in range(options.seeds):
            out = Path(folder, f"seed-{seed}")
            done = fledge.pretrain([str(corpus.folder)], out=out, arch="gpt2", steps=options.steps, set=SETTINGS, seed=seed)
            model = fledge.load(out)
            found = document_score(model.network, [np.array(held_out)], [len(held_out)], corpus.tokenizer.end_of_text, stride=64)
            runs.append(
                {
                    "seed": seed,
                    "nats_per_character": round(found.nats_per_token.value, 4),
                    "characters": found.tokens,
                    "seconds": round(done.seconds, 1),
                }
            )
    mean = float(np.mean([run["nats_per_character"] for run in runs]))
    write(
        "tinyshakespeare",
        f"characters of Shakespeare, mean of {options.seeds} seeds at most {LIMIT} nats per character",
        f"{mean:.3f}",
        runs,
        mean <= LIMIT,
        mean=round(mean, 4),
        settings=SETTINGS,
    )


if __name__ == "__main__":
    main()
