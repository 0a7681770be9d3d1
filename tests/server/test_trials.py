"""A share of the fuzzing; all of it: benchmarks/serve_fuzz.py."""

import pytest

pytest.importorskip("schemathesis")

from tests.server.starting import running
from tests.server.trials import KINDS, Fuzz, unfit

pytestmark = [
    pytest.mark.timeout(600),  # a busy machine starts a server slowly
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of schemathesis's own dependencies
]


@pytest.fixture(scope="module")
def server(folders):
    named = [f"{name}={folders[name]}" for name in ("base", "assistant", "classifier", "encoder")]
    with running(*named, "--tokens", 8) as started:
        yield started


@pytest.fixture
def fuzz(server):
    made = Fuzz(server.url)
    yield made
    made.close()


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_asked_is_answered_and_changes_nothing(fuzz, server, kind):
    before = fuzz.golden()
    fuzz.run(kind, 10, 1)
    assert fuzz.wrong == []
    assert fuzz.golden() == before
    assert not any(server.answers().values())


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_asked_often_is_answered_and_changes_nothing(fuzz, server, kind):
    before = fuzz.golden()
    fuzz.run(kind, 100, 2)
    assert fuzz.wrong == []
    assert fuzz.golden() == before


def test_a_fault_would_be_noticed():
    assert unfit(500, b"") == "status 500"
    assert unfit(404, b'{"detail": "Not Found"}') is not None
    assert unfit(404, b"Not Found") is not None
    assert unfit(404, b'{"error": {"message": "no", "type": "a", "param": null, "code": null}}') is None
