"""The model folder: written whole or not at all, and opened only when its parts belong together."""

import errno
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from fledge import presets
from fledge.arch import Arch, Classes, RmsNorm
from fledge.model import Transformer, initialise
from fledge.text.chat import FORMATS
from fledge.text.tokenizer import Tokenizer
from fledge.weights import files, staging
from fledge.weights.folder import ModelFolder, open_model, save_model, verify
from fledge.weights.hub import resolve

TOKENIZER = Tokenizer.bytes()
ARCH = presets.qwen3(16, 2, 2, 1, 8, 24, TOKENIZER.size, 32)
VECTORS = {"reads": "first", "normalised": True, "longest": 20}
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def model(arch: Arch = ARCH, seed: int = 0) -> Transformer:
    return initialise(Transformer(arch), seed)


def save(
    folder: Path, given: Transformer, chat: str | None = None, facts: dict | None = None, shard_bytes: int = files.SHARD_BYTES
) -> Path:
    save_model(folder, given, TOKENIZER, chat, facts or {}, None, "# tiny", shard_bytes=shard_bytes)
    return folder


def same(first: Transformer, second: Transformer) -> bool:
    one, two = first.state_dict(), second.state_dict()
    return first.arch == second.arch and one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def change(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_what_was_saved_is_opened(tmp_path: Path):
    given = model()
    facts = {"parent": "none", "scores": {"loss": 1.5}}
    save_model(tmp_path, given, TOKENIZER, "chatml", facts, {"do_sample": True, "temperature": 0.7}, "# A card\n")
    opened, tokenizer, got = open_model(tmp_path)
    assert same(opened, given)
    assert not opened.training
    assert tokenizer.fingerprint() == TOKENIZER.fingerprint()
    assert got["scores"] == facts["scores"]
    assert (got["parent"], got["chat"], got["names"]) == ("none", "chatml", "qwen3")
    assert got["chat_template"] == FORMATS["chatml"].template()
    assert got["generation"]["temperature"] == 0.7
    assert got["generation"]["eos_token_id"] == [TOKENIZER.end_of_text, TOKENIZER.special("<|im_end|>")]
    assert (tmp_path / "README.md").read_text() == "# A card\n"
    assert names(tmp_path) == {
        "config.json", WHOLE, "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json", "README.md",
        "fledge.json",
    }  # fmt: skip
    verify(tmp_path)
    save_model(tmp_path / "again", opened, tokenizer, got["chat"], got, got["generation"], "# A card\n")
    for path in tmp_path.iterdir():
        assert path.is_dir() or path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


def test_without_fledge_json_it_is_still_a_model(tmp_path: Path):
    given = model()
    save(tmp_path, given, "chatml")
    (tmp_path / "fledge.json").unlink()
    assert same(open_model(tmp_path)[0], given)


def test_a_foreign_chat_template_is_kept(tmp_path: Path):
    save(tmp_path, model(), "{{ messages }}")
    facts = open_model(tmp_path)[2]
    assert (facts["chat"], facts["chat_template"]) == (None, "{{ messages }}")
    with pytest.raises(ValueError, match="did you mean chatml"):
        save(tmp_path, model(), "chatlm")


def test_how_vectors_are_made_goes_with_the_model(tmp_path: Path):
    given = model()
    save(tmp_path, given, facts={"embedding": VECTORS})
    assert open_model(tmp_path)[2]["embedding"] == VECTORS
    assert {"modules.json", "sentence_bert_config.json", "1_Pooling"} <= names(tmp_path)
    save(tmp_path, given)
    assert "embedding" not in open_model(tmp_path)[2]
    assert not {"modules.json", "sentence_bert_config.json"} & names(tmp_path)


def test_own_names_where_no_family_fits(tmp_path: Path):
    block = replace(ARCH.trunk.pattern[0], norm_out=RmsNorm())
    given = model(replace(ARCH, decoder=replace(ARCH.trunk, pattern=(block,))))
    save(tmp_path, given)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == "fledge"
    assert "only fledge opens" in (tmp_path / "README.md").read_text()
    assert set(load_file(tmp_path / WHOLE)) == set(given.state_dict())
    assert same(open_model(tmp_path)[0], given)


def test_shards_and_back(tmp_path: Path):
    one, two = model(seed=1), model(seed=2)
    save(tmp_path, one)
    save(tmp_path, two, shard_bytes=10_000)
    shards = set(json.loads((tmp_path / INDEX).read_text())["weight_map"].values())
    assert len(shards) > 2
    assert shards == {path.name for path in tmp_path.glob("*.safetensors")}
    assert same(open_model(tmp_path)[0], two)
    verify(tmp_path)
    save(tmp_path, one, shard_bytes=20_000)
    assert not shards & names(tmp_path)
    assert same(open_model(tmp_path)[0], one)
    save(tmp_path, two)
    assert {path.name for path in tmp_path.glob("model*")} == {WHOLE}
    assert same(open_model(tmp_path)[0], two)


def test_shards_open_in_transformers(tmp_path: Path):
    import transformers

    given = model()
    save(tmp_path, given, shard_bytes=20_000)
    again, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    assert torch.equal(again.model.norm.weight, given.state_dict()["decoder.norm_final.weight"])


def test_a_changed_weight_is_seen_by_verify_alone(tmp_path: Path):
    save(tmp_path, model())
    tensors = load_file(tmp_path / WHOLE)
    tensors["model.norm.weight"] += 1
    save_file(tensors, tmp_path / WHOLE, {"format": "pt"})
    open_model(tmp_path)
    with pytest.raises(ValueError, match=r"model\.safetensors has SHA-256 \w{64}, but fledge\.json names \w{64}"):
        verify(tmp_path)


def test_disagreement_is_refused_with_both_values(tmp_path: Path):
    save(tmp_path, model(ARCH.with_head(Classes(("ham", "spam")))))
    facts = json.loads((tmp_path / "fledge.json").read_text())
    other = ARCH.with_head(Classes(("ham", "eggs"))).to_json()
    for changes, said in (
        ({"arch": {**facts["arch"], "vocabulary": 512}}, rf"arch\.vocabulary: {TOKENIZER.size} -> 512"),
        ({"arch": other}, r'arch\.head\.labels\.1: "spam" -> "eggs"'),
        ({"arch": {**facts["arch"], "dropout": 0.5}}, r"arch\.dropout: 0\.0 -> 0\.5"),
        ({"tokenizer": "f00d"}, rf"f00d, but the one beside it has {TOKENIZER.fingerprint()}"),
        ({"chat": "chatml"}, "chat format is chatml, but chat_template"),
    ):
        (tmp_path / "fledge.json").write_text(json.dumps({**facts, **changes}))
        with pytest.raises(ValueError, match=said):
            ModelFolder.at(tmp_path)


def test_a_tokenizer_larger_than_the_vocabulary_is_refused_on_both_sides(tmp_path: Path):
    small = model(replace(ARCH, vocabulary=TOKENIZER.size - 64))
    with pytest.raises(ValueError, match=f"tokenizer has {TOKENIZER.size} tokens"):
        save(tmp_path / "small", small)
    assert not (tmp_path / "small").exists()
    padded = model(replace(ARCH, vocabulary=TOKENIZER.size + 64))
    save(tmp_path / "padded", padded)
    assert same(open_model(tmp_path / "padded")[0], padded)


def test_mixed_number_types_need_a_dtype(tmp_path: Path):
    save(tmp_path, model())
    tensors = load_file(tmp_path / WHOLE)
    tensors["model.norm.weight"] = tensors["model.norm.weight"].bfloat16()
    save_file(tensors, tmp_path / WHOLE, {"format": "pt"})
    with pytest.raises(ValueError, match=r"model\.norm\.weight is torch\.bfloat16"):
        open_model(tmp_path)
    opened, _, _ = open_model(tmp_path, dtype=torch.float32)
    assert {parameter.dtype for parameter in opened.parameters()} == {torch.float32}


def test_pickles_are_refused(tmp_path: Path):
    save(tmp_path, model())
    (tmp_path / WHOLE).rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin, a pickle"):
        open_model(tmp_path)


@pytest.mark.parametrize("file", ["config.json", WHOLE])
def test_a_part_that_may_not_be_read_is_named(file: str, tmp_path: Path):
    part = save(tmp_path, model()) / file
    part.chmod(0)
    if os.access(part, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(PermissionError) as denied:
        open_model(tmp_path)
    assert denied.value.filename == str(part)


@pytest.mark.parametrize("part", ["config.json", "tokenizer.json", WHOLE])
def test_a_missing_part_is_named(part: str, tmp_path: Path):
    save(tmp_path, model())
    (tmp_path / part).unlink()
    with pytest.raises(FileNotFoundError, match=part.replace(".", r"\.")):
        open_model(tmp_path)


# Changes of a folder; each gives a pattern that the refusal must match.


def edit(folder: Path, dice: random.Random, kind: str) -> str:
    if kind in ("missing shard", "escape", "link out", "unlisted", "untrue index"):
        index = json.loads((folder / INDEX).read_text())
        listed = index["weight_map"]
        tensor = dice.choice(sorted(listed))
        file = listed[tensor]
        if kind == "missing shard":
            (folder / file).unlink()
            return file
        if kind == "link out":
            shutil.move(folder / file, folder.parent / "outside.safetensors")
            (folder / file).symlink_to(folder.parent / "outside.safetensors")
            return "outside of the folder"
        if kind == "unlisted":
            del listed[tensor]
        elif kind == "untrue index":
            listed[tensor] = dice.choice(sorted(set(listed.values()) - {file}))
        else:
            outside = folder.parent / "outside.safetensors"
            shutil.copy(folder / file, outside)
            listed[tensor] = dice.choice(
                [
                    "../outside.safetensors",
                    str(outside),
                    "https://example.org/a.safetensors",
                    "a/../b.safetensors",
                    "..\\a.safetensors",
                    "..",
                ]
            )
            (folder / INDEX).write_text(json.dumps(index))
            return "may only name"
        (folder / INDEX).write_text(json.dumps(index))
        return tensor.replace(".", r"\.")
    path = folder / WHOLE
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[: dice.randrange(path.stat().st_size)])
        return WHOLE
    if kind == "lying header":
        contents = bytearray(path.read_bytes())
        contents[:8] = dice.choice([0, 2**63, 10**9, len(contents), int.from_bytes(contents[:8], "little") - 1]).to_bytes(8, "little")
        path.write_bytes(contents)
        return WHOLE
    if kind == "vocabulary":
        change(folder / "config.json", vocab_size=TOKENIZER.size + dice.choice([-64, -1, 1, 64]))
        (folder / "fledge.json").unlink()
        return "embed_tokens|tokenizer has"
    if kind == "config":
        name = dice.choice(["hidden_size", "num_hidden_layers", "head_dim", "intermediate_size", "num_key_value_heads"])
        change(
            folder / "config.json",
            **{name: {"head_dim": 4, "num_key_value_heads": 2, "num_hidden_layers": 3}.get(name, 20)},
            layer_types=None,
        )
        (folder / "fledge.json").unlink()
        return r"tensor model\."
    tensors = load_file(path)
    tensor = dice.choice(sorted(tensors))
    if kind == "shape":
        tensors[tensor] = torch.cat((tensors[tensor], tensors[tensor][:1]))
    elif kind == "dtype":
        tensors[tensor] = tensors[tensor].to(dice.choice([torch.int64, torch.int8, torch.bool, torch.float16, torch.bfloat16]))
    elif kind == "missing":
        del tensors[tensor]
    elif kind == "extra":
        tensors[tensor + "_more"] = tensors[tensor].clone()
    elif kind == "renamed":
        tensors[tensor.replace(".", "_")] = tensors.pop(tensor)
    save_file(tensors, path, {"format": "pt"})
    return tensor.replace(".", r"[._]")


KINDS = (
    "shape", "dtype", "missing", "extra", "renamed", "vocabulary", "config", "truncated", "lying header", "escape", "link out", "unlisted",
    "untrue index", "missing shard",
)  # fmt: skip


@pytest.mark.parametrize("kind", [*KINDS, "untouched"])
def test_a_mutated_folder_is_refused_by_name(kind: str, tmp_path: Path):
    sharded = kind in KINDS[9:]
    given = model(ARCH.with_head(Classes(("ham", "spam"))))
    for seed in range(5):
        folder = save(tmp_path / str(seed), given, shard_bytes=20_000 if sharded else files.SHARD_BYTES)
        if kind == "untouched":
            assert same(open_model(folder)[0], given)
            continue
        said = edit(folder, random.Random(f"{kind} {seed}"), kind)
        with pytest.raises((ValueError, FileNotFoundError), match=said):
            open_model(folder)


def test_labels_that_the_head_does_not_have(tmp_path: Path):
    save(tmp_path, model(ARCH.with_head(Classes(("ham", "spam")))))
    change(tmp_path / "config.json", id2label={"0": "ham", "1": "spam", "2": "eggs"})
    (tmp_path / "fledge.json").unlink()
    with pytest.raises(
        ValueError, match=r"score\.weight has shape \(2, 16\), but config\.json needs \(3, 16\) for the labels ham, spam, eggs"
    ):
        open_model(tmp_path)


# Saves that are stopped.


@pytest.mark.parametrize("stop", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("call", range(3))
def test_stopped_before_the_decision_the_old_model_stays(call: int, stop: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    old = model(seed=1)
    save(tmp_path, old, "chatml")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    calls = iter(range(99))

    def failing(*arguments):
        if next(calls) == call:
            raise stop
        return save_file(*arguments)

    monkeypatch.setattr(files, "save_file", failing)
    with pytest.raises(type(stop)):
        save(tmp_path, model(seed=2), shard_bytes=10_000)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert same(open_model(tmp_path)[0], old)


def test_a_failure_of_the_library_is_one_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def failing(*arguments):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(files, "save_file", failing)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, model())
    assert not names(tmp_path)


def test_too_little_room_is_seen_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    old, new = model(seed=1), model(seed=2)
    save(tmp_path, old)
    needed = 4 * sum(parameter.numel() for parameter in new.parameters())
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: namedtuple("Usage", "total used free")(needed, 1, needed - 1))
    with pytest.raises(OSError, match=f"the model needs {needed:,} bytes and {needed - 1:,} are free") as full:
        save(tmp_path, new)
    assert full.value.errno == errno.ENOSPC
    assert same(open_model(tmp_path)[0], old)


@pytest.mark.parametrize("shard_bytes", [files.SHARD_BYTES, 20_000])
@pytest.mark.parametrize("function", ["replace", "rmdir", "unlink"])
def test_stopped_after_the_decision_the_new_model_is_finished(
    function: str, shard_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    new = model(presets.gpt2(16, 2, 2, TOKENIZER.size, 32), seed=2)
    real = getattr(os, function)
    for call in range(20):
        folder = save(tmp_path / str(call), model(seed=1), "chatml", shard_bytes=25_000)
        calls = iter(range(99))

        def failing(*arguments, **options):
            if next(calls) == call:  # noqa: B023 (called in this turn of the loop only)
                raise KeyboardInterrupt
            return real(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(os, function, failing)
            try:
                save(folder, new, facts={"embedding": VECTORS}, shard_bytes=shard_bytes)
            except KeyboardInterrupt:
                assert (folder / staging.SAVED).is_dir()
            else:
                break
        opened, _, facts = open_model(folder)
        assert same(opened, new)
        assert facts["chat"] is None
        assert facts["embedding"] == VECTORS
        assert "chat_template" not in facts
        verify(folder)
        assert not {staging.SAVED, staging.SAVING, staging.STALE} & names(folder)
    assert call > 0


RUN = """
import os, random, resource, signal, sys, time
from pathlib import Path
import torch
from fledge import presets
from fledge.model import Transformer, initialise
from fledge.text.tokenizer import Tokenizer
from fledge.weights.folder import open_model, save_model, verify

folder = Path(sys.argv[1])
torch.set_num_threads(1)
tokenizer = Tokenizer.bytes()
models = [initialise(Transformer(presets.qwen3(width, 2, 2, 1, 8, 24, tokenizer.size, 32)), width) for width in (16, 32)]

def save(i):
    save_model(folder, models[i], tokenizer, "chatml" if i else None, {"which": i}, None, "# tiny", shard_bytes=20_000 if i else 10**9)

def check():
    opened, _, facts = open_model(folder)
    state = models[facts["which"]].state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in opened.state_dict().items())
    verify(folder)

save(0)
resource.setrlimit(resource.RLIMIT_FSIZE, (15_000, resource.RLIM_INFINITY))
try:
    save(1)
except OSError as error:
    print("refused:", error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert not list(folder.glob(".sav*")) and open_model(folder)[2]["which"] == 0
check()

dice = random.Random(0)
for _ in range(int(sys.argv[2])):
    child = os.fork()
    if child == 0:
        while True:
            save(1), save(0)
    time.sleep(dice.uniform(0.001, 0.06))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    check()
print("survived")
"""


@pytest.mark.parametrize("kills", [10, pytest.param(400, marks=pytest.mark.slow)])
def test_a_full_disk_leaves_the_old_model_and_a_kill_one_of_both(kills: int, tmp_path: Path):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-c", RUN, str(tmp_path), str(kills)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"refused: .*the model needs [\d,]+ bytes and [\d,]+ were free", done.stdout)
    assert "survived" in done.stdout


# Names.


def test_names_that_are_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in (tmp_path / "none", "../none", "a/b/c", "no such thing"):
        with pytest.raises(FileNotFoundError, match="does not exist"):
            resolve(name)
    with pytest.raises(FileNotFoundError, match=r"Put config\.json, model\.safetensors, tokenizer\.json"):
        resolve("nobody/nothing-of-this-name")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file"):
        resolve(tmp_path / "file")


def test_a_model_in_the_hub_cache_is_opened_through_its_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from huggingface_hub import constants

    given = model()
    repository = tmp_path / "models--someone--tiny"
    snapshot = repository / "snapshots" / "abc"
    save(repository / "plain", given, shard_bytes=20_000)
    (repository / "blobs").mkdir()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    snapshot.mkdir(parents=True)
    for i, path in enumerate((repository / "plain").iterdir()):
        path.rename(repository / "blobs" / str(i))
        (snapshot / path.name).symlink_to(Path("../../blobs") / str(i))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path))
    assert same(open_model("someone/tiny")[0], given)
