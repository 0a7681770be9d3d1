"""E-mail addresses, phone numbers, card numbers and IBANs in a text. What has a check digit is only taken for one when it is right."""

import re
from collections.abc import Callable, Iterator

LENGTHS = {  # of each country's IBAN: SWIFT's registry, release 99 (2024)
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BI": 27, "BR": 29, "BY": 28, "CH": 21,
    "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DJ": 27, "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24, "FI": 18, "FK": 18, "FO": 18,
    "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28, "HN": 28, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IQ": 23,
    "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28, "LC": 32, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "LY": 25, "MC": 27,
    "MD": 24, "ME": 22, "MK": 19, "MN": 20, "MR": 27, "MT": 31, "MU": 30, "NI": 28, "NL": 18, "NO": 15, "OM": 23, "PK": 24, "PL": 28,
    "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22, "RU": 33, "SA": 24, "SC": 31, "SD": 18, "SE": 24, "SI": 19, "SK": 24, "SM": 27,
    "SO": 23, "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20, "YE": 30,
}  # fmt: skip

Span = tuple[int, int]

# Every pattern is bounded, so that a search takes time in proportion to the text whatever it holds.
DOMAIN = re.compile(r"@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,126}(?:[^\W\d_]{2,63}|xn--[A-Za-z0-9-]{1,59})(?![\w-])", re.IGNORECASE)
LOCAL = frozenset("!#$%&'*+/=?^_`{|}~.-")  # beside letters and digits, as RFC 5322 has it
LOCAL_LENGTH = 64
FILES = (".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp", ".css", ".js")  # `icon@2x.png` is the name of a picture


def emails(text: str) -> Iterator[Span]:
    """Addresses, found from their `@`; what stands before must begin with a letter, a digit or `_`."""
    if "@" not in text:
        return
    end = 0
    for domain in DOMAIN.finditer(text):
        at = first = domain.start()
        least = max(end, at - LOCAL_LENGTH)
        while first > least and (text[first - 1].isalnum() or text[first - 1] in LOCAL):
            first -= 1
        while first < at and not (text[first].isalnum() or text[first] == "_"):
            first += 1
        if first < at and not domain[0].lower().endswith(FILES):
            end = domain.end()
            yield first, end


GAP = "[ \u00a0-]"
COUNTRY = re.compile(r"[A-Z]{2}[0-9]{2}(?=" + GAP + "?[A-Z0-9]{4})")


def _rest(length: int) -> re.Pattern[str]:
    fours, more = divmod(length - 4, 4)
    return re.compile(f"(?:{GAP}?[A-Z0-9]{{4}}){{{fours}}}" + (f"{GAP}?[A-Z0-9]{{{more}}}" if more else "") + r"(?![^\W_])")


RESTS = {country: _rest(length) for country, length in LENGTHS.items()}


def ibans(text: str) -> Iterator[Span]:
    """Account numbers of a country's length whose remainder by 97 is 1 (ISO 13616), in one piece or in groups of four."""
    end = 0
    for head in COUNTRY.finditer(text):
        first = head.start()
        rest = RESTS.get(text[first : first + 2])
        if rest is None or first < end or text[first - 1 : first].isalnum():
            continue
        found = rest.match(text, head.end())
        if found and _remainder(re.sub(GAP, "", text[first : found.end()])) == 1:
            end = found.end()
            yield first, end


def _remainder(iban: str) -> int:
    return int("".join(str(int(letter, 36)) for letter in iban[4:] + iban[:4])) % 97


LONG = re.compile(f"[0-9]{{4}}{GAP}?[0-9]{{4}}(?:{GAP}?[0-9]){{5}}")  # without it there is no card
CARD = re.compile(
    r"(?<![\w.])(?<!\w-)(?:[0-9]{13,19}"
    r"|[0-9]{4}(?P<a>[ \u00a0-])[0-9]{4}(?P=a)[0-9]{4}(?P=a)[0-9]{4}(?:(?P=a)[0-9]{3})?"
    r"|[0-9]{4}(?P<b>[ \u00a0-])[0-9]{6}(?P=b)[0-9]{4,5})(?!\w|[.-][0-9])"
)
ISSUERS = re.compile(  # by first digits and length: ISO/IEC 7812, the issuers' own ranges
    r"4(?:\d{12}|\d{15}|\d{18})|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}|3(?:0[0-5]|[689]\d)\d{11}"
    r"|35(?:2[89]|[3-8]\d)\d{12,15}|(?:6011|64[4-9]\d|65\d\d|62\d\d)\d{12,15}|220[0-4]\d{12}|(?:50|5[6-8]|6[0-9])\d{11,17}"
)


def cards(text: str) -> Iterator[Span]:
    """Payment cards of a known issuer whose last digit is right (Luhn), in one piece or grouped as they are printed."""
    if not LONG.search(text):
        return
    for found in CARD.finditer(text):
        digits = re.sub(GAP, "", found[0])
        if ISSUERS.fullmatch(digits) and luhn(digits):
            yield found.span()


def luhn(digits: str) -> bool:
    """Whether the last digit fits the others (ISO/IEC 7812-1, annex B).

    >>> luhn("4111111111111111"), luhn("4111111111111112")
    (True, False)
    """
    return sum(sum(divmod(int(digit) * (1 + at % 2), 10)) for at, digit in enumerate(reversed(digits))) % 10 == 0


# International calling codes (ITU-T E.164, annex to Operational Bulletin 991).
CALLING = (
    r"(?:1|7|2(?:[07]|1[1-368]|[2-4]\d|5[0-8]|6[0-9]|9[01789])|3(?:[0-469]|[578]\d)|4(?:[013-9]|2[0-3])|5(?:[1-8]|0\d|9\d)"
    r"|6(?:[0-6]|7[0-9]|8[0-9]|9[0-2])|8(?:[12469]|00|5[0-6]|08|7[08]|8[0-368])|9(?:[0-58]|6[0-8]|7[0-79]|9[2-68]))"
)
GAPS = r"(?:[ \u00a0]?[(/.\u2010-\u2013-][ \u00a0]?|[ \u00a0]|\)[ \u00a0]?|[ \u00a0]?\(0\)[ \u00a0]?)"  # between two digits
APART = r"(?<![\w+.,:/#$€£=-])(?<!\d[ \u00a0])"  # from another number, a word, a path or an amount
ALONE = r"(?!\w|[.,-]\d)"
NUMBER = re.compile(
    APART
    + "(?:"
    + "|".join(
        (
            rf"\+{GAPS}?{CALLING}(?:{GAPS}?\d){{7,12}}",  # +49 (0)30 1234-567
            rf"00[ \u00a0]?{CALLING}{GAPS}\d{{1,5}}(?:{GAPS}?\d){{5,11}}",  # 0049 30 1234567
            r"(?:1[ .-])?(?:\([2-9]\d\d\)[ \u00a0]?[2-9]\d\d[ .-]|[2-9]\d\d(?P<us>[.-])[2-9]\d\d(?P=us))\d{4}",  # (212) 555-0123
            r"0[1-9](?P<fr>[ .-])\d\d(?:(?P=fr)\d\d){3}(?!(?P=fr)\d)",  # 01 23 45 67 89
            r"(?:\(0[1-9]\d{1,4}\) ?|0[1-9]\d{1,4} ?[ /-] ?)\d{2,8}(?:[ -]\d{2,6}){0,4}",  # 030 1234567, (0171) 234 56 78
        )
    )
    + ")"
    + ALONE
)
LABEL = re.compile(
    r"(?i)\b(?:tel|telephone|telefon|téléphone|teléfono|phone|fon|mobile?|cell|handy|fax|whatsapp)"
    r"(?:[ .:]{1,3}(?:no|nr|number))?[ .:]{1,3}$"
)
LABELLED = re.compile(r"\(?\d(?:[ ()./\u00a0-]{0,2}\d){6,14}" + ALONE)
DIALLED = re.compile(r"\d(?:[ ()./\u00a0\u2010-\u2013-]{0,3}\d){6}")  # without it there is no phone number
BEGINNING = re.compile(r"[+(0-9]\d*")
DATE = re.compile(r"\d{1,4}[./-]\d{1,2}[./-]\d{1,4}(?!\d|[./-]\d)")


def phones(text: str) -> Iterator[Span]:
    """Numbers with a calling code, national ones in the forms of North America and of countries that dial 0 first, and labelled ones."""
    if not DIALLED.search(text):
        return
    end = 0
    for beginning in BEGINNING.finditer(text):
        first = beginning.start()
        if first < end:
            continue
        found = NUMBER.match(text, first)
        if not found and text[first] == "(":  # which may not be the number's own
            first += 1
            found = NUMBER.match(text, first)
        least = 9 if text.startswith(("0", "("), first) else 8
        if not found and (found := LABELLED.match(text, first)):
            found = found if LABEL.search(text, max(0, first - 24), first) else None
            least = 7
        if found and least <= sum(map(str.isdigit, found[0])) <= 15 and not DATE.match(text, first):  # E.164: at most 15
            end = found.end()
            yield first, end


KINDS: dict[str, Callable[[str], Iterator[Span]]] = {"email": emails, "iban": ibans, "card": cards, "phone": phones}
"""In the order in which they are looked for: a later one never sees what an earlier one took."""


def masked(text: str, kind: str, mask: str) -> tuple[str, int]:
    """`text` with `mask` for everything of one of the `KINDS`, and how many those were.

    >>> masked("write to jo@example.org, please", "email", "<email>")
    ('write to <email>, please', 1)
    """
    parts, done, times = [], 0, 0
    for start, end in KINDS[kind](text):
        parts += [text[done:start], mask]
        done, times = end, times + 1
    return "".join((*parts, text[done:])) if times else text, times
