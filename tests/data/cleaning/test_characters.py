"""Characters: what ftfy and Unicode say, at a fraction of the price."""

import unicodedata

import ftfy
from hypothesis import example, given
from hypothesis import strategies as st

from fledge.data.cleaning.characters import COLOUR, MARKS, composed, joined, repaired, without_controls

CONFIG = ftfy.TextFixerConfig(
    unescape_html=False, remove_terminal_escapes=False, fix_latin_ligatures=False, fix_character_width=False, uncurl_quotes=False,
    fix_line_breaks=False, fix_surrogates=False, remove_control_chars=False, normalization=None,
)  # fmt: skip
SPOILT = st.sampled_from(
    [b.decode(e, "replace") for t in "é–ü“ñ漢ж€ 😀" for b in [t.encode()] for e in ("cp1252", "latin-1", "cp1251", "mac-roman")]
)
TEXT = st.lists(st.one_of(SPOILT, st.text(max_size=3), st.sampled_from(["abc ", "\n", "é", "—", "ß ", "Â ", "à", "жили-были"]))).map(
    "".join
)


@given(TEXT)
@example("schÃ¶n und\nschön, â€œwirklichâ€\x9d")
def test_repair_is_that_of_ftfy_line_by_line(text):
    assert repaired(text) == ftfy.fix_text(text, CONFIG)


def test_half_pairs_are_joined_or_replaced():
    assert repaired("a\ud83d\ude00b\ud83dc") == "a😀b\ufffdc"


@given(st.text(st.sampled_from("ab \t\n\r\f\v\0\x1b[31m\x1c\x85\x9f\u2028\ufeffé")))
def test_lines_are_those_of_python_and_no_control_is_left(text):
    result = without_controls(text)
    assert not [letter for letter in result if unicodedata.category(letter) == "Cc" and letter not in "\t\n"]
    assert result.splitlines() == result.removesuffix("\n").split("\n") if result else True
    assert without_controls(result) == result
    visible = [
        letter
        for letter in COLOUR.sub("", text)
        if not letter.isspace() and letter not in "[31m" and unicodedata.category(letter)[0] in "LP"
    ]
    assert [letter for letter in result if not letter.isspace() and letter not in "[31m"] == visible


@given(st.text(st.sampled_from("aeAE\u0301\u0323\u0327é\u1100\u1161한\n\u0958Å")))
def test_composition_is_unicodes(text):
    assert composed(text) == unicodedata.normalize("NFC", text)


def test_a_letter_under_a_hundred_marks_stays_and_the_lines_around_it_are_composed():
    piled = "e" + "\u0301\u0316" * MARKS
    assert composed(f"e\u0301\n{piled}\na\u0308") == f"é\n{piled}\nä"


def test_words_cut_at_the_end_of_a_line_are_whole_again():
    text = "An exam-\nple of well-\n  known words.\nNew-\nYork, 1990-\n1995, a -\nb, the well-known ko\u00ad\noperation, Mu\u0308l-\nler"
    whole = "An example of well-known words.\nNew-\nYork, 1990-\n1995, a -\nb, the well-known kooperation, Mu\u0308ller"
    assert joined(text) == whole
    assert joined(whole) == whole
    assert joined("one-\ntwo-\nthree") == "onetwothree"
