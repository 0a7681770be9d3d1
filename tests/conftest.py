"""What every test needs: no network, one thread for each of several workers, and where the real data lies."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("patient", deadline=None)  # a busy machine is no fault
settings.load_profile("patient")

# Before anything imports them: a hub that is out of reach costs 23 s a call without the first two.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real data, which is not shipped; a test that asks for it is skipped where there is none."""
    folder = os.environ.get("FLEDGE_DATA")
    if not folder:
        pytest.skip("FLEDGE_DATA is not set: it names the folder of real texts that this test reads")
    path = Path(folder).resolve()
    if not path.is_dir():
        raise FileNotFoundError(f"FLEDGE_DATA is {folder}, which is no folder")
    return path
