"""`evaluate`: how good models are on text, or on labelled rows, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fledge.verbs import terminal
from fledge.verbs.model import Dtype, Model, Settings, load
from fledge.verbs.preparation import NAMELESS, corpora_of, corpus_from, is_corpus
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
    data = [str(on)] if on is not None else own_corpus(names[0], opened[0])
    if all(classifiers):
        return classifier_scores(names, opened, data[0], text_column, label_column)
    return language_scores(names, opened, data, text_column)


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


def own_corpus(name: str, model: Model) -> list[str]:
    """The corpus that the model was trained on, or corpora: in its own folder, else where it says, if it is still there."""
    from fledge.data.sources import grouped

    for places in ([f"{name}/run/corpus"], model.facts.get("run", {}).get("data", {}).get("sources", [])):
        if places and all(is_corpus(grouped(place)[1]) for place in places):
            return places
    raise ValueError(f"the corpus that {name} was trained on is not at hand: say what to measure it on with --on FILE")


def language_scores(names: list[str], models: list[Model], on: list[str], text_column: str | None) -> Evaluated:
    import numpy as np

    from fledge.data.tables import counted
    from fledge.evaluation.language import document_costs, language_score

    grouped_texts = held_out_texts(on, text_column)
    texts = [text for group in grouped_texts.values() for text in group]
    owners = np.repeat(np.array(list(grouped_texts)), [len(group) for group in grouped_texts.values()])
    sizes = [len(text.encode()) for text in texts]
    scores = []
    for name, model in zip(names, models, strict=True):
        end = model.tokenizer.end_of_text
        costs = document_costs(
            model.network,
            [closed(tokens, end) for tokens in model.tokenizer.encode_batch(texts)],
            sizes,
            end,
            max(1, model.arch.context // 2),
        )
        parts = {"": np.ones(len(texts), bool)}
        if len(grouped_texts) > 1:
            parts |= {f" of {group or NAMELESS}": owners == group for group in grouped_texts}
        for of, chosen in parts.items():
            found = language_score(*(part[chosen] for part in costs))
            for measure, interval in (("bits per byte", found.bits_per_byte), ("perplexity per token", found.perplexity)):
                assert interval is not None
                scores.append(Score(name, f"{measure}{of}", interval.value, (interval.low, interval.high)))
    return Evaluated(", ".join(on), f"{counted(len(texts), 'document')}, {sum(sizes):,} bytes", tuple(scores))


def closed(tokens: list[int], end: int) -> np.ndarray:
    import numpy as np

    return np.array([*tokens, end])


def held_out_texts(on: list[str], text_column: str | None) -> dict[str, list[str]]:
    """The documents of each group of a source, or the held-out ones of corpora."""
    from fledge.data.documents import Document, noted, remarks
    from fledge.data.sources import read

    if corpora_of(on):
        corpus = corpus_from(on, Path())
        held_out = {name: group.validation for name, group in corpus.groups.items() if group.validation.documents}
        return {
            name: [corpus.tokenizer.decode(shards.document(i)[0].tolist()) for i in range(shards.documents)]
            for name, shards in held_out.items()
        }
    items = list(read(on, text_column))
    for line in remarks(*noted(items)):
        terminal.say(f"  {line}")
    texts: dict[str, list[str]] = {}
    for item in items:
        if isinstance(item, Document):
            texts.setdefault(item.group, []).append(item.text)
    if not texts:
        raise ValueError(f"{', '.join(on)} holds no text to measure on")
    return texts


def classifier_scores(names: list[str], models: list[Model], on: str, text_column: str | None, label_column: str | None) -> Evaluated:
    from fledge.data.labelled import read_rows
    from fledge.evaluation.classifier import chosen
    from fledge.evaluation.metrics import classifier_score

    scores, count = [], 0
    for name, model in zip(names, models, strict=True):
        learned = model.facts.get("data") or {}
        rows = read_rows(on, model.arch.labels, model.arch.choice, text_column, label_column, learned.get("second_column"))
        terminal.say(f"  text: column {' and '.join(map(repr, rows.columns.texts))}, label: column {rows.columns.label!r}")
        chances, count = model.probabilities(rows.texts), len(rows.texts)
        guesses = chosen(chances, model.arch.choice, model.facts.get("thresholds"))
        found = classifier_score(rows.truth, guesses, model.arch.labels, model.arch.choice, chances)
        for measure, interval in (("accuracy", found.accuracy), ("macro-F1", found.macro_f1)):
            scores.append(Score(name, measure, interval.value, (interval.low, interval.high)))
    return Evaluated(on, f"{count:,} rows", tuple(scores))
