"""The rules for prose: each rejects what it is for, at its threshold, and the quick bounds never hide what the plain count finds."""

from dataclasses import fields, replace
from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.arch.record import with_setting
from fledge.data.cleaning import Cleaning, Language, Lines, Quality, Repetition, cleaner
from fledge.data.cleaning.prose import DUPLICATE, TOP, Words, duplicate, most_of_duplicates, most_of_top, top
from fledge.data.documents import Document, Rejected

GOOD = "\n".join(
    f"The {a} of the {b} went with a {c} to that old town, and it did not have to be told {d} times."
    for a, b, c, d in zip(
        ("miller", "baker", "sailor", "teacher", "painter", "doctor"), ("valley", "harbour", "village", "island", "forest", "coast"),
        ("donkey", "lantern", "basket", "letter", "ladder", "violin"), ("two", "five", "nine", "eleven", "seven", "twelve"), strict=True,
    )
)  # fmt: skip
NO_LIMIT = Repetition(**dict.fromkeys((f.name for f in fields(Repetition)), None))
BARE = reduce(lambda rules, name: with_setting(rules, name, "none"), [f.name for f in fields(Quality) if f.name != "stop_words"], Quality())


def judged(text: str, settings: Cleaning, source: str = "a.txt") -> str:
    item = cleaner(settings)(Document(text, source))
    return item.reason if isinstance(item, Rejected) else ""


def test_good_prose_passes():
    assert judged(GOOD, Cleaning(lines=Lines(), quality=Quality())) == ""
    assert judged(LONG_LINES, Cleaning(repetition=Repetition())) == ""


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("min_words", " ".join(GOOD.split()[:49])),
        ("max_words", "the be that " * 33_334),
        ("min_mean_length", "a to be of it " * 20),
        ("max_mean_length", "to be antidisestablishmentarianism " * 20),
        ("max_symbol_ratio", GOOD + " #" * 20),
        ("max_symbol_ratio", GOOD.replace(" it", " ... it") + " …" * 12),
        ("max_bullet_lines", "\n".join("- " + line for line in GOOD.split("\n"))),
        ("max_ellipsis_lines", GOOD.replace("times.", "times…")),
        ("min_alphabetic", GOOD + " 12345" * 40),
        ("min_stop_words", " ".join("jumping" + "abcdefghij"[n % 10] for n in range(60)) + " the"),
    ],
)
def test_each_quality_rule_rejects_what_it_is_for_and_no_other_rule_does(rule, text):
    assert judged(text, Cleaning(quality=Quality())) == f"quality.{rule}"
    assert judged(text, Cleaning(quality=with_setting(Quality(), rule, "none"))) == ""
    assert judged(text, Cleaning(quality=replace(BARE, **{rule: getattr(Quality(), rule)}))) == f"quality.{rule}"


UNIQUE = " ".join(f"word{n}" for n in range(1000))
LONG_LINES = "\n".join(f"{n} " + UNIQUE[n * 50 : n * 50 + 50] for n in range(40))


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("lines", LONG_LINES[:400] + "\nx" * 10),
        ("line_characters", LONG_LINES[:600] + "\n" + LONG_LINES[:300]),
        ("paragraphs", LONG_LINES[:1000].replace("\n", "\n\n") + "\n\nx" * 10),
        ("paragraph_characters", LONG_LINES[:800] + ("\n\n" + LONG_LINES[:300].replace("\n", " ")) * 2),
        ("top_2gram", " ".join(f"w{n} of the" for n in range(99))),
        ("top_3gram", " ".join(f"word{n} one of the" for n in range(99))),
        ("top_4gram", " ".join(f"word{n} mind {n * n} all of the best" for n in range(99))),
        *((f"duplicate_{n}gram", UNIQUE[:3500] + "\n" + " ".join(
            " ".join(UNIQUE.split()[at : at + n]) + f" {at}" for at in range(0, 150, n)
        )) for n in DUPLICATE),
    ],
)  # fmt: skip
def test_each_repetition_rule_rejects_what_it_is_for(rule, text):
    assert judged(text, Cleaning(repetition=replace(NO_LIMIT, **{rule: getattr(Repetition(), rule)}))) == f"repetition.{rule}"
    assert judged(text, Cleaning(repetition=replace(NO_LIMIT, **{rule: 1.0}))) == ""


WORDS = st.lists(st.sampled_from(["a", "bb", "the", "ccccc", "of", "x"]), max_size=60)


@given(WORDS, st.integers(1, 3))
def test_bounds_are_bounds(words, times):
    words = words * times
    made = Words(" ".join(words))
    for n in TOP:
        assert top(words, n) <= most_of_top(made, n)
    for n in DUPLICATE:
        for m in range(n, DUPLICATE[-1] + 1):
            assert duplicate(words, m) <= most_of_duplicates(made, n)


def test_lines_of_menus_scripts_and_notices_go_and_the_rest_stays_as_it_is():
    text = (
        "Home\n  The first line is kept[1] as it is.\n\nPlease enable JavaScript to go on.\nSee our Privacy Policy for that.\n"
        "A line that is broken in\nthe middle.\n" + "x" * 1001
    )
    kept = "  The first line is kept as it is.\n\nA line that is broken in\nthe middle."
    assert cleaner(Cleaning(lines=Lines(min_sentences=2)))(Document(text, "a")) == Document(kept, "a")
    strict = cleaner(Cleaning(lines=Lines(min_sentences=None, terminal_punctuation=True)))(Document(text, "a"))
    assert strict == Document("  The first line is kept as it is.\n", "a")


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("lorem_ipsum", GOOD + "\nLorem IPSUM dolor sit amet."),
        ("curly_brackets", GOOD + "\nif so {then} it is."),
        ("min_sentences", "One. Two! Three? Four"),
    ],
)
def test_pages_that_are_none_are_rejected(rule, text):
    assert judged(text, Cleaning(lines=Lines(min_words=None))) == f"lines.{rule}"
    off = with_setting(Lines(min_words=None), rule, "none" if rule == "min_sentences" else "false")
    assert judged(text, Cleaning(lines=off)) == ""


def test_scripts_without_spaces_are_not_judged_by_words():
    chinese = "春天来了,花园里开满了各种颜色的花。孩子们在树下唱歌跳舞,老人们坐在长椅上聊天。\n" * 3
    thai = "ในฤดูใบไม้ผลิดอกไม้บานทั่วสวน เด็กๆร้องเพลงและเต้นรำใต้ต้นไม้"
    for text in (chinese, thai):
        assert judged(text, Cleaning(quality=Quality())) == ""
    assert judged(chinese.replace("\n", "…\n"), Cleaning(quality=Quality())) == "quality.max_ellipsis_lines"


def test_stop_words_are_asked_of_english_alone():
    german = " ".join(["Die Müllerin ging am Morgen mit ihrem Esel ins Dorf und kaufte dort Brot, Käse, Wein sowie einen Korb Äpfel."] * 3)
    assert judged(german, Cleaning(quality=Quality())) == "quality.min_stop_words"
    assert judged(german, Cleaning(quality=Quality(), language=Language())) == ""
