"""`generate`: the same text in every way that it is asked for."""

import json

import pytest
import torch

import fledge
from fledge.model.quantised import Quantised
from fledge.verbs import writing


def test_a_seed_gives_the_same_text_in_every_way(base, command):
    written = [command("generate", base, "def ", "--seed", 3, "--max-tokens", 12).out for _ in range(2)]
    assert written[0] == written[1] == fledge.generate(base, "def ", seed=3, max_tokens=12) + "\n"
    said = command("generate", base, "def ", "--seed", 3, "--max-tokens", 12, "--json")
    assert said.json == {"text": written[0][:-1]}
    assert "".join(fledge.load(base).stream("def ", seed=3, max_tokens=12)) + "\n" == written[0]


def test_8_bits_write_about_the_same_text(base, command):
    whole, held = (fledge.load(base, dtype=dtype) for dtype in ("bfloat16", "int8"))
    maps = sum(part.weight.numel() for part in whole.network.modules() if isinstance(part, torch.nn.Linear))
    assert sum(part.numbers.nbytes for part in held.network.modules() if isinstance(part, Quantised)) == maps
    scores, near = (model.logits([list(b"def main(")]) for model in (whole, held))
    assert 0 < (scores - near).abs().max() < 0.05 * scores.abs().max()
    said = command("generate", base, "def ", "--dtype", "int8", "--temperature", 0, "--max-tokens", 12)
    assert said.out == held.generate("def ", temperature=0, max_tokens=12) + "\n"
    loss = [command("evaluate", base, "--dtype", dtype, "--json").json["scores"][0]["value"] for dtype in ("bfloat16", "int8")]
    assert loss[1] == pytest.approx(loss[0], rel=0.02)
    wrong = command("pretrain", base, "--out", base / "no", "--dtype", "int8")
    assert wrong.code == 2


def test_several_prompts_are_those_alone(base):
    model = fledge.load(base)
    prompts = ["d", "def main", "class Argument"]
    assert model.generate(prompts, temperature=0, max_tokens=8) == [model.generate(p, temperature=0, max_tokens=8) for p in prompts]
    assert fledge.generate(str(base), prompts, temperature=0, max_tokens=8) == model.generate(prompts, temperature=0, max_tokens=8)


def test_settings_of_sampling_and_stop_strings(base, command):
    whole = command("generate", base, "def ", "--temperature", 0, "--max-tokens", 20).out
    stop = whole[5:7]
    cut = command("generate", base, "def ", "--temperature", 0, "--max-tokens", 20, "--stop", stop).out
    assert cut == whole[: whole.index(stop)] + "\n"
    model = fledge.load(base)
    for given in (stop, [stop]):
        assert model.generate("def ", temperature=0, max_tokens=20, stop=given) + "\n" == cut
    flags = ["--top-k", 5, "--top-p", 0.9, "--min-p", 0.1, "--repetition-penalty", 1.2, "--seed", 1]
    assert command("generate", base, "def ", *flags, "--max-tokens", 5).code == 0


def test_shots_come_before_the_prompt_and_end_the_answer_with_its_line(base, tmp_path, command):
    (tmp_path / "shots.jsonl").write_text('{"input": "abc", "output": "cba"}\n{"input": "xy", "output": "yx"}\n')
    assert writing.few_shot(tmp_path / "shots.jsonl", "hello") == "abc -> cba\nxy -> yx\nhello ->"
    said = command("generate", base, "hello", "--shots", tmp_path / "shots.jsonl", "--seed", 1, "--max-tokens", 30)
    assert said.code == 0
    assert said.out.count("\n") == 1


def test_wrong_use_in_python_is_one_sentence(base, assistant):
    model = fledge.load(base)
    assert model.generate([]) == []
    with pytest.raises(TypeError, match="max_token is no setting: did you mean max_tokens"):
        model.generate("def ", **{"max_token": 3})
    with pytest.raises(ValueError, match="role and content are needed"):
        fledge.load(assistant).chat([{"content": "Repeat 3."}])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--temperature", -1], "temperature"),
        (["--top-p", 3], "top_p"),
        (["--max-tokens", 0], "max_tokens"),
        (["--dtype", "float16"], "float16"),
        (["--device", "cuda:9"], "cuda"),
        (["--device", "gpu"], "auto, cpu or cuda"),
        (["--shots", "nowhere.csv"], "nowhere.csv"),
    ],
)
def test_wrong_settings_are_one_sentence(base, command, flags, words):
    said = command("generate", base, "def ", *flags)
    assert said.code == 2
    assert words in said.err
    assert not said.out


def test_what_cannot_write_says_so(classifier, tmp_path, command):
    classified = command("generate", classifier, "hello")
    assert classified.code == 2
    assert "fledge predict" in classified.err
    missing = command("generate", tmp_path / "nowhere", "hello")
    assert missing.code == 2
    assert "nowhere" in missing.err
    assert command("generate", tmp_path, "hello").code == 2


def test_a_prompt_longer_than_the_context(base, command):
    said = command("generate", base, "x" * 5000)
    assert said.code == 2
    assert "room for" in said.err


def test_what_is_written_keeps_to_a_contract(base, command, tmp_path):
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object", "properties": {"n": {"enum": [1, 22]}}, "required": ["n"], "additionalProperties": false}')
    written = command("generate", base, "def ", "--schema", schema, "--temperature", 0)
    assert json.loads(written.out)["n"] in (1, 22), written.err
    model = fledge.load(base)
    assert json.loads(model.generate("def ", schema=json.loads(schema.read_text()), temperature=0)) == json.loads(written.out)
    assert command("generate", base, "def ", "--choice", "yes", "--choice", "no").out in ("yes\n", "no\n")
    assert model.generate("def ", choice="maybe so", draft="prompt") == "maybe so"
    assert model.generate("def ", regex="[0-9]{3}!", beams=2)[3] == "!"
    assert model.generate(["def ", "x"], choice=["ab"], contrast=0.5, max_tokens=1) == ["a", "a"]


def test_a_draft_changes_nothing_but_the_time(base, command):
    asked = ("generate", base, "def def def", "--max-tokens", 24, "--frequency-penalty", 0.5)
    plain = command(*asked, "--temperature", 0).out
    for way in (("--draft", base), ("--draft", "prompt"), ("--contrast", 0)):
        found = command(*asked, *way, *(() if way[0] == "--contrast" else ("--temperature", 0)))
        assert found.out == plain, found.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--regex", "a", "--choice", "b"], "regex and choice each say"),
        (["--regex", "a", "--stop", "b"], "leave out stop"),
        (["--regex", "[a"], "cannot be kept to"),
        (["--schema", "nowhere.json"], "is no file"),
        (["--contrast", 0.5, "--beams", 2], "two ways to find a text"),
        (["--contrast", 0.5, "--temperature", 1], "leave out temperature"),
        (["--presence-penalty", 3], "not in [-2, 2]"),
        (["--draft", "prompt", "--contrast", 0.5], "two ways"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(base, command, words, said):
    refused = command("generate", base, "def ", *words)
    assert (refused.code, refused.out) == (2, "")
    assert said in " ".join(refused.err.split())
