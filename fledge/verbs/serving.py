"""`serve`: models for every program that speaks OpenAI's language, and a page for people."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from fledge.verbs import terminal
from fledge.verbs.model import Model, Precision, Settings, load
from fledge.verbs.session import Name, Place

if TYPE_CHECKING:
    from socket import socket

    from fledge.generation import Engine, Request
    from fledge.server.link import Link

CURVE = 500  # rows of a run's metrics that are told
CONTEXT = 4096  # tokens of a slot, unless more are asked for
POSITIONS = 256  # whose scores over the vocabulary are held at once

Adapter = Annotated[Sequence[str], Parameter(name="--adapter", metavar="NAME=PATH")]
Names = Annotated[Sequence[str], Parameter(name="--name", metavar="NAME")]


@dataclass(frozen=True)
class Places:
    """Where the models lie, by the names that clients call them, adapters for the first of them, and how they are opened.

    It is called in the engine's process, and gives what is served.
    """

    models: Mapping[str, str]
    adapters: Mapping[str, str]
    device: str
    dtype: Precision
    threads: int
    slots: int
    context: int

    def __call__(self) -> dict[str, Served]:
        served: dict[str, Served] = {}
        for number, (name, place) in enumerate(self.models.items()):
            model = load(place, self.device, self.dtype, self.threads, self.adapters if number == 0 else None)
            known = {name: (model, place), **{other: (model.adapters[other], path) for other, path in self.adapters.items() if number == 0}}
            served |= {other: Served(one, path, self.slots, self.context) for other, (one, path) in known.items()}
        return served


@dataclass(frozen=True)
class Service:
    """Where a server was, how many questions it was asked, and for how many seconds."""

    address: str
    questions: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.address} was asked {self.questions:,} times in {self.seconds:,.0f} s."


def serve(
    *models: Name,
    host: str = "127.0.0.1",
    port: int = 8000,
    key_file: Place | None = None,
    adapters: Adapter | None = None,
    names: Names | None = None,
    slots: int = 4,
    queue: int = 32,
    context: int = CONTEXT,
    tokens: int = 4096,
    log: bool = False,
    device: str = "auto",
    dtype: Precision = "float32",
    threads: int = 0,
) -> Service:
    """Serve models to programs, by OpenAI's routes, and to people, by a web page.

    Without a key only programs on this machine are listened to. Ctrl-C, or SIGTERM, ends the server once what is under way is answered; a
    second one ends it at once.

    Args:
        models: model folders or hub ids; NAME=PATH names one, else it has its folder's name.
        host: the address to listen on; others than this machine's own need a key.
        port: the port; 0 takes one that is free.
        key_file: a file that holds the key which clients must send; by default the environment's FLEDGE_KEY, if it is set.
        adapters: an adapter of the first model, served beside it under this name; the weights are in memory once.
        names: a name that this server goes by, where a name leads to it.
        slots: answers of a model that are made side by side.
        queue: answers of a model that may wait for a slot; more are refused.
        context: tokens of a prompt and its answer, at most; a model's own context if that is less.
        tokens: of an answer, at most.
        log: a line for each request: its route, status and seconds.
        device: auto, cpu or cuda.
        dtype: of the weights and products; int8 holds the weights of the blocks in 8 bits.
        threads: CPU threads; 0 leaves the number to torch.
    """
    try:
        from fledge.server.limits import Access, Limits, listening, stored_key
        from fledge.server.running import run
    except ModuleNotFoundError as missing:
        raise ValueError(f"fledge serve needs {missing.name}: pip install 'fledge[serve]'") from None

    if not models:
        raise ValueError("serve needs a model: fledge serve MODEL, a folder or a hub id")
    places, others = named([str(model) for model in models]), named(adapters or ())
    if twice := places.keys() & others.keys():
        raise ValueError(f"{', '.join(sorted(twice))} names a model and an adapter: name one of them otherwise, as NAME=PATH")
    access, limits = Access(host, stored_key(key_file), tuple(names or ())), Limits(slots=slots, queue=queue, tokens=tokens)
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.INFO if log else logging.WARNING)
    listener = listening(host, port)
    terminal.say(f"Loading {', '.join([*places, *others])} ...")
    opening, address, began = Places(places, others, device, dtype, threads, slots, context), address_of(listener), time.monotonic()
    questions = run(opening, listener, access, limits, partial(welcome, address, access.key is not None))
    return Service(address, questions, round(time.monotonic() - began, 1))


def address_of(listener: socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def named(models: Sequence[str]) -> dict[str, str]:
    """The places of models by their names. Raises `ValueError` where two have the same."""
    places: dict[str, str] = {}
    for given in models:
        name, equals, place = given.partition("=")
        if not equals or Path(given).exists():
            name, place = Path(given).resolve().name if Path(given).exists() else Path(given).name, given
        if name in places:
            raise ValueError(f"two models are named {name}: name one otherwise, as NAME={place}")
        places[name] = place
    return places


def welcome(address: str, locked: bool, link: Link) -> None:
    """Say where the server is, and how it is asked."""
    name = next(iter(link.models))
    terminal.say(f"{address} is the page; programs use base_url {address}/v1 with the model {name}{' and your key' if locked else ''}.")
    terminal.say("Ctrl-C ends it.")


class Served:
    """A model as the server asks it; see `fledge.server.worker.Served`."""

    def __init__(self, model: Model, place: str, slots: int, context: int):
        self.model, self.tokenizer = model, model.tokenizer
        self._slots, self._context = slots, context
        self.about = {"kind": kind_of(model), **told_by(place), "facts": facts_of(model), "settings": model.defaults()}

    @cached_property
    def engine(self) -> Engine | None:
        from fledge.generation import Engine

        writes = self.about["kind"] in ("assistant", "base", "translator")
        return Engine(self.model.network, self.tokenizer, self._slots, self._context) if writes else None

    def prompt(self, text: str) -> list[int]:
        return self.model.prompt_tokens(text)

    def conversation(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        return self.model.conversation_tokens(messages)

    def request(self, tokens: Sequence[int], settings: Mapping[str, Any]) -> Request:
        known: Any = {name: value for name, value in settings.items() if name in Settings.__annotations__}
        asked = self.model.request(list(tokens), known)
        return replace(asked, sampling=replace(asked.sampling, **{name: settings[name] for name in settings.keys() - known.keys()}))

    def scored(self, tokens: Sequence[int], top: int) -> tuple[list[float | None], list[list[tuple[int, float]]]]:
        """The log-probability of each token behind those before it, and the likeliest at its place; none of the first."""
        import torch

        from fledge.generation.engine import inference

        if self.about["kind"] == "translator":
            raise ValueError("this model reads a source and writes a target: its prompt has no probabilities to tell, leave out echo")
        if len(tokens) > self.model.arch.context:
            raise ValueError(f"the prompt has {len(tokens):,} tokens, but this model's context has room for {self.model.arch.context:,}")
        logprobs: list[float | None] = [None]
        alternatives: list[list[tuple[int, float]]] = [[]]
        network = self.model.network
        with inference(network):
            row = torch.tensor(tokens, device=network.embedding.weight.device)
            hidden = network.hidden(row[None])[0, :-1]
            for states, said in zip(hidden.split(POSITIONS), row[1:].split(POSITIONS), strict=True):
                scores = network.head(states).float().log_softmax(-1)
                logprobs += scores.gather(1, said[:, None])[:, 0].tolist()
                best = scores.topk(min(top, scores.shape[1]))
                alternatives += [
                    list(zip(ids, values, strict=True)) for ids, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
                ]
        return logprobs, alternatives

    def embedded(self, texts: Sequence[str]) -> tuple[list[list[float]], int]:
        if self.about["kind"] == "classifier":
            raise ValueError("this model is a classifier and makes no vectors: use /v1/classify")
        return self.model.embed(list(texts)).tolist(), self._tokens(texts)

    def classified(self, texts: Sequence[Any]) -> tuple[list[dict[str, Any]], int]:
        self._only_classifier()
        return self.model.predict([tuple(text) if isinstance(text, list) else text for text in texts]), self._tokens(texts)

    def weighed(self, text: Any) -> list[dict[str, Any]]:
        from fledge.verbs.explaining import decided, row_of

        self._only_classifier()
        first, second = (text, None) if isinstance(text, str) else text
        _, _, found = decided(self.model, row_of(self.model, first, second), first, second, None)
        return [{"text": word.text, "weight": (word.gradient + word.occlusion) / 2} for word in found.words]

    def _only_classifier(self) -> None:
        if self.about["kind"] != "classifier":
            raise ValueError("this model is no classifier: make one with `fledge finetune classify DATA --from MODEL --out DIR`")

    def _tokens(self, texts: Sequence[Any]) -> int:
        parts = [part for text in texts for part in ([text] if isinstance(text, str) else text)]
        return sum(map(len, self.tokenizer.encode_batch(parts)))


def kind_of(model: Model) -> str:
    if model.arch.labels:
        return "classifier"
    if model.fills or not model.arch.writes:
        return "encoder"
    if len(model.arch.stacks) == 2:
        return "translator"
    return "base" if model.chat_format is None else "assistant"


def facts_of(model: Model) -> dict[str, Any]:
    """What can be told of a model in a few lines; no paths."""
    from fledge.arch import parameter_count

    arch, facts = model.arch, model.facts
    trunk = arch.trunk
    told = {
        "parameters": parameter_count(arch), "vocabulary": arch.vocabulary, "context": arch.context, "width": trunk.width,
        "depth": trunk.depth, "labels": list(arch.labels), "trained_to": facts.get("trained_to"), "scores": facts.get("scores"),
        "tokenizer": model.tokenizer.kind,
    }  # fmt: skip
    return {name: value for name, value in told.items() if value}


def told_by(place: str) -> dict[str, Any]:
    """The card of a model's folder, and the rows of its run's metrics, thinned."""
    from fledge.weights.hub import resolve

    folder = resolve(place)
    card, metrics = folder / "README.md", folder / "run" / "metrics.jsonl"
    rows = list(_rows(metrics)) if metrics.is_file() else []
    every = -(-len(rows) // CURVE)
    kept = [row for number, row in enumerate(rows) if "validation" in row or number % every == 0]  # held-out scores are few
    return {"card": card.read_text(encoding="utf-8", errors="replace") if card.is_file() else "", "curves": kept}


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a file to which a run may be adding still."""
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            return
