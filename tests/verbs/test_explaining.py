"""`explain` of a classifier, a generator, an encoder and a denoiser, in the terminal and as a page."""

import pytest

import fledge


def test_a_classifier_names_the_words_that_decided(classifier, tmp_path, command):
    out = tmp_path / "pages" / "why.html"
    said = command("explain", classifier, "9 free prize", "--out", out, "--json")
    assert said.code == 0, said.err
    found = said.json
    assert found["said"] == "spam"
    words = {word["text"].strip(): word for word in found["deciding"]["words"]}
    told = command("explain", classifier, "9 free prize")
    assert told.out.startswith("spam: ")
    strongest = told.out.splitlines()[2].split()[0]
    assert strongest in ("free", "prize")
    assert words[strongest]["gradient"] > 0
    assert -1 <= found["deciding"]["agreement"] <= 1
    page = out.read_text()
    assert page.count("<h2") == 2
    assert "<script" not in page
    assert 'class="head"' in page
    model = fledge.load(classifier)
    assert found["probability"] == pytest.approx(model.predict("9 free prize")["scores"]["spam"])
    other = command("explain", classifier, "9 free prize", "--label", "ham", "--json").json
    assert other["deciding"]["odds"] == pytest.approx(-found["deciding"]["odds"], abs=1e-3)


def test_models_of_words_tell_their_surprise(base, encoder, denoiser, tmp_path, command):
    for folder, tokens in ((base, 10), (encoder, 10), (denoiser, 0)):
        said = command("explain", folder, "return the", "--out", tmp_path / f"{folder.name}.html", "--json")
        assert said.code == 0, said.err
        assert len(said.json["surprises"]) == tokens
        assert said.json["heads"]
        assert ("Surprise" in (tmp_path / f"{folder.name}.html").read_text()) == bool(tokens)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["  "], "empty"),
        (["hello", "--label", "sapm"], "did you mean spam"),
        (["hello", "--second", "you"], "one text at a time"),
        (["hello", "--out", "why.txt"], "ends in .html"),
    ],
)
def test_what_cannot_be_explained_is_one_sentence(classifier, command, words, said):
    found = command("explain", classifier, *words)
    assert found.code == 2
    assert said in found.err


def test_labels_are_of_classifiers(base, command):
    found = command("explain", base, "hello", "--label", "spam")
    assert found.code == 2
    assert "for classifiers" in found.err
