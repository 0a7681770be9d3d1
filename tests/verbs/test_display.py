"""`show`: presets, models, corpora, and which tokens are trained on; models that are not whole are refused."""

import json
import shutil

import pytest

import fledge
from fledge.data.batches import IGNORED, Conversations
from fledge.data.instructions import read_instructions, tokenized
from fledge.presets import PRESETS
from fledge.text import FORMATS
from fledge.verbs.lens import lit


def test_a_preset_a_model_and_a_corpus(base, command):
    assert fledge.show("gpt2").facts["parameters"] == 124_439_808
    model = command("show", base, "--verify", "--json")
    assert model.json["kind"] == "model"
    assert model.json["parameters"] == fledge.show(str(base)).facts["parameters"]
    assert "the weights are those that were saved" in command("show", base, "--verify").out
    corpus = command("show", base / "run" / "corpus", "--json")
    assert corpus.json["documents"] == 1


def test_the_loss_lens_marks_the_answers(assistant, questions, command, monkeypatch):
    said = command("show", questions, "--from", assistant, "--rows", 1)
    assert said.code == 0
    assert "⟦0!<|im_end|>⟧" in said.out
    assert said.out.count("⟦") == 2  # one in the legend
    everything = command("show", questions, "--from", assistant, "--rows", 1, "--everything", "--format", "alpaca")
    assert "⟦Below is" in everything.out
    assert "0!<|endoftext|>⟧" in everything.out
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    assert "\x1b[1;32m0!<|im_end|>\x1b[0m" in command("show", questions, "--from", assistant, "--rows", 1).out


def test_the_lens_shows_what_training_reads(assistant, tmp_path, command):
    """Text and labels of the lens, of the page and of the batches are the same; its counts are those of the lint."""
    rows = [
        {"prompt": f"Say {i} — naïve 🙂 <|im_end|>", "completion": answer}
        for i, answer in enumerate(["<b>one</b> \x1b[31m🙂", "two", " ", "two", "three " * 60])
    ]
    rows[3] = rows[1]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    words = ["show", tmp_path / "rows.json", "--from", assistant, "--context", 100, "--rows", 9, "--out", tmp_path / "lens.html"]
    found = command(*words, "--json").json
    assert (found["layout"], found["format"], found["rows"]) == ("prompt and completion", "chatml", 5)
    assert (found["unanswered"], found["duplicated"], found["truncated"], found["overlong"]) == ([3], [4], [5], [5])
    tokenizer = fledge.load(assistant).tokenizer
    turns = tokenized(read_instructions(str(tmp_path / "rows.json")).conversations, FORMATS["chatml"], tokenizer)
    batches = Conversations(turns, 100, 1).in_order()
    labels = sorted(tokenizer.decode(batch.labels[batch.labels != IGNORED], specials=True) for batch in batches)
    shown = [lit(tokenizer, turn, 101) for turn in turns if turn.tokens]
    assert ["".join(text for text, _ in part) for part in shown] == [
        tokenizer.decode(turn.tokens[:101], specials=True) for turn in turns if turn.tokens
    ]
    assert sorted("".join(text for text, on in part if on) for part in shown) == labels
    assert sum(on for part in shown for _, on in part) == found["trained"]
    page = (tmp_path / "lens.html").read_text()
    assert '<span class="trained">&lt;</span><span class="trained">b</span>' in page
    assert "\x1b" not in command(*words).out
    assert "Row 5, of which" in page


def test_a_set_that_never_stops_is_refused(assistant, tmp_path, command):
    (tmp_path / "rows.json").write_text(json.dumps([{"prompt": f"Say {i}.", "completion": "long " * 90} for i in range(9)]))
    for words in (["show", tmp_path / "rows.json"], ["finetune", "instruct", tmp_path / "rows.json", "--out", tmp_path / "a"]):
        said = command(*words, "--from", assistant)
        assert said.code == 2
        assert "the model would never stop" in said.err
    assert not (tmp_path / "a").exists()


def test_every_preset_fits_a_terminal_and_its_column_adds_up():
    for name, preset in PRESETS.items():
        text = fledge.show(name).text
        assert max(map(len, text.splitlines())) <= 80
        column = slice(text.index("parameters") + len("parameters") - 20, text.index("parameters") + len("parameters"))
        counts = [int(line[column].split()[-1].replace(",", "")) for line in text.splitlines()[1:-1] if line[column].split()[-1:]]
        assert counts[-1] == sum(counts[:-1]) == preset.parameters


@pytest.mark.parametrize("part", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_model_with_a_part_missing_names_it(base, tmp_path, command, part):
    shutil.copytree(base, tmp_path / "m", ignore=shutil.ignore_patterns("run"))
    (tmp_path / "m" / part).unlink()
    said = command("generate", tmp_path / "m", "hello")
    assert said.code == 2
    assert part in said.err


def test_parts_that_do_not_belong_together_and_changed_weights(base, classifier, tmp_path, command):
    shutil.copytree(base, tmp_path / "m", ignore=shutil.ignore_patterns("run"))
    settings = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps({**settings, "hidden_size": 64}))
    said = command("generate", tmp_path / "m", "hello")
    assert said.code == 2
    assert "Traceback" not in said.err
    shutil.copy(base / "config.json", tmp_path / "m")
    weights = bytearray((tmp_path / "m" / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "m" / "model.safetensors").write_bytes(weights)
    changed = command("show", tmp_path / "m", "--verify")
    assert changed.code == 2


@pytest.mark.parametrize(("name", "words"), [("gpt2-meduim", "gpt2-medium"), ("fledge-1", "fledge-1m")])
def test_an_unknown_name_gets_the_nearest(command, name, words):
    said = command("show", name)
    assert said.code == 2
    assert f"did you mean {words}" in said.err


def test_a_path_is_no_preset(tmp_path, command):
    said = command("show", tmp_path / "nothing")
    assert said.code == 2
    assert "nothing does not exist" in said.err
    hub = command("show", "somebody/some-model")
    assert hub.code == 2
    assert "https://huggingface.co/somebody/some-model" in hub.err


def test_a_file_needs_a_model(questions, command):
    said = command("show", questions)
    assert said.code == 2
    assert "--from MODEL" in said.err
