"""`generate`: the same text in every way that it is asked for."""

import pytest

import fledge
from fledge.verbs import writing


def test_a_seed_gives_the_same_text_in_every_way(base, command):
    written = [command("generate", base, "def ", "--seed", 3, "--max-tokens", 12).out for _ in range(2)]
    assert written[0] == written[1] == fledge.generate(base, "def ", seed=3, max_tokens=12) + "\n"
    said = command("generate", base, "def ", "--seed", 3, "--max-tokens", 12, "--json")
    assert said.json == {"text": written[0][:-1]}
    assert "".join(fledge.load(base).stream("def ", seed=3, max_tokens=12)) + "\n" == written[0]


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
