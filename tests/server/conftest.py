"""Tiny models, made once for all tests of the server."""

from pathlib import Path

import pytest

pytest.importorskip("fastapi")

from tests.server import models


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests of a module share a server, so they go to one worker (`--dist loadgroup`)."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> dict[str, Path]:
    return models.made(tmp_path_factory.mktemp("served"))
