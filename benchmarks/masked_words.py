"""A small BERT on 41 novels: masked words beside the unigram guess, then film reviews beside the same model without pretraining.

Rows of SST-2 that contain or are contained in a held-out row are left out of training, for they are phrases of the same sentences.
"""

import gzip
from pathlib import Path

import numpy as np
from record import arguments, data_folder, scratch, write

import fledge
from fledge.arch.record import to_json
from fledge.evaluation.classifier import probabilities
from fledge.evaluation.metrics import accuracy, classifier_score
from fledge.evaluation.statistics import paired_difference
from fledge.model import Transformer, initialise
from fledge.weights import save_model

Rows = list[tuple[str, int]]


def main() -> None:
    options = arguments(__doc__, time="30m", epochs=4, arch="", rows=8000, held_out=2000, seed=0, folder="")
    novels = data_folder() / "text/novels.jsonl.gz"
    with scratch(options.folder) as folder:
        base = Path(folder, "base")
        arch = {"arch": options.arch} if options.arch else {}
        done = fledge.pretrain([str(novels)], out=base, objective="masked-word", time=options.time, vocab=8192, seed=options.seed, **arch)
        model = fledge.load(base)
        fresh = initialise(Transformer(model.arch), options.seed)
        save_model(Path(folder, "fresh"), fresh, model.tokenizer, None, {"run": model.facts["run"]}, None, "random weights")
        training, test = reviews(options.rows, options.held_out)
        table = Path(folder, "reviews.tsv")
        table.write_text("\n".join(["sentence\tlabel", *(f"{text}\t{label}" for text, label in training)]) + "\n", encoding="utf-8")
        said = {}
        for name in ("base", "fresh"):
            out = Path(folder, f"{name}-reviews")
            fledge.finetune.classify(
                table, out=out, from_=Path(folder, name), seed=options.seed, epochs=options.epochs, set=["save.patience=0"]
            )
            tuned = fledge.load(out)
            chances = probabilities(tuned.network, tuned.tokenizer, [text for text, _ in test], tuned.facts["reads"])
            said[name] = np.array([int(tuned.arch.labels[row]) for row in chances.argmax(1)])
    truth = np.array([label for _, label in test])
    difference = paired_difference(truth, said["base"], said["fresh"], 2, accuracy)
    scores = {name: to_json(classifier_score(truth, guesses, ["0", "1"]).accuracy) for name, guesses in said.items()}
    guessed = to_json(done.validation)
    run = {
        "parameters": done.parameters, "steps": done.steps, "tokens": done.tokens, "seconds": round(done.seconds, 1), "masked": guessed,
        "reviews": {"rows": len(training), "held out": len(test), "accuracy": scores, "difference": to_json(difference)},
    }  # fmt: skip
    reached = guessed["accuracy"] >= 5 * guessed["commonest"] and difference.low > 0
    claim = "masked-word accuracy at least five times the unigram guess; fine-tuned on SST-2 above the same model without pretraining"
    measured = (
        f"{guessed['accuracy'] / guessed['commonest']:.1f} times the unigram guess; "
        f"accuracy {scores['base']['value']:.3f} against {scores['fresh']['value']:.3f}"
    )
    write("masked_words", claim, measured, [run], reached, time=options.time, epochs=options.epochs)


def reviews(rows: int, held_out: int) -> tuple[Rows, Rows]:
    """Training rows that share no phrase with the held-out ones, which are whole sentences rather than pieces."""
    parts = {}
    for name in ("train", "validation"):
        with gzip.open(data_folder() / f"classify/sst2-{name}.tsv.gz", "rt", encoding="utf-8") as file:
            lines = [line.rstrip("\n").split("\t") for line in file][1:]
        parts[name] = [(text.strip(), int(label)) for text, label in lines if len(text.split()) > 3]
    random = np.random.default_rng(0)
    longest = sorted(parts["validation"], key=lambda row: -len(row[0]))[: 2 * held_out]
    test = [longest[i] for i in random.permutation(len(longest))[:held_out]]
    phrases = {text for text, _ in test}
    sentences, training = "\n".join(phrases), Rows()
    for i in random.permutation(len(parts["train"])):
        text, label = parts["train"][i]
        if text not in sentences and not any(phrase in text for phrase in phrases):
            training.append((text, label))
        if len(training) == rows:
            break
    return training, test


if __name__ == "__main__":
    main()
