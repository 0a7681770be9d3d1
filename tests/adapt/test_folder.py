"""Adapter folders: what PEFT opens has our scores, what PEFT saves has its own here, and a base that is gone or another is told."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fledge.adapt.folder import ADAPTER, TENSORS, Base, open_adapted, open_model, save_adapter
from fledge.adapt.low import attach, changes_of, maps_of, trained
from fledge.adapt.settings import Lora
from fledge.model import Transformer, with_new_head
from fledge.weights import open_model as open_whole
from fledge.weights.families import classifier
from tests.weights.references import PAIRS, TOKENIZER, References, distance, make, references, target, tokens

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")
__all__ = ["references"]
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")  # of PEFT
LABELS = ("ham", "spam", "eggs")
OPENERS = {
    "pairs": transformers.AutoModelForSeq2SeqLM,
    "words": transformers.AutoModelForMaskedLM,
    "decoder": transformers.AutoModelForCausalLM,
}


def opener(case: str):
    return OPENERS["pairs" if case in PAIRS else "words" if case == "bert" else "decoder"]


def ours(model: Transformer, case: str) -> Tensor:
    with torch.no_grad():
        return model(target(), memory=model.encode(tokens())) if case in PAIRS else model(tokens())


def theirs(model, case: str) -> Tensor:
    with torch.no_grad():
        return model(input_ids=tokens(), **({"decoder_input_ids": target()} if case in PAIRS else {})).logits


def perturbed(model) -> None:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in trained(model).values():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


def written(folder: Path, base: Path, lora: Lora, labels: tuple[str, ...] = ()) -> Transformer:
    """An adapter folder of ours, with the model that it was made of."""
    network, tokenizer, facts = open_whole(base, dtype=torch.float32)
    if labels:
        network = with_new_head(network, classifier(network.arch, labels, preferred=facts["names"]))
    attach(network, changes_of(maps_of(network, facts["names"]), lora), tokens=lora.tokens)
    perturbed(network)
    kept = {"names": facts["names"]}
    save_adapter(folder, network.arch, trained(network), lora, Base.of(base), tokenizer, None, kept, None, "# An adapter\n")
    return network.eval()


@pytest.mark.parametrize(
    ("case", "lora"),
    [
        ("gpt2", Lora(4, 8.0)),
        ("gpt2", Lora(4, targets=("attn.c_attn", "mlp.c_proj"), ranks=(("c_proj", 2),), dora=True)),
        ("qwen3", Lora(4, targets=("q_proj", r"layers\.1\..*down_proj"))),
        ("phi3", Lora(3, 5.0, dora=True)),
        ("bert", Lora(4)),
        ("t5 1.1", Lora(4)),
        ("qwen3", Lora(2, tokens=(5, 2))),
        ("qwen3 tied", Lora(2, tokens=(5, 2))),
        ("gpt2", Lora(2, tokens=(5,), targets=("c_attn",))),
    ],
)
def test_peft_opens_what_we_save_and_we_what_it_saves(references: References, tmp_path, case, lora):
    base = references.folder(case)
    model = written(tmp_path / "ours", base, lora)
    opened = peft.PeftModel.from_pretrained(opener(case).from_pretrained(base, dtype=torch.float32), tmp_path / "ours").eval()
    expected = theirs(opened, case)
    assert distance(ours(model, case), expected) < 1e-5
    assert distance(theirs(references.theirs(case), case), expected) > 1e-3
    assert distance(ours(open_adapted(tmp_path / "ours")[0], case), expected) < 1e-5
    assert distance(ours(open_model(tmp_path / "ours")[0], case), expected) < 1e-5
    opened.save_pretrained(tmp_path / "theirs")
    ours_now, theirs_now = load_file(tmp_path / "ours" / TENSORS), load_file(tmp_path / "theirs" / TENSORS)
    assert ours_now.keys() == theirs_now.keys()
    assert all(torch.equal(ours_now[name], theirs_now[name]) for name in ours_now)
    again, words, _ = open_model(tmp_path / "theirs")
    assert distance(ours(again, case), expected) < 1e-5
    assert words.fingerprint() == TOKENIZER.fingerprint()


@pytest.mark.parametrize("case", ["gpt2", "bert", "distilbert", "qwen3"])
def test_a_classifiers_head_goes_with_its_adapter(references: References, tmp_path, case):
    base = references.folder(case)
    model = written(tmp_path / "ours", base, Lora(4), LABELS)
    kind = transformers.AutoModelForSequenceClassification
    opened = peft.PeftModel.from_pretrained(kind.from_pretrained(base, num_labels=3, dtype=torch.float32), tmp_path / "ours").eval()
    expected = theirs(opened, case)
    assert distance(ours(model, case), expected) < 1e-5
    found, _, _ = open_model(tmp_path / "ours")
    assert found.arch.labels == LABELS
    assert distance(ours(found, case), expected) < 1e-5
    opened.save_pretrained(tmp_path / "theirs")
    again, _, _ = open_model(tmp_path / "theirs")
    assert again.arch.labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    assert distance(ours(again, case), expected) < 1e-5


@pytest.fixture
def small(references: References, tmp_path) -> tuple[Path, Path]:
    """A base of its own and an adapter for it."""
    base = tmp_path / "base"
    shutil.copytree(references.folder("gpt2"), base)
    written(tmp_path / "adapter", base, Lora(2))
    return base, tmp_path / "adapter"


def test_a_base_that_is_gone_is_told(small):
    base, adapter = small
    base.rename(base.with_name("elsewhere"))
    with pytest.raises(FileNotFoundError, match=r"adapter for .*base, which is not there.*base_model_name_or_path"):
        open_model(adapter)


def test_a_base_that_has_changed_is_told(small):
    base, adapter = small
    make("gpt2", seed=1).save_pretrained(base)
    with pytest.raises(ValueError, match=r"model.safetensors had SHA-256 .* bring back the model"):
        open_model(adapter)


def test_an_adapter_of_another_kind_is_refused(small):
    _, adapter = small
    config = json.loads((adapter / ADAPTER).read_text())
    for change, words in (
        ({"trainable_token_indices": {"other": [1]}}, "wte"),
        ({"peft_type": "IA3"}, "peft_type"),
        ({"use_rslora": True}, "use_rslora"),
        ({"bias": "all"}, "bias"),
    ):
        (adapter / ADAPTER).write_text(json.dumps({**config, **change}))
        with pytest.raises(ValueError, match=words):
            open_model(adapter)


@pytest.mark.parametrize(("name", "words"), [("lacking", "missing"), ("another", "no such part"), ("narrow", "shape")])
def test_every_tensor_is_claimed(small, name, words):
    _, adapter = small
    held = load_file(adapter / TENSORS)
    first = min(held)
    if name == "lacking":
        held.pop(first.replace("lora_A", "lora_B"))
    elif name == "another":
        held["base_model.model.transformer.h.9.attn.c_attn.lora_A.weight"] = torch.zeros(2, 2)
    else:
        held[first] = held[first][:, :-1].clone()
    save_file(held, adapter / TENSORS)
    with pytest.raises(ValueError, match=words):
        open_model(adapter)


def test_a_base_is_a_whole_model(small):
    with pytest.raises(ValueError, match="fledge import"):
        Base.of(small[1])
