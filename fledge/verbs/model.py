"""A model as a person uses it: `fledge.load(...)`, then `generate`, `chat`, `predict`, `embed`, `logits`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, overload

from fledge.arch import Words
from fledge.arch.record import did_you_mean

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from fledge.arch import Arch, Reads
    from fledge.data.labelled import Text
    from fledge.generation import Completion, Engine, Request
    from fledge.model import Transformer
    from fledge.text import ChatFormat, Template, Tokenizer

MAX_TOKENS = 100
AT_ONCE = 32  # requests side by side
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
Dtype = Literal["auto", "float32", "bfloat16"]


class Settings(TypedDict, total=False):
    """How to generate; what is not given comes from the folder's `generation_config.json`.

    Attributes:
        max_tokens: at most that many new tokens (100; in a chat 300).
        temperature: 0 always takes the best word; 1 samples as the model believes; less is safer.
        top_k: sample among the k best words only.
        top_p: sample among the best words that together have this probability.
        min_p: sample among words with at least this share of the best word's probability.
        repetition_penalty: above 1 makes words that stand there already less likely.
        stop: end before this text; may be given several times.
        seed: the same seed gives the same text.
        beams: instead of sampling: search for the most probable text with that many beams side by side.
        length_penalty: in that search, the power of the length that a text's log-probability is divided by (1); more favours longer ones.
    """

    max_tokens: int
    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float
    stop: Sequence[str]
    seed: int | None
    beams: int
    length_penalty: float


def load(
    model: str | Path, device: str = "auto", dtype: Dtype = "float32", threads: int = 0, adapters: Mapping[str, str | Path] | None = None
) -> Model:
    """Open a model folder, an adapter's, or a model of the hub by its id; `threads` other than 0 is how many torch uses from now on.

    An adapter is merged into its base. Of several `adapters` for one model, by names of your own, `.adapters[name]` is the model with that
    one; the weights of the model are in memory once. Raises `ValueError` with the part at fault when the folder is no whole model, for
    a device that is not here, and for an adapter of another model; `FileNotFoundError` for an adapter whose base is not there.
    """
    import torch

    from fledge.adapt.folder import beside, open_model
    from fledge.train.plan import this_machine

    machine = this_machine(device, dtype)
    if threads:
        torch.set_num_threads(threads)
    network, tokenizer, facts = open_model(model, device=machine.device, dtype=getattr(torch, machine.dtype))
    opened = Model(network.eval(), tokenizer, facts)
    for name, place in (adapters or {}).items():
        opened.adapters[name] = Model(*beside(place, model, network, tokenizer, facts))
    return opened


class Model:
    """A transformer with the tokenizer that it was trained with and the `facts` that its folder tells; `adapters` as `load` says."""

    def __init__(self, network: Transformer, tokenizer: Tokenizer, facts: Mapping[str, Any]):
        self.network, self.tokenizer, self.facts = network, tokenizer, dict(facts)
        self.adapters: dict[str, Model] = {}

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
        request = self.request(self.prompt_tokens(prompt), settings)
        if self._beams(settings) > 1:
            return (completion.text for completion in self._written([request], settings))
        return self._engine([request]).stream(request)

    def chat(self, messages: Sequence[Mapping[str, Any]], **settings: Unpack[Settings]) -> str:
        """The assistant's next answer to messages such as `{"role": "user", "content": "..."}`.

        Raises `ValueError` for a model that was not trained to converse, and for messages out of order.
        """
        return "".join(self.chat_stream(messages, **settings))

    def chat_stream(self, messages: Sequence[Mapping[str, Any]], **settings: Unpack[Settings]) -> Iterator[str]:
        """The assistant's next answer piece by piece."""
        request = self.request(self.conversation_tokens(messages), settings)
        return self._engine([request]).stream(request)

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

    def _written(self, requests: list[Request], settings: Settings) -> Iterator[Completion]:
        """The completions of requests, a few side by side: sampled, or searched for with beams."""
        from fledge.generation import beam_search

        beams, penalty = self._beams(settings), settings.get("length_penalty", self.facts.get("generation", {}).get("length_penalty"))
        if beams > 1 and settings.get("temperature"):
            raise ValueError("beams search for the most probable text and do not sample: leave out temperature, or beams")
        for start in range(0, len(requests), AT_ONCE):
            part = requests[start : start + AT_ONCE]
            engine = self._engine(part, beams)
            yield from engine.run(part) if beams == 1 else beam_search(engine, part, beams, 1.0 if penalty is None else penalty)

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
        given = {name: value for name, value in settings.items() if value is not None and name not in ("beams", "length_penalty")}
        merged: dict[str, Any] = {**self.defaults(), **given}
        form = self.chat_format
        ends = stops(self.facts.get("chat") or self.facts.get("chat_template"), self.tokenizer)
        stop = merged.pop("stop", ())
        stop = [stop] if isinstance(stop, str) else stop  # one text is no list of its letters
        stops = (*stop, *(form.stop_strings if form is not None else ()))
        return Request(tokens, merged.pop("max_tokens", MAX_TOKENS), Sampling(**merged), tuple(ends), stops)

    def defaults(self) -> dict[str, Any]:
        """The folder's generation_config.json in our terms; without `do_sample` the best word is taken, as `transformers` does."""
        theirs = self.facts.get("generation", {})
        ours = {name: theirs[name] for name in SAMPLING if theirs.get(name) is not None}
        if "max_new_tokens" in theirs:
            ours["max_tokens"] = theirs["max_new_tokens"]
        return ours if theirs.get("do_sample") else {**ours, "temperature": 0.0}

    def _engine(self, requests: list[Request], beams: int = 1) -> Engine:
        from fledge.generation import Engine

        if self.arch.labels:
            raise ValueError("this model is a classifier and writes no text: use `fledge predict`")
        if not self.arch.writes:
            raise ValueError("this model is an encoder and writes no text: `fledge predict` fills in gaps, `fledge embed` makes vectors")
        before = [1 + len(self.tokenizer.opening) if len(self.arch.stacks) == 2 else len(request.tokens) for request in requests]
        longest = max(length + (request.max_tokens or self.arch.context) for length, request in zip(before, requests, strict=True))
        return Engine(self.network, self.tokenizer, slots=len(requests) * beams, capacity=min(longest, self.arch.context), together=True)
