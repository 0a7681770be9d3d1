"""`evaluate`: how good models are on text, or on labelled rows, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fledge.verbs import terminal
from fledge.verbs.model import Dtype, Model, Settings, load
from fledge.verbs.preparation import is_corpus
from fledge.verbs.session import Column, texts_of

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Score:
    """One measure of one model, its 95 % bootstrap interval, and for some the signature that says how it was counted."""

    model: str
    measure: str
    value: float
    interval: tuple[float, float]
    signature: str | None = None

    def __str__(self) -> str:
        low, high = self.interval
        spread = f"(95 % interval {low:.3f} to {high:.3f})" if low < high else "(the same in every resample)"
        counted = f" {self.signature}" if self.signature else ""
        return f"{self.model}: {self.measure} {self.value:.3f} {spread}{counted}"


@dataclass(frozen=True)
class Evaluated:
    """What models scored on the same data."""

    on: str
    size: str
    scores: tuple[Score, ...]

    def __str__(self) -> str:
        return "\n".join([f"on {self.on} ({self.size})", *map(str, self.scores)])


def evaluate(
    model: Sequence[str],
    /,
    *,
    on: str | None = None,
    text_column: Column | None = None,
    label_column: Column | None = None,
    source_column: Column | None = None,
    target_column: Column | None = None,
    beams: int | None = None,
    lowercase: bool = False,
    device: str = "auto",
    dtype: Dtype = "float32",
    threads: int = 0,
) -> Evaluated:
    """Measure models on held-out data: bits per byte of text, accuracy of a classifier, BLEU and ROUGE of what is written for sources.

    Args:
        model: one or more model folders or hub ids; all are measured on the same data.
        on: text, a corpus (its held-out part), labelled rows, or pairs; by default what the model's own corpus held out.
        text_column: the column of the texts of a table; guessed and said when not given.
        label_column: the column of the labels of a table; guessed and said when not given.
        source_column: of pairs: the column of the sources, or the ending of their file; by default as the model learned.
        target_column: of pairs: the column of the targets, or the ending of their file; by default as the model learned.
        beams: search for targets with that many beams; by default as the model's folder says.
        lowercase: count BLEU on lower-cased text.
        device: auto, cpu or cuda.
        dtype: of the weights and products.
        threads: CPU threads; 0 leaves the number to torch.
    """
    names = texts_of(model)
    opened = [load(name, device, dtype, threads) for name in names]
    classifiers = [bool(one.arch.labels) for one in opened]
    both = [len(one.arch.stacks) == 2 for one in opened]
    if any(classifiers) != all(classifiers) or any(both) != all(both):
        raise ValueError("some of these models classify, write, or write for a source, and others do not: evaluate them apart")
    if all(both) and not any(classifiers):
        if mending := next((name for name, one in zip(names, opened, strict=True) if one.learned == "denoise"), None):
            raise ValueError(
                f"{mending} learned to fill in gaps and writes no targets: `fledge predict` shows how, and pretrain measures that"
            )
        if on is None:
            raise ValueError("say which pairs to measure on, with --on FILE")
        return pair_scores(names, opened, str(on), source_column, target_column, beams, lowercase)
    if not all(classifiers) and (silent := next((name for name, one in zip(names, opened, strict=True) if not one.arch.writes), None)):
        raise ValueError(f"{silent} is an encoder and writes no text: `fledge predict` fills in what is masked, and pretrain measures that")
    if on is None:
        on = own_corpus(names[0], opened[0])
    if all(classifiers):
        return classifier_scores(names, opened, str(on), text_column, label_column)
    return language_scores(names, opened, str(on), text_column)


def pair_scores(
    names: list[str], models: list[Model], on: str, source: str | None, target: str | None, beams: int | None, lowercase: bool
) -> Evaluated:
    from fledge.data.parallel import read_parallel
    from fledge.data.tables import counted
    from fledge.evaluation.generated import bleu, rouge

    scores, rows = [], 0
    for name, model in zip(names, models, strict=True):
        learned = model.facts.get("data") or {}
        columns = (source or learned.get("source_column"), target or learned.get("target_column"))
        pairs = read_parallel(on, *columns)
        rows = len(pairs.sources)
        for line in pairs.said():
            terminal.say(f"  {line}")
        more: Settings = {"beams": beams} if beams is not None else {}
        written = model.targets(pairs.sources, **more)
        for found in (bleu(written, pairs.targets, lowercase), *rouge(written, pairs.targets)):
            at = found.interval
            scores.append(Score(name, found.measure, at.value, (at.low, at.high), found.signature))
    return Evaluated(on, counted(rows, "pair"), tuple(scores))


def own_corpus(name: str, model: Model) -> str:
    """The corpus that the model was trained on: in its own folder, else where it says, if it is still there."""
    for place in (f"{name}/run/corpus", *model.facts.get("run", {}).get("data", {}).get("sources", [])):
        if is_corpus(place):
            return place
    raise ValueError(f"the corpus that {name} was trained on is not at hand: say what to measure it on with --on FILE")


def language_scores(names: list[str], models: list[Model], on: str, text_column: str | None) -> Evaluated:
    from fledge.data.tables import counted
    from fledge.evaluation.language import document_score

    texts = held_out_texts(on, text_column)
    sizes = [len(text.encode()) for text in texts]
    scores = []
    for name, model in zip(names, models, strict=True):
        end = model.tokenizer.end_of_text
        found = document_score(
            model.network,
            [closed(tokens, end) for tokens in model.tokenizer.encode_batch(texts)],
            sizes,
            end,
            max(1, model.arch.context // 2),
        )
        for measure, interval in (("bits per byte", found.bits_per_byte), ("perplexity per token", found.perplexity)):
            assert interval is not None
            scores.append(Score(name, measure, interval.value, (interval.low, interval.high)))
    return Evaluated(on, f"{counted(len(texts), 'document')}, {sum(sizes):,} bytes", tuple(scores))


def closed(tokens: list[int], end: int) -> np.ndarray:
    import numpy as np

    return np.array([*tokens, end])


def held_out_texts(on: str, text_column: str | None) -> list[str]:
    """The documents of a source, or the held-out ones of a corpus."""
    from fledge.data.corpus import Corpus
    from fledge.data.documents import Document, noted, remarks
    from fledge.data.sources import read

    if is_corpus(on):
        corpus = Corpus.open(on)
        shards = corpus.validation
        return [corpus.tokenizer.decode(shards.document(i)[0].tolist()) for i in range(shards.documents)]
    items = list(read([on], text_column))
    for line in remarks(*noted(items)):
        terminal.say(f"  {line}")
    texts = [item.text for item in items if isinstance(item, Document)]
    if not texts:
        raise ValueError(f"{on} holds no text to measure on")
    return texts


def classifier_scores(names: list[str], models: list[Model], on: str, text_column: str | None, label_column: str | None) -> Evaluated:
    from fledge.data.labelled import read_labelled
    from fledge.evaluation.classifier import probabilities
    from fledge.evaluation.metrics import classifier_score

    rows = read_labelled(on, text_column, label_column)
    terminal.say(f"  text: column {rows.text_column!r}, label: column {rows.label_column!r}")
    scores = []
    for name, model in zip(names, models, strict=True):
        labels = model.arch.labels
        strangers = sorted(label for label in rows.names if label not in labels)
        if strangers:
            raise ValueError(f"{on} has the label {strangers[0]!r}, which {name} never learned; it knows {', '.join(labels)}")
        truth = [labels.index(rows.names[label]) for label in rows.labels]
        guesses = probabilities(model.network, model.tokenizer, rows.texts, model.facts.get("reads")).argmax(1)
        found = classifier_score(truth, guesses, labels)
        for measure, interval in (("accuracy", found.accuracy), ("macro-F1", found.macro_f1)):
            scores.append(Score(name, measure, interval.value, (interval.low, interval.high)))
    return Evaluated(on, f"{len(rows.texts):,} rows", tuple(scores))
