"""`demo`: the whole life of a model on text that every machine with Python has."""

from __future__ import annotations

import os
import time as clock
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fledge.verbs import terminal
from fledge.verbs.finetune.classifying import Classified, ClassifierJob
from fledge.verbs.finetune.instructing import Instructed, InstructJob
from fledge.verbs.machine import look
from fledge.verbs.preparation import corpus_of
from fledge.verbs.pretraining import Budget, Pretrained, Validation, planned, raise_model
from fledge.verbs.session import begun_run, command, command_began, open_parent, seconds_of

if TYPE_CHECKING:
    from fledge.data.corpus import Corpus
    from fledge.data.documents import Document
    from fledge.data.instructions import Conversation
    from fledge.data.labelled import Labelled
    from fledge.data.library import Pair
    from fledge.evaluation.statistics import Interval
    from fledge.train.run import Machine

SHORTEST = 60.0  # seconds
HELD_OUT = 0.06  # of the modules: for validation, the classifier's test and the assistant's questions
CLASSIFIER, ASSISTANT, REPORT = 0.16, 0.12, 0.02  # shares of the time; what is left is pretraining's
LEAST = 3.0  # seconds of a part, also where those before it took too long
VOCABULARY = 2048
CLASSES = 10
WITHOUT = ("test", "encodings")  # more than half of the bytes, mostly data of tests and tables of numbers that repeat each other
PIECE = 250  # characters of a piece of code to classify
ROWS = (400, 50, 200)  # pieces of each part of the library at most, to learn from, to validate with, to test with
REGULARISED = {"arch.dropout": "0.2", "optimizer.weight_decay": "0.1"}  # the rows are seen two to three times
LONG, SHORT = 450, 250  # characters of a function to describe, and to write
QUESTIONS = 200  # held out
PROMPT = "def read_file(path):\n    "


@dataclass(frozen=True)
class Rival:
    """Something that needs no training by gradients, and the bits per byte that it needs for the held-out text."""

    name: str
    bits_per_byte: Interval


@dataclass(frozen=True)
class Demonstrated:
    """What the demo made, and how good each part is."""

    out: str
    seconds: float
    base: Pretrained
    rivals: tuple[Rival, ...]
    classifier: Classified
    assistant: Instructed
    report: str

    def __str__(self) -> str:
        return "\n".join(
            [f"Done in {terminal.duration(self.seconds)}. Look at {self.report}", "Next:", *(f"  {line}" for line in self.next())]
        )

    def next(self) -> list[str]:
        """Three commands to go on with, ready to paste."""
        program = command()
        return [
            f"{program} pretrain {self.out}/corpus --from {self.out}/base --out {self.out}/longer --time 10m",
            f"{program} chat {self.out}/assistant",
            f"{program} predict {self.out}/classifier --file YOUR_FILE.py",
        ]


def demo(*, time: str = "5m", out: Path = Path("runs/demo"), seed: int = 0, threads: int = 0) -> Demonstrated | None:
    """Raise a model from Python's own library: read, plan, pretrain, classify, assist, report.

    Nothing is downloaded. The same command again goes on where it was stopped; a finished demo says where its report is.

    Args:
        time: how long everything may take.
        out: the folder for the corpus, the three models and report.html.
        seed: of everything that is drawn.
        threads: CPU threads; 0 leaves the number to torch.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("fledge demo is the work of one process: start it without torchrun")
    started = command_began()
    out, budget = Path(out), seconds_of(time)
    report = out / "report.html"
    if report.is_file():
        terminal.say(f"This demo is finished: look at {report}, or give another --out to run it again.")
        return None
    if budget < SHORTEST:
        raise ValueError(f"a demo of {terminal.duration(budget)} would learn nothing: give at least --time {SHORTEST:.0f}s")
    terminal.heading(f"The life of a model, in {terminal.duration(budget)}")
    terminal.say(f"This machine: {look()}")
    asked = {"demo": time, "seed": seed}

    from fledge.data.preparation import Recipe

    terminal.heading("1. Text: the standard library of this Python")
    library = Library.read(seed)
    corpus = corpus_of(library.documents, out / "corpus", Recipe(VOCABULARY, library.is_held_out, seed), standing="refuse")
    rivals = rivals_on(corpus, library)

    from fledge.train.plan import this_machine

    machine = this_machine(threads=threads, seed=seed)
    terminal.heading("2. Pretraining: predict the next word")
    ends = [started + budget * (1 - share) for share in (CLASSIFIER + ASSISTANT + REPORT, ASSISTANT + REPORT, REPORT)]
    base = pretrained(corpus, out / "base", Budget(ends[0] - started), machine, asked, started)
    show_rivals(base, rivals)

    terminal.heading("3. A classifier: which part of the library is this code from?")
    begun = clock.monotonic()
    parent = open_parent(out / "base")
    job = ClassifierJob(library.labelled(), parent, seconds=max(LEAST, ends[1] - begun), runs=None)
    classifier = job.run(out / "classifier", machine, REGULARISED, asked, begun)
    show_classifier(classifier)

    terminal.heading("4. An assistant: describe a function, or write one")
    begun = clock.monotonic()
    parent = open_parent(out / "base")
    training, held_out = library.conversations()
    example = next(c for c in held_out if c.messages[0].content.startswith(library.describe))
    lesson = {
        "trained_to": {
            "task": "describe a Python function in one line, or to write a short one from its description",
            "example": example.prompt,
        }
    }
    assistant = InstructJob(training, held_out, held_out, parent, "chatml", seconds=max(LEAST, ends[2] - begun), more=lesson)
    answered = assistant.run(out / "assistant", machine, {}, asked, begun)
    show_assistant(answered)

    done = Demonstrated(str(out), clock.monotonic() - started, base, rivals, classifier, answered, str(report))
    from fledge.verbs.pages import demo_page

    demo_page(done, corpus, out, assistant).write(report)
    return done


@dataclass(frozen=True)
class Library:
    """The modules of the standard library, and which of them nothing is trained on."""

    documents: tuple[Document, ...]
    held: frozenset[str]
    seed: int

    @classmethod
    def read(cls, seed: int) -> Library:
        from fledge.data.documents import Document
        from fledge.data.library import held_out, library_documents

        documents = tuple(item for item in library_documents(WITHOUT) if isinstance(item, Document))
        return cls(documents, held_out(documents, HELD_OUT, seed), seed)

    @property
    def describe(self) -> str:
        from fledge.data.library import DESCRIBE

        return DESCRIBE

    def is_held_out(self, document: Document) -> bool:
        return document.source in self.held

    def held_out_texts(self) -> list[str]:
        return [document.text for document in self.documents if document.source in self.held]

    def labelled(self) -> tuple[Labelled, ...]:
        """Pieces of code by the part of the library that they come from: train, validation, and, from held-out modules, test.

        Few enough that the time suffices to see each; every method learns from these.
        """
        from fledge.data.corpus import share
        from fledge.data.labelled import Columns, Labelled
        from fledge.data.library import code_chunks, largest_packages

        chunks = list(code_chunks(self.documents, largest_packages(self.documents, CLASSES), PIECE))
        chunks.sort(key=lambda chunk: share(chunk.text, self.seed))
        names = tuple(sorted({chunk.label for chunk in chunks}))
        number = {name: i for i, name in enumerate(names)}
        sides = [2 if chunk.source in self.held else int(share(chunk.source, self.seed + 1) < 0.15) for chunk in chunks]
        parts = []
        for wanted, most in enumerate(ROWS):
            part = [chunk for chunk, side in zip(chunks, sides, strict=True) if side == wanted]
            part = [chunk for name in names for chunk in [c for c in part if c.label == name][:most]]
            parts.append(
                Labelled(
                    tuple(c.text for c in part),
                    tuple((number[c.label],) for c in part),
                    names,
                    tuple(c.source for c in part),
                    Columns("code", "package"),
                )
            )
        return tuple(parts)

    def conversations(self) -> tuple[list[Conversation], list[Conversation]]:
        """Functions and their descriptions as questions with answers, from trained-on and from held-out modules."""
        from fledge.data.corpus import share
        from fledge.data.library import function_pairs

        sides: tuple[dict[str, Pair], dict[str, Pair]] = ({}, {})
        for held, side in enumerate(sides):
            documents = [d for d in self.documents if (d.source in self.held) == bool(held)]
            side.update((f"{pair.instruction} {pair.input}", pair) for pair in function_pairs(documents, LONG, SHORT))
        orders = [sorted(side.values(), key=lambda pair: share(pair.input, self.seed)) for side in sides]
        return conversations_of(orders[0]), conversations_of(orders[1][:QUESTIONS])


def conversations_of(pairs: list[Pair]) -> list[Conversation]:
    from fledge.data.instructions import Conversation
    from fledge.text import Message

    return [
        Conversation((Message("user", f"{pair.instruction}\n\n{pair.input}"), Message("assistant", pair.output)), number)
        for number, pair in enumerate(pairs, 1)
    ]


def rivals_on(corpus: Corpus, library: Library) -> tuple[Rival, ...]:
    """What counting n-grams over the same tokens and compressing each file need for the held-out modules."""
    from fledge.evaluation.compression import compression_scores
    from fledge.evaluation.documents import closed_documents
    from fledge.evaluation.ngrams import KneserNey, ngram_scores

    end = corpus.tokenizer.end_of_text
    counted, _ = closed_documents(corpus.train, end)
    documents, sizes = closed_documents(corpus.validation, end)
    grams = ngram_scores(KneserNey(counted, corpus.tokenizer.size, end), documents, sizes.tolist())
    packed = compression_scores(library.held_out_texts())
    return (
        *(Rival(f"{score.order}-grams (Kneser-Ney)", score.bits_per_byte) for score in grams),
        *(Rival(f"{score.name} per file", score.bits_per_byte) for score in packed),
    )


def pretrained(corpus: Corpus, out: Path, budget: Budget, machine: Machine, asked: dict, started: float) -> Pretrained:
    run = begun_run(out, asked)
    if run is None:
        run = planned(corpus, budget, None, {}, machine, started)
    return raise_model(run, corpus, out, None, asked, started, PROMPT)


def show_rivals(base: Pretrained, rivals: tuple[Rival, ...]) -> None:
    assert isinstance(base.validation, Validation)
    bits, share = base.validation.bits_per_byte, base.validation.share
    rows = sorted([("this model", bits), *((rival.name, rival.bits_per_byte.value) for rival in rivals)], key=lambda row: row[1])
    scored = "each scored whole" if share == 1 else f"of which this model had the time to score {share:.0%}"
    terminal.say(f"Bits per byte of the held-out modules, {scored} (less is better):")
    terminal.table(
        ["", "bits per byte"], [[name, f"{value:.3f}"] for name, value in rows], best=[name for name, _ in rows].index("this model")
    )


def show_classifier(found: Classified) -> None:
    rows = [[m.name, str(m.score.accuracy), str(m.score.macro_f1)] for m in found.methods]
    terminal.say(f"{found.score.rows:,} pieces of code from held-out modules, {len(found.labels)} parts of the library:")
    terminal.table(["", "accuracy (95 %)", "macro-F1 (95 %)"], rows, best=len(rows) - 1)
    terminal.confusion(found.labels, found.score.confusion)
    terminal.say(found.verdict)


def show_assistant(found: Instructed) -> None:
    before, after = found.before, found.after
    terminal.say(f"Perplexity of held-out answers: {before.perplexity.value:.1f} before, {after.perplexity.value:.1f} after.")
    terminal.say(f"Of {after.written:,} answers {after.ended.value:.0%} end by themselves, before {before.ended.value:.0%}.")
    for example in found.examples:
        terminal.say(
            f"\nQuestion: {example.question}\n  its own answer: {example.answer}\n  before: {example.before}\n  after:  {example.after}"
        )
