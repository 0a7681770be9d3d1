"""`plan`: what a training would take, here or on devices that are not here."""

import pytest

import fledge
from fledge.arch import parameter_count
from fledge.presets import PRESETS
from fledge.verbs.planning import PlannedFleet, PlannedRun, count_of


def test_a_preset_on_many_devices(command):
    words = "plan fledge-1m --devices 4 --device h100 --tokens 1B --context 256 --price-per-hour 2 --recompute no --set arch.depth=3 --json"
    said = command(*words.split())
    assert said.code == 0, said.err
    found = said.json
    assert found["fits"]
    assert found["nearest"] is None
    assert found["parameters"] == parameter_count(PRESETS["fledge-1m"].arch(depth=3))
    assert found["layout"]["data"] * found["layout"]["tensor"] == 4
    assert found["memory"]["all"] == sum(found["memory"][kind] for kind in ("weights", "gradients", "optimizer", "activations", "exchange"))
    assert found["steps"] * found["batch_tokens"] == pytest.approx(1e9, rel=0.01)
    assert found["price"] == pytest.approx(2 * found["seconds"] / 3600 * 4)
    assert found["utilisation"] == 0.4
    assert "reduce_scatter_base" in {row["name"] for row in found["exchange"]}
    tables = said.err[said.err.index("model ") :]
    assert max(map(len, tables.splitlines())) <= 80
    for word in ("memory of a device", "weights", "optimizer", "gathers weights", "--utilisation", "arXiv:2407.21783", "3 x 128"):
        assert word in tables, word


def test_a_model_folder_on_this_processor(base, command):
    found = command("plan", base, "--device", "cpu", "--batch-tokens", 512, "--context", 64, "--json").json
    assert found["device"]["name"] == "cpu"
    assert found["device"]["flops"] > 1e8
    assert found["batch_tokens"] == 512
    assert found["exchange"] == []
    assert found["tokens"] == 20 * found["parameters"]


def test_what_does_not_fit_names_the_nearest_that_does(command):
    words = "gpt2-medium --device rtx4090 --rows 256 --recompute no --batch-tokens 65536 --context 256"
    said = command("plan", *words.split())
    assert said.code == 0
    assert "does not fit" in said.out
    assert "The nearest that does: --rows" in said.out


def test_a_text_by_the_one_dial(text, command):
    said = command("plan", text, "--time", "60s", "--json")
    assert said.code == 0, said.err
    found = said.json
    assert found["run"]["plan"]["seconds"] == 60
    assert found["tokens"] == found["steps"] * found["run"]["batch"]["rows"] * found["run"]["batch"]["context"]
    assert 0.5 < found["expected"]["bits_per_byte"] < 8
    assert not list(text.parent.glob("fledge-plan-*"))


def test_a_mixture_of_texts(text, command):
    texts = [f"a={text}", f"b={text.with_name('csv.py')}"]
    said = command("plan", *texts, "--time", "60s", "--arch", "fledge-1m", "--set", "arch.depth=1", "--mix", "a=0.5,b=0.5", "--json")
    assert said.code == 0, said.err
    assert said.json["run"]["data"]["mix"] == [["a", 0.5], ["b", 0.5]]
    assert "Mixture: a 50.0%" in said.err
    twice = command("plan", *texts, "--mix", "a=1", "--temperature", 0.5)
    assert twice.code == 2
    assert "give one of them" in twice.err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("gpt3-175x", "did you mean gpt3-175b"),
        ("gpt2 --device h1000", "did you mean h100"),
        ("gpt2 --time 3m", "--time plans a text, but gpt2 is a model"),
        ("gpt2 --mix a=1", "--mix plans a text, but gpt2 is a model"),
        ("gpt2 --devices 0", "--devices 0 is none"),
        ("gpt2 --utilisation 1.5", "no share of a peak"),
        ("gpt2 --tokens many", "give for example 300B"),
        ("gpt2 --context 2048", "the model takes 1,024 tokens"),
        ("gpt2 --device h100 --devices 1024 --batch-tokens 8k", "8 rows of 1,024, but 1,024 devices need 256"),
        ("electra-small --device h100", "no scores for words"),
        ("gpt2 --device h100 --tensor 8", "--tensor 8 does not go here"),
    ],
)
def test_bad_input_gets_a_sentence(command, words, expected):
    said = command("plan", *words.split())
    assert said.code == 2
    assert expected in said.err
    assert "Traceback" not in said.err


def test_devices_are_no_matter_of_a_text(text, command):
    said = command("plan", text, "--devices", 8)
    assert said.code == 2
    assert "--devices plans a preset or a model, but" in said.err


@pytest.mark.parametrize(("text", "count"), [("300B", 3e11), ("4M", 4e6), ("512k", 512e3), ("2,048", 2048), ("1.5t", 1.5e12)])
def test_numbers_of_tokens(text, count):
    assert count_of(text, "--tokens") == count


def test_the_functions_answer_with_what_the_command_prints():
    found = fledge.plan(["fledge-1m"], device="h100", context=64, recompute="no", batch_tokens="512")
    assert isinstance(found, PlannedFleet)
    assert not isinstance(found, PlannedRun)
    assert str(found).startswith("fledge-1m on one h100: ")
