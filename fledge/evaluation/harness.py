"""Published tasks, run by EleutherAI's lm-evaluation-harness with a model of ours behind it; `fledge[harness]` installs it."""

import hashlib
import json
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fledge.arch.record import did_you_mean
from fledge.data.tables import Row, table
from fledge.evaluation.likelihood import encoded_pair, likelihoods
from fledge.generation import Engine, Request, Sampling
from fledge.model import Transformer
from fledge.text.tokenizer import Tokenizer

LONGEST = 256  # tokens of an answer where the task does not say, as in their own backend
SIDE_BY_SIDE = 32  # answers
BOOTSTRAP = 100  # of measures that are no mean over items
Progress = Callable[[str, int, int], None]


class Backend:
    """What the harness asks of a model: log-likelihoods and answers, as its `hf` backend gives them, in batches and with answers kept.

    `ends` are the tokens that end an answer, by default the one that ends a text. `kept` is a file of JSON lines to which every answer
    goes, and which answers what it holds; `progress` is told what is done, how much of it and of how much.
    """

    rank, world_size = 0, 1

    def __init__(
        self, model: Transformer, tokenizer: Tokenizer, ends: Sequence[int] | None = None, kept: Path | None = None,
        progress: Progress = lambda *_: None,
    ):  # fmt: skip
        self.model, self.tokenizer, self.ends, self.kept, self.progress = model, tokenizer, ends, kept, progress
        self._known: dict[str, Any] = {}
        if kept is not None and kept.is_file():
            for line in kept.read_text(encoding="utf-8").splitlines():
                try:
                    self._known.update([json.loads(line)])
                except ValueError:  # the last line of a run that was ended
                    continue

    @property
    def first(self) -> int:
        """What stands before a text that nothing else does."""
        return (*self.tokenizer.opening, self.tokenizer.end_of_text)[0]

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        return [(logprob, greedy) for logprob, greedy in self._answered("loglikelihood", requests, self._continued)]

    def _continued(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        pairs = [self._pair(*request.args) for request in requests]
        found = likelihoods(self.model, pairs, done=lambda count: self.progress("log-likelihoods", count, len(pairs)))
        return [(one.logprob, one.greedy) for one in found]

    def _pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        if context.strip():
            return encoded_pair(self._encoded, context, continuation)
        tokens = self.tokenizer.encode(context + continuation)
        return ([self.first], tokens) if tokens[0] != self.first else (tokens[:1], tokens[1:])

    def _encoded(self, text: str) -> list[int]:
        return [*self.tokenizer.opening, *self.tokenizer.encode(text)]

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        return self._answered("loglikelihood_rolling", requests, self._rolled)

    def _rolled(self, requests: Sequence[Any]) -> list[float]:
        """The log-likelihood of whole texts, in windows of the context that do not overlap in what is scored."""
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        windows = [
            [make_disjoint_window(part) for part in get_rolling_token_windows(self._encoded(text), self.first, self.model.arch.context, 1)]
            for text in (request.args[0] for request in requests)
        ]
        pairs = [window for own in windows for window in own]
        every = iter(likelihoods(self.model, pairs, done=lambda count: self.progress("log-likelihoods", count, len(pairs))))
        return [sum(next(every).logprob for _ in own) for own in windows]

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        return self._answered("generate_until", requests, self._written)

    def _written(self, requests: Sequence[Any]) -> list[str]:
        asked = [self._request(*request.args) for request in requests]
        order = sorted(range(len(asked)), key=lambda number: -len(asked[number].tokens))  # those of like length end at about the same time
        found: dict[int, str] = {}
        for start in range(0, len(order), SIDE_BY_SIDE):
            part = order[start : start + SIDE_BY_SIDE]
            room = max(len(asked[number].tokens) + (asked[number].max_tokens or 0) for number in part)
            engine = Engine(self.model, self.tokenizer, len(part), min(room, self.model.arch.context), together=True)
            found.update(zip(part, (done.text for done in engine.run([asked[number] for number in part])), strict=True))
            self.progress("answers", len(found), len(asked))
        return [found[number] for number in range(len(asked))]

    def _request(self, context: str, settings: dict[str, Any]) -> Request:
        from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs

        told: dict[str, Any] = dict(normalize_gen_kwargs(settings, LONGEST))
        most = min(int(told["max_gen_toks"]), self.model.arch.context - 1)
        stops = [stop for stop in handle_stop_sequences(told.get("until"), eos=None) if stop]
        tokens = self._encoded(context)[-(self.model.arch.context - most) :] or [self.first]
        temperature = float(told.get("temperature") or 0.0) if told.get("do_sample") else 0.0
        return Request(tokens, most, Sampling(temperature, top_k=told.get("top_k"), top_p=told.get("top_p"), seed=0), self.ends, stops)

    def _answered(self, kind: str, requests: Sequence[Any], answer: Callable[[Sequence[Any]], Sequence[Any]]) -> list[Any]:
        """What is known already, and the answers to the rest, which are then known too."""
        keys = [hashlib.sha256(json.dumps([kind, *request.args], sort_keys=True).encode()).hexdigest() for request in requests]
        new = {key: request for key, request in zip(keys, requests, strict=True) if key not in self._known}
        if new:
            answers = dict(zip(new, answer(list(new.values())), strict=True))
            self._known.update(answers)
            if self.kept is not None:
                self.kept.parent.mkdir(parents=True, exist_ok=True)
                with self.kept.open("a", encoding="utf-8") as file:
                    file.writelines(f"{json.dumps(pair)}\n" for pair in answers.items())
        return [self._known[key] for key in keys]


@dataclass(frozen=True)
class Local:
    """A published task whose items are the rows of a table."""

    task: str
    file: str
    config: dict[str, Any]
    rows: tuple[Row, ...]

    @classmethod
    def of(cls, task: str, file: str) -> "Local":
        from lm_eval.tasks._yaml_loader import load_yaml

        return cls(task, file, load_yaml(_place(task), resolve_func=True), table(file).rows)

    def spec(self) -> dict[str, Any]:
        """The task as the harness takes it; examples come from the same rows, without the one that is asked."""
        split = next(self.config[kind] for kind in ("test_split", "validation_split", "training_split") if self.config.get(kind))
        emptied = dict.fromkeys(("training_split", "fewshot_split", "dataset_kwargs", "test_split"))
        return {**self.config, **emptied, "validation_split": split, "custom_dataset": lambda **_: self._dataset(split, self.rows)}

    def _dataset(self, split: str, rows: Sequence[Row]) -> Any:
        import datasets

        return datasets.DatasetDict({split: datasets.Dataset.from_list([_whole(self.task, row.values) for row in rows])})

    def misfit(self, reason: Exception) -> ValueError:
        """Which row does not fit, and why."""
        make = self.config.get("process_docs") or (lambda rows: rows)
        for row in self.rows:
            try:
                make(self._dataset("row", [row])["row"])
            except Exception as own:
                return ValueError(f"{self.file}, line {row.line}, does not fit the task {self.task}: {type(own).__name__} {own}")
        return ValueError(f"{self.file} does not fit the task {self.task}: {type(reason).__name__} {reason}")


def loaded(names: Sequence[str], shots: int | None = None, seed: int = 0) -> Any:
    """The harness's tasks: by name, from a YAML file of one's own, or as `NAME=FILE` a published one whose items are the rows of a table.

    `shots` overrides how many examples stand before an item, `seed` says which.
    Raises `ValueError` with the nearest name for an unknown task, for one whose data cannot be had, and naming the line of a file where it
    is broken or does not fit.
    """
    import datasets
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    manager = TaskManager(include_defaults=False)
    found = manager.load([task for name in names for task in _loaded(manager, name)])
    for task in found["tasks"].values():
        if shots is not None:
            task.set_config(key="num_fewshot", value=shots)
        elif task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=seed)
    return found


def _loaded(manager: Any, name: str) -> list[Any]:
    task, equals, file = name.partition("=")
    if equals:
        local = Local.of(task, file)
        try:
            found = manager.load([local.spec()])
        except Exception as reason:
            raise local.misfit(reason) from reason
    else:
        place = _place(task)
        try:
            found = manager.load([str(place)])
        except (OSError, ValueError, KeyError) as reason:
            raise ValueError(f"the task {task} cannot be loaded: {reason} (its items as a file: --tasks {place.stem}=FILE)") from reason
    return list(found["groups"].values()) or list(found["tasks"].values())


def _place(task: str) -> Path:
    """The YAML file of a task."""
    path = Path(task)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise ValueError(f"--tasks {task}: there is no such file")
        return path
    from lm_eval import tasks

    path = Path(tasks.__file__).parent / task / f"{task}.yaml"
    return path if path.is_file() else _indexed(task)


def _indexed(task: str) -> Path:
    """Where a task stands that is not in a folder of its own; to look through all of them takes half a minute."""
    from lm_eval.tasks import TaskManager

    index = TaskManager().task_index
    entry = index.get(task)
    if entry is None or entry.yaml_path is None:
        raise ValueError(f"--tasks {task!r} is no task of lm-evaluation-harness{did_you_mean(task, index)}")
    return Path(entry.yaml_path)


def _whole(task: str, values: dict[str, Any]) -> dict[str, Any]:
    """A row as the task wants it: HellaSwag's may have the context in one piece, whose last sentence is then found by its small letter."""
    if task != "hellaswag" or "ctx_a" in values or not isinstance(values.get("ctx"), str):
        return values
    parted = re.fullmatch(r"(.*[.!?]) ([a-z].*)", values["ctx"], re.DOTALL)
    before, last = parted.groups() if parted else (values["ctx"], "")
    return {"activity_label": "", **values, "ctx_a": before, "ctx_b": last}


def run(backend: Any, tasks: Any) -> dict[str, Any]:
    """What the harness makes of the tasks: `results` and, item by item, `samples`. Any backend of it will do."""
    from lm_eval import evaluator
    from lm_eval.api import task

    progress: Any = task
    progress.tqdm = lambda items, **_: items  # its bars would stand between ours
    found = evaluator.evaluate(lm=backend, task_dict=tasks, bootstrap_iters=BOOTSTRAP, log_samples=True)
    assert found is not None
    return dict(found)
