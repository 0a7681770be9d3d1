"""What the server of processes imports before it forks them; torch itself loads more when something is first made on the meta device."""

import torch.distributed.fsdp  # noqa: F401

import fledge.train.training  # noqa: F401
from fledge.model import shell
from tests.train.families import FAMILIES

for arch in FAMILIES.values():
    shell(arch)
