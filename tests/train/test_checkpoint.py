import errno
import json
import random
import shutil
from collections import namedtuple

import pytest
import torch

from fledge.train import checkpoint
from fledge.train.checkpoint import newest_good, prune, save, saved_steps


def fill(folder, steps=(1, 2, 3)):
    for step in steps:
        save(
            folder,
            step,
            {"w": torch.full((50,), float(step))},
            {"w/exp_avg": torch.zeros(50), "w/step": torch.tensor(3.0)},
            {"tokens": step},
        )


def newest(folder, say=pytest.fail) -> checkpoint.Checkpoint:
    found = newest_good(folder, say)
    assert found is not None
    return found


def test_what_is_saved_is_loaded(tmp_path):
    fill(tmp_path)
    found = newest(tmp_path)
    assert (found.step, found.facts) == (3, {"step": 3, "tokens": 3})
    assert torch.equal(found.weights["w"], torch.full((50,), 3.0))
    assert found.optimizer["w/step"].item() == 3.0
    assert newest_good(tmp_path / "nowhere", pytest.fail) is None


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
def test_a_damaged_one_is_named_and_the_one_before_is_taken(tmp_path, name, damage):
    fill(tmp_path)
    path = tmp_path / "step-3" / name
    content = bytearray(path.read_bytes())
    if damage == "delete":
        path.unlink()
    else:
        place = random.Random(name + damage).randrange(len(content))
        content[place] ^= 0x81
        path.write_bytes(content if damage == "flip" else content[:place])
    heard = []
    assert newest(tmp_path, heard.append).step == 2
    assert "step-3 is broken" in heard[0]


def test_a_manifest_that_names_files_elsewhere_is_broken(tmp_path):
    fill(tmp_path, [1, 2])
    manifest = tmp_path / "step-2" / "manifest.json"
    said = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**said, "../step-1/state.json": said["state.json"]}))
    heard = []
    assert newest(tmp_path, heard.append).step == 1
    assert "lies elsewhere" in heard[0]


def test_when_all_are_broken_it_does_not_start_anew_in_silence(tmp_path):
    fill(tmp_path, [1, 2])
    for step in (1, 2):
        (tmp_path / f"step-{step}" / "manifest.json").unlink()
    with pytest.raises(ValueError, match="none of the 2 checkpoints"):
        newest_good(tmp_path, lambda sentence: None)


def test_pruning_keeps_the_last_the_best_and_no_rest(tmp_path):
    fill(tmp_path, range(1, 8))
    (tmp_path / "step-9.unfinished").mkdir()
    prune(tmp_path, keep=2, spared=[3])
    assert saved_steps(tmp_path) == [3, 6, 7]
    assert not (tmp_path / "step-9.unfinished").exists()


def test_too_little_room_is_seen_before_anything_is_written(tmp_path, monkeypatch):
    fill(tmp_path, [1])
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda folder: namedtuple("Usage", "total used free")(100, 90, 10))
    with pytest.raises(OSError, match="needs 404 bytes and 10 are free") as full:
        fill(tmp_path, [2])
    assert full.value.errno == errno.ENOSPC
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-1"]


@pytest.mark.parametrize("call", ["save_file", "sha256", "sync"])
def test_a_crash_anywhere_in_saving_leaves_the_older_one(tmp_path, monkeypatch, call):
    fill(tmp_path, [1])

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, call, crash)
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path, [2])
    monkeypatch.undo()
    assert newest(tmp_path).step == 1
    fill(tmp_path, [2])
    assert newest(tmp_path).step == 2


def test_saving_a_step_again_replaces_it(tmp_path):
    fill(tmp_path, [1, 2, 2])
    shutil.rmtree(tmp_path / "step-1")
    assert newest(tmp_path).step == 2
