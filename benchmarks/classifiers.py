"""Classifiers from a base that was pretrained here, beside TF-IDF + logistic regression on the same test rows.

SMS spam; AG News (10,000 rows) and TREC's six kinds of questions, both five-fold, the folds' test rows taken together; SST-2, split anew so
that no test phrase contains or is contained in a training phrase, and as it was given; IMDb, a subset. `--rows` takes so many rows of each.
"""

import csv
import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from base import base_of, facts_of
from record import arguments, data_folder, scratch, write

import fledge
from fledge.arch.record import to_json
from fledge.data.corpus import share
from fledge.data.labelled import Columns, Labelled, alike, split
from fledge.evaluation.metrics import classifier_score, f1_difference
from fledge.verbs.finetune.classifying import OURS, RESULTS, WORDS

LONG = 10  # words of an SST-2 phrase that is held out, at least
HELD_OUT = 0.1  # of these phrases

Rows = list[tuple[str, str]]  # a text and its label
Task = tuple[Rows, Rows]  # to learn from and to test on; nothing to test on: some are held out


def opened(name: str, encoding: str = "utf-8") -> list[str]:
    path = data_folder() / "classify" / name
    with gzip.open(path, "rt", encoding=encoding) if name.endswith(".gz") else path.open(encoding=encoding) as file:
        return [line.rstrip("\n") for line in file]  # other marks of line ends stand within texts


def table(name: str) -> Rows:
    """A table of texts and labels with a header."""
    return [(text, label) for text, label in (line.rsplit("\t", 1) for line in opened(name)[1:])]


def some(rows: Rows, most: int, seed: int) -> Rows:
    """As many of the rows, by their content; all where `most` is 0."""
    return sorted(rows, key=lambda row: share(row[0], seed))[: most or None]


def sms(most: int, seed: int) -> Iterator[Task]:
    yield some([(text, label) for label, text in (line.split("\t", 1) for line in opened("sms-spam.tsv"))], most, seed), []


def ag_news(most: int, seed: int) -> Iterator[Task]:
    rows = [(text, label) for text, label in (line.rsplit("\t", 1) for line in opened("ag-news.tsv.gz"))]
    yield from folded(some(rows, most, seed), seed)


def trec(most: int, seed: int) -> Iterator[Task]:
    rows = [(text, kind.split(":")[0]) for kind, text in (line.split(" ", 1) for line in opened("trec-train.txt", "latin-1"))]
    yield from folded(some(rows, most, seed), seed)


def folded(rows: Rows, seed: int) -> Iterator[Task]:
    """Five folds, texts that are nearly equal in one; each is tested on once."""
    names = tuple(sorted({label for _, label in rows}))
    labels = tuple((names.index(label),) for _, label in rows)
    whole = Labelled(tuple(text for text, _ in rows), labels, names, tuple(map(str, range(len(rows)))), Columns("text", "label"))
    folds = [[int(place) for place in fold.places] for fold in split(whole, (0.2,) * 5, seed, alike(whole.texts).roots)]
    for fold in folds:
        yield [row for number, row in enumerate(rows) if number not in set(fold)], [rows[number] for number in fold]


def sst2_anew(most: int, seed: int) -> Iterator[Task]:
    """Long phrases that lie in no other one, a tenth of them, are held out; whatever lies in one of these is not learned from."""
    every = {" ".join(text.split()): label for text, label in table("sst2-train.tsv.gz") + table("sst2-validation.tsv.gz")}
    rows = some(list(every.items()), 0, seed)
    long = [text.split() for text, _ in rows if len(text.split()) >= LONG]
    inner = {part for words in long for part in parts(words, LONG) if part != " ".join(words)}
    held = {text for text, _ in rows if len(text.split()) >= LONG and text not in inner and share(text, seed + 1) < HELD_OUT}
    within = {part for text in held for part in parts(text.split(), 1)}
    kept = [row for row in rows if row[0] not in within]
    assert not any(f" {text} " in f" {other} " for other in held for text, _ in kept[:200])
    yield some(kept, most, seed), some([row for row in rows if row[0] in held], most and most // 8, seed)


def parts(words: Sequence[str], least: int) -> Iterator[str]:
    """Every run of `least` words or more."""
    for start in range(len(words)):
        for end in range(start + least, len(words) + 1):
            yield " ".join(words[start:end])


def sst2_given(most: int, seed: int) -> Iterator[Task]:
    yield some(table("sst2-train.tsv.gz"), most, seed), some(table("sst2-validation.tsv.gz"), most and most // 8, seed)


def imdb(most: int, seed: int) -> Iterator[Task]:
    learned, tested = (
        [(row["text"], str(row["label"])) for row in map(json.loads, opened(f"imdb-{part}.jsonl.gz"))] for part in ("train", "validation")
    )
    yield some(learned, most or 5000, seed), some(tested, (most or 8000) // 4, seed)


TASKS = {"sms": sms, "ag-news": ag_news, "trec": trec, "sst2": sst2_anew, "sst2 as given": sst2_given, "imdb": imdb}


HARD = ("sst2", "trec", "ag-news")  # where words alone do not say it all


def stored(path: Path, rows: Rows) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return path


def measured(task: str, base: Path, place: Path, options: Any) -> dict[str, Any]:
    """What this model and the baselines come to on all test rows of a task together."""
    said: dict[str, list[Any]] = {}
    rows, seconds, reads, verdict = 0, 0.0, 0, ""
    for number, (learned, tested) in enumerate(TASKS[task](options.rows, options.seed)):
        folder = place / f"{task.replace(' ', '-')}-{number}"
        folder.mkdir(parents=True, exist_ok=True)
        test = stored(folder / "test.csv", tested) if tested else None
        done = fledge.finetune.classify(
            stored(folder / "train.csv", learned), out=folder / "model", from_=base, test=test, text_column="text",
            label_column="label", time=options.time, search=bool(options.search), seed=options.seed,
        )  # fmt: skip
        rows, seconds, verdict = len(learned), seconds + done.seconds, done.verdict
        reads = fledge.load(folder / "model").facts["reads"]
        for line in (folder / "model" / "run" / RESULTS).read_text(encoding="utf-8").split("\n")[:-1]:
            row = json.loads(line)
            for name, label in (("truth", row["truth"]), *row["said"].items()):
                said.setdefault(name, []).append(label[0])
    names = sorted(set(said["truth"]))
    numbers = {name: np.array([names.index(label) for label in labels]) for name, labels in said.items()}
    scores = {name: classifier_score(numbers["truth"], guesses, names) for name, guesses in numbers.items() if name != "truth"}
    difference = f1_difference(numbers["truth"], numbers[OURS], numbers[WORDS], len(names))
    return {
        "task": task,
        "rows": rows,
        "test_rows": len(said["truth"]),
        "tokens_read": reads,
        "seconds": round(seconds, 1),
        "scores": {name: {"accuracy": to_json(score.accuracy), "macro_f1": to_json(score.macro_f1)} for name, score in scores.items()},
        "difference": to_json(difference),
        "verdict": verdict,
    }


def main() -> None:
    options = arguments(__doc__, base="", time="5m", seed=0, rows=0, tasks=",".join(TASKS), search=0, folder="")
    with scratch(options.folder) as place:
        base = base_of(options, place)
        runs = [measured(task, base, place, options) for task in options.tasks.split(",")]
        made_by = facts_of(base)
    scores = [
        f"{run['task']} {run['scores'][OURS]['macro_f1']['value']:.3f} against {run['scores'][WORDS]['macro_f1']['value']:.3f}"
        for run in runs
    ]
    better = [run["task"] for run in runs if run["difference"]["low"] > 0]
    claim = (
        "classifiers from a base pretrained here: macro-F1 on held-out rows above TF-IDF + logistic regression's, beyond chance, on at "
        f"least two of {', '.join(HARD)}"
    )
    told = f"{'; '.join(scores)}; beyond chance on {', '.join(better) or 'none'}"
    write("classifiers", claim, told, runs, len(set(better) & set(HARD)) >= 2, base=made_by)


if __name__ == "__main__":
    main()
