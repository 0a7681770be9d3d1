"""Tiny random models of `transformers`, perturbed so that no two tensors could be swapped unseen, against ours: both ways."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.nn import functional as F

from fledge.text.tokenizer import Tokenizer
from fledge.weights.families import family_of
from fledge.weights.files import Stored, read_json, save_tensors, sha256
from fledge.weights.folder import open_model, save_model
from fledge.weights.rules import write

TOKENIZER = Tokenizer.bytes()
VOCABULARY, CONTEXT = TOKENIZER.size, 96
IDS = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": TOKENIZER.pad}
QWEN3 = {
    **IDS, "max_position_embeddings": CONTEXT, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 48,
}  # fmt: skip
GPT2 = {**IDS, "n_positions": CONTEXT, "n_embd": 32, "n_layer": 3, "n_head": 4, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
LABELS = {"id2label": {0: "ham", 1: "spam", 2: "eggs"}, "label2id": {"ham": 0, "spam": 1, "eggs": 2}}
CASES = {
    "gpt2": lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2)),
    "gpt2 untied": lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2, tie_word_embeddings=False)),
    "gpt2 narrow": lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2, n_inner=40, layer_norm_epsilon=1e-3)),
    "gpt2 relu": lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2, activation_function="relu")),
    "gpt2 classes": lambda: transformers.GPT2ForSequenceClassification(transformers.GPT2Config(**GPT2, **LABELS)),
    "qwen3": lambda: transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**QWEN3)),
    "qwen3 tied": lambda: transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**QWEN3, tie_word_embeddings=True)),
    "qwen3 bias": lambda: transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**QWEN3, attention_bias=True, rms_norm_eps=1e-3)),
    "qwen3 base": lambda: transformers.Qwen3ForCausalLM(
        transformers.Qwen3Config(**QWEN3, rope_parameters={"rope_theta": 1e6, "rope_type": "default"}, hidden_act="gelu")
    ),
    "qwen3 window": lambda: transformers.Qwen3ForCausalLM(
        transformers.Qwen3Config(**QWEN3, use_sliding_window=True, sliding_window=5, max_window_layers=1)
    ),
    "qwen3 classes": lambda: transformers.Qwen3ForSequenceClassification(transformers.Qwen3Config(**QWEN3, **LABELS)),
}
LANGUAGE_MODELS = [name for name in CASES if "classes" not in name]
CLASSIFIERS = [name for name in CASES if "classes" in name]


def reference(case: str, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    model = CASES[case]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model


def saved(model: transformers.PreTrainedModel, folder: Path) -> Path:
    model.save_pretrained(folder)
    TOKENIZER.save(folder)
    return folder


def tokens(rows: int = 4, length: int = 24, seed: int = 1) -> torch.Tensor:
    return torch.randint(110, VOCABULARY - 40, (rows, length), generator=torch.Generator().manual_seed(seed))


def distance(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference, as a share of the range of the reference's logits."""
    return float((ours - theirs).abs().max() / (theirs.max() - theirs.min()))


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {name: gradient for name, gradient in found.items() if gradient is not None}


def padded(side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of 24, 17, 9 and 1 real tokens and their mask; what stands in the padding is <|pad|>."""
    ids, lengths = tokens(), torch.tensor([24, 17, 9, 1])[:, None]
    places = torch.arange(24)[None]
    mask = places < lengths if side == "right" else places >= 24 - lengths
    return torch.where(mask, ids, TOKENIZER.pad), mask


@pytest.mark.parametrize("case", LANGUAGE_MODELS)
def test_equal_logits(case: str, tmp_path: Path):
    theirs = reference(case)
    ours, _, _ = open_model(saved(theirs, tmp_path))
    ids = tokens()
    with torch.no_grad():
        assert distance(ours(ids), theirs(ids).logits) <= 2e-6


@pytest.mark.parametrize("case", LANGUAGE_MODELS)
def test_equal_logits_in_fp64(case: str, tmp_path: Path):
    theirs = reference(case)
    ours, _, _ = open_model(saved(theirs, tmp_path), dtype=torch.float64)
    ids = tokens()
    with torch.no_grad():
        error = distance(ours(ids), theirs.double()(ids).logits)
    assert error <= (1e-12 if "gpt2" in case else 1e-6)  # Qwen 3's norms and rotations are fp32 in the reference


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("case", LANGUAGE_MODELS)
def test_equal_logits_with_padding(case: str, side: str, tmp_path: Path):
    theirs = reference(case)
    ours, _, _ = open_model(saved(theirs, tmp_path))
    ids, mask = padded(side)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        expected = theirs(ids, attention_mask=mask.long(), position_ids=positions).logits
        got = ours(ids, positions, torch.where(mask, 0, -1))
    assert distance(got[mask], expected[mask]) <= 2e-6


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("case", CLASSIFIERS)
def test_classifiers_read_the_last_real_token(case: str, side: str, tmp_path: Path):
    theirs = reference(case)
    ours, _, _ = open_model(saved(theirs, tmp_path))
    assert ours.arch.labels == ("ham", "spam", "eggs")
    ids, mask = padded(side)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        expected = theirs(ids, attention_mask=mask.long(), position_ids=positions).logits
        assert distance(ours(ids, positions, torch.where(mask, 0, -1)), expected) <= 2e-6


@pytest.mark.parametrize("case", CASES)
def test_every_gradient_of_one_step(case: str, tmp_path: Path):
    theirs = reference(case)
    ours, _, _ = open_model(saved(theirs, tmp_path))
    ids = tokens()
    for scores in (ours(ids), theirs(ids).logits):
        labels = torch.arange(4) % 3 if scores.dim() == 2 else ids.roll(-1, 1)
        F.cross_entropy(scores.flatten(0, -2), labels.flatten()).backward()
    rules = family_of(theirs.config.to_dict()).table(ours.arch)
    got = dict(write(rules, gradients(ours)))
    expected = gradients(theirs)
    assert set(got) == set(expected)
    for name, gradient in expected.items():
        assert (got[name] - gradient).abs().max() <= 1e-5 * gradient.abs().max(), name


@pytest.mark.parametrize("case", CASES)
def test_saved_by_us_it_opens_in_transformers(case: str, tmp_path: Path):
    theirs = reference(case)
    ours, _, _ = open_model(saved(theirs, tmp_path / "theirs"))
    save_model(tmp_path / "ours", ours, TOKENIZER, None, {}, None, "# tiny")
    opener = transformers.AutoModelForSequenceClassification if ours.arch.labels else transformers.AutoModelForCausalLM
    again, report = opener.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values()), report
    assert type(again) is type(theirs)
    ids, _ = padded("right")
    with torch.no_grad():
        assert torch.equal(again.eval()(ids).logits, theirs(ids).logits)
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert tokenizer("The sky")["input_ids"] == TOKENIZER.encode("The sky")
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (TOKENIZER.end_of_text, TOKENIZER.pad)
    if ours.arch.labels:
        assert again.config.id2label == LABELS["id2label"]


@pytest.mark.parametrize("case", LANGUAGE_MODELS)
def test_the_same_64_greedy_tokens(case: str, tmp_path: Path):
    ours, _, _ = open_model(saved(reference(case), tmp_path / "theirs"))
    save_model(tmp_path / "ours", ours, TOKENIZER, None, {}, {"max_new_tokens": 64}, "# tiny")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    prompt = tokens(1, 8)
    expected = theirs.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, eos_token_id=None)
    row = prompt
    with torch.no_grad():
        for _ in range(64):
            row = torch.cat((row, ours(row)[:, -1].argmax(-1, keepdim=True)), 1)
    assert row.tolist() == expected.tolist()


@pytest.mark.parametrize("case", CASES)
def test_written_again_the_file_is_the_same_bit_for_bit(case: str, tmp_path: Path):
    folder = saved(reference(case), tmp_path / "theirs")
    ours, _, _ = open_model(folder)
    save_model(tmp_path / "ours", ours, TOKENIZER, None, {}, None, "# tiny")
    theirs, again = Stored(folder), Stored(tmp_path / "ours")
    assert set(theirs.place) == set(again.place)
    for name in theirs.place:
        assert torch.equal(theirs.tensor(name).view(torch.uint8), again.tensor(name).view(torch.uint8)), name
    model, _, _ = open_model(tmp_path / "ours")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor.view(torch.uint8), ours.state_dict()[name].view(torch.uint8)), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_kept_bit_for_bit(dtype: torch.dtype, tmp_path: Path):
    theirs = reference("gpt2").to(dtype)
    ours, _, _ = open_model(saved(theirs, tmp_path / "theirs"))
    assert {parameter.dtype for parameter in ours.parameters()} == {dtype}
    save_model(tmp_path / "ours", ours, TOKENIZER, None, {}, None, "# tiny", dtype=dtype)
    assert read_json(tmp_path / "ours" / "config.json")["dtype"] == str(dtype).removeprefix("torch.")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    for (name, got), expected in zip(again.named_parameters(), theirs.parameters(), strict=True):
        assert got.dtype == dtype, name
        assert torch.equal(got, expected), name


def test_a_bare_trunk_and_old_buffers_are_read(tmp_path: Path):
    theirs = reference("gpt2")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in theirs.transformer.state_dict().items()}
    for i in range(3):
        bare |= {f"h.{i}.attn.bias": torch.ones(1, 1, 8, 8), f"h.{i}.attn.masked_bias": torch.tensor(-1e4)}
    save_tensors(bare.items(), saved(theirs, tmp_path))
    ours, _, _ = open_model(tmp_path)
    with torch.no_grad():
        assert distance(ours(tokens()), theirs(tokens()).logits) <= 2e-6


def test_a_tied_head_may_be_stored_twice_but_not_differ(tmp_path: Path):
    theirs = reference("gpt2")
    folder = saved(theirs, tmp_path)
    tensors = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    save_tensors(tensors.items(), folder)
    ours, _, _ = open_model(folder)
    assert ours.head.weight is ours.embedding.weight
    tensors["lm_head.weight"][0, 0] += 1
    save_tensors(tensors.items(), folder)
    with pytest.raises(ValueError, match=r"lm_head\.weight differs"):
        open_model(folder)


def test_training_an_opened_model_leaves_its_file_alone(tmp_path: Path):
    folder = saved(reference("qwen3 tied"), tmp_path)
    before = sha256(folder / "model.safetensors")
    model, _, _ = open_model(folder)
    assert model.head.weight is model.embedding.weight
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model(tokens()).square().mean().backward()
    optimizer.step()
    assert sha256(folder / "model.safetensors") == before
    fresh, _, _ = open_model(folder)
    assert all(not torch.equal(a, b) for a, b in zip(model.parameters(), fresh.parameters(), strict=True))
