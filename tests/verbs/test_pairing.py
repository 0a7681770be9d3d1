"""`finetune pairs` on a person's own rows: learned, resumed, opened elsewhere, refused with a reason."""

import json
import shutil

import pytest
import torch
import transformers

import fledge
from fledge.data import parallel
from fledge.verbs.finetune.pairing import EXAMPLES, PairsJob
from fledge.verbs.session import open_worded

SMALL = ["arch.width=48", "arch.heads=4", "arch.depth=1", "arch.dropout=0.0"]
DIGITS = [f"{i * 7919 % 1000:03}" for i in range(1000)]


@pytest.fixture(scope="module")
def reversals(tmp_path_factory):
    """Three digits, and the same backwards."""
    path = tmp_path_factory.mktemp("pairs") / "reversed.jsonl"
    with path.open("w") as file:
        for digits in DIGITS[:900]:
            file.write(json.dumps({"source": digits, "target": digits[::-1]}) + "\n")
    return path


@pytest.fixture(scope="module")
def translator(reversals, tmp_path_factory):
    out = tmp_path_factory.mktemp("models") / "translator"
    settings = [*SMALL, "optimizer.rate=1e-2", "optimizer.adamw_rate=1e-2", "schedule.warmup=30", "batch.rows=32", "save.patience=0"]
    fledge.finetune.pairs(
        reversals, out=out, arch="transformer-base", tokenizer="characters", epochs=10, set=settings, label_smoothing=0.05
    )
    return out


def test_it_learns_to_write_digits_backwards(translator):
    model = fledge.load(translator)
    asked = DIGITS[900:]
    written = model.generate(asked, beams=1)
    right = sum(text == one[::-1] for text, one in zip(written, asked, strict=True))
    assert right >= 90
    assert sum(text == one[::-1] for text, one in zip(model.generate(asked, beams=4), asked, strict=True)) >= right - 2
    assert "".join(model.stream(asked[0])) == model.generate(asked[0])
    assert model.targets([asked[0], "1" * 600], beams=1)[0] == written[0]
    with pytest.raises(ValueError, match="shorten it by 89"):
        model.generate("1" * 600)
    with pytest.raises(ValueError, match="does not sample"):
        model.generate(asked[0], temperature=0.5)


def test_as_many_targets_are_written_as_the_time_allows(reversals, translator):
    training, held_out = parallel.split(parallel.read_parallel(str(reversals)), 0.1, 0)
    parent = open_worded(translator)
    job = PairsJob(training, held_out, parent, anew=False, seconds=1e6)
    whole = job.written(parent.network, {"max_new_tokens": 8})
    assert len(whole) == len(held_out.sources) > EXAMPLES
    assert job.written(parent.network, {"max_new_tokens": 8}, 1e6) == whole
    assert job.written(parent.network, {"max_new_tokens": 8}, -1.0) == whole[:EXAMPLES]
    assert 0 < job.rehearsed(parent.network) < 60


def test_what_comes_after_the_last_step_is_planned(reversals, tmp_path, command):
    said = command("finetune", "pairs", reversals, "--out", tmp_path / "m", "--arch", "transformer-base", "--time", "6s", "--json",
                   *(word for setting in SMALL for word in ("--set", setting)))  # fmt: skip
    assert said.code == 0, said.err
    assert EXAMPLES <= said.json["measured"] <= len(DIGITS)
    plan = json.loads((tmp_path / "m" / "run" / "run.json").read_text())["plan"]
    assert 0.02 * 6 < plan["reserve"] < 0.12 * 6 + 1e-9


def test_the_folder_opens_elsewhere_and_writes_the_same(translator):
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(translator).eval()
    model = fledge.load(translator)
    for text in ("123", "907"):
        tokens = model.tokenizer.framed(model.tokenizer.encode(text))
        made = theirs.generate(torch.tensor([tokens]), max_new_tokens=12)[0].tolist()
        assert model.tokenizer.decode(made) == model.generate(text, max_tokens=12)


def test_resumed_is_bit_equal_and_the_run_tells_all(reversals, tmp_path, command):
    ends = []
    for name in ("whole", "resumed"):
        out = tmp_path / name
        words = ["finetune", "pairs", reversals, "--out", out, "--arch", "t5-small", "--vocab", 448, "--epochs", 2, "--json"]
        for setting in (*SMALL, "arch.gated=true", "arch.tied=false", "save.steps=5", "batch.rows=40"):
            words += ["--set", setting]
        done = command(*words)
        assert done.code == 0, done.err
        if name == "resumed":
            shutil.rmtree(max((int(place.name[5:]), place) for place in (out / "run").glob("step-*"))[1])
            done = command(*words)
            assert "Going on from" in done.err
        ends.append((out / "model.safetensors").read_bytes())
    assert ends[0] == ends[1]
    run = json.loads((tmp_path / "whole" / "run" / "run.json").read_text())
    assert run["schedule"]["kind"] == "InverseRoot"
    assert run["data"]["smoothing"] == 0.1
    assert "source: 'source', target: 'target'" in done.err
    went_on = fledge.finetune.pairs(reversals, out=tmp_path / "on", from_=tmp_path / "whole", epochs=1)
    assert went_on.steps > 0


def test_a_decoder_is_refused(base, reversals, tmp_path, command):
    said = command("finetune", "pairs", reversals, "--out", tmp_path / "m", "--from", base)
    assert said.code == 2
    assert "finetune instruct" in said.err


def test_evaluate_measures_what_is_written(translator, reversals, command):
    pytest.importorskip("sacrebleu")
    pytest.importorskip("rouge_score")
    said = command("evaluate", translator, "--on", reversals, "--beams", 1, "--json")
    assert said.code == 0, said.err
    measures = {score["measure"]: score for score in said.json["scores"]}
    assert measures["ROUGE-L"]["value"] > 90
    assert "version" in measures["BLEU"]["signature"]
