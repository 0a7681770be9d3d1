"""A base model becomes an assistant: 1,100 instructions (935 / 55 / 110), medical questions, summaries; measured before and after each."""

import gzip
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from base import base_of, facts_of
from record import arguments, data_folder, scratch, write

import fledge
from fledge.arch.record import to_json
from fledge.evaluation.generated import rouge
from fledge.evaluation.statistics import Interval, ratio
from fledge.verbs.finetune.instructing import ANSWERING, LONGEST, Instructed
from fledge.verbs.model import Model

TRAINED, MEASURED = 935, 110  # of the 1,100, in the order of Raschka, 2024, Build a Large Language Model (From Scratch), chapter 7
SENTENCES = 3  # of a medical answer, so that small models have room for its end
SUMMARISE, ROW, MARKS = "Summarise this conversation.\n\n", 512, 32  # tokens of a row of training, and of what a format adds at most
TERMS, CERTAIN = 10, 3  # key terms of an answer, and how many of them it must hold to be right

Row = dict[str, str]


def main() -> None:
    options = arguments(__doc__, base="", epochs=3, instructions=1100, medical=4000, dialogues=6000, measured=200, seed=0, folder="")
    with scratch(options.folder) as folder:
        base = base_of(options, folder)
        made_by = facts_of(base)

        def tuned(name: str, training: list[Row], validation: list[Row], test: list[Row]) -> Instructed:
            files = {part: folder / f"{name}-{part}.json" for part in ("train", "validation", "test")}
            for path, rows in zip(files.values(), (training, validation, test), strict=True):
                path.write_text(json.dumps(rows), encoding="utf-8")
            return fledge.finetune.instruct(
                files["train"], out=folder / name, from_=base, epochs=options.epochs, seed=options.seed,
                validation=files["validation"], test=files["test"],
            )  # fmt: skip

        book = json.loads((data_folder() / "instruct/instruction-data.json").read_text(encoding="utf-8"))[: options.instructions]
        train, held = len(book) * TRAINED // 1100, len(book) * MEASURED // 1100
        answered = tuned("instructions", book[:train], book[train + held :], book[train : train + held])

        asked = spread(medical(), options.medical, options.seed)
        training, validation, test = cut(asked, options.measured)
        tuned("medical", training, validation, test)
        terms = KeyTerms([row["answer"] for row in training])
        knowing = {when: terms.scores(texts, test) for when, texts in before_and_after(base, folder / "medical", test).items()}

        training, validation, _ = cut(spread(dialogues("train", base), options.dialogues, options.seed), options.measured)
        held_out = dialogues("validation", base)[: options.measured]
        tuned("summaries", training, validation, held_out)
        written = before_and_after(base, folder / "summaries", held_out)
        turns = [row["question"].removeprefix(SUMMARISE).splitlines() for row in held_out]
        leads = {f"lead-{first}": [" ".join(lines[:first]) for lines in turns] for first in (1, 3)}
        summaries = {
            name: {score.measure: to_json(score.interval) for score in rouge(texts, [row["answer"] for row in held_out])}
            for name, texts in {**leads, **written}.items()
        }

        run: dict[str, Any] = {
            "instructions": {
                "rows": [train, len(book) - train - held, held], "before": asdict(answered.before), "after": asdict(answered.after),
            },
            "medical": {"rows": len(test), **knowing},
            "summaries": {"rows": len(held_out), **summaries},
        }  # fmt: skip
    before, after = answered.before, answered.after
    reached = {
        "perplexity at most half": after.perplexity.value <= before.perplexity.value / 2,
        "95 % end by themselves": after.ended.value >= 0.95,
    }
    run["reached"] = reached
    rouges = [next(score.interval.value for score in found.scores if score.measure == "ROUGE-L") for found in (before, after)]
    measured = (
        f"perplexity {before.perplexity.value:.1f} to {after.perplexity.value:.1f}; {after.ended.value:.0%} end by themselves; ROUGE-L "
        f"{rouges[0]:.1f} to {rouges[1]:.1f}; F1 of medical key terms {knowing['before']['F1']['value']:.3f} to "
        f"{knowing['after']['F1']['value']:.3f}; ROUGE-L of summaries {summaries['before']['ROUGE-L']['value']:.1f} to "
        f"{summaries['after']['ROUGE-L']['value']:.1f}, lead-3 {summaries['lead-3']['ROUGE-L']['value']:.1f}"
    )
    claim = "instruction tuning: perplexity of held-out answers at most half of the base's; at least 95 % of its answers end by themselves"
    write("instruction", claim, measured, [run], all(reached.values()), base=made_by, epochs=options.epochs)


def medical() -> Iterator[Row]:
    """Questions of MedQuAD with the first sentences of their answers, each question once."""
    seen = set()
    with gzip.open(data_folder() / "domain/medquad.jsonl.gz", "rt", encoding="utf-8") as file:
        for row in map(json.loads, file):
            answer = " ".join(re.split(r"(?<=[.!?]) +", row["answer"].strip())[:SENTENCES])
            if answer and row["question"] not in seen:
                seen.add(row["question"])
                yield {"question": row["question"], "answer": answer}


def dialogues(part: str, base: Path) -> list[Row]:
    """Dialogues to summarise with their summaries, those that a row of the base model has room for."""
    model = fledge.load(base)
    room = min(model.arch.context, ROW) - MARKS
    with gzip.open(data_folder() / f"summarize/dialogsum-{part}.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [{"question": SUMMARISE + row["dialogue"], "answer": row["summary"]} for row in map(json.loads, file)]
    lengths = map(len, model.tokenizer.encode_batch([f"{row['question']}{row['answer']}" for row in rows]))
    return [row for row, length in zip(rows, lengths, strict=True) if length <= room]


def spread(rows: Iterator[Row] | list[Row], most: int, seed: int) -> list[Row]:
    """At most so many of the rows, in an order drawn by seed."""
    every = list(rows)
    return [every[i] for i in np.random.default_rng(seed).permutation(len(every))[:most]]


def cut(rows: list[Row], held: int) -> tuple[list[Row], list[Row], list[Row]]:
    """Rows to learn from, to check on and to measure with, as many of each of the last two."""
    held = min(held, len(rows) // 4)
    return rows[2 * held :], rows[:held], rows[held : 2 * held]


def before_and_after(base: Path, tuned: Path, rows: Sequence[Row]) -> dict[str, list[str]]:
    """What both models answer: the base model plainly asked, the other in its chat format."""
    parent = fledge.load(base)
    speakers = {"before": Model(parent.network, parent.tokenizer, {"chat": "plain", "generation": ANSWERING}), "after": fledge.load(tuned)}
    questions = [[{"role": "user", "content": row["question"]}] for row in rows]
    return {when: [said.text for said in speaker.answers(questions, max_tokens=LONGEST, seed=0)] for when, speaker in speakers.items()}


class KeyTerms:
    """The words of an answer that tell it from others: those of the highest tf-idf, none that the question has."""

    def __init__(self, answers: Sequence[str]):
        self.documents = len(answers)
        self.met = Counter(word for answer in answers for word in set(words(answer)))

    def of(self, answer: str, question: str, most: int) -> set[str]:
        counts = Counter(word for word in words(answer) if word not in words(question))
        weight = {word: count * math.log((1 + self.documents) / (1 + self.met[word])) for word, count in counts.items()}
        return set(sorted(weight, key=lambda word: (-weight[word], word))[:most])

    def scores(self, texts: Sequence[str], rows: Sequence[Row]) -> dict[str, Any]:
        """Exact match: the answer holds all of the first key terms of its reference. F1: of both answers' key terms."""
        right, overlap, sizes = [], [], []
        for text, row in zip(texts, rows, strict=True):
            own, theirs = (self.of(answer, row["question"], TERMS) for answer in (text, row["answer"]))
            certain = self.of(row["answer"], row["question"], CERTAIN)
            right.append(certain <= set(words(text)))
            overlap.append(2 * len(own & theirs) / max(1, len(own) + len(theirs)))
            sizes.append(1.0)
        found: dict[str, Interval] = {
            "exact match": ratio(np.array(right), np.array(sizes)),
            "F1": ratio(np.array(overlap), np.array(sizes)),
        }
        return {name: to_json(interval) for name, interval in found.items()}


def words(text: str) -> list[str]:
    """Words of at least four letters, in small letters."""
    return re.findall(r"[^\W\d_]{4,}", text.lower())


if __name__ == "__main__":
    main()
