"""`evaluate --leaks`, `--canaries` and `--judge` from the command line."""

import json


def test_leaks_of_a_model_and_planted_secrets(base, tmp_path, command):
    canaries = tmp_path / "canaries.jsonl"
    canaries.write_text(json.dumps({"text": "def f{}(self):", "secret": "417"}))
    (tmp_path / "private.jsonl").write_text(json.dumps({"text": "Write to jo.doe@example.org. " + "x" * 200}))
    said = command("evaluate", base, "--leaks", "--canaries", canaries, "--out", tmp_path / "page.html", "--json")
    assert said.code == 0, said.err
    found = said.json
    assert {one["text"] for one in found["verbatim"]} == {"training", "held out"}
    [exposed] = found["exposed"]
    assert exposed["most"] == 9.965784284662087  # log2 of a thousand
    assert 0 <= exposed["bits"] <= exposed["most"]
    assert "Planted secrets" in (tmp_path / "page.html").read_text(encoding="utf-8")
    other = command("evaluate", base, "--leaks", "--on", tmp_path / "private.jsonl")
    assert other.code == 0, other.err
    assert "WORD FOR WORD" in other.out
    assert "email" in other.out


def test_a_judge_that_cannot(base, classifier, tmp_path, command):
    test = tmp_path / "test.jsonl"
    test.write_text("\n".join(json.dumps({"question": f"q{n}", "answer": f"a{n}"}) for n in range(3)))
    for words, sentence in (
        (("--judge", base), "never replies with a number from 0 to 100"),
        (("--judge", classifier), "cannot judge"),
        (("--judge", base, "--judge-model", "m"), "names a model of an endpoint"),
        (("--judge", "http://"), "is no address of an endpoint"),
    ):
        said = command("evaluate", base, "--on", test, *words)
        assert said.code == 2, said.err
        assert sentence in said.err
