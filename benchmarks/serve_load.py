"""One client and sixteen, with prompts and answers of mixed lengths: tokens a second in all, time to the first token and between them.

A Llama shape of 134 million random weights in bf16, served by fledge, by llama.cpp (in the better of F16 and BF16) and by litgpt, in turns;
litgpt, which answers one question after another, in the first round only. Answers are a little longer than prompts on average, less so than
those of ShareGPT and Alpaca (Kwon et al., 2023, arXiv:2309.06180, figure 11). `--only fledge` leaves the others out; `--model` is a folder
to serve instead, which litgpt takes if it is of Llama's shape.
"""

import asyncio
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from peers import PINNED, python
from record import arguments, write

sys.path.insert(0, str(Path(__file__).parents[1]))

import fledge
from fledge.formats import Gguf
from fledge.model import Transformer, initialise
from fledge.presets.shapes import llama
from fledge.text.tokenizer import Tokenizer
from fledge.weights import save_model
from tests.server.asking import Client, Reply
from tests.server.starting import PATIENCE, running

WORKERS = Path(__file__).parent / "workers"
CLIENTS, CONTEXT = 16, 1024
TIMES = 3  # as many tokens a second with all clients as with one
WORDS = ("once", "upon", "a", "time", "there", "was", "the", "sky")


@dataclass(frozen=True)
class Question:
    """Words to go on from, and how many tokens to answer with."""

    words: str
    tokens: int


@dataclass(frozen=True)
class Served:
    """A server under way: one that completes texts, or one that only converses and tells a token with each event."""

    client: Client
    converses: bool = False

    async def ask(self, question: Question) -> tuple[int, list[float]]:
        """How many tokens came, and when each event of the stream did."""
        if self.converses:
            told = {"messages": [{"role": "user", "content": question.words}], "max_completion_tokens": question.tokens}
            reply = await self.client.ask("/v1/chat/completions", {"model": "asked", "stream": True, **told})
        else:
            told = {"prompt": question.words, "max_tokens": question.tokens, "temperature": 0, "stream_options": {"include_usage": True}}
            reply = await self.client.ask("/v1/completions", {"model": "asked", "stream": True, **told})
        if reply is None or reply.status != 200:
            raise RuntimeError(f"{self.client.url} does not answer: {reply}")
        return self._tokens(reply), reply.events

    def _tokens(self, reply: Reply) -> int:
        events = reply.streamed()
        if self.converses:
            return sum(choice["delta"].get("content") is not None for event in events for choice in event["choices"])  # many are no text
        return next(event["usage"] for event in reversed(events) if event.get("usage"))["completion_tokens"]


def questions(seed: int, count: int, tokens: int) -> list[Question]:
    """Prompts of a few words to a few dozen, answers of a quarter of `tokens` to all of them."""
    draw = random.Random(seed)
    return [
        Question(" ".join(draw.choices(WORDS, k=int(2 ** draw.uniform(2, 6.5)))), draw.randint(tokens // 4, tokens)) for _ in range(count)
    ]


async def measured(server: Served, clients: int, asked: list[Question]) -> dict[str, Any]:
    """So many clients, each of which asks its next question when the last one is answered."""
    waiting, firsts, between, tokens = list(reversed(asked)), list[float](), list[float](), 0

    async def ask() -> None:
        nonlocal tokens
        while waiting:
            count, events = await server.ask(waiting.pop())
            tokens += count
            firsts.append(events[0])
            between.extend(np.diff(events).tolist())

    began = time.perf_counter()
    await asyncio.gather(*(ask() for _ in range(clients)))
    seconds = time.perf_counter() - began
    spread = {"first_token": firsts, "between_tokens": between}
    return {
        "clients": clients, "tokens": tokens, "tokens_a_second": round(tokens / seconds, 1),
        **{name: {f"p{p}": round(float(np.percentile(values, p)), 4) for p in (50, 99)} for name, values in spread.items()},
    }  # fmt: skip


async def rounds(servers: dict[str, Served], options: Any) -> list[dict[str, Any]]:
    runs = []
    for number in range(options.rounds):
        for name, server in servers.items():
            if name == "litgpt" and number:
                continue
            for clients in (1, CLIENTS):
                count = options.questions if clients > 1 else max(4, options.questions // 4)
                await measured(server, clients, questions(99, clients, 4))  # which warms up
                found = await measured(server, clients, questions(number, count, options.tokens))
                runs.append({"server": name, "round": number, **found})
                print(runs[-1], file=sys.stderr, flush=True)
    return runs


def made(folder: Path) -> Path:
    model = initialise(Transformer(llama(768, 12, 12, vocabulary=32_000, context=CONTEXT)))
    save_model(folder, model, Tokenizer.bytes(), None, {}, None, "# Random weights\n")
    return folder


@contextmanager
def ours(model: Path, dtype: str, threads: int) -> Iterator[Served]:
    words = [f"asked={model}", "--slots", CLIENTS, "--context", CONTEXT, "--dtype", dtype, "--threads", threads]
    with running(*words) as server:
        yield Served(Client(server.url))


@contextmanager
def llama_cpp(model: Path, kind: str, threads: int, place: Path) -> Iterator[Served]:
    opened = fledge.load(model)
    Gguf(opened.network, opened.tokenizer, opened.facts, {}, kind).write(place / f"{kind}.gguf")
    told = {"model": str(place / f"{kind}.gguf"), "slots": CLIENTS, "context": CONTEXT, "threads": threads}
    command = [sys.executable, str(WORKERS / "llama_serves.py"), json.dumps(told)]
    with (
        (place / f"{kind}.txt").open("w") as log,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        assert process.stdout is not None
        yield Served(Client(process.stdout.readline().strip()))
        process.kill()


@contextmanager
def litgpt(model: Path, threads: int, place: Path) -> Iterator[Served]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [python(), str(WORKERS / "lit_serves.py"), json.dumps({"model": str(model), "port": port, "threads": threads})]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    with (place / "litgpt.txt").open("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        try:
            deadline, server = time.monotonic() + PATIENCE, Served(Client(f"http://127.0.0.1:{port}"), converses=True)
            while not asyncio.run(answers(server)):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise SystemExit(f"litgpt does not serve:\n{log.read()[-3000:]}")
                time.sleep(1)
            yield server
        finally:
            os.killpg(process.pid, 9)  # its workers too
            process.wait()


async def answers(server: Served) -> bool:
    try:
        return (await server.ask(Question("once", 2)))[0] > 0
    except (OSError, RuntimeError, ValueError, asyncio.IncompleteReadError):
        return False


def main() -> None:
    options = arguments(__doc__, model="", dtype="bfloat16", threads=2, questions=32, tokens=256, rounds=3, only="")
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        place = Path(scratch)
        model = Path(options.model) if options.model else made(place / "model")
        starting = {
            "fledge": lambda: ours(model, options.dtype, options.threads),
            **{f"llama.cpp, {kind.upper()}": lambda kind=kind: llama_cpp(model, kind, options.threads, place) for kind in ("bf16", "f16")},
            "litgpt": lambda: litgpt(model, options.threads, place),
        }
        servers = {name: stack.enter_context(start()) for name, start in starting.items() if options.only in name}
        runs = asyncio.run(rounds(servers, options))

    def median(name: str, clients: int) -> float:
        return float(np.median([run["tokens_a_second"] for run in runs if run["server"] == name and run["clients"] == clients]))

    each = {name: {clients: median(name, clients) for clients in (1, CLIENTS)} for name in servers}
    gain = each["fledge"][CLIENTS] / each["fledge"][1]
    told = [f"{name} {rate[CLIENTS]:.0f} tokens/s with {CLIENTS} clients, {rate[1]:.0f} with one" for name, rate in each.items()]
    claim = f"{CLIENTS} clients with mixed lengths get at least {TIMES} times as many tokens a second in all as one client"
    pinned = {name: pin for name, _, pin in (one.partition("==") for one in PINNED)}
    peers = {"litgpt": pinned["litgpt"], "litserve": pinned["litserve"], "xllamacpp": version("xllamacpp")}
    write("serve_load", claim, f"{gain:.1f} times; {'; '.join(told)}", runs, gain >= TIMES, peers=peers, dtype=options.dtype)


if __name__ == "__main__":
    main()
