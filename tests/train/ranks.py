"""Functions run on several processes at once, each forked from a server that has everything imported, as if `torchrun` had started them."""

import multiprocessing
import os
import pickle
import traceback
from collections.abc import Callable
from typing import Any

from torch.distributed import TCPStore


def on_ranks(count: int, function: Callable[..., Any], *arguments: Any, seconds: float = 280) -> list[Any]:
    """What `function(*arguments)` returns on each of so many ranks; the first traceback as an `AssertionError`."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["tests.train.warm"])
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    pipes, processes = [], []
    for rank in range(count):
        here, there = server.Pipe(duplex=False)
        process = server.Process(target=_work, args=(there, rank, count, store.port, function, arguments), daemon=True)
        process.start()
        there.close()
        pipes.append(here)
        processes.append(process)
    results, failures = [], []
    try:
        for rank, pipe in enumerate(pipes):
            try:
                good, found = pickle.loads(pipe.recv_bytes()) if pipe.poll(seconds) else (False, f"no answer within {seconds} s")
            except EOFError:
                good, found = False, "ended without an answer"
            results.append(found)
            if not good:
                failures.append(f"rank {rank}: {found}")
                seconds = min(seconds, 5.0)
        assert not failures, "\n".join(failures)
    finally:
        for process in processes:
            process.kill()
            process.join()
    return results


def _work(pipe: Any, rank: int, count: int, port: int, function: Callable[..., Any], arguments: tuple) -> None:
    import torch

    from fledge.train.parallel.ranks import joined

    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port, "MASTER_ADDR": "127.0.0.1"}
    told["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    os.environ.update({name: str(value) for name, value in told.items()})
    torch.set_num_threads(1)
    try:
        with joined():
            pipe.send_bytes(pickle.dumps((True, function(*arguments))))
    except BaseException:
        pipe.send_bytes(pickle.dumps((False, traceback.format_exc())))
