"""`evaluate --leaks`, `--canaries` and `--judge` from the command line."""

import json

from tests.evaluation.serving import serving


def test_leaks_of_a_model_and_planted_secrets(base, tmp_path, command):
    canaries = tmp_path / "canaries.jsonl"
    canaries.write_text(json.dumps({"text": "def f{}(self):", "secret": "417"}))
    (tmp_path / "private.jsonl").write_text(json.dumps({"text": "Write to jo.doe@example.org. " + "x" * 200}))
    said = command("evaluate", base, "--leaks", "--canaries", canaries, "--out", tmp_path / "page.html", "--json")
    assert said.code == 0, said.err
    found = said.json
    assert {one["text"] for one in found["verbatim"]} == {"training", "held-out"}
    [exposed] = found["exposed"]
    assert exposed["most"] == 9.965784284662087  # log2 of a thousand
    assert 0 <= exposed["bits"] <= exposed["most"]
    assert "Planted secrets" in (tmp_path / "page.html").read_text(encoding="utf-8")
    other = command("evaluate", base, "--leaks", "--on", tmp_path / "private.jsonl")
    assert other.code == 0, other.err
    assert "WORD FOR WORD" in other.out
    assert "email" in other.out
    (tmp_path / "short.jsonl").write_text(json.dumps({"text": "Hello."}))
    short = command("evaluate", base, "--leaks", "--on", tmp_path / "short.jsonl")
    assert short.code == 0, short.err
    assert "No passage of the training text was asked for" in " ".join(short.out.split())


def test_what_is_known_of_a_judge_stands_beside_its_scores(base, assistant, tmp_path, command):
    test = tmp_path / "test.jsonl"
    test.write_text("\n".join(json.dumps({"question": f"q{n}", "answer": f"a{n}"}) for n in range(3)))
    with serving(lambda prompt: "A" if "Answer A" in prompt else "70") as (url, _):
        words = ("evaluate", base, assistant, "--on", test, "--judge", url, "--max-tokens", 2, "--json")
        rated, paired = command(*words), command(*words, "--judging", "pairs")
    assert (rated.code, paired.code) == (0, 0), rated.err + paired.err
    assert [score["value"] for score in rated.json["scores"] if score["measure"] == "judge's score"] == [70, 70]
    assert {row["scores"]["judge's score"] for row in rated.json["items"]} == {70}
    assert {score["measure"]: score["value"] for score in rated.json["trust"]} == {
        "replies understood": 1, "agreement with known answers": 0, "the same again": 1, "difference when asked again": 0,
    }  # fmt: skip
    trust = {score["measure"]: score["value"] for score in paired.json["trust"]}
    assert trust[f"swayed by the order, {base} and {assistant}"] == 1
    [preferred] = [score for score in paired.json["scores"] if score["measure"] == f"preferred to {assistant} by the judge"]
    assert (preferred["model"], preferred["value"]) == (str(base), 0.5)


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
