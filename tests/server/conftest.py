"""Tiny models, made once for all tests of the server."""

from pathlib import Path

import pytest

pytest.importorskip("fastapi")

from tests.server import models


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> dict[str, Path]:
    return models.made(tmp_path_factory.mktemp("served"))
