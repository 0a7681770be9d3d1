"""`import`: from a folder that transformers wrote, from llama2.c's file, and from nowhere."""

import json
from typing import Any

import pytest
import torch
import transformers

import fledge
from tests.weights.references import TOKENIZER, make, saved, target, tokens


def test_a_folder_in_shards_becomes_one_of_ours(tmp_path, command):
    theirs = make("mixtral").to(torch.bfloat16)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    TOKENIZER.save(tmp_path / "theirs")
    assert len(list((tmp_path / "theirs").glob("model-*.safetensors"))) > 2
    said = command("import", tmp_path / "theirs", "--out", tmp_path / "ours", "--json")
    assert said.json["family"] == "mixtral"
    again: Any = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert again.dtype == torch.bfloat16
    for name, parameter in theirs.named_parameters():
        assert torch.equal(again.get_parameter(name), parameter), name
    assert json.loads((tmp_path / "ours" / "fledge.json").read_text())["parent"]["name"] == str(tmp_path / "theirs")
    assert fledge.load(str(tmp_path / "ours")).generate("The", max_tokens=3)


def test_a_family_is_kept_though_another_says_the_same(tmp_path):
    """Phi-3 without a window is a Llama but for how its tensors are cut."""
    theirs = make("phi3")
    theirs.config.sliding_window = None
    assert fledge.import_model(saved(theirs, tmp_path / "theirs"), out=tmp_path / "ours").family == "phi3"


def test_logits_of_a_source_and_a_target(tmp_path):
    theirs = make("t5 1.1")
    model = fledge.load(str(saved(theirs, tmp_path)))
    source, written = tokens(2, 7), target(2, 5)
    with torch.no_grad():
        expected = theirs(source, decoder_input_ids=written).logits
    torch.testing.assert_close(model.logits(source.tolist(), written.tolist()), expected)
    with pytest.raises(ValueError, match="reads a source and writes a target"):
        model.logits(source.tolist())
    assert isinstance(model.generate("The sky", max_tokens=3), str)


def test_llama2c(data, tmp_path, command):
    said = command("import", data / "weights" / "stories260K.bin", "--out", tmp_path)
    assert said.code == 0
    assert "llama" in said.out
    story = command("generate", tmp_path, "Once upon a time", "--max-tokens", 40)
    assert story.out.startswith(", there was a little girl named Lily. She loved to play outside in the park.")


def test_a_t5_with_its_sentence_pieces_alone_writes(data, tmp_path, command):
    """Version 1.1: gated, its head a matrix of its own."""
    shape: Any = {"vocab_size": 32_128, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0}
    torch.manual_seed(0)
    theirs: Any = transformers.T5ForConditionalGeneration(transformers.T5Config(**shape, feed_forward_proj="gated-gelu")).eval()
    theirs.config.scale_decoder_outputs = False
    theirs.lm_head.weight = torch.nn.Parameter(torch.randn(32_128, 16))
    theirs.save_pretrained(tmp_path / "theirs")
    (tmp_path / "theirs" / "spiece.model").write_bytes((data / "tokenizers" / "t5" / "spiece.model").read_bytes())
    assert command("import", tmp_path / "theirs", "--out", tmp_path / "ours").code == 0
    written = command("generate", tmp_path / "ours", "The sky is", "--max-tokens", 8, "--temperature", 0).out
    words: Any = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    expected = theirs.generate(**words("The sky is", return_tensors="pt"), max_new_tokens=8, do_sample=False)
    assert written.strip() == words.decode(expected[0], skip_special_tokens=True).strip()
    assert written.strip()


def test_a_bert_with_its_vocabulary_alone_fills_masks(data, tmp_path, command):
    shape = {"vocab_size": 30_522, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    torch.manual_seed(0)
    theirs = transformers.BertForMaskedLM(transformers.BertConfig(**shape, max_position_embeddings=64)).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    (tmp_path / "theirs" / "vocab.txt").write_bytes((data / "tokenizers" / "bert-base-uncased" / "vocab.txt").read_bytes())
    assert command("import", tmp_path / "theirs", "--out", tmp_path / "ours").code == 0
    [chances] = command("predict", tmp_path / "ours", "The [MASK] is blue.", "--json").json["masks"]
    words: Any = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    asked = words("The [MASK] is blue.", return_tensors="pt")
    with torch.no_grad():
        scores = theirs(**asked).logits[0, asked.input_ids[0] == words.mask_token_id][0]
    best = scores.index_fill(0, torch.tensor(words.all_special_ids), -torch.inf).softmax(0).topk(5)
    assert list(chances) == [words.decode([word]) for word in best.indices]
    assert list(chances.values()) == pytest.approx(best.values.tolist(), rel=1e-4)


def test_wrong_use_is_said(data, tmp_path, command):
    taken = command("import", "openai-community/gpt2", "--out", data / "weights")
    assert taken.code == 2
    assert "choose another --out" in taken.err
    said = command("import", "openai-community/gpt2-of-nobody", "--out", tmp_path / "m")
    assert said.code == 2
    assert "Put config.json, model.safetensors, tokenizer.json and tokenizer_config.json" in said.err
    assert not (tmp_path / "m").exists()
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK\x03\x04")
    assert "is a pickle" in command("import", tmp_path / "pytorch_model.bin", "--out", tmp_path / "m").err
    assert "leave it out" in command("import", tmp_path, "--out", tmp_path / "m", "--tokenizer", "t.bin").err


DRAWN = {
    "gemma-2-2b": "window 4,096", "t5-small": "distance bias", "gpt-oss-20b": "4 of 32 experts", "modernbert-base": "14 x attention",
}  # fmt: skip


@pytest.mark.parametrize("name", DRAWN)
def test_a_preset_is_drawn_in_parts(name, command):
    said = command("show", name)
    assert said.code == 0
    assert DRAWN[name] in said.out
    assert max(map(len, said.out.splitlines())) <= 80
    assert said.out.count("\n") < 16
    assert said.out == fledge.show(name).text + "\n"
