"""Ten times as many questions as a server can answer, then clients that leave in the middle, then (with `--minutes`) a long mixed load.

Questions come at fixed times, whatever becomes of those before. What is accepted must be answered as it was when nothing else was asked,
refusals must be quick, memory must stay flat, and no slot may be lost. Without `--model` a tiny one of random weights is asked.
"""

import asyncio
import itertools
import json
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
from tests.server.asking import Client, Reply
from tests.server.starting import Running, running

ROUTE, VARIANTS = "/v1/completions", 24
SLOTS, QUEUE = 4, 12
FLAT = 0.05  # by which memory may grow, and 8 MB

Answers = list[dict[str, Any]]


def question(number: int, tokens: int) -> dict[str, Any]:
    """Answers of mixed lengths, drawn by a seed."""
    return {
        "model": "asked", "prompt": f"{number}: once upon a time", "max_tokens": tokens // 2 + number * tokens // VARIANTS, "seed": number,
        "temperature": 1.0, "stream": bool(number % 2),
    }  # fmt: skip


def said(reply: Reply) -> str:
    """The text of an answer, whole or streamed."""
    if reply.body.startswith(b"data: "):
        return "".join(event["choices"][0]["text"] for event in reply.streamed() if event["choices"])
    return reply.json()["choices"][0]["text"]


class Load:
    """Questions at a rate, and what became of them."""

    def __init__(self, server: Running, tokens: int):
        self.server, self.client, self.tokens = server, Client(server.url), tokens
        self.expected: list[str] = []
        self.answered: list[float] = []
        self.refused: list[float] = []
        self.wrong: list[str] = []
        self.left, self.memory = 0, list[tuple[float, float]]()
        self.engine = server.engine()

    async def learn(self) -> float:
        """What each question is answered when it is alone; and how many a second are answered when as many are asked as there are slots."""
        for number in range(VARIANTS):
            reply = await self.client.ask(ROUTE, question(number, self.tokens))
            if reply is None or reply.status != 200:
                raise RuntimeError(f"question {number} is not answered: {reply}")
            self.expected.append(said(reply))
        began, places = time.perf_counter(), asyncio.Semaphore(SLOTS)

        async def one(number: int) -> None:
            async with places:
                await self.client.ask(ROUTE, question(number, self.tokens))

        await asyncio.gather(*map(one, range(VARIANTS)))
        return VARIANTS / (time.perf_counter() - began)

    async def ask(self, number: int, leave_after: float | None = None) -> None:
        try:
            reply = await self.client.ask(ROUTE, question(number % VARIANTS, self.tokens), leave_after)
            if reply is None:
                self.left += 1
            elif reply.status == 429:
                self.refused.append(reply.seconds)
                self.wrong += [] if reply.json()["error"]["code"] == "queue_full" else ["a refusal without its code"]
            elif reply.status != 200:
                self.wrong.append(f"status {reply.status}: {reply.body[:200]!r}")
            else:
                self.answered.append(reply.seconds)
                self.wrong += (
                    [] if said(reply) == self.expected[number % VARIANTS] else [f"question {number % VARIANTS} was answered otherwise"]
                )
        except (OSError, ValueError, asyncio.IncompleteReadError) as error:
            self.wrong.append(f"{type(error).__name__}: {error}"[:200])

    async def at(self, rate: float, seconds: float, leaving: float = 0.0) -> None:
        """Questions at fixed times; a share of the clients leave in the middle."""
        rng, began, tasks = random.Random(0), time.perf_counter(), set[asyncio.Task]()
        number, noted = 0, 0.0
        while (now := time.perf_counter() - began) < seconds:
            if now >= noted:
                self.memory.append((memory(self.server.process.pid), memory(self.engine)))
                noted += 1.0
            after = rng.random() * SLOTS / rate * 2 if rng.random() < leaving else None
            task = asyncio.create_task(self.ask(number, after))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            number += 1
            await asyncio.sleep(max(0.0, number / rate - (time.perf_counter() - began)))
        await asyncio.gather(*tasks)

    async def dropped(self, clients: int) -> int:
        """At least so many clients leave in the middle; how many answers are still under way soon after."""
        rng, numbers = random.Random(1), itertools.count()

        async def come_and_leave() -> None:
            while self.left < clients:
                await self.ask(next(numbers), rng.random() * 0.3)

        await asyncio.gather(*(come_and_leave() for _ in range(SLOTS + QUEUE)))
        await asyncio.sleep(2)
        return sum(self.server.answers().values())

    def told(self) -> dict[str, Any]:
        refused = np.array(self.refused or [0.0])
        return {
            "answered": len(self.answered), "refused": len(self.refused), "left": self.left, "wrong": self.wrong[:20],
            "refusal_seconds": {f"p{p}": round(float(np.percentile(refused, p)), 4) for p in (50, 99, 100)},
            "memory_mb": [[round(part) for part in row] for row in (self.memory[:1] + self.memory[-1:])],
        }  # fmt: skip

    def flat(self) -> bool:
        """Whether no process has grown from the first quarter of the time to the last."""
        rows = np.array(self.memory)
        quarter = max(1, len(rows) // 4)
        first, last = rows[:quarter].max(0), rows[-quarter:].max(0)
        return bool((last <= first * (1 + FLAT) + 8).all())


def memory(process: int) -> float:
    """Resident, in MB."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


async def measured(server: Running, options: Any) -> list[dict[str, Any]]:
    load = Load(server, options.tokens)
    capacity = await load.learn()
    await load.at(options.times * capacity, options.seconds)
    over = {"load": f"{options.times:g} x", "questions_a_second": round(options.times * capacity, 1), **load.told(), "flat": load.flat()}
    print(json.dumps(over), file=sys.stderr)
    again = Load(server, options.tokens)
    await again.learn()
    kept = again.expected == load.expected
    leaked = await again.dropped(options.dropped)
    again.wrong, again.answered = [], []
    await asyncio.gather(*(again.ask(number) for number in range(SLOTS + QUEUE)))
    runs = [over, {"dropped": again.left, "leaked": leaked, "answered after": len(again.answered), "as before": kept, **again.told()}]
    if options.minutes:
        soak = Load(server, options.tokens)
        await soak.learn()
        await soak.at(0.8 * capacity, 60 * options.minutes, leaving=0.1)
        await asyncio.sleep(2)
        runs.append({"soak_minutes": options.minutes, **soak.told(), "flat": soak.flat(), "leaked": sum(server.answers().values())})
    return runs


def main() -> None:
    options = arguments(__doc__, model="", seconds=60.0, times=10.0, dropped=300, minutes=0.0, tokens=160)
    with tempfile.TemporaryDirectory() as place:
        model = options.model or models.made(Path(place))["base"]
        words = [f"asked={model}", "--slots", SLOTS, "--queue", QUEUE]
        with running(*words) as server:
            runs = asyncio.run(measured(server, options))
            alive = server.process.poll() is None
    over, dropped, *_ = runs
    p99 = over["refusal_seconds"]["p99"]
    good = [not run["wrong"] and run.get("flat", True) and not run.get("leaked") for run in runs]
    whole = dropped["as before"] and dropped["answered after"] == SLOTS + QUEUE
    reached = alive and all(good) and whole and p99 <= 0.25
    claim = (
        "ten times as many questions as can be answered: what is accepted is answered right, refusals take at most 250 ms at p99, memory "
        "is flat; of clients that leave in the middle no slot is lost"
    )
    measured_ = (
        f"{over['answered']} answered, {over['refused']} refused (p99 {1000 * p99:.0f} ms), {len(over['wrong'])} wrong, memory "
        f"{'flat' if over['flat'] else 'NOT flat'}; {dropped['dropped']} clients left, {dropped['leaked']} slots lost"
    )
    write("serve_overload", claim, measured_, runs, bool(reached))


if __name__ == "__main__":
    main()
