"""`embed`: as sentence-transformers makes it, the same alone and beside others, from every family."""

import json

import numpy as np
import pytest
import torch
import transformers
from torch.nn import functional as F

import fledge

TEXTS = ["a short one", "def parse(self, text):\n    return text.split()", "x"]


def test_one_by_one_or_together_and_from_a_file(encoder, base, tmp_path, command):
    model = fledge.load(encoder)
    together = model.embed(TEXTS)
    assert together.shape == (3, 32)
    for text, row in zip(TEXTS, together, strict=True):
        np.testing.assert_allclose(model.embed(text), row, atol=1e-5)
    said = command("embed", encoder, TEXTS[0], "--json")
    np.testing.assert_allclose(said.json["vectors"], together[:1], atol=1e-5)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    for name in ("v.npy", "v.jsonl"):
        said = command("embed", encoder, "--file", tmp_path / "rows.jsonl", "--out", tmp_path / name, "--json")
        assert said.json == {"rows": 3, "width": 32, "out": str(tmp_path / name)}
    np.testing.assert_allclose(np.load(tmp_path / "v.npy"), together, atol=1e-6)
    kept = [json.loads(line) for line in (tmp_path / "v.jsonl").read_text().splitlines()]
    np.testing.assert_allclose(kept, together, atol=1e-6)
    assert command("embed", encoder, "--file", tmp_path / "rows.jsonl", "--out", tmp_path / "v.npy").code == 2
    assert command("embed", encoder, "a", "--pooling", "median").code == 2
    assert "empty" in command("embed", encoder, " ").err
    assert fledge.load(base).embed(TEXTS, "last").shape == (3, 32)
    assert not np.allclose(model.embed(TEXTS, "first"), together)


def test_the_folder_says_how(encoder, tmp_path):
    """modules.json and 1_Pooling/config.json, as sentence-transformers writes them; kept where the model is imported."""
    bare = transformers.AutoModel.from_pretrained(encoder, add_pooling_layer=False)
    bare.save_pretrained(tmp_path / "st")
    fledge.load(encoder).tokenizer.save(tmp_path / "st")
    parts = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"} for i, (kind, path) in enumerate(parts)
    ]
    (tmp_path / "st" / "modules.json").write_text(json.dumps(listed))
    (tmp_path / "st" / "1_Pooling").mkdir()
    pooling = tmp_path / "st" / "1_Pooling" / "config.json"
    for mode, reads in (("cls_token", "first"), ("mean_tokens", "mean")):
        pooling.write_text(json.dumps({"word_embedding_dimension": 32, f"pooling_mode_{mode}": True, "pooling_mode_max_tokens": False}))
        model = fledge.load(tmp_path / "st")
        assert model.facts["embedding"] == {"reads": reads, "normalised": True}
        tokens = torch.tensor([model.tokenizer.framed(model.tokenizer.encode(TEXTS[1]))])
        with torch.no_grad():
            states = bare.eval()(tokens).last_hidden_state[0]
        expected = F.normalize(states[0] if reads == "first" else states.mean(0), dim=-1)
        np.testing.assert_allclose(model.embed(TEXTS[1]), expected.numpy(), atol=1e-5)
    fledge.import_model(tmp_path / "st", out=tmp_path / "ours")
    np.testing.assert_array_equal(fledge.load(tmp_path / "ours").embed(TEXTS), model.embed(TEXTS))
    pooling.write_text(json.dumps({"pooling_mode_max_tokens": True}))
    with pytest.raises(ValueError, match="max_tokens, but fledge knows"):
        fledge.load(tmp_path / "st")
