"""Language models on text: bits per byte and perplexity by group, what was forgotten of a parent's text, speed, samples."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fledge.verbs import terminal
from fledge.verbs.model import Model, load
from fledge.verbs.preparation import NAMELESS, corpora_of, corpus_from, is_corpus
from fledge.verbs.scoring.results import Difference, Evaluated, Forgotten, Sample, Score, Speed, compared
from fledge.verbs.session import is_model

if TYPE_CHECKING:
    import numpy as np

    from fledge.evaluation.statistics import Tally

SAMPLES = 3
PROMPT, WRITTEN = 60, 48  # characters that a sample goes on from, tokens that it adds
REMEMBERED = 65_536  # tokens of a parent's text, on which it is seen what was forgotten


def own_corpus(name: str, facts: Mapping[str, Any]) -> list[str]:
    """The corpus that the model was trained on, or corpora: in its own folder, else where it says, if it is still there."""
    from fledge.data.sources import grouped

    for places in ([f"{name}/run/corpus"], facts.get("run", {}).get("data", {}).get("sources", [])):
        if places and all(is_corpus(grouped(place)[1]) for place in places):
            return list(places)
    raise ValueError(f"the corpus that {name} was trained on is not at hand: say what to measure it on with --on FILE")


def parent_of(name: str, facts: Mapping[str, Any]) -> tuple[str, list[str]] | None:
    """The folder of the model that this one was fine-tuned from, and the corpus of its nearest ancestor that has one, where they are still
    there: by their names, or beside each other."""
    from fledge.adapt.folder import folder_at

    told = (facts.get("parent") or {}).get("name")
    for place in (Path(told), Path(name).parent / Path(told).name) if told else ():
        if is_model(place) and place.resolve() != Path(name).resolve():
            try:
                own = folder_at(place).facts
            except FileNotFoundError:  # of an adapter whose base is gone
                continue
            try:
                return str(place), own_corpus(str(place), own)
            except ValueError:
                if (older := parent_of(str(place), own)) is not None:
                    return str(place), older[1]
    return None


def language_scores(names: Sequence[str], models: Sequence[Model], on: Sequence[str], text_column: str | None) -> Evaluated:
    """Bits per byte and perplexity of every model, in all and of each group, and their differences in pairs."""
    import numpy as np

    from fledge.data.tables import counted

    grouped_texts = held_out_texts(on, text_column)
    texts = [text for group in grouped_texts.values() for text in group]
    owners = np.repeat(np.array(list(grouped_texts)), [len(group) for group in grouped_texts.values()])
    parts = {"": np.ones(len(texts), bool)}
    if len(grouped_texts) > 1:
        parts |= {f" of {group or NAMELESS}": owners == group for group in grouped_texts}
    costs = [text_costs(model, texts) for model in models]
    scores: list[Score] = []
    differences: list[Difference] = []
    for of, chosen in parts.items():
        tallies = [text_tallies(cost[chosen], of) for cost in costs]
        scores += [Score.of(name, tally) for name, found in zip(names, tallies, strict=True) for tally in found]
        differences += compared(names, tallies)
    order = {name: number for number, name in enumerate(names)}
    scores.sort(key=lambda score: order[score.model])
    size = f"{counted(len(texts), 'document')}, {sum(len(text.encode()) for text in texts):,} bytes"
    return Evaluated(", ".join(on), size, tuple(scores), tuple(differences))


def text_costs(model: Model, texts: Sequence[str]) -> np.ndarray:
    """What each text costs: (texts, 3) of nats, tokens and bytes."""
    import numpy as np

    from fledge.evaluation.language import document_costs

    end = model.tokenizer.end_of_text
    documents = [np.array([*tokens, end]) for tokens in model.tokenizer.encode_batch(list(texts))]
    sizes = [len(text.encode()) for text in texts]
    with terminal.bar("Text", 1) as bar:
        costs = document_costs(model.network, documents, sizes, end, max(1, model.arch.context // 2), done=bar.to)
    return np.stack(costs, 1).astype(np.float64)


def text_tallies(costs: np.ndarray, of: str = "") -> list[Tally]:
    """Bits per byte and perplexity from the costs of texts."""
    import numpy as np

    from fledge.evaluation.statistics import Tally, share

    def bits_per_byte(sums: np.ndarray) -> np.ndarray:
        return share(sums[..., [0, 2]]) / np.log(2)

    def perplexity(sums: np.ndarray) -> np.ndarray:
        return np.exp(share(sums[..., [0, 1]]))

    named = (("bits per byte", bits_per_byte), ("perplexity per token", perplexity))
    return [Tally(f"{name}{of}", costs[None], measure, lower=True) for name, measure in named]


def held_out_texts(on: Sequence[str], text_column: str | None) -> dict[str, list[str]]:
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


def forgotten(name: str, model: Model, device: str, seconds: float = math.inf) -> Forgotten | None:
    """A fine-tuned model beside its parent on what the parent's corpus held out, as far as both are at hand and `seconds` allow.

    Only a model that goes on from text can be measured so: a classifier has no scores for words any more, and a writer of targets learned
    to mend text, which costs it other bits.
    """
    known = parent_of(name, model.facts)
    if known is None or model.arch.labels or not model.arch.writes or len(model.arch.stacks) == 2:
        return None
    parent, corpus = known
    terminal.say(f"  {name} was fine-tuned from {parent}: both are measured on what {', '.join(corpus)} held out")
    try:
        texts = within([text for group in held_out_texts(corpus, None).values() for text in group], model)
    except (ValueError, FileNotFoundError) as reason:  # nobody asked for it
        terminal.say(f"  what was forgotten is not measured: {reason}")
        return None
    after, before = (text_tallies(costs)[0] for costs in costs_within((model, load(parent, device)), texts, seconds))
    return Forgotten(name, parent, after.counts.shape[1], before.interval(), after.interval(), after.difference(before))


def costs_within(models: Sequence[Model], texts: Sequence[str], seconds: float) -> list[np.ndarray]:
    """What the first texts cost each model, as `text_costs`: of as many as `seconds` allow, at least one."""
    import numpy as np

    found: list[list[np.ndarray]] = [[] for _ in models]
    done, size, until = 0, len(texts) if math.isinf(seconds) else 1, time.monotonic() + seconds
    while size and done < len(texts):
        part, began = texts[done : done + size], time.monotonic()
        for costs, model in zip(found, models, strict=True):
            costs.append(text_costs(model, part))
        now = time.monotonic()
        done, size = done + len(part), int(min(len(texts), len(part) * (until - now) / (2 * (now - began))))
    return [np.concatenate(costs) for costs in found]


def within(texts: Sequence[str], model: Model, tokens: int = REMEMBERED) -> list[str]:
    """The first of these texts, as many as have so many tokens together, at least one."""
    kept: list[str] = []
    for text in texts:
        tokens -= len(model.tokenizer.encode(text))
        if tokens < 0 and kept:
            break
        kept.append(text)
    return kept


def speeds(names: Sequence[str], models: Sequence[Model], text: str) -> tuple[Speed, ...]:
    """How fast each model reads this text and writes."""
    from dataclasses import astuple

    from fledge.evaluation.speed import pace

    return tuple(
        Speed(name, *astuple(pace(model.network, model.tokenizer, model.tokenizer.encode(text) or [model.tokenizer.end_of_text])))
        for name, model in zip(names, models, strict=True)
    )


def samples(names: Sequence[str], models: Sequence[Model], texts: Sequence[str], seed: int = 0) -> tuple[Sample, ...]:
    """How each model goes on from the beginnings of a few texts, drawn by seed."""
    import numpy as np

    long = [text for text in texts if len(text) > 4 * PROMPT] or [text for text in texts if len(text) > 1]
    order = np.random.default_rng(seed).permutation(len(long))[:SAMPLES]
    found = []
    for text in (long[place] for place in order):
        prompt = beginning(text)
        for name, model in zip(names, models, strict=True):
            written = model.generate(prompt, max_tokens=min(WRITTEN, model.arch.context // 2), seed=seed)
            found.append(Sample(name, prompt, written, text[len(prompt) : len(prompt) + 3 * PROMPT]))
    return tuple(found)


def beginning(text: str) -> str:
    """The first words of a text, without the blank that follows them."""
    most = min(PROMPT, len(text) // 2)
    cut = max(text.rfind(" ", 0, most), text.rfind("\n", 0, most))
    return text[: cut if cut > 0 else max(1, most)]
