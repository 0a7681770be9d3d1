"""What cleaning does, as data: one field for each rule, each threshold settable, `None` or false is off."""

from dataclasses import dataclass, fields
from typing import Literal

from fledge.arch.record import did_you_mean

CODES = """
af als am an ar arz as ast av az azb ba bar bcl be bg bh bn bo bpy br bs bxr ca cbk ce ceb ckb co cs cv cy da de diq dsb dty dv el
eml en eo es et eu fa fi fr frr fy ga gd gl gn gom gu gv he hi hif hr hsb ht hu hy ia id ie ilo io is it ja jbo jv ka kk km kn ko
krc ku kv kw ky la lb lez li lmo lo lrc lt lv mai mg mhr min mk ml mn mr mrj ms mt mwl my myv mzn nah nap nds ne new nl nn no oc
or os pa pam pfl pl pms pnb ps pt qu rm ro ru rue sa sah sc scn sco sd sh si sk sl so sq sr su sv sw ta te tg th tk tl tr tt tyv
ug uk ur uz vec vep vi vls vo wa war wuu xal xmf yi yo yue zh
"""
LANGUAGES = tuple(CODES.split())
"""The languages that are told apart: the labels of fastText's lid.176, mostly ISO 639-1."""


def _shares(record: object, *names: str) -> None:
    for name in names:
        value = getattr(record, name)
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}, but a share is from 0 to 1, or none for no such rule")


def _counts(record: object, *names: str) -> None:
    for name in names:
        value = getattr(record, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}, but it is at least 1, or none for no such rule")


@dataclass(frozen=True)
class Language:
    """The language of each document is found and recorded; only those of `keep` are kept, all where it names none.

    A language found with less than `confidence` counts as unknown (0.65: FineWeb, Penedo et al., 2024, arXiv:2406.17557, section 3.3).
    """

    keep: tuple[str, ...] = ()
    confidence: float = 0.65

    def __post_init__(self):
        for name in self.keep:
            if name not in LANGUAGES:
                raise ValueError(f"{name!r} is no language that is known by its code (en, de, zh, ...){did_you_mean(name, LANGUAGES)}")
        _shares(self, "confidence")


@dataclass(frozen=True)
class Privacy:
    """What stands in place of what says who or where a person is; `None` leaves a kind as it is."""

    email: str | None = "<email>"
    phone: str | None = "<phone>"
    card: str | None = "<card>"
    iban: str | None = "<iban>"


@dataclass(frozen=True)
class Lines:
    """The rules of C4 for lines of web pages (Raffel et al., 2020, arXiv:1910.10683, section 2.2, and its published code).

    A line is dropped that has no terminal punctuation mark at its end, less than `min_words` words, a word of more than
    `max_word_length` characters, the word JavaScript, or a phrase of terms and cookie notices. A document is rejected that holds
    `lorem ipsum`, a curly bracket, or, of what is left, less than `min_sentences` sentences. Terminal punctuation is off by default:
    it costs the most text (FineWeb, arXiv:2406.17557, section 3.5) and breaks prose whose lines are wrapped.
    """

    citations: bool = True
    terminal_punctuation: bool = False
    min_words: int | None = 3
    max_word_length: int | None = 1000
    javascript: bool = True
    policy: bool = True
    lorem_ipsum: bool = True
    curly_brackets: bool = True
    min_sentences: int | None = 5

    def __post_init__(self):
        _counts(self, "min_words", "max_word_length", "min_sentences")


@dataclass(frozen=True)
class Quality:
    """The rules of Gopher for a document (Rae et al., 2021, arXiv:2112.11446, section A1.1); words are what whitespace separates.

    Words without a letter or digit are not counted for `words` and `mean_length`; stop words are asked of English alone.
    """

    min_words: int | None = 50
    max_words: int | None = 100_000
    min_mean_length: float | None = 3.0
    max_mean_length: float | None = 10.0
    max_symbol_ratio: float | None = 0.1
    max_bullet_lines: float | None = 0.9
    max_ellipsis_lines: float | None = 0.3
    min_alphabetic: float | None = 0.8
    min_stop_words: int | None = 2
    stop_words: tuple[str, ...] = ("the", "be", "to", "of", "and", "that", "have", "with")

    def __post_init__(self):
        _counts(self, "min_words", "max_words", "min_stop_words")
        _shares(self, "max_bullet_lines", "max_ellipsis_lines", "min_alphabetic")


@dataclass(frozen=True)
class Repetition:
    """The most of a document that may repeat itself: Gopher's table A1 (Rae et al., 2021, arXiv:2112.11446).

    Shares of the lines and paragraphs and of their characters, of the characters in the most frequent n-gram of words, and of those
    in n-grams that stood before.
    """

    lines: float | None = 0.30
    paragraphs: float | None = 0.30
    line_characters: float | None = 0.20
    paragraph_characters: float | None = 0.20
    top_2gram: float | None = 0.20
    top_3gram: float | None = 0.18
    top_4gram: float | None = 0.16
    duplicate_5gram: float | None = 0.15
    duplicate_6gram: float | None = 0.14
    duplicate_7gram: float | None = 0.13
    duplicate_8gram: float | None = 0.12
    duplicate_9gram: float | None = 0.11
    duplicate_10gram: float | None = 0.10

    def __post_init__(self):
        _shares(self, *(f.name for f in fields(self)))


@dataclass(frozen=True)
class Cleaning:
    """What is done to each document, in this order, until nothing changes; all of it is off by default.

    repair: mojibake (text once decoded in the wrong way) and half surrogate pairs.
    control_characters: other line ends become `\\n`; controls, terminal colours and byte order marks go.
    nfc: letters and their accents in one form (Unicode's NFC).
    hyphens: words cut at a line's end are joined, in the text of PDFs or of all documents.
    privacy, lines, language, quality, repetition: see there.
    spare_code: what is meant for prose (all from `hyphens` on, but `privacy`) leaves files alone that are named as source code.
    """

    repair: bool = False
    control_characters: bool = False
    nfc: bool = False
    hyphens: Literal["keep", "pdf", "all"] = "keep"
    privacy: Privacy | None = None
    lines: Lines | None = None
    language: Language | None = None
    quality: Quality | None = None
    repetition: Repetition | None = None
    spare_code: bool = True

    @classmethod
    def off(cls) -> "Cleaning":
        """Every document as it came."""
        return cls()


LIGHT = Cleaning(repair=True, control_characters=True, nfc=True, hyphens="pdf")
CLEANINGS = {
    "off": Cleaning.off(),
    "light": LIGHT,  # for text that a person chose: nothing is rejected but what is empty
    "web": Cleaning(True, True, True, "pdf", None, Lines(), Language(), Quality(), Repetition()),  # for pages that nobody looked at
}
