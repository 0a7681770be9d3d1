"""One client and sixteen, with prompts and answers of mixed lengths: tokens a second in all, time to the first token and between them.

`--peers NAME=URL,...` measures other servers of OpenAI's form in the same run, in turns with ours; they are asked for the model
`--peer-model` with `--peer-key`. Without `--model` a tiny one of random weights is asked.
"""

import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from record import arguments, write

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.server import models
from tests.server.asking import Client
from tests.server.starting import running

ROUTE, CLIENTS = "/v1/completions", 16


def questions(seed: int, count: int, model: str, tokens: int) -> list[dict[str, Any]]:
    """Prompts of a few words to a few hundred, answers of a quarter of `tokens` to all of them; greedy."""
    rng, asked = random.Random(seed), []
    for _ in range(count):
        words = " ".join(
            rng.choice(("once", "upon", "a", "time", "there", "was", "the", "sky")) for _ in range(int(2 ** rng.uniform(2, 6.5)))
        )
        most = rng.randint(tokens // 4, tokens)
        asked.append(
            {
                "model": model,
                "prompt": words,
                "max_tokens": most,
                "temperature": 0,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
        )
    return asked


async def measured(client: Client, clients: int, asked: list[dict[str, Any]]) -> dict[str, Any]:
    """So many clients, each of which asks its next question when the last one is answered."""
    waiting, firsts, between, tokens = list(reversed(asked)), list[float](), list[float](), 0

    async def ask() -> None:
        nonlocal tokens
        while waiting:
            reply = await client.ask(ROUTE, waiting.pop())
            if reply is None or reply.status != 200:
                raise RuntimeError(f"{client.url} does not answer: {reply}")
            tokens += next(event["usage"] for event in reversed(reply.streamed()) if event.get("usage"))["completion_tokens"]
            firsts.append(reply.events[0])
            between.extend(np.diff(reply.events).tolist())

    began = time.perf_counter()
    await asyncio.gather(*(ask() for _ in range(clients)))
    seconds = time.perf_counter() - began
    spread = {"first_token": firsts, "between_tokens": between}
    return {
        "clients": clients, "tokens": tokens, "tokens_a_second": round(tokens / seconds, 1),
        **{name: {f"p{p}": round(float(np.percentile(values, p)), 4) for p in (50, 99)} for name, values in spread.items()},
    }  # fmt: skip


async def rounds(servers: dict[str, tuple[Client, str]], options: Any) -> list[dict[str, Any]]:
    runs = []
    for number in range(options.rounds):
        for name, (client, model) in servers.items():
            for clients in (1, CLIENTS):
                count = options.questions if clients > 1 else max(4, options.questions // 4)
                await measured(client, clients, questions(99, clients, model, 4))  # which warms up
                runs.append(
                    {"server": name, "round": number, **await measured(client, clients, questions(number, count, model, options.tokens))}
                )
                print(runs[-1], file=sys.stderr)
    return runs


def main() -> None:
    options = arguments(
        __doc__, model="", dtype="float32", threads=0, questions=48, tokens=64, rounds=3, peers="", peer_model="model", peer_key="none"
    )
    with tempfile.TemporaryDirectory() as place:
        model = options.model or models.made(Path(place))["base"]
        words = [f"asked={model}", "--slots", CLIENTS, "--dtype", options.dtype, "--threads", options.threads]
        with running(*words) as server:
            servers = {"fledge": (Client(server.url), "asked")}
            for pair in filter(None, options.peers.split(",")):
                name, _, url = pair.partition("=")
                servers[name] = (Client(url, options.peer_key), options.peer_model)
            runs = asyncio.run(rounds(servers, options))

    def best(name: str, clients: int) -> float:
        return float(np.median([run["tokens_a_second"] for run in runs if run["server"] == name and run["clients"] == clients]))

    ratios = {name: best(name, CLIENTS) / best(name, 1) for name in servers}
    told = [
        f"{name} {best(name, CLIENTS):.0f} tokens/s with {CLIENTS} clients, {ratio:.1f} x one client's" for name, ratio in ratios.items()
    ]
    claim = "sixteen clients with mixed lengths get at least three times as many tokens a second in all as one client"
    write("serve_load", claim, "; ".join(told), runs, ratios["fledge"] >= 3)


if __name__ == "__main__":
    main()
