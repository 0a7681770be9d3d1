"""llama2.c's files: what real trained weights say, and what is refused."""

import struct
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from fledge.arch import parameter_count
from fledge.weights.folder import open_model, save_model
from fledge.weights.llama2c import read_llama2c
from tests.weights.references import distance


@pytest.fixture(scope="module")
def stories(data: Path) -> Path:
    return data / "weights" / "stories260K.bin"


def test_transformers_goes_on_with_the_same_tokens(stories: Path, tmp_path: Path):
    model, tokenizer = read_llama2c(stories)
    save_model(tmp_path, model, tokenizer, None, {}, {"max_new_tokens": 200}, "# stories")
    theirs: Any = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert theirs.config.model_type == "llama"
    words: Any = transformers.AutoTokenizer.from_pretrained(tmp_path)
    prompt = [*tokenizer.opening, *tokenizer.encode("Once upon a time")]
    assert prompt == [1, 403, 407, 261, 378]  # as llama2.c's own run has them
    given = words("Once upon a time", return_tensors="pt")
    assert given["input_ids"].tolist() == [prompt]
    row, cache, written = given["input_ids"], model.cache(1, 512), list(prompt)
    with torch.no_grad():
        assert distance(model(row), theirs(row).logits) <= 2e-6
        expected = theirs.generate(**given, do_sample=False)[0].tolist()
        while len(written) < len(expected):
            row = model(row, cache=cache)[:, -1].argmax(-1, keepdim=True)
            written.append(int(row))
    assert written == expected
    text = tokenizer.decode(written)
    assert text == words.decode(expected, skip_special_tokens=True)
    assert text.startswith("Once upon a time, there was a little girl named Lily. She loved to play outside in the park.")
    opened, again, _ = open_model(tmp_path)
    assert opened.arch == model.arch
    assert parameter_count(model.arch) == 260_032
    assert again.fingerprint() == tokenizer.fingerprint()
    assert all(torch.equal(tensor, opened.state_dict()[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("text", ["The cat sat.", "  two  spaces ", "日本 and ñ", "line\nbreak", "<s> is text", "</s>", "<0x0A>", ""])
def test_every_text_comes_back_and_none_is_a_control_token(stories: Path, text: str):
    _, tokenizer = read_llama2c(stories)
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    assert not set(tokens) & set(tokenizer.controls.values())


def test_what_is_no_such_file_is_refused(stories: Path, tmp_path: Path):
    contents = stories.read_bytes()
    for name, changed, said in (
        ("pytorch_model.bin", b"PK\x03\x04" + contents, "is a pickle"),
        ("old.bin", b"\x80\x02" + contents, "is a pickle"),
        ("empty.bin", b"", "0 bytes"),
        ("cut.bin", contents[:-4], "1,056,536 bytes, but the sizes in its header need 1,056,540"),
        ("long.bin", contents + b"0000", "need 1,056,540"),
        ("heads.bin", contents[:12] + struct.pack("<i", 7) + contents[16:], "64 does not divide into 7 heads"),
        ("negative.bin", struct.pack("<i", -64) + contents[4:], "no llama2.c file"),
        ("whole.bin", contents, r"put tokenizer\.bin or tok512\.bin there"),
    ):
        (tmp_path / name).write_bytes(changed)
        with pytest.raises((ValueError, FileNotFoundError), match=said):
            read_llama2c(tmp_path / name)
    words = (stories.parent / "tok512.bin").read_bytes()
    for changed in (words[:-1], words + struct.pack("<fi", 0, 1) + b"x", words[:8], words[:8] + struct.pack("<i", -3) + words[12:]):
        (tmp_path / "tok512.bin").write_bytes(changed)
        with pytest.raises(ValueError, match=r"no tokenizer of llama2\.c for this model"):
            read_llama2c(tmp_path / "whole.bin")
