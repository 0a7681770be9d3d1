"""From start to end: loading, draining, a second signal, an engine that dies, clients that dawdle."""

import os
import signal
import socket
import threading
import time
from pathlib import Path

import httpx2
import pytest

from fledge.cli import main
from tests.server.starting import KEY, PATIENCE, Running, running

pytestmark = pytest.mark.timeout(600)  # a busy machine starts a server slowly
LOCK = {"Authorization": f"Bearer {KEY}"}
LONG = {"model": "base", "prompt": "a", "max_tokens": 600, "logit_bias": {"0": -100}, "temperature": 1.0, "seed": 1}


def asked(server: Running, found: list) -> threading.Thread:
    """A long question that is under way once this returns; its answer is put into `found`."""

    def ask() -> None:
        try:
            found.append(server.web.post("/v1/completions", json=LONG, headers=LOCK))
        except httpx2.HTTPError as error:
            found.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    while not server.answers()["base"]:
        time.sleep(0.01)
    return thread


def test_a_server_that_ends_answers_what_is_under_way(folders):
    found: list = []
    with running(folders["base"], ready=False) as server:
        while server.health() is None:
            time.sleep(0.02)
        early = server.web.post("/v1/completions", json=LONG, headers=LOCK)
        if server.health() == "loading":
            assert early.status_code == 503
            assert early.json()["error"]["code"] == "loading"
            assert early.headers["retry-after"]
        while server.health() != "ready":
            time.sleep(0.05)
        thread = asked(server, found)
        server.process.terminate()
        deadline = time.monotonic() + 20
        while server.health() != "draining":
            assert time.monotonic() < deadline
        late = server.web.post("/v1/completions", json=LONG, headers=LOCK)
        assert late.status_code == 503
        assert late.json()["error"]["code"] == "draining"
        thread.join()
        assert server.process.wait(PATIENCE) == 0, server.said()
        assert f"{server.url} was asked 1 times" in server.said()
    assert found[0].status_code == 200
    assert found[0].json()["usage"]["completion_tokens"] == 600


@pytest.mark.slow
def test_a_second_signal_ends_at_once(folders):
    found: list = []
    with running(folders["base"]) as server:
        engine, thread = server.engine(), asked(server, found)
        server.process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        assert server.ended(signal.SIGINT, within=PATIENCE) == 130
        assert "second signal" in server.said()
        thread.join()
        with pytest.raises(ProcessLookupError):
            os.kill(engine, 0)


def test_an_engine_that_dies_is_noticed_and_said(folders):
    found: list = []
    with running(folders["base"]) as server:
        thread = asked(server, found)
        os.kill(server.engine(), signal.SIGKILL)
        assert server.process.wait(PATIENCE) == 1
        assert "the engine's process was killed by SIGKILL" in server.said()
        assert "fledge serve" in server.said() or "-m fledge" in server.said()
        thread.join()
        assert found[0].status_code == 500
        assert "the engine has ended" in found[0].json()["error"]["message"]


@pytest.mark.slow
def test_a_server_that_is_killed_takes_its_engine_along(folders):
    with running(folders["base"]) as server:
        engine = server.engine()
        server.process.kill()
        server.process.wait()
        deadline = time.monotonic() + 10
        while (stat := Path(f"/proc/{engine}/stat")).exists() and " Z " not in stat.read_text().rpartition(")")[2][:4]:
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.fixture
def command(capsys):
    """Runs `fledge ...` in this process: its exit code and what it wrote to standard error."""

    def run(*words) -> tuple[int, str]:
        return main([str(word) for word in words]), capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    ("words", "key", "said"),
    [
        (["{base}", "--host", "0.0.0.0"], None, "needs a key"),
        (["{base}", "--host", "0.0.0.0"], "short", "at least 8 characters"),
        (["{base}", "{base}"], None, "two models are named base"),
        (["{base}", "--key-file", "nowhere"], None, "nowhere"),
        (["{base}", "--slots", "0"], None, "slots is 0"),
        (["{base}", "--host", "no.such.host.example"], KEY, "cannot listen"),
        ([], None, "serve needs a model"),
    ],
)
def test_wrong_use_is_one_sentence_before_anything_is_loaded(folders, command, monkeypatch, words, key, said):
    monkeypatch.delenv("FLEDGE_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("FLEDGE_KEY", key)
    code, err = command("serve", *[word.format(base=folders["base"]) for word in words])
    assert code == 2
    assert said in err


def test_a_model_that_cannot_be_opened_is_one_sentence(folders, tmp_path):
    with running(tmp_path / "nowhere", ready=False) as server:
        assert server.process.wait(PATIENCE) == 2
        assert "nowhere does not exist" in server.said()
        assert "Traceback" not in server.said()


def test_a_port_that_is_taken_is_said(folders, command):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, err = command("serve", folders["base"], "--port", taken.getsockname()[1])
    assert code == 2
    assert "choose another with --port" in err
