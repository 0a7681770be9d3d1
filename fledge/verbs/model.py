"""A model as a person uses it: `fledge.load(...)`, then `generate`, `chat`, `predict`, `embed`, `logits`."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict, Unpack, overload

from cyclopts import Parameter

from fledge.arch import Words
from fledge.arch.record import did_you_mean

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from fledge.arch import Arch, Reads
    from fledge.data.labelled import Text
    from fledge.generation import Completion, Contract, Engine, Prefixes, Request
    from fledge.model import Transformer
    from fledge.text import ChatFormat, Template, Tokenizer

MAX_TOKENS = 100
AT_ONCE = 32  # requests side by side
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
CONTRACTS = ("schema", "regex", "choice", "contains")  # settings that say what a text has to be
WAYS = ("beams", "draft", "contrast")  # settings that say how it is found
LOOKUP = "prompt"  # the draft that looks up what it guesses
SCHEMA = """{"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}"""
Dtype = Literal["auto", "float32", "bfloat16"]
Precision = Literal["auto", "float32", "bfloat16", "int8"]  # of a model that does not learn


class Settings(TypedDict, total=False):
    """How to generate; what is not given comes from the folder's `generation_config.json`.

    Attributes:
        max_tokens: at most that many new tokens (100; in a chat 300).
        temperature: 0 always takes the best word; 1 samples as the model believes; less is safer.
        top_k: sample among the k best words only.
        top_p: sample among the best words that together have this probability.
        min_p: sample among words with at least this share of the best word's probability.
        typical_p: sample among words about as surprising as the model expects, that together have this probability.
        repetition_penalty: above 1 makes words that stand there already less likely.
        presence_penalty: above 0 makes words that it has written less likely, up to 2.
        frequency_penalty: above 0 makes them less likely each time, up to 2.
        stop: end before this text; may be given several times.
        seed: the same seed gives the same text.
        beams: instead of sampling: search for the most probable text with that many beams side by side.
        length_penalty: in that search, the power of the length that a text's log-probability is divided by (1); more favours longer ones.
        contrast: instead of sampling: among the `top_k` (4) best words take one that says something new; 0 is plain, 0.6 usual, 1 the most.
        draft: a smaller model with the same tokenizer that guesses ahead, so that writing is faster; "prompt" looks guesses up in the text.
        schema: write JSON that is valid by this JSON Schema, a file (in Python also a dict).
        regex: write what this regular expression matches.
        choice: write this text; given several times: one of them.
        contains: write a text with this word in it; may be given several times.
    """

    max_tokens: int
    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    typical_p: float | None
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    stop: Sequence[str]
    seed: int | None
    beams: int
    length_penalty: float
    contrast: float | None
    draft: Annotated[str | Path | None, Parameter(metavar="MODEL")]
    schema: Annotated[str | Path | Mapping[str, Any] | None, Parameter(metavar="FILE", accepts_keys=False)]
    regex: str | None
    choice: Sequence[str]
    contains: Sequence[str]


def load(
    model: str | Path,
    device: str = "auto",
    dtype: Precision = "float32",
    threads: int = 0,
    adapters: Mapping[str, str | Path] | None = None,
) -> Model:
    """Open a model folder, an adapter's, or a model of the hub by its id; `threads` other than 0 is how many torch uses from now on.

    With `int8` the linear maps inside of the blocks are held in 8 bits, and all else in what `auto` takes here.
    An adapter is merged into its base. Of several `adapters` for one model, by names of your own, `.adapters[name]` is the model with that
    one; the weights of the model are in memory once. Raises `ValueError` with the part at fault when the folder is no whole model, for
    a device that is not here, and for an adapter of another model; `FileNotFoundError` for an adapter whose base is not there.
    """
    import torch

    from fledge.adapt.folder import beside, open_model
    from fledge.model.quantised import hold
    from fledge.train.plan import this_machine

    machine = this_machine(device, "auto" if dtype == "int8" else dtype)
    if threads:
        torch.set_num_threads(threads)
    network, tokenizer, facts = open_model(model, device=machine.device, dtype=getattr(torch, machine.dtype))
    opened = Model(network.eval(), tokenizer, facts)
    for name, place in (adapters or {}).items():
        opened.adapters[name] = Model(*beside(place, model, network, tokenizer, facts))
    if dtype == "int8":
        hold(network, dtype, *(adapter.network for adapter in opened.adapters.values()))
    return opened


class Model:
    """A transformer with the tokenizer that it was trained with and the `facts` that its folder tells; `adapters` as `load` says."""

    def __init__(self, network: Transformer, tokenizer: Tokenizer, facts: Mapping[str, Any]):
        self.network, self.tokenizer, self.facts = network, tokenizer, dict(facts)
        self.adapters: dict[str, Model] = {}
        self._drafts: dict[str, Transformer] = {}

    @property
    def arch(self) -> Arch:
        return self.network.arch

    @property
    def chat_format(self) -> ChatFormat | Template | None:
        """The format that this model was trained to converse in, if it was: one of ours, or its folder's own template."""
        from fledge.text import chat_format

        chat = self.facts.get("chat") or self.facts.get("chat_template")
        return None if chat is None else chat_format(chat, self.tokenizer)

    @overload
    def generate(self, prompt: str, **settings: Unpack[Settings]) -> str: ...
    @overload
    def generate(self, prompt: Sequence[str], **settings: Unpack[Settings]) -> list[str]: ...
    def generate(self, prompt, **settings: Unpack[Settings]):
        """The continuation of a prompt, without the prompt; a list of prompts gives a list, made side by side.

        Raises `ValueError` for a prompt longer than the model's context.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if not prompts:
            return []
        texts = [completion.text for completion in self.continued([self.prompt_tokens(text) for text in prompts], **settings)]
        return texts[0] if isinstance(prompt, str) else texts

    def continued(self, prompts: Sequence[Sequence[int]], **settings: Unpack[Settings]) -> list[Completion]:
        """The completion of each prompt of tokens, made side by side."""
        return list(self._written([self.request(list(tokens), settings) for tokens in prompts], settings))

    def targets(self, sources: Sequence[str], **settings: Unpack[Settings]) -> list[str]:
        """What a model with an encoder and a decoder writes for each source, read up to its context as in training.

        Raises `ValueError` for a model with one of them alone.
        """
        if len(self.arch.stacks) < 2:
            raise ValueError("this model reads no source: use generate to go on from a text")
        read = [self.tokenizer.framed(self.tokenizer.encode(text), self.arch.context) for text in sources]
        order = sorted(range(len(read)), key=lambda number: -len(read[number]))  # those of like length end at about the same time
        requests = [self.request(read[number] or [self.tokenizer.end_of_text], settings) for number in order]
        written = dict(zip(order, self._written(requests, settings), strict=True))
        return [written[number].text for number in range(len(read))]

    def stream(self, prompt: str, **settings: Unpack[Settings]) -> Iterator[str]:
        """The continuation of a prompt piece by piece, as it is made."""
        return self._streamed(self.request(self.prompt_tokens(prompt), settings), settings)

    def chat(self, messages: Sequence[Mapping[str, Any]], **settings: Unpack[Settings]) -> str:
        """The assistant's next answer to messages such as `{"role": "user", "content": "..."}`.

        Raises `ValueError` for a model that was not trained to converse, and for messages out of order.
        """
        return "".join(self.chat_stream(messages, **settings))

    def chat_stream(
        self, messages: Sequence[Mapping[str, Any]], known: Prefixes | None = None, **settings: Unpack[Settings]
    ) -> Iterator[str]:
        """The assistant's next answer piece by piece.

        With `known` given for each answer, a long conversation is not read from its beginning each time; the weights must stay as they are.
        """
        return self._streamed(self.request(self.conversation_tokens(messages), settings), settings, known)

    def answers(self, conversations: Sequence[Sequence[Mapping[str, Any]]], **settings: Unpack[Settings]) -> list[Completion]:
        """The assistant's next answer to each of several conversations, made side by side, and how it ended."""
        return list(self._written([self.request(self.conversation_tokens(messages), settings) for messages in conversations], settings))

    @overload
    def predict(self, text: Text) -> dict[str, Any]: ...
    @overload
    def predict(self, text: list[str] | list[tuple[str, str]] | list[Text]) -> list[dict[str, Any]]: ...
    def predict(self, text):
        """A classifier's label and the probability of each label: `{"label": "spam", "scores": {"ham": 0.02, "spam": 0.98}}`.

        One of several labels tells those that it finds: `{"labels": ["sport", "money"], "scores": {...}}`. A tuple is a pair of texts.
        A model that learned to mend text fills in what is marked by `[MASK]` or `___` in it, or by its tokenizer's own mask:
        `{"text": "The sky is blue.", "masks": [{"blue": 0.41, "clear": 0.2, ...}]}`. An encoder puts a word there and tells the best
        five; one beside a decoder puts a span there, marked also as `<extra_id_0>`, and tells its probability. A list of texts gives a
        list. Raises `ValueError` for a model that does neither, and for a text that marks nothing.
        """
        alone = isinstance(text, (str, tuple))
        texts: list[Any] = [text] if alone else list(text)
        results = list(self._fill(texts) if self.fills else self._classify(texts))
        return results[0] if alone else results

    @overload
    def embed(self, text: str, pooling: Reads | None = None) -> np.ndarray: ...
    @overload
    def embed(self, text: Sequence[str], pooling: Reads | None = None) -> np.ndarray: ...
    def embed(self, text, pooling=None):
        """The vector of a text, (width,) in fp32; a list of texts gives (texts, width).

        It is the mean of the last hidden states, or the first or last of them, as the folder says or `pooling` asks.
        """
        from fledge.evaluation.embedding import vectors

        told = self.facts.get("embedding", {})
        texts = [text] if isinstance(text, str) else list(text)
        reads, normalised = pooling or told.get("reads", "mean"), told.get("normalised", False)
        found = vectors(self.network, self.tokenizer, texts, reads, normalised, told.get("longest") or self.facts.get("reads"))
        return found[0] if isinstance(text, str) else found

    @property
    def fills(self) -> bool:
        """Whether it has scores for words and fills in what is masked: an encoder, or one beside a decoder unless it learned otherwise."""
        both = len(self.arch.stacks) == 2
        mends = self.learned in ("denoise", None) and bool(self.tokenizer.sentinels) if both else not self.arch.writes
        return mends and isinstance(self.arch.head, Words)

    @property
    def learned(self) -> str | None:
        """The objective that it was trained for, if that is known."""
        return self.facts.get("run", {}).get("data", {}).get("objective")

    def logits(self, tokens: Sequence[Sequence[int]], target: Sequence[Sequence[int]] | None = None) -> Tensor:
        """Scores in fp32: lists of equal length give (batch, length, vocabulary); an encoder scores each token itself, a decoder the next.

        A model with an encoder and a decoder takes a source and a target, which begins with the model's start token (`arch.start`).
        """
        import torch

        given = [torch.tensor(part, device=self.network.embedding.weight.device) for part in (tokens, target) if part is not None]
        with torch.inference_mode():
            return self.network(given[0]) if target is None else self.network(given[1], memory=self.network.encode(given[0]))

    def _fill(self, texts: list[str]) -> Iterator[dict[str, Any]]:
        from fledge.generation import Gapped, fill, marks_of

        marks = marks_of(self.tokenizer, spans=len(self.arch.stacks) == 2)
        for found in fill(self.network, self.tokenizer, [Gapped.marked(text, marks) for text in texts]):
            yield {"text": found.text, "masks": found.chances}

    def probabilities(self, texts: Sequence[Text]) -> np.ndarray:
        """The probability of each label of a classifier for each text, (texts, labels), long texts as it learned to read them.

        Raises `ValueError` for a model that is none, and for pairs where it reads single texts, or the other way round.
        """
        from fledge.evaluation.classifier import probabilities

        labels = self.arch.labels
        if not labels:
            other = (
                "it writes targets: use `fledge generate`" if len(self.arch.stacks) == 2 else "it goes on from text: use `fledge generate`"
            )
            raise ValueError(f"this model is no classifier ({other}): make one with `fledge finetune classify DATA --from MODEL --out DIR`")
        paired = "second_column" in (self.facts.get("data") or {})
        if self.facts.get("data") and (strange := next((text for text in texts if isinstance(text, tuple) != paired), None)) is not None:
            what = "pairs of texts, but this is one text" if paired else "one text at a time, but this is a pair"
            raise ValueError(f"this classifier judges {what}: {strange!r:.60}")
        return probabilities(self.network, self.tokenizer, texts, self.facts.get("reads"), self.facts.get("long", "cut"))

    def labels_of(self, probabilities: np.ndarray) -> list[tuple[str, ...]]:
        """The labels that probabilities (texts, labels) come to, one each unless it chooses several; thresholds as the folder says."""
        from fledge.evaluation.classifier import chosen

        found = chosen(probabilities, self.arch.choice, self.facts.get("thresholds"))
        if self.arch.choice != "several":
            return [(self.arch.labels[number],) for number in found]
        return [tuple(label for label, there in zip(self.arch.labels, row, strict=True) if there) for row in found]

    def _classify(self, texts: Sequence[Text]) -> Iterator[dict[str, Any]]:
        rows = self.probabilities(texts)
        for row, labels in zip(rows, self.labels_of(rows), strict=True):
            said = {"labels": list(labels)} if self.arch.choice == "several" else {"label": labels[0]}
            yield {**said, "scores": dict(zip(self.arch.labels, row.tolist(), strict=True))}

    def _streamed(self, request: Request, settings: Settings, known: Prefixes | None = None) -> Iterator[str]:
        """The text of a request piece by piece; whole, where it is searched for."""
        if self._beams(settings) > 1 or settings.get("contrast") is not None:
            return (completion.text for completion in self._written([request], settings))
        engine = self._engine([request], known=known)
        return engine.stream(request) if settings.get("draft") is None else self._speculated(engine, request, settings)

    def _written(self, requests: list[Request], settings: Settings) -> Iterator[Completion]:
        """The completions of requests: a few side by side, sampled or searched for with beams; or one after the other."""
        from fledge.generation import beam_search, contrastive_search

        beams, penalty = self._beams(settings), settings.get("length_penalty", self.facts.get("generation", {}).get("length_penalty"))
        contrast = settings.get("contrast")
        if settings.get("draft") is not None:
            for request in requests:
                yield _returned(self._speculated(self._engine([request]), request, settings))
            return
        for start in range(0, len(requests), AT_ONCE):
            part = requests[start : start + AT_ONCE]
            if contrast is not None:
                yield from contrastive_search(self._engine(part[:1]), part, contrast, settings.get("top_k") or 4)
                continue
            engine = self._engine(part, beams)
            yield from engine.run(part) if beams == 1 else beam_search(engine, part, beams, 1.0 if penalty is None else penalty)

    def _speculated(self, engine: Engine, request: Request, settings: Settings) -> Generator[str, None, Completion]:
        from fledge.generation import DraftModel, Lookup, speculate

        name = settings.get("draft")
        assert name is not None
        return speculate(engine, request, Lookup() if name == LOOKUP else DraftModel(self._draft(name), engine))

    def _draft(self, name: str | Path) -> Transformer:
        """The network of a draft, opened once. Raises `ValueError` for one that has other tokens."""
        if str(name) not in self._drafts:
            weight = self.network.embedding.weight
            opened = load(name, weight.device.type, "bfloat16" if weight.dtype.itemsize == 2 else "float32")
            if opened.tokenizer.fingerprint() != self.tokenizer.fingerprint():
                raise ValueError(f"{name} has another tokenizer than this model, whose tokens it is to guess: use one raised on the same")
            self._drafts[str(name)] = opened.network
        return self._drafts[str(name)]

    def _beams(self, settings: Settings) -> int:
        given = settings.get("beams")
        beams = self.facts.get("generation", {}).get("num_beams") or 1 if given is None else given
        if beams < 1:
            raise ValueError(f"beams is {beams}, but at least 1 is needed")
        return beams

    def prompt_tokens(self, text: str) -> list[int]:
        """What is read of a text: by a decoder what it goes on from, by an encoder beside one the source, framed.

        Raises `ValueError` for a model that learned to fill in gaps and nothing else.
        """
        if self.learned == "denoise":
            raise ValueError(
                "this model learned to fill in gaps: use `fledge predict MODEL 'The ___ is blue.'`, "
                "or teach it to write with `fledge finetune pairs DATA --from MODEL --out DIR`"
            )
        if len(self.arch.stacks) == 2:
            return self.tokenizer.framed(self.tokenizer.encode(text)) or [self.tokenizer.end_of_text]
        return [*self.tokenizer.opening, *self.tokenizer.encode(text)] or [self.tokenizer.end_of_text]

    def conversation_tokens(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """What is read of messages before an answer.

        Raises `ValueError` for a model that was not trained to converse, and for messages out of order.
        """
        from fledge.text.messages import as_turns

        form = self.chat_format
        if form is None:
            raise ValueError(
                "this model was not trained to converse: fine-tune it with `fledge finetune instruct`, or use `fledge generate`"
            )
        return form.encode(self.tokenizer, list(as_turns(messages)), answer=True).tokens

    def request(self, tokens: list[int], settings: Settings) -> Request:
        """What an engine is asked for: to go on from these tokens, as the settings and the folder say."""
        from fledge.generation import Request, Sampling
        from fledge.weights.folder import stops

        for name in settings:
            if name not in Settings.__annotations__:
                raise TypeError(f"{name} is no setting{did_you_mean(name, Settings.__annotations__)}")
        ways = [name for name in WAYS if settings.get(name) is not None and (name != "beams" or self._beams(settings) > 1)]
        ways = ways or (["beams"] if self._beams(settings) > 1 else [])  # as the folder says
        if len(ways) > 1:
            raise ValueError(f"{' and '.join(ways)} are two ways to find a text: give one of them")
        if ways and ways != ["draft"] and settings.get("temperature"):
            raise ValueError(f"{ways[0]} searches and does not sample: leave out temperature, or {ways[0]}")
        apart = (*WAYS, *CONTRACTS, "length_penalty")
        given = {name: value for name, value in settings.items() if value is not None and name not in apart}
        merged: dict[str, Any] = {**self.defaults(), **given}
        form = self.chat_format
        ends = stops(self.facts.get("chat") or self.facts.get("chat_template"), self.tokenizer)
        stop = merged.pop("stop", ())
        stop = [stop] if isinstance(stop, str) else stop  # one text is no list of its letters
        stops = (*stop, *(form.stop_strings if form is not None else ()))
        most, contract = merged.pop("max_tokens", MAX_TOKENS), contract_of(settings)
        return Request(tokens, most, Sampling(**merged), tuple(ends), stops, contract=contract)

    def defaults(self) -> dict[str, Any]:
        """The folder's generation_config.json in our terms; without `do_sample` the best word is taken, as `transformers` does."""
        theirs = self.facts.get("generation", {})
        ours = {name: theirs[name] for name in SAMPLING if theirs.get(name) is not None}
        if "max_new_tokens" in theirs:
            ours["max_tokens"] = theirs["max_new_tokens"]
        return ours if theirs.get("do_sample") else {**ours, "temperature": 0.0}

    def _engine(self, requests: list[Request], beams: int = 1, known: Prefixes | None = None) -> Engine:
        from fledge.generation import Engine

        if self.arch.labels:
            raise ValueError("this model is a classifier and writes no text: use `fledge predict`")
        if not self.arch.writes:
            raise ValueError("this model is an encoder and writes no text: `fledge predict` fills in gaps, `fledge embed` makes vectors")
        before = [1 + len(self.tokenizer.opening) if len(self.arch.stacks) == 2 else len(request.tokens) for request in requests]
        longest = max(length + (request.max_tokens or self.arch.context) for length, request in zip(before, requests, strict=True))
        slots, capacity = len(requests) * beams, min(longest, self.arch.context)
        return Engine(self.network, self.tokenizer, slots, capacity, kept=known, together=known is None)


def contract_of(settings: Settings) -> Contract | None:
    """What a text has to be by these settings, if they say so.

    Raises `ValueError` where several do, or where it is to stop elsewhere, and for a schema's file that is none.
    """
    from fledge.generation import Contract

    told = [name for name in CONTRACTS if settings.get(name) not in (None, (), [])]
    if not told:
        return None
    if len(told) > 1:
        raise ValueError(f"{' and '.join(told)} each say what the text has to be: give one of them")
    if settings.get("stop"):
        raise ValueError(f"{told[0]} says where the text ends: leave out stop")
    match told[0], settings.get(told[0]):
        case "schema", Mapping() as schema:
            return Contract.schema(schema)
        case "schema", str() | Path() as path:
            return Contract.schema(_schema(Path(path)))
        case name, value:
            made: Any = {"regex": Contract.regex, "choice": Contract.choice, "contains": Contract.containing}[name]
            return made([value] if isinstance(value, str) and name != "regex" else value)


def _schema(path: Path) -> dict[str, Any]:
    try:
        schema = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"--schema {path} is no file: give a JSON Schema, such as {SCHEMA}") from None
    except ValueError as reason:
        raise ValueError(f"--schema {path} is no JSON: {reason}") from None
    if not isinstance(schema, dict):
        raise ValueError(f"--schema {path} holds no object: a JSON Schema is one, such as {SCHEMA}")
    return schema


def _returned(pieces: Generator[str, None, Completion]) -> Completion:
    """What a stream returns when it has been read."""
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            return end.value
