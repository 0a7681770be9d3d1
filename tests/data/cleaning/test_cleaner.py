"""Whatever comes: no crash, every byte accounted for, cleaning twice is cleaning once, and the time grows with the text."""

import gzip
import json
import pickle
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.arch.record import from_json, to_json, with_setting
from fledge.data.cleaning import CLEANINGS, LIGHT, Changes, Cleaning, Count, Language, Lines, Privacy, Quality, Repetition, cleaner
from fledge.data.documents import Document, Rejected

ALL = Cleaning(True, True, True, "all", Privacy(), Lines(), Language(), Quality(min_words=2, min_stop_words=None), Repetition())
MILD = replace(ALL, lines=Lines(min_words=2, min_sentences=None, curly_brackets=False), quality=None, repetition=None, language=None)
CLEANERS = {name: cleaner(settings) for name, settings in {**CLEANINGS, "all": ALL, "mild": MILD}.items()}
PIECES = st.sampled_from(
    [
        "the cat ", "sat on the mat. ", "\n", "\n\n", "\r\n", "exam-\nple ", "schÃ¶n ", "â€œ", "e\u0301", "\u0301", "\0", "\x85",
        "\x1b[31m", "[1]", "[[2]3]", "[", "]", "a@b.co ", "jo@example.org", "+49 30 1234567 ", "4111 1111 1111 1111 ",
        "DE89 3704 0044 0532 0130 00 ", "12", "\ud800", "\udc00", "\ufeff", "漢字。", "JavaScript ", "{", "- ", "...", "# ",
        "É", "Â", "Ã", " ", "\u2028", "é", "-\n", "x" * 70,
    ]
)  # fmt: skip
UGLY = st.lists(st.one_of(PIECES, st.text(max_size=4)), max_size=30).map("".join)
NAMES = st.sampled_from(["a.txt", "a.pdf", "src/a.py", "a.PY.gz", "Makefile", ""])


def size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


@given(UGLY, NAMES, st.sampled_from(sorted(CLEANERS)))
def test_cleaning_twice_is_cleaning_once_and_every_byte_is_accounted_for(text, name, settings):
    clean, tally = CLEANERS[settings], Changes()
    document = Document(text, name, 7, "text", 3)
    item = clean(document, tally)
    assert item == clean(document)
    assert tally.came == Count(1, size(text), 1)
    changed = sum(count.bytes for count in tally.changed.values())
    if isinstance(item, Rejected):
        assert (item.source, item.line, item.bytes) == (name, 7, size(text))
        assert tally.rejected == {item.reason: Count(1, size(text), 1)}
        assert tally.kept == Count()
        assert not tally.changed
    else:
        assert (item.source, item.line, item.column, item.replaced) == (name, 7, "text", 3)
        assert tally.kept == Count(1, size(item.text), 1)
        assert size(text) + changed == size(item.text)
        again = Changes()
        assert clean(item, again) == item
        assert sum(count.bytes for count in again.changed.values()) == 0


@given(st.text())
def test_nothing_is_done_when_all_is_off(text):
    document = Document(text, "a.txt")
    assert cleaner(Cleaning.off())(document) is document
    assert Cleaning() == Cleaning.off() == CLEANINGS["off"]


@given(st.lists(UGLY, max_size=8), st.integers(0, 8))
def test_tallies_of_parts_add_up_to_that_of_the_whole(texts, cut):
    def tally(some: list[str]) -> Changes:
        found = Changes()
        for text in some:
            CLEANERS["mild"](Document(text, "a.txt"), found)
        return found

    one, other, whole = tally(texts[:cut]), tally(texts[cut:]), tally(texts)
    assert one + other == other + one == whole
    assert sum([one, other], Changes()) == whole
    assert from_json(Changes, json.loads(json.dumps(to_json(whole)))) == whole
    rejected, changed = (sum(count.bytes for count in counts.values()) for counts in (whole.rejected, whole.changed))
    assert whole.came.bytes + changed == whole.kept.bytes + rejected


def test_settings_are_reached_by_their_paths_and_survive_json_and_pickle():
    web = CLEANINGS["web"]
    for settings in (*CLEANINGS.values(), ALL):
        assert from_json(Cleaning, json.loads(json.dumps(to_json(settings)))) == settings == pickle.loads(pickle.dumps(settings))
    assert with_setting(web, "quality.max_symbol_ratio", "0.2").quality == Quality(max_symbol_ratio=0.2)
    assert with_setting(web, "repetition.duplicate_5gram", "none").repetition == Repetition(duplicate_5gram=None)
    assert with_setting(LIGHT, "privacy", "{}").privacy == Privacy()
    assert with_setting(LIGHT, "language", '{"keep": ["en", "de"]}').language == Language(("en", "de"))
    with pytest.raises(ValueError, match=r"quality\.max_symbol_rati is unknown: did you mean max_symbol_ratio"):
        with_setting(web, "quality.max_symbol_rati", "0.2")
    with pytest.raises(ValueError, match=r"max_bullet_lines is 90.0, but a share is from 0 to 1"):
        with_setting(web, "quality.max_bullet_lines", "90")
    with pytest.raises(ValueError, match="min_words is 0, but it is at least 1"):
        with_setting(web, "lines.min_words", "0")
    with pytest.raises(ValueError, match=r"privacy\.phone is 'call 030 1234567', a part of which is itself taken for one"):
        cleaner(Cleaning(privacy=Privacy(phone="call 030 1234567")))


def test_a_rejection_says_the_rule_what_was_measured_and_the_threshold():
    item = cleaner(CLEANINGS["web"])(Document("The cat sat on the mat. " * 60, "page.html", 3))
    assert str(item) == "page.html, line 3: quality.min_stop_words (1, at least 2)"


def test_code_is_no_prose():
    code = "def f(x):\n    return {x: '[1]'}\n\n\ndef g(x):\n    return {x: '[1]'}\n"
    for name in ("f.py", "src/f.PY", "f.py.gz", "repo.zip/f.py", "Makefile"):
        assert CLEANERS["web"](Document(code, name)) == Document(code, name)
    assert isinstance(CLEANERS["web"](Document(code, "f.txt")), Rejected)
    assert isinstance(cleaner(replace(CLEANINGS["web"], spare_code=False))(Document(code, "f.py")), Rejected)


def test_hyphens_are_joined_where_lines_were_set_by_a_machine():
    text = "An exam-\nple."
    assert CLEANERS["light"](Document(text, "a.pdf")) == Document("An example.", "a.pdf")
    assert CLEANERS["light"](Document(text, "a.txt")) == Document(text, "a.txt")


def test_notes_of_a_person_are_never_rejected(data):
    tally = Changes()
    with gzip.open(data / "text/wikipedia.jsonl.gz", "rt", encoding="utf-8") as file:
        for _, line in zip(range(100), file, strict=False):
            CLEANERS["light"](Document(json.loads(line)["text"], "a.md"), tally)
    CLEANERS["light"](Document((data / "text/tinyshakespeare.txt").read_text(), "b.txt"), tally)
    for text in ("x", "- [ ] buy milk", "#" * 100, "{}", "1 2 3", "ja\nja\nja\n"):
        assert CLEANERS["light"](Document(text, "c.md"), tally) == Document(text, "c.md")
    assert not tally.rejected
    blank = CLEANERS["light"](Document("\0 \ufeff\n", "d.txt"))
    assert isinstance(blank, Rejected)
    assert blank.reason == "empty text"


ADVERSARIAL = {
    "brackets": "(", "square": "[", "nested": "[1", "addresses": "a@", "domains": "a.", "at": "@a.", "letters": "a",
    "capitals": "DE12", "digits": "1", "groups": "1234 ", "plus": "+1", "zeros": "0 ", "marks": "\u0301\u0316",
    "decomposing": "\u0f73", "mojibake": "Ã", "double": "Ãƒ", "lossy": "â€", "c1": "\x80", "escapes": "\x1b[0",
    "newlines": "\n", "spaces": " ", "cuts": "a-\n", "dots": ".", "quotes": ".'", "surrogates": "\ud800", "words": "a ",
    "lines": "ab\n", "tel": "tel ", "hyphens": "-", "mixed": "a1@(.",
}  # fmt: skip


@pytest.mark.parametrize("unit", ADVERSARIAL.values(), ids=ADVERSARIAL)
def test_time_grows_with_the_text_and_not_with_its_square(unit):
    clean = cleaner(replace(ALL, quality=Quality(max_words=None), repetition=None))

    def seconds(length: int) -> float:
        document = Document(unit * (length // len(unit)) + "x", "a.pdf")
        started = time.process_time()
        clean(document)
        return time.process_time() - started

    short, long = min(seconds(1 << 14) for _ in range(2)), seconds(1 << 18)
    assert long < max(0.05, 16 * short) * 4  # sixteen times the text; its square would be 256
