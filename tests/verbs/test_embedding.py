"""`embed`: as sentence-transformers makes it, the same alone and beside others, from every family."""

import json
from pathlib import Path
from typing import Any

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


PARTS = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]
LONGEST = 12


def published(encoder: Path, folder: Path, pooling: dict, parts: list[tuple[str, str]] = PARTS, **limit) -> Path:
    """A folder as sentence-transformers publishes it: the bare encoder, and how its states become one vector."""
    transformers.AutoModel.from_pretrained(encoder, add_pooling_layer=False).save_pretrained(folder)
    fledge.load(encoder).tokenizer.save(folder)
    types = [f"sentence_transformers.models.{kind}" for kind, _ in parts]
    listed = [{"idx": i, "name": str(i), "path": path, "type": types[i]} for i, (_, path) in enumerate(parts)]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **pooling}))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": LONGEST, "do_lower_case": False, **limit}))
    return folder


def by_hand(folder: Path, text: str, longest: int) -> np.ndarray:
    """As sentence-transformers reads the folder: tokens up to the limit, states, pooling, length one."""
    words: Any = transformers.AutoTokenizer.from_pretrained(folder)
    given = words(text, truncation=True, max_length=longest, return_tensors="pt")
    with torch.no_grad():
        states = transformers.AutoModel.from_pretrained(folder).eval()(**given).last_hidden_state[0]
    told = json.loads((folder / "1_Pooling" / "config.json").read_text())
    mode = told.get("pooling_mode") or next(key for key, on in told.items() if key.startswith("pooling_mode_") and on)
    vector = states.mean(0) if "mean" in mode else states[0] if "cls" in mode else states[-1]
    whole = len(json.loads((folder / "modules.json").read_text())) == 2
    return (vector if whole else F.normalize(vector, dim=-1)).numpy()


MODES = [
    ({"pooling_mode_cls_token": True, "pooling_mode_max_tokens": False}, "first"),
    ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
    ({"pooling_mode": "lasttoken", "include_prompt": True}, "last"),  # as version 6 writes it
]


@pytest.mark.parametrize(("pooling", "reads"), MODES, ids=[reads for _, reads in MODES])
@pytest.mark.parametrize("parts", [PARTS, PARTS[:2]], ids=["normalised", "whole"])
def test_the_folder_says_how_and_is_written_so(pooling, reads, parts, encoder, tmp_path):
    theirs = published(encoder, tmp_path / "theirs", pooling, parts)
    model = fledge.load(theirs)
    assert model.facts["embedding"] == {"reads": reads, "normalised": len(parts) == 3, "longest": LONGEST}
    fledge.import_model(theirs, out=tmp_path / "ours")
    again = fledge.load(tmp_path / "ours")
    assert again.facts["embedding"] == model.facts["embedding"]
    limit = json.loads((tmp_path / "ours" / "sentence_bert_config.json").read_text())["max_seq_length"]
    for text in TEXTS:
        expected = by_hand(theirs, text, LONGEST)
        np.testing.assert_allclose(model.embed(text), expected, atol=1e-5)
        np.testing.assert_array_equal(again.embed(text), model.embed(text))
        np.testing.assert_allclose(by_hand(tmp_path / "ours", text, limit), expected, atol=1e-6)


def test_the_limit_may_stand_with_the_tokenizer(encoder, tmp_path):
    folder = published(encoder, tmp_path, {"pooling_mode": "mean"})
    (folder / "sentence_bert_config.json").write_text("{}")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "model_max_length": LONGEST}))
    np.testing.assert_allclose(fledge.load(folder).embed(TEXTS[1]), by_hand(folder, TEXTS[1], LONGEST), atol=1e-5)


def test_sentence_transformers_opens_what_is_written(encoder, tmp_path):
    library = pytest.importorskip("sentence_transformers")
    for pooling, reads in MODES:
        theirs = published(encoder, tmp_path / reads / "theirs", pooling)
        fledge.import_model(theirs, out=tmp_path / reads / "ours")
        expected = library.SentenceTransformer(str(theirs)).encode(TEXTS)
        np.testing.assert_allclose(library.SentenceTransformer(str(tmp_path / reads / "ours")).encode(TEXTS), expected, atol=1e-6)
        np.testing.assert_allclose(fledge.load(tmp_path / reads / "ours").embed(TEXTS), expected, atol=1e-5)


def test_other_vectors_are_refused(encoder, tmp_path):
    mean = {"pooling_mode": "mean"}
    for number, (pooling, parts, limit, said) in enumerate(
        [
            ({"pooling_mode_max_tokens": True}, PARTS, {}, "pools by max, but fledge knows one of mean, cls, lasttoken"),
            ({"pooling_mode": ["cls", "mean"]}, PARTS, {}, "pools by cls and mean"),
            (mean, [*PARTS[:2], ("Dense", "2_Dense")], {}, "lists Transformer, Pooling, Dense"),
            (mean, PARTS, {"do_lower_case": True}, "lowers the case"),
            (mean, [PARTS[0], ("Pooling", "../0/1_Pooling")], {}, "may only be a folder in this one"),
            (mean, [PARTS[0], ("Pooling", "..")], {}, "may only be a folder in this one"),
        ]
    ):
        folder = published(encoder, tmp_path / str(number), pooling, parts, **limit)
        with pytest.raises(ValueError, match=said):
            fledge.load(folder)
    folder = published(encoder, tmp_path / "prompt", mean)
    (folder / "modules.json").write_text('["Pooling"]')
    with pytest.raises(ValueError, match=r"modules\.json is no list of modules"):
        fledge.load(folder)
    folder = published(encoder, tmp_path / "prompt", mean)
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"default_prompt_name": "query"}))
    with pytest.raises(ValueError, match="default_prompt_name to null"):
        fledge.load(folder)
