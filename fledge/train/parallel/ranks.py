"""The processes that `torchrun` starts, as one run: who speaks, who waits for whom."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def rank() -> int:
    """This process's number, 0 where it is the only one."""
    return int(os.environ.get("RANK", "0"))


def ranks() -> int:
    """How many processes `torchrun` started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def joined() -> Iterator[None]:
    """Inside, this process is one of those that `torchrun` started; gloo serves what lies on the CPU, NCCL what lies on a GPU."""
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo")
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()
