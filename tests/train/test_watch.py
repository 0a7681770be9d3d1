"""What happens to one rank ends the whole job soon, by name, and the same command goes on: with the real `torchrun`."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch.distributed import TCPStore

from fledge.train import checkpoint
from fledge.train.parallel import watch
from fledge.train.parallel.watch import Watch, gone
from tests.train.toy import a_run, go
from tests.train.troubled import RANK, STEP

ROOT = Path(__file__).parents[2]


def start(folder: Path, how: str) -> subprocess.CompletedProcess:
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3", "-m", "tests.train.troubled", str(folder), how]
    return subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize("ends", [Watch.leave, lambda seen: seen.end("it failed")])
def test_no_thread_of_it_is_left_when_python_ends(monkeypatch, ends):
    """One that comes back from the store then ends the process with an abort, in place of its exit code."""
    monkeypatch.setattr(watch, "BEAT", 0.0)
    store = TCPStore("localhost", 0, is_master=True)
    lines = [TCPStore("localhost", store.port, is_master=False) for _ in range(2)]
    for turn in range(20):
        seen = Watch(*lines, rank=0, ranks=1)
        ends(seen)
        assert not seen.is_alive(), turn


@pytest.mark.parametrize("left", [True, False])
def test_only_who_has_not_left_is_dead(monkeypatch, left):
    """The other ends just after it was heard, before it is looked up."""
    monkeypatch.setattr(watch, "BEAT", 0.0)
    store = TCPStore("localhost", 0, is_master=True)
    lines = [TCPStore("localhost", store.port, is_master=False) for _ in range(2)]
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    told = {"beat": 1, "step": 7, "doing": "training", "stuck": 0.0, "waits": False, "left": False, "pid": other.pid, "host": watch.HERE}
    store.set("beat/1", json.dumps(told))
    listen, blamed, rounds = Watch.listen, [], []

    def heard_before_its_end(seen: Watch) -> None:
        listen(seen)
        rounds.append(seen)
        if other.poll() is None:
            store.set("beat/1", json.dumps(told | {"beat": 2, "left": left}))
            other.communicate(b"\n")

    monkeypatch.setattr(Watch, "listen", heard_before_its_end)
    monkeypatch.setattr(Watch, "blame", lambda _, *culprit: blamed.append(culprit))
    seen = Watch(*lines, rank=0, ranks=2)
    while len(rounds) < 5:
        time.sleep(0.01)
    seen.leave()
    assert set(blamed) == (set() if left else {(1, "is dead")})


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("how", "said"), [("killed", "is dead"), ("stopped", "no sign of life"), ("hangs", "hangs"), ("fails", "failed")])
def test_what_happens_to_one_rank_ends_all(tmp_path, how, said):
    ended = start(tmp_path, how)
    took = time.time() - json.loads((tmp_path / "struck.json").read_text())["at"]
    assert ended.returncode != 0
    named = [line for line in ended.stderr.splitlines() if line.startswith("fledge: rank")]
    print(how, f"{took:.1f} s", named)
    assert len(named) == 1, ended.stderr[-3000:]
    assert f"rank {RANK} of 3, in step {STEP - 1}" in named[0] or f"rank {RANK} of 3, in step {STEP}" in named[0]
    assert said in named[0]
    assert took < 30
    pids = {int(pid) for path in tmp_path.glob("pids-*") for pid in path.read_text().split()}
    assert len(pids) == 3
    assert all(gone(pid) for pid in pids)
    assert checkpoint.saved_steps(tmp_path / "run") == [5]

    again = start(tmp_path, how)
    assert again.returncode == 0, again.stderr[-3000:]
    assert "Going on from" in again.stdout
    found = checkpoint.newest_good(tmp_path / "run", pytest.fail)
    go(a_run(steps=12, dropout=0.0, save_steps=5), tmp_path / "alone", evaluate=None)
    alone = checkpoint.newest_good(tmp_path / "alone" / "run", pytest.fail)
    assert found is not None
    assert alone is not None
    assert found.step == alone.step == 12
    assert found.facts["loss"] == pytest.approx(alone.facts["loss"], rel=1e-5)
