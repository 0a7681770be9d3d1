"""`evaluate`: language models on a corpus, a file or their own text, classifiers on rows."""

import shutil

import fledge


def test_one_model_on_its_own_corpus_wherever_it_lies(base, tmp_path):
    shutil.copytree(base, tmp_path / "moved")
    here = fledge.evaluate(str(base))
    there = fledge.evaluate(str(tmp_path / "moved"))
    assert [score.value for score in here.scores] == [score.value for score in there.scores]
    assert [score.measure for score in here.scores] == ["bits per byte", "perplexity per token"]


def test_several_models_on_one_file(base, assistant, tmp_path, command):
    (tmp_path / "a.txt").write_text("def parse(arguments):\n    return arguments\n" * 20)
    said = command("evaluate", base, assistant, "--on", tmp_path / "a.txt", "--json")
    assert said.code == 0
    assert {score["model"] for score in said.json["scores"]} == {str(base), str(assistant)}
    for score in said.json["scores"]:
        low, high = score["interval"]
        assert low <= score["value"] <= high


def test_what_is_read_of_a_table_and_what_is_not_is_said(base, tmp_path, command):
    (tmp_path / "rows.csv").write_bytes(b"id,story\n1,Once upon a time \xff.\n2,\n3,The end.\n")
    said = command("evaluate", base, "--on", tmp_path / "rows.csv", "--json")
    assert said.code == 0
    assert "column 'story'" in said.err
    assert "1 empty text" in said.err
    assert "1 invalid UTF-8 sequence replaced" in said.err


def test_a_classifier_on_rows(classifier, messages, command):
    said = command("evaluate", classifier, "--on", messages)
    assert said.code == 0
    assert "macro-F1" in said.out
    nothing = command("evaluate", classifier)
    assert nothing.code == 2
    assert "--on FILE" in nothing.err


def test_what_does_not_fit(base, classifier, messages, tmp_path, command):
    mixed = command("evaluate", base, classifier, "--on", messages)
    assert mixed.code == 2
    assert "evaluate them apart" in mixed.err
    (tmp_path / "rows.csv").write_text("text,label\na,ham\nb,ham\nc,eggs\nd,eggs\n")
    stranger = command("evaluate", classifier, "--on", tmp_path / "rows.csv")
    assert stranger.code == 2
    assert "eggs" in stranger.err
    missing = command("evaluate", base, "--on", tmp_path / "nothing.txt")
    assert missing.code == 2
    assert "nothing.txt does not exist" in missing.err


def test_without_more_speed_samples_and_what_was_forgotten(base, assistant, tmp_path, command):
    said = command("evaluate", assistant, "--out", tmp_path / "page.html", "--json")
    assert said.code == 0, said.err
    found = said.json
    [speed] = found["speeds"]
    assert speed["reading"] > 0 < speed["writing"]
    assert speed["weights"] == sum(p.numel() * p.element_size() for p in fledge.load(assistant).network.parameters())
    assert len(found["samples"]) == 1
    [forgotten] = found["forgotten"]
    assert forgotten["parent"] == str(base)
    alone = {score.measure: score.value for score in fledge.evaluate(str(base)).scores}
    assert forgotten["before"]["value"] == alone["bits per byte"]
    assert forgotten["after"]["value"] == found["scores"][0]["value"]
    assert forgotten["difference"]["value"] == forgotten["after"]["value"] - forgotten["before"]["value"]
    assert "What was forgotten" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_of_two_models_the_paired_difference(base, assistant, tmp_path, command):
    (tmp_path / "a.jsonl").write_text('{"text": "def parse(arguments):"}\n{"text": "    return arguments"}\n' * 3)
    found = fledge.evaluate([str(base), str(assistant)], on=str(tmp_path / "a.jsonl"))
    values = {(score.model, score.measure): score.value for score in found.scores}
    for one in found.differences:
        assert one.lower
        assert one.value == values[one.first, one.measure] - values[one.second, one.measure]
    same = command("evaluate", base, base, "--on", tmp_path / "a.jsonl")
    assert "no difference seen" in same.out
