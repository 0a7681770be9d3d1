"""Summaries of dialogues by a small encoder-decoder, denoise-pretrained on Wikipedia and not, beside the first one and three turns."""

import gzip
import json
from pathlib import Path

from record import arguments, data_folder, scratch, write

import fledge
from fledge.arch.record import to_json
from fledge.evaluation.generated import rouge
from fledge.model import Transformer, initialise
from fledge.weights import save_model


def main() -> None:
    options = arguments(__doc__, time="30m", epochs=2, rows=500, seed=0, beams=4, folder="")
    data = data_folder() / "summarize"
    with gzip.open(data / "dialogsum-validation.jsonl.gz", "rt", encoding="utf-8") as file:
        held_out = [json.loads(line) for line in file][: options.rows]
    dialogues, references = ([row[name] for row in held_out] for name in ("dialogue", "summary"))
    written = {f"lead-{turns}": [" ".join(text.splitlines()[:turns]) for text in dialogues] for turns in (1, 3)}
    with scratch(options.folder) as folder:
        base = Path(folder, "base")
        pretrained = fledge.pretrain(
            [str(data_folder() / "text/wikipedia.jsonl.gz")], out=base, objective="denoise", time=options.time, vocab=8192,
            seed=options.seed, set=["batch.context=512"],
        )  # fmt: skip
        model = fledge.load(base)
        fresh = initialise(Transformer(model.arch), options.seed)
        save_model(Path(folder, "fresh"), fresh, model.tokenizer, None, {"run": model.facts["run"]}, None, "random weights")
        for name in ("base", "fresh"):
            out = Path(folder, f"{name}-summaries")
            train = data / "dialogsum-train.jsonl.gz"
            fledge.finetune.pairs(
                train, out=out, from_=Path(folder, name), epochs=options.epochs, validation=0.03, seed=options.seed, set=["save.patience=0"]
            )
            kind = "denoise-pretrained" if name == "base" else "untrained before"
            written[kind] = fledge.load(out).targets(dialogues, beams=options.beams, max_tokens=100)
    scores = {name: {found.measure: to_json(found.interval) for found in rouge(texts, references)} for name, texts in written.items()}
    run = {
        "pretrained": {name: value for name, value in to_json(pretrained).items() if name != "out"},
        "rows": len(held_out), "scores": scores, "signature": rouge(references, references)[0].signature,
    }  # fmt: skip
    best = {name: found["ROUGE-L"]["value"] for name, found in scores.items()}
    claim = "ROUGE-L of the denoise-pretrained model above lead-1, lead-3 and the same model without pretraining"
    reached = all(best["denoise-pretrained"] > value for name, value in best.items() if name != "denoise-pretrained")
    measured = ", ".join(f"{name} {value:.1f}" for name, value in best.items())
    write("summaries", claim, measured, [run], reached, time=options.time, epochs=options.epochs)


if __name__ == "__main__":
    main()
