"""llama.cpp itself, by the package `xllamacpp`: a file is opened there and judged by the model that it was made of.

Run as a program, `python -P llamacpp.py FILE CONTEXT THREADS` serves the file on an address that it prints, until its input ends.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from fledge.model import Transformer
    from fledge.text import ChatFormat, Template, Tokenizer

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy of the machine's is not for this machine
SECONDS = 600.0  # for one answer: a large model on a small machine
TOLD = 10  # alternatives of each token that are compared
NEW = 16  # tokens that are written
READ = 48  # tokens that they go on from
PLACES = 12  # among these, where log-probabilities are compared
# How far log-probabilities may lie apart, in nats: many times what was measured, a small part of what two swapped norms make.
NEAR = {"f32": 0.01, "f16": 0.05, "bf16": 0.25, "q8_0": 0.5}
BEST: dict[str, Any] = {"temperature": 0.0, "samplers": ["temperature"]}  # whatever settings the file has
Alike = Literal["ids", "text", "other"]
TEXTS = (
    "It's 1234567 o'clock, SHE'LL say: DON'T! naïve Ünïcode e\u0301, ½ ² ٣٤٥ Ⅷ ﬁ",
    "\r\n\r\n\t\tdef f(x):\n    return x  # ok   \n\n\n \n  a\u00a0b\u2003c\u2028 end  ",
    "Ελληνικά, русский, עברית, العربية, हिन्दी, 中文字，日本語、한국어 👩\u200d👩\u200d👧🇩🇪",
    "<|endoftext|> <|im_start|>user\nhi<|im_end|> <|eot_id|><s></s>[INST] <extra_id_0>",
    " leading, trailing ",
    "x" * 70 + "=" * 70 + " " * 70 + "\n" * 7 + "1" * 70,
)


@dataclass(frozen=True)
class Checked:
    """What llama.cpp and the model agreed on.

    `texts` have the same ids, `tokens` are written alike, log-probabilities lie at most `difference` nats apart; `chat` is what is alike of
    a conversation, where there is a chat template: its ids, its text, or neither.
    """

    texts: int
    tokens: int
    difference: float
    chat: Alike | None

    def __str__(self) -> str:
        chat = {
            "ids": ", its chat template renders to the same ids",
            "text": ", its chat template renders to the same text (tokens at the ends of its contents may differ)",
            "other": ", its own chat template renders to another text there",
            None: "",
        }
        return (
            f"opened in llama.cpp: {self.texts} texts have the same ids{chat[self.chat]}, {self.tokens} tokens are written alike, "
            f"log-probabilities differ by at most {self.difference:.2g}"
        )


def installed() -> bool:
    return importlib.util.find_spec("xllamacpp") is not None


class Runtime:
    """A file that llama.cpp serves, in a process of its own: what makes it abort ends that process alone."""

    def __init__(self, address: str):
        self.address = address

    def ask(self, route: str, **body: Any) -> Any:
        """The answer of a route of llama.cpp's server. Raises `ValueError` in its own words."""
        request = urllib.request.Request(self.address + route, json.dumps(body).encode(), {"Content-Type": "application/json"})
        try:
            with DIRECT.open(request, timeout=SECONDS) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as refused:
            with refused:
                raise ValueError(f"llama.cpp answers {route} with {refused.read().decode(errors='replace')}") from None
        except OSError as gone:
            raise ValueError(f"llama.cpp does not answer {route} ({gone})") from None

    def encode(self, text: str, controls: bool = False) -> list[int]:
        """The ids of a text; with `controls` what spells a control token in it is one."""
        return self.ask("/tokenize", content=text, add_special=False, parse_special=controls)["tokens"]

    def framed(self, text: str) -> list[int]:
        """The ids of a whole prompt, as its own chat route reads one."""
        return self.ask("/tokenize", content=text, add_special=True, parse_special=True)["tokens"]

    def rendered(self, messages: Sequence[dict[str, str]]) -> str:
        """What the chat template in the file makes of messages."""
        return self.ask("/apply-template", messages=list(messages))["prompt"]

    def written(self, tokens: Sequence[int], count: int) -> tuple[list[int], str]:
        """The best `count` tokens after these, none that ends a text, and their text."""
        found = self.ask(
            "/completion", prompt=list(tokens), n_predict=count, ignore_eos=True, return_tokens=True, cache_prompt=False, **BEST
        )
        return found["tokens"], found["content"]

    def told(self, tokens: Sequence[int], count: int, dummy: int) -> dict[int, float]:
        """The log-probabilities of the `count` best tokens after these.

        The server tells them only of a token that ends a character; `dummy` is one that does, which it is made to take.
        """
        found = self.ask("/completion", prompt=list(tokens), n_predict=1, n_probs=count, logit_bias=[[dummy, 1e6]], **BEST)
        return {one["id"]: one["logprob"] for one in found["completion_probabilities"][0]["top_logprobs"]}


@contextmanager
def served(path: Path, context: int, threads: int) -> Iterator[Runtime]:
    """A file in llama.cpp. Raises `ValueError` when it does not open it."""
    arguments = [sys.executable, "-P", __file__, str(path), str(context), str(threads)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LLAMA_", "OMP_"))}
    with subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            if not address:
                raise ValueError(f"llama.cpp does not open {path}")
            yield Runtime(address)
        finally:
            process.kill()


def check(path: Path, network: Transformer, tokenizer: Tokenizer, chat: ChatFormat | Template | None, quantize: str) -> Checked:
    """Compare a file in llama.cpp with the model that it was made of.

    Raises `ValueError` with the first text, token or log-probability that differs by more than numbers of this type do.
    """
    import torch

    context, near = network.arch.context, NEAR[quantize]
    read = [*tokenizer.opening, *tokenizer.encode(TEXTS[0] + TEXTS[2])][: min(READ, context // 2)]
    controls = list(tokenizer.controls.values())
    with served(path, min(context, 4 * (READ + NEW)), torch.get_num_threads()) as runtime:
        for text in TEXTS:
            _same(f"the text {text!r:.60}", runtime.encode(text), tokenizer.encode(text))
        _same("its control tokens", runtime.encode("".join(tokenizer.controls), controls=True), controls)
        agreed = None if chat is None else _check_chat(runtime, tokenizer, chat)
        [dummy, *_] = tokenizer.encode("a")
        told = {length: runtime.told(read[:length], TOLD, dummy) for length in range(1, len(read) + 1, max(1, len(read) // PLACES))}
        written, content = runtime.written(read, min(NEW, context - len(read)))
    weight = network.embedding.weight
    exact = network if weight.dtype == torch.float32 else copy.deepcopy(network).float()
    with torch.no_grad():
        ours = exact(torch.tensor([[*read, *written[:-1]]], device=weight.device))[0].log_softmax(-1).cpu()
    apart = max(abs(float(ours[length - 1, token]) - theirs) for length, best in told.items() for token, theirs in best.items())
    if apart > near:
        raise ValueError(
            f"log-probabilities in llama.cpp differ by {apart:.3g} from the model's, more than {near}: the file is not written"
        )
    texts = ours.clone()
    texts[:, controls] = -torch.inf  # of which some end a text
    for row, best, token in zip(ours[len(read) - 1 :], texts[len(read) - 1 :].argmax(-1).tolist(), written, strict=True):
        if float(row[best] - row[token]) > 2 * near:  # nearer ones are alike but for rounding
            raise ValueError(f"llama.cpp writes token {token}, where the model writes {best}: the file is not written")
    if not tokenizer.decode(written).startswith(content.rstrip("\ufffd")):
        raise ValueError(f"llama.cpp writes {content!r}, where the model writes {tokenizer.decode(written)!r}: the file is not written")
    return Checked(len(TEXTS), len(written), apart, agreed)


def _check_chat(runtime: Runtime, tokenizer: Tokenizer, chat: ChatFormat | Template) -> Alike:
    from fledge.text.chat import FORMATS
    from fledge.text.messages import as_turns

    messages = [
        {"role": "user", "content": "What is 2 + 2?"},
        {"role": "assistant", "content": "Four."},
        {"role": "user", "content": "And\n\nwhy?"},
    ]
    ours, text = chat.encode(tokenizer, list(as_turns(messages)), answer=True).tokens, runtime.rendered(messages)
    theirs = runtime.framed(text)
    if theirs == ours:
        return "ids"
    if text == tokenizer.decode(ours, specials=True):
        return "text"
    if chat.name in FORMATS:
        _same("a conversation in its chat template", theirs, ours)
    return "other"  # one of others may ask for the date, say


def _same(what: str, theirs: list[int], ours: list[int]) -> None:
    if theirs != ours:
        raise ValueError(f"llama.cpp reads {what} as {theirs}, but the model as {ours}: the file is not written")


def _serve(path: str, context: str, threads: str) -> None:
    xllamacpp: Any = importlib.import_module("xllamacpp")  # compiled: it has no types
    given = xllamacpp.CommonParams()
    given.model.path = path
    given.n_ctx, given.n_parallel, given.cache_ram_mib = int(context), 1, 0
    given.cpuparams.n_threads = given.cpuparams_batch.n_threads = int(threads)
    given.warmup, given.use_jinja, given.ui, given.fit_params, given.verbosity = False, True, False, False, -1
    given.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    given.cache_type_k = given.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    server = xllamacpp.Server(given)
    print(server.listening_address, flush=True)
    sys.stdin.read()  # ends with the process that asks
    os._exit(0)


if __name__ == "__main__":
    _serve(*sys.argv[1:])
