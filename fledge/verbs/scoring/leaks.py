"""What models give away of their training text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fledge.verbs import terminal
from fledge.verbs.model import Model
from fledge.verbs.preparation import corpora_of, corpus_from
from fledge.verbs.scoring.results import Echoed, Evaluated, Exposed, Verbatim
from fledge.verbs.scoring.texts import held_out_texts, own_corpus

if TYPE_CHECKING:
    import numpy as np

READ = 20_000  # documents that are looked through, drawn by seed


def leakage(names: Sequence[str], models: Sequence[Model], on: str | None, canaries: str | None, seed: int) -> Evaluated:
    """Passages word for word, personal data, and planted secrets; of text that was held out too, where there is some."""
    from fledge.data.tables import counted
    from fledge.evaluation.memorisation import PASSAGES, PROMPTS, echoed, exposure, read_canaries, verbatim
    from fledge.evaluation.statistics import proportion

    planted = read_canaries(canaries) if canaries is not None else []
    places = [on] if on is not None else own_corpus(names[0], models[0].facts)
    train, held_out = _texts(places, seed)
    same: list[Verbatim] = []
    personal: list[Echoed] = []
    exposed: list[Exposed] = []
    notes: list[str] = []
    for name, model in zip(names, models, strict=True):
        for which, texts in (("training", train), ("held-out", held_out)):
            if texts is None:
                continue
            with terminal.bar("Passages", PASSAGES * len(PROMPTS)) as bar:
                done = partial(bar.to, note=f"{name}, {which}")
                try:
                    found = verbatim(model.network, model.tokenizer, _documents(model, texts), seed=seed, done=done)
                except ValueError as short:
                    notes.append(f"No passage of the {which} text was asked for: {short}.")
                    continue
            same += [Verbatim(name, which, prompt, tokens, share) for (prompt, tokens), share in found.items()]
        for kind, (hits, total) in echoed(model.network, model.tokenizer, train, seed=seed).items():
            personal.append(Echoed(name, kind, total, hits, proportion(hits, total)))
        for canary in planted:
            one = exposure(model.network, model.tokenizer, canary, seed=seed)
            exposed.append(Exposed(name, one.line, one.bits, one.most, one.rank, one.guesses))
    if not personal:
        notes.append("No e-mail address, phone, card or account number was found in the training text.")
    size = f"{counted(len(train), 'document')} of training text"
    return Evaluated(", ".join(places), size, verbatim=tuple(same), echoed=tuple(personal), exposed=tuple(exposed), notes=tuple(notes))


def _texts(places: Sequence[str], seed: int) -> tuple[list[str], list[str] | None]:
    """Documents that were trained on, and held-out ones where a corpus is named; of many some, drawn by seed."""
    import numpy as np

    if corpora_of(places):
        corpus = corpus_from(places, Path())
        every = np.random.default_rng(seed).permutation(corpus.train.documents)[:READ].tolist()
        train = [corpus.tokenizer.decode(corpus.train.document(number)[0].tolist()) for number in every]
        held_out = [text for texts in held_out_texts(places, None).values() for text in texts]
        return train, held_out[:READ]
    texts = [text for group in held_out_texts(places, None).values() for text in group]
    return [texts[place] for place in np.random.default_rng(seed).permutation(len(texts))[:READ]], None


def _documents(model: Model, texts: Sequence[str]) -> list[np.ndarray]:
    import numpy as np

    return [np.array(tokens, np.int64) for tokens in model.tokenizer.encode_batch(list(texts))]
