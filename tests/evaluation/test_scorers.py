"""Scorers are what their libraries say on random texts; patterns and Python files judge as they are told."""

import random
from collections import Counter

import numpy as np
import pytest

from fledge.evaluation.items import Item
from fledge.evaluation.scorers import SCORERS, f1, from_python, matching, named, squad_words

WORDS = ["the", "a", "cat", "Cat,", "sat", "on", "mat.", "dog", "runs", "été", "2", "12.5"]


def texts(seed: int, count: int) -> tuple[list[str], list[Item]]:
    draw = random.Random(seed)

    def text() -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(1, 9)))

    items = [Item("q", tuple(dict.fromkeys(text() for _ in range(draw.randint(1, 3)))), line) for line in range(1, count + 1)]
    return [draw.choice([text(), draw.choice(item.answers)]) for item in items], items


@pytest.mark.parametrize("seed", range(3))
def test_bleu_chrf_and_rouge_are_their_libraries(seed):
    sacrebleu, scorer = pytest.importorskip("sacrebleu"), pytest.importorskip("rouge_score.rouge_scorer")
    written, items = texts(seed, 30)
    streams = [[item.answers[number] if number < len(item.answers) else None for item in items] for number in range(3)]
    for lowercase in (False, True):
        [bleu], [chrf] = (named(name, lowercase).tallies([written], items) for name in ("bleu", "chrf"))
        assert bleu.interval().value == sacrebleu.metrics.BLEU(lowercase=lowercase, force=True).corpus_score(written, streams).score
        assert chrf.interval().value == sacrebleu.metrics.CHRF(lowercase=lowercase).corpus_score(written, streams).score
        assert "nrefs:var" in (bleu.signature or "")
        assert f"case:{'lc' if lowercase else 'mixed'}" in (chrf.signature or "")
    google = scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    for tally, kind in zip(named("rouge").tallies([written], items), ("rouge1", "rouge2", "rougeL"), strict=True):
        by_hand = [
            max(google.score(answer, text)[kind].fmeasure for answer in item.answers) for text, item in zip(written, items, strict=True)
        ]
        assert tally.interval().value == pytest.approx(100 * np.mean(by_hand))


@pytest.mark.parametrize("seed", range(3))
def test_f1_and_exact_match_are_scikit_learns(seed):
    metrics = pytest.importorskip("sklearn.metrics")

    def places(text: str) -> set[tuple[str, int]]:
        met: Counter[str] = Counter()
        return {(word, met.update([word]) or met[word]) for word in squad_words(text)}

    written, items = texts(seed, 60)
    for text, item in zip(written, items, strict=True):
        best = 0.0
        for answer in item.answers:
            every = sorted(places(text) | places(answer) | {("", 0)})
            one, other = ([place in places(part) for place in every] for part in (answer, text))
            best = max(best, metrics.f1_score(one, other, zero_division=float(not any(one) and not any(other))))
        assert f1(text, item) == pytest.approx(best)
    [exact] = named("exact").tallies([written], items)
    hits = [text in item.answers for text, item in zip(written, items, strict=True)]
    assert exact.interval().value == metrics.accuracy_score([True] * len(items), hits)
    assert exact.items.tolist() == [list(map(float, hits))]


def value(scorer, answer: str, *accepted: str) -> float:
    [tally] = scorer.tallies([[answer]], [Item("q", accepted, 7)])
    return tally.interval().value


def test_exact_match_leaves_what_counts():
    assert value(named("exact"), " 3.5\n", "3.5") == 1
    assert value(named("exact"), "35", "3.5") == 0
    assert value(named("exact"), "Paris", "paris") == 0
    assert value(named("exact", lowercase=True), "Paris", "london", "paris") == 1


def test_a_pattern_finds_the_last_answer():
    number = matching(r"#### (-?[\d.,]+)")
    assert value(number, "2 + 2 = 5 #### 5, no: #### 4", "So it is 4.\n#### 4") == 1
    assert value(number, "#### 5", "#### 4") == 0
    assert value(number, "4", "#### 4") == 0
    assert value(matching(r"-?\d+"), "it is 12", "12") == 1
    with pytest.raises(ValueError, match="is no pattern"):
        matching("(")


def test_a_python_file_scores(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "def score(answer, item):\n    return len(answer) / len(item.answers[0])\n"
        "def bad(answer, item):\n    return 'x'\ndef broken(answer, item):\n    return 1 / 0\n"
    )
    assert value(from_python(str(file)), "ab", "abcd") == 0.5
    for name, sentence in (("bad", "gives 'x' for line 7"), ("broken", "fails on line 7 with ZeroDivisionError")):
        with pytest.raises(ValueError, match=sentence):
            value(from_python(f"{file}:{name}"), "ab", "abcd")
    with pytest.raises(ValueError, match=r"has no function nothing\(answer, item\)"):
        from_python(f"{file}:nothing")
    with pytest.raises(ValueError, match="is no file"):
        from_python(str(tmp_path / "none.py"))


def test_a_near_miss_is_named():
    with pytest.raises(ValueError, match="did you mean rouge"):
        named("rogue")
    assert all(named(name).name for name in SCORERS)
