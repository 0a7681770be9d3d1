"""Characters as they were meant: mojibake repaired, controls out, accents in one form, words whole that a line's end cut in two."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from functools import cache

from fledge.data.files import mended

LINE_END = re.compile("\r\n|[\r\v\f\x1c-\x1e\x85\u2028\u2029]")  # what `str.splitlines` takes for one
CONTROL = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ufeff]")
COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
MARKS = 30  # of one letter at most: the limit of Unicode's stream-safe format (UAX 15, section 13)

OTHER = re.compile(r"[^\0-\x7f]+")
AROUND = 8  # characters on each side of what is not ASCII: more than any alternative of ftfy's pattern takes


def repaired(text: str) -> str:
    """`text` without mojibake and half surrogate pairs, by ftfy's rules for encodings alone: quotes, widths and entities stay.

    >>> repaired("schÃ¶n â€” sagte sie")
    'schön — sagte sie'
    """
    if text.isascii():
        return text
    text = mended(text)[0]
    from ftfy.badness import is_bad

    # ftfy mends only lines in which its own pattern finds something: asked around what is not ASCII alone, that costs a tenth.
    if not any(map(is_bad, _around(text))):
        return text
    return "".join(_line_repaired(line) if is_bad(line) else line for line in re.split("(?<=\n)", text))


def _around(text: str) -> Iterator[str]:
    for other in OTHER.finditer(text):
        start = max(0, other.start() - AROUND)
        yield text[max(start, text.rfind("\n", start, other.start()) + 1) : other.end() + AROUND]


def _line_repaired(line: str) -> str:
    from ftfy import TextFixerConfig, fix_text

    return fix_text(line, TextFixerConfig(
        unescape_html=False, remove_terminal_escapes=False, fix_latin_ligatures=False, fix_character_width=False, uncurl_quotes=False,
        fix_line_breaks=False, fix_surrogates=False, remove_control_chars=False, normalization=None, explain=False,
    ))  # fmt: skip


def without_controls(text: str) -> str:
    """`text` with `\\n` for every line end and without control characters but the tab.

    >>> without_controls("a\\r\\nb\\x1b[31m red\\0")
    'a\\nb red'
    """
    if not CONTROL.search(text):
        return text
    return CONTROL.sub("", LINE_END.sub("\n", COLOUR.sub("", text)))


def composed(text: str) -> str:
    """`text` in NFC. A line in which more than 30 marks stand on one letter stays as it is: sorting them takes quadratic time."""
    if unicodedata.is_normalized("NFC", text):
        return text
    piled = _piled()
    if not piled.search(text):
        return unicodedata.normalize("NFC", text)
    return "\n".join(line if piled.search(line) else unicodedata.normalize("NFC", line) for line in text.split("\n"))


@cache
def _piled() -> re.Pattern[str]:
    marks = [code for code in range(0x300, 0x20000) if unicodedata.combining(unicodedata.normalize("NFD", chr(code))[0])]
    return re.compile(f"[{''.join(map(chr, marks))}]{{{MARKS + 1}}}")


CUT = re.compile(r"(?<=[^\W\d_])(?:-|\u2010|\u00ad)[ \t]{0,4}\n[ \t]{0,80}(?=[^\W\d_])")
WORD = re.compile(r"[^\W\d_]+(?:[-\u2010][^\W\d_]+)*")
LONGEST = 40  # letters of a part of a word


def joined(text: str) -> str:
    """`text` whose words are whole again where a hyphen and a line's end cut them.

    The hyphen stays when the document has the word with it elsewhere, more often than without.

    >>> joined("an exam-\\nple of well-\\nknown words, well-known")
    'an example of well-known words, well-known'
    """
    if not CUT.search(text):
        return text
    words = Counter(found[0].lower() for found in WORD.finditer(text))
    return "".join(_joined(text, words))


def _joined(text: str, words: Counter[str]) -> Iterator[str]:
    done = 0
    for cut in CUT.finditer(text):
        if not (text[cut.start() - 1].islower() and text[cut.end()].islower()):
            continue
        before = text[max(0, cut.start() - LONGEST) : cut.start()]
        first = re.split(r"[\W\d_]", before)[-1].lower()
        second = re.split(r"[\W\d_]", text[cut.end() : cut.end() + LONGEST], maxsplit=1)[0].lower()
        keeps = cut[0][0] != "\u00ad" and words[f"{first}-{second}"] > words[first + second]
        yield text[done : cut.start()] + "-" * keeps
        done = cut.end()
    yield text[done:]
