"""`export`: one file for llama.cpp, opened there before it is called done, or a sentence."""

import sys
from pathlib import Path

from fledge.verbs.exporting import about_of


def test_an_assistant_becomes_a_file_that_llama_cpp_reads_alike(assistant, command, tmp_path):
    said = command("export", assistant, "--to", "gguf", "--out", tmp_path / "a.gguf", "--quantize", "f32", "--json")
    assert said.code == 0, said.err
    assert said.json["out"] == str(tmp_path / "a.gguf")
    assert said.json["bytes"] == (tmp_path / "a.gguf").stat().st_size
    assert (said.json["graph"], said.json["quantize"], said.json["checked"]["chat"]) == ("qwen3", "f32", "ids")
    assert said.json["checked"]["difference"] < 1e-4


def test_in_a_folder_a_file_is_called_by_the_convention_and_says_what_the_card_does(base, command, tmp_path):
    from gguf import GGUFReader

    said = command("export", base, "--to", "gguf", "--out", tmp_path)
    assert said.code == 0, said.err
    [path] = tmp_path.iterdir()
    assert path.name.startswith("base-")
    assert path.name.endswith("K-F16.gguf")
    assert "opened in llama.cpp" in said.out
    fields = GGUFReader(path).fields
    assert fields["general.name"].contents() == "base"
    assert fields["general.description"].contents().startswith("A transformer of")
    again = command("export", base, "--to", "gguf", "--out", path)
    assert again.code == 2
    assert "exists: choose another" in again.err


def test_a_card_with_facts_at_its_head_tells_them(tmp_path: Path):
    (tmp_path / "README.md").write_text("---\nlicense: mit\nlanguage: de\ntags: [poems]\n---\n# Heine\n\nWrites poems.\n\n## Data\n")
    found = {"name": "Heine", "description": "Writes poems.", "license": "mit", "languages": ["de"], "tags": ["poems"]}
    assert about_of(tmp_path) == found
    (tmp_path / "README.md").unlink()
    assert about_of(tmp_path) == {"name": tmp_path.name}


def test_what_cannot_be_exported_is_refused_in_a_sentence(base, classifier, command, tmp_path, monkeypatch):
    for words, reason in (
        ((classifier, "--to", "gguf", "--out", tmp_path / "c.gguf"), "this model is a classifier"),
        ((base, "--to", "gguf", "--out", tmp_path / "base.bin"), "has to end in .gguf, or to be a folder"),
        ((base, "--to", "onnx", "--out", tmp_path / "b.gguf"), "gguf"),
    ):
        said = command("export", *words)
        assert said.code == 2
        assert reason in said.err
    monkeypatch.setitem(sys.modules, "gguf", None)
    said = command("export", base, "--to", "gguf", "--out", tmp_path / "b.gguf")
    assert (said.code, "pip install 'fledge[export]'" in said.err) == (2, True)
    assert not list(tmp_path.iterdir())
