"""Published tasks, by lm-evaluation-harness."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fledge.verbs import terminal
from fledge.verbs.model import Model
from fledge.verbs.scoring.results import Answered, Difference, Evaluated, Score, compared

if TYPE_CHECKING:
    from fledge.evaluation.statistics import Tally

NORMAL = 1.96  # standard errors on each side of an interval of 95 %, where a measure is no mean over items


def task_scores(names: Sequence[str], models: Sequence[Model], tasks: str, shots: str | None, seed: int, fresh: bool) -> Evaluated:
    """Every model on every task with each number of examples, or as many as the task itself says."""
    if importlib.util.find_spec("lm_eval") is None:
        raise ValueError("published tasks need lm-evaluation-harness, which is not installed: pip install 'fledge[harness]'")
    from importlib.metadata import version

    from fledge.data.tables import counted
    from fledge.verbs.scoring.questions import shots_of

    wanted = tasks.split(",")
    if fresh:
        for name, model in zip(names, models, strict=True):
            kept_at(name, model).unlink(missing_ok=True)
    scores: list[Score] = []
    differences: list[Difference] = []
    answered: list[Answered] = []
    items = 0
    for count in [None] if shots is None else [one.count for one in shots_of(shots, 1, 1, seed)]:
        every: list[dict[str, Tally]] = []
        for name, model in zip(names, models, strict=True):
            found = _run(name, model, wanted, count, seed)
            tallies = {label: tally for task, samples in found["samples"].items() for label, tally in _tallies(task, samples).items()}
            scores += _scores(name, found["results"], tallies, count)
            answered += [row for task, samples in found["samples"].items() for row in _answered(name, task, samples, count)]
            items = sum(len({sample["doc_id"] for sample in samples}) for samples in found["samples"].values())
            every.append(tallies)
        differences += compared(names, [list(tallies.values()) for tallies in every], count)
    note = f"lm-evaluation-harness {version('lm-eval')}."
    return Evaluated(", ".join(wanted), counted(items, "item"), tuple(scores), tuple(differences), items=tuple(answered), notes=(note,))


def _run(name: str, model: Model, tasks: Sequence[str], shots: int | None, seed: int) -> dict[str, Any]:
    from fledge.evaluation.harness import Backend, loaded, run

    given = loaded(tasks, shots, seed)
    ends = model.facts.get("generation", {}).get("eos_token_id")
    with terminal.bar("Tasks", 1) as bar:
        backend = Backend(
            model.network, model.tokenizer, [ends] if isinstance(ends, int) else ends, kept_at(name, model),
            lambda what, done, total: bar.to(done, f"{name}: {what}", total),
        )  # fmt: skip
        return run(backend, given)


def kept_at(name: str, model: Model) -> Path:
    """Where the answers of a model are kept: in the user's cache, by its weights' files, its tokenizer and the types of its numbers."""
    from fledge.model.quantised import kinds
    from fledge.weights.hub import resolve

    files = sorted(resolve(name).glob("*.safetensors"))
    known = [
        *([str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns] for file in files), model.tokenizer.fingerprint(),
        kinds(model.network), model.network.embedding.weight.device.type, model.facts.get("weights"),
    ]  # fmt: skip
    place = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fledge" / "harness"
    return place / f"{hashlib.sha256(json.dumps(known).encode()).hexdigest()[:32]}.jsonl"


def _tallies(task: str, samples: Sequence[Mapping[str, Any]]) -> dict[str, Tally]:
    """The measures that are a number for each item."""
    import numpy as np

    from fledge.evaluation.statistics import Tally

    found = {}
    for filtered in dict.fromkeys(sample["filter"] for sample in samples):
        own = [sample for sample in samples if sample["filter"] == filtered]
        for measure in own[0]["metrics"]:
            values = [sample[measure] for sample in own]
            if all(isinstance(value, int | float | np.number | np.bool_) for value in values):
                label = _label(task, measure, filtered)
                found[label] = Tally(label, np.array([[(value, 1) for value in values]], np.float64))
    return found


def _label(task: str, measure: str, filtered: str) -> str:
    return f"{task} {measure}" if filtered == "none" else f"{task} {measure} ({filtered})"


def _scores(name: str, results: Mapping[str, Mapping[str, Any]], tallies: dict[str, Tally], shots: int | None) -> list[Score]:
    """The harness's own values; where one is the mean over items the interval is by resampling them, else by its standard error.

    What is no such mean is taken out of `tallies`: neither its interval nor differences follow from them.
    """
    scores = []
    for task, values in results.items():
        for key, value in values.items():
            measure, _, filtered = key.partition(",")
            if not filtered or measure.endswith("_stderr") or not isinstance(value, int | float):
                continue
            label = _label(task, measure, filtered)
            tally = tallies.get(label)
            if tally is not None and abs(float(tally.trials[0]) - value) < 1e-9:
                at = tally.interval()
                low, high = at.low, at.high
            else:
                tallies.pop(label, None)
                error = values.get(f"{measure}_stderr,{filtered}")
                spread = NORMAL * error if isinstance(error, int | float) else 0.0
                low, high = value - spread, value + spread
            scores.append(Score(name, label, float(value), (low, high), shots=shots))
    return scores


def _answered(name: str, task: str, samples: Sequence[Mapping[str, Any]], shots: int | None) -> list[Answered]:
    rows = []
    for sample in samples:
        values = {measure: sample[measure] for measure in sample["metrics"]}
        numbers: dict[str, float | None] = {
            f"{task} {measure}": float(value) for measure, value in values.items() if isinstance(value, int | float)
        }
        rows.append(Answered(name, sample["doc_id"] + 1, json.dumps(sample["filtered_resps"], ensure_ascii=False), numbers, shots or 0))
    return rows
