"""What says who a person is gets masked, whatever stands around it; what only looks like it stays."""

import random
import string

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fledge.data.cleaning.privacy import KINDS, LENGTHS, luhn, masked

ISSUED = [
    ("4", 16), ("4", 13), ("51", 16), ("55", 16), ("2221", 16), ("2720", 16), ("34", 15), ("37", 15), ("6011", 16), ("65", 19), ("36", 14),
    ("3530", 16), ("62", 17),
]  # fmt: skip


def card(start: str, length: int, dice: random.Random) -> str:
    digits = start + "".join(dice.choices(string.digits, k=length - len(start) - 1))
    return digits + next(last for last in string.digits if luhn(digits + last))


def iban(country: str, dice: random.Random) -> str:
    account = "".join(dice.choices(string.digits + string.ascii_uppercase, k=LENGTHS[country] - 4))
    number = int("".join(str(int(letter, 36)) for letter in account + country + "00"))
    return f"{country}{98 - number % 97:02}{account}"


def grouped(number: str, gap: str, sizes: tuple[int, ...] = (4,) * 9) -> str:
    parts, at = [], 0
    for size in sizes:
        parts.append(number[at : at + size])
        at += size
    return gap.join(part for part in parts if part)


def all_masked(text: str) -> str:
    for kind in KINDS:
        text = masked(text, kind, f"<{kind}>")[0]
    return text


GAPS = st.sampled_from(["", " ", "-", "\u00a0"])
AROUND = st.sampled_from([("", ""), ("card ", "."), ("(", ")"), ("no:", ", thanks"), ("\n", "\n"), ("é", "é"), (" ", " 12/27")])


@given(st.sampled_from(ISSUED), st.randoms(use_true_random=False), GAPS, st.integers(1, 9))
def test_every_card_is_masked_and_none_whose_check_digit_is_wrong(issued, dice, gap, wrong):
    start, length = issued
    number = card(start, length, dice)
    sizes = (4, 6, 5) if len(number) in (14, 15) else (4,) * 5
    gap = gap if len(number) in (14, 15, 16, 19) else ""
    assert all_masked(f"pay {grouped(number, gap, sizes)}, please") == "pay <card>, please"
    broken = number[:-1] + str((int(number[-1]) + wrong) % 10)
    text = f"pay {grouped(broken, gap, sizes)}, please"
    assert all_masked(text) == text


@given(st.sampled_from(sorted(LENGTHS)), st.randoms(use_true_random=False), GAPS, st.integers(1, 96))
def test_every_iban_is_masked_and_none_whose_check_digits_are_wrong(country, dice, gap, wrong):
    number = iban(country, dice)
    assert all_masked(f"to {grouped(number, gap)}. BIC COBADEFF") == "to <iban>. BIC COBADEFF"
    digits = (int(number[2:4]) + wrong) % 100
    broken = f"{country}{digits:02}{number[4:]}"
    assume(digits % 97 != int(number[2:4]) % 97)
    assert masked(grouped(broken, gap), "iban", "<iban>") == (grouped(broken, gap), 0)


@given(st.emails(), AROUND)
def test_every_address_is_masked(address, around):
    assume(any(letter.isalnum() or letter == "_" for letter in address.split("@")[0]))
    assume(not address.lower().endswith((".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp", ".css", ".js")))
    text = around[0] + address + around[1]
    assume(not around[1].startswith("é"))  # a domain that goes on is another one
    result, times = masked(text, "email", "<email>")
    assert times == 1
    assert "<email>" + around[1] == result[result.index("<email>") :]
    assert "@" not in result
    assert not any(letter.isalnum() for letter in result.removesuffix(around[1]).removeprefix(around[0]).replace("<email>", ""))


PHONES = """\
+49 30 1234567|+49 (0)30 1234-567|+4915112345678|+1 212 555 0123|+1 (212) 555-0123|+44 20 7946 0958|+33 1 23 45 67 89
+41 44 668 18 00|+86 10 1234 5678|+91-98765-43210|+61 2 9374 4000|0049 30 1234567|(212) 555-0123|212-555-0123|212.555.0123
1-212-555-0123|(415)555-2671|01 23 45 67 89|06.12.34.56.78|030 1234567|030/1234567|0171-2345678|(030) 123 45 67|(0171) 2345678
020 7946 0958|07700 900123|0151 12345678|044 668 18 00|Tel. 5550123|Phone: 555 0123 4|Fax: 030.1234567|mobile 0612345678
tel 123-4567"""

OTHER = """\
2021-03-04|01.02.2003|01/02/2003|1-2-2003|12:30:45|2021-03-04 05:06:07|1990-1995|from 1914 to 1918|3.14159265358979|0.123456789
1,234,567,890|10000000|12 345 678|1 000 000 000|0-306-40615-2|978-3-16-148410-0|ISBN 0306406152|192.168.100.200|127.0.0.1:8080
010.020.030.040|v1.22.333.4444|0x1234567890|a+1234567890|x = 0123456789|$1234567890|€ 12.345.678,90
550e8400-e29b-41d4-a716-446655440000|d41d8cd98f00b204e9800998ecf8427e|1e-10|10^12|2^31 = 2147483648|#0123456789|id 20210304050607
sha 00112233|01 02 03 04 05 06 07|1 2 3 4 5 6 7 8 9 10|100 200 300 400|pages 123-145|52.5200 13.4050|1600 Pennsylvania|90210-1234
for i in range(0, 1000000, 10000)|0755 0644|12-34-56|file-2021-01-02-0304.txt|https://x.org/030/1234567|area 51|9/11/2001
1234 5678|room 101|1.0.0-rc.1+20210304|10-20-30"""


@pytest.mark.parametrize("number", PHONES.replace("\n", "|").split("|"))
def test_phone_numbers_are_masked(number):
    for text in (number, f"call {number}.", f"({number})" if "(" not in number else number, f"a\n{number}\nb", f"a: {number}, b"):
        result, times = masked(text, "phone", "<phone>")
        assert times == 1, text
        assert sum(letter.isdigit() for letter in result) == 0, result


@pytest.mark.parametrize("number", OTHER.replace("\n", "|").split("|"))
def test_dates_sums_and_code_are_no_phone_numbers(number):
    for text in (number, f"In {number} it was.", f"({number})", f"a, {number}, b"):
        assert all_masked(text) == text


@given(st.text(st.sampled_from("ab1407 @.-+()/\nDE"), max_size=60))
def test_what_was_masked_is_found_no_more(text):
    once = all_masked(text)
    assert all_masked(once) == once


def test_things_with_an_at_sign_that_are_no_addresses_stay():
    for text in ("@app.route('/')", "icon@2x.png", "user@host", "a @ b.com", "numpy@1.26.4", "@someone", "x@y", "A@B.c"):
        assert masked(text, "email", "<email>") == (text, 0)


def test_letters_of_other_scripts_belong_to_an_address():
    assert masked("an müller@bücher.de, bitte", "email", "-") == ("an -, bitte", 1)
