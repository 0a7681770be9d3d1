"""`evaluate --on FILE`: a test of one's own, with every model answering the same items."""

import json

import pytest

from fledge.evaluation.likelihood import encoded_pair
from fledge.verbs import load


@pytest.fixture(scope="module")
def sums(tmp_path_factory):
    """Questions with one answer each."""
    path = tmp_path_factory.mktemp("tests") / "sums.jsonl"
    rows = [{"question": f"What is {number} and 1?", "answer": str(number + 1)} for number in range(12)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def endings(tmp_path_factory):
    """Questions with choices."""
    path = tmp_path_factory.mktemp("tests") / "endings.jsonl"
    rows = [{"ctx": f"def f{n}(self)", "endings": [": return", "zq", " ~~~ long and strange"], "label": n % 3} for n in range(9)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def test_answers_are_written_scored_and_compared(base, assistant, sums, tmp_path, command):
    scorer = tmp_path / "short.py"
    scorer.write_text("def score(answer, item):\n    return len(answer) < 3\n")
    words = ("--score", "exact,f1", "--regex", r"(\d+)", "--scorer", scorer, "--shots", "0,2", "--max-tokens", 4)
    said = command("evaluate", base, assistant, "--on", sums, *words, "--out", tmp_path / "page.html", "--json")
    assert said.code == 0, said.err
    found = said.json
    measures = ["exact match", "F1", r"match of (\d+)", "short"]
    asked = {(score["model"], score["measure"], score["shots"]) for score in found["scores"]}
    assert asked == {(str(model), measure, shots) for model in (base, assistant) for measure in measures for shots in (0, 2)}
    assert len(found["items"]) == 2 * 12 * (1 + 4)
    for score in found["scores"]:
        own = [
            row["scores"][score["measure"]] for row in found["items"] if (row["model"], row["shots"]) == (score["model"], score["shots"])
        ]
        assert score["value"] == pytest.approx(sum(own) / len(own))
        assert score["interval"][0] <= score["value"] <= score["interval"][1]
        assert len(score["trials"]) == (4 if score["shots"] else 0)
    assert {(one["measure"], one["shots"]) for one in found["differences"]} == {(m, shots) for m in measures for shots in (0, 2)}
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "no difference seen" in page or "is better" in page


def test_a_model_is_no_better_than_itself(base, endings, command):
    said = command("evaluate", base, base, "--on", endings)
    assert said.code == 0, said.err
    assert "no difference seen" in said.out
    assert "is better" not in said.out


def test_the_choice_is_the_most_probable(base, assistant, endings, command):
    import torch

    said = command("evaluate", base, assistant, "--on", endings, "--template", "{question}{answer}", "--json")
    assert said.code == 0, said.err
    model = load(base)
    rows = [json.loads(line) for line in endings.read_text().splitlines()]
    picked = {row["line"]: row for row in said.json["items"] if row["model"] == str(base)}
    for line, row in enumerate(rows, 1):
        sums = []
        for ending in row["endings"]:
            context, choice = encoded_pair(model.tokenizer.encode, row["ctx"], ending.strip())
            logprobs = model.logits([[*context, *choice][:-1]])[0, -len(choice) :].log_softmax(-1)
            sums.append(float(logprobs.gather(1, torch.tensor(choice)[:, None]).sum()))
        assert picked[line]["answer"] == row["endings"][sums.index(max(sums))]
        assert picked[line]["scores"]["accuracy"] == (sums.index(max(sums)) == row["label"])


def test_what_does_not_fit_is_a_sentence(base, sums, endings, text, tmp_path, command):
    (tmp_path / "wrong.csv").write_text("id,story\n1,Once\n")
    (tmp_path / "long.jsonl").write_text(json.dumps({"question": "x" * 300, "answer": "y"}))
    for words, sentence in (
        (("--on", tmp_path / "wrong.csv", "--score", "exact"), "has columns id, story, but a test needs"),
        (("--on", tmp_path / "long.jsonl"), "line 1: the question has"),
        (("--on", endings, "--score", "exact"), "are chosen, which gives an accuracy"),
        (("--on", endings, "--judge", base), "a judge reads written ones"),
        (("--on", sums, "--shots", "12"), "only 11 rows that ask something else"),
        (("--on", sums, "--shots", "many"), "is no list of numbers"),
        (("--on", text, "--score", "exact"), "scorers, examples and templates need a test"),
        (("--score", "exact"), "name one with --on FILE"),
    ):
        said = command("evaluate", base, *words)
        assert said.code == 2
        assert sentence in said.err
