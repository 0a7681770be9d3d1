"""`--lora`: adapters instead of models, from each way of fine-tuning, and every command that takes a model takes one."""

import json

import pytest
import torch
from safetensors.torch import load_file

import fledge
from fledge.generation import Engine, Request, Sampling
from fledge.model.quantised import Quantised
from fledge.weights import save_model

SMALL = ["batch.rows=2", "batch.context=128"]
ASKED = [[104, 101, 108, 108, 111, 32]]


@pytest.fixture(scope="module")
def adapter(base, questions, tmp_path_factory):
    out = tmp_path_factory.mktemp("models") / "adapter"
    fledge.finetune.instruct(questions, out=out, from_=str(base), lora=4, epochs=1, set=SMALL)
    return out


def test_an_adapter_is_a_peft_folder_that_names_its_base(adapter, base):
    config, facts = (json.loads((adapter / name).read_text()) for name in ("adapter_config.json", "fledge.json"))
    assert (config["peft_type"], config["r"], config["lora_alpha"], config["task_type"]) == ("LORA", 4, 8.0, "CAUSAL_LM")
    assert config["base_model_name_or_path"] == str(base)
    assert facts["base"] == {"name": str(base), "weights": json.loads((base / "fledge.json").read_text())["weights"]}
    scores = facts["scores"]["perplexity of held-out answers"]
    assert scores["after"] < scores["before"]
    assert not (adapter / "config.json").exists()
    assert not (adapter / "model.safetensors").exists()


def test_a_checkpoint_holds_the_adapter_and_its_optimiser_alone(adapter):
    step = max((adapter / "run").glob("step-*"), key=lambda path: int(path.name[5:]))
    held = load_file(step / "weights.safetensors")
    assert held
    assert all(".low." in name or name == "embedding.rows.values" for name in held)
    tokenizer, learned = (
        fledge.load(adapter).tokenizer,
        json.loads((adapter / "adapter_config.json").read_text())["trainable_token_indices"],
    )
    [tokens] = learned.values()
    assert held["embedding.rows.values"].shape[0] == len(tokens)
    assert {tokenizer.special("<|im_start|>"), tokenizer.special("<|im_end|>")} < set(tokens)  # which the base has never read
    low = sum(tensor.numel() for name, tensor in held.items() if ".low." in name)
    assert held["embedding.rows.values"].numel() <= low
    assert {name.rpartition("/")[0] for name in load_file(step / "optimizer.safetensors")} == held.keys()


def test_every_command_takes_an_adapter(adapter, base, questions, tmp_path, command, text):
    assert command("generate", adapter, "Repeat", "--max-tokens", 3).code == 0
    assert "the weights are those that were saved" in command("show", adapter, "--verify").out
    assert command("evaluate", adapter, "--on", text, "--json").code == 0
    assert command("embed", adapter, "hello").code == 0
    assert "⟦0!<|im_end|>⟧" in command("show", questions, "--from", adapter, "--rows", 1).out
    assert command("evaluate", adapter, "--on", questions, "--json").code == 0
    said = command("import", adapter, "--out", tmp_path / "merged", "--json")
    assert said.code == 0
    merged = fledge.load(tmp_path / "merged")
    torch.testing.assert_close(merged.logits(ASKED), fledge.load(adapter).logits(ASKED))
    assert not torch.allclose(merged.logits(ASKED), fledge.load(base).logits(ASKED), atol=1e-3)
    assert merged.chat_format is not None
    assert (tmp_path / "merged" / "config.json").is_file()


@pytest.fixture
def another(base, tmp_path):
    """A model of the same shape as the base."""
    model = fledge.load(base)
    with torch.no_grad():
        model.network.embedding.weight += 1
    save_model(tmp_path / "another", model.network, model.tokenizer, None, {}, None, "# Another\n")
    return tmp_path / "another"


def test_several_adapters_on_one_base(adapter, base, another, messages, tmp_path):
    fledge.finetune.classify(messages, out=tmp_path / "spam", from_=str(base), lora=4, epochs=8, set=["optimizer.rate=2e-2"])
    model = fledge.load(base, adapters={"assistant": adapter, "spam": tmp_path / "spam"})
    torch.testing.assert_close(model.logits(ASKED), fledge.load(base).logits(ASKED), rtol=0, atol=0)
    torch.testing.assert_close(model.adapters["assistant"].logits(ASKED), fledge.load(adapter).logits(ASKED))
    assert model.adapters["spam"].predict("4 free prize")["label"] == "spam"
    assert model.adapters["spam"].predict("free prize")["scores"] == pytest.approx(
        fledge.load(tmp_path / "spam").predict("free prize")["scores"]
    )
    with pytest.raises(ValueError, match="not for"):
        fledge.load(another, adapters={"a": adapter})


def test_adapters_share_a_base_in_8_bits(adapter, base):
    whole = fledge.load(base, dtype="bfloat16", adapters={"assistant": adapter})
    model = fledge.load(base, dtype="int8", adapters={"assistant": adapter})
    for one, near in ((model, whole), (model.adapters["assistant"], whole.adapters["assistant"])):
        held, scores = one.logits(ASKED), near.logits(ASKED)
        assert 0 < (held - scores).abs().max() < 0.05 * scores.abs().max()
    maps = [{id(part) for part in one.network.modules() if isinstance(part, Quantised)} for one in (model, model.adapters["assistant"])]
    assert maps[0]
    assert maps[0] == maps[1]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_adapters_write_in_every_precision(adapter, base, dtype):
    """What they write is the best by whole forwards, up to rounding; words of the chat format are rows of their own."""
    model = fledge.load(base, dtype=dtype, adapters={"assistant": adapter}).adapters["assistant"]
    engine, read = Engine(model.network, model.tokenizer), list(ASKED[0])
    [said] = engine.run([Request(read, 6, Sampling(temperature=0.0), ())])
    assert len(said.tokens) == 6
    for token in said.tokens:
        scores = model.logits([read])[0, -1].clone()
        scores[list(model.tokenizer.controls.values())] = -torch.inf  # which are never written
        assert scores[token] > scores.max() - 0.1
        read.append(token)


def test_what_an_adapter_cannot_be(adapter, base, questions, messages, tmp_path, command):
    out = ["--out", tmp_path / "x"]
    again = command("finetune", "instruct", questions, *out, "--from", adapter, "--lora", 4)
    assert again.code == 2
    assert f"fledge import {adapter} --out DIR" in again.err
    nothing = command("finetune", "classify", messages, *out, "--arch", "fledge-1m", "--lora", 4)
    assert nothing.code == 2
    assert "--from MODEL" in nothing.err
    both = command("finetune", "classify", messages, *out, "--from", base, "--lora", 4, "--train", "head")
    assert both.code == 2
    strange = command("finetune", "instruct", questions, *out, "--from", base, "--lora", 4, "--set", 'adapter.targets=["q_prj"]')
    assert strange.code == 2
    assert "did you mean" in strange.err
    assert command("finetune", "instruct", questions, *out, "--from", base, "--lora", 0).code == 2
    assert not (tmp_path / "x").exists()
    full = command("finetune", "instruct", questions, *out, "--from", adapter, "--epochs", 1, *(f"--set={value}" for value in SMALL))
    assert full.code == 0
    assert (tmp_path / "x" / "config.json").is_file()
