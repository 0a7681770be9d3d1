"""What the rules for prose measure: lines, words, stop words, repetition. Thresholds are in `settings`."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from fledge.data.cleaning.settings import Lines, Quality, Repetition

CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
TERMINAL = (".", "?", "!", '"', "'", "”", "’", "»", "。", "？", "！")
POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
SENTENCE = re.compile(r"[.!?。！？][\"'”’»)\]]{0,3}(?=\s|$)")


class Words:
    """The words of a text, what whitespace separates, counted when they are asked for."""

    def __init__(self, text: str):
        self.text = text

    @cached_property
    def all(self) -> list[str]:
        return self.text.split()

    @cached_property
    def counts(self) -> Counter[str]:
        return Counter(self.all)

    @cached_property
    def numbers(self) -> np.ndarray:
        """Each word as the place of its first occurrence among the different ones, (words,) int64."""
        places = dict(zip(self.counts, range(len(self.counts)), strict=True))
        return np.fromiter(map(places.__getitem__, self.all), np.int64, len(self.all))

    @cached_property
    def lengths(self) -> np.ndarray:
        """Characters of each of the different words, (different,) int64."""
        return np.fromiter(map(len, self.counts), np.int64, len(self.counts))

    @cached_property
    def times(self) -> np.ndarray:
        """How often each of the different words occurs, (different,) int64."""
        return np.fromiter(self.counts.values(), np.int64, len(self.counts))

    @cached_property
    def most(self) -> int:
        """Characters of all places of one word, each with a space: of the word that takes the most."""
        return int((self.times * (self.lengths + 1)).max(initial=0))

    @cached_property
    def most_of_pairs(self) -> int:
        """The same of one pair of neighbours, each word with a space."""
        different = len(self.lengths)
        pairs, counts = np.unique(self.numbers[:-1] * different + self.numbers[1:], return_counts=True)
        return int((counts * (self.lengths[pairs // different] + self.lengths[pairs % different] + 2)).max(initial=0))


class Verdict(NamedTuple):
    """Which rule rejects a document, by the name of its setting, and what was measured beside the threshold."""

    rule: str
    detail: str


def _said(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def _above(rule: str, value: float, limit: float | None) -> Iterator[Verdict]:
    if limit is not None and value > limit:
        yield Verdict(rule, f"{_said(value)}, at most {_said(limit)}")


def _below(rule: str, value: float, limit: float | None) -> Iterator[Verdict]:
    if limit is not None and value < limit:
        yield Verdict(rule, f"{_said(value)}, at least {_said(limit)}")


def dropped_lines(text: str, rules: Lines) -> tuple[str, list[tuple[str, str]]]:
    """`text` without the lines that C4 drops, and each of those with the rule that dropped it.

    Empty lines stay, and so does a short line that ends a sentence which the kept line above began.
    """
    lowered = _lowered(text) if rules.javascript or rules.policy else b""
    phrases = [phrase for phrase in POLICY if rules.policy and phrase.encode() in lowered]
    javascript = rules.javascript and b"javascript" in lowered
    words = (rules.min_words or 1) - 1
    kept, dropped, above = [], [], ""
    for line in text.split("\n"):
        rule = ""
        bare = line.strip()
        if bare:
            if rules.max_word_length and len(bare) > rules.max_word_length and max(map(len, bare.split())) > rules.max_word_length:
                rule = "max_word_length"
            elif rules.terminal_punctuation and (not bare.endswith(TERMINAL) or bare.endswith("...")):
                rule = "terminal_punctuation"
            elif words and len(bare.split(None, words)) <= words and not _closes(above, bare, words):
                rule = "min_words"
            elif javascript and "javascript" in bare.lower():
                rule = "javascript"
            elif phrases and any(phrase in bare.lower() for phrase in phrases):
                rule = "policy"
        if rule:
            dropped.append((rule, line))
        else:
            kept.append(line)
            above = bare
    return ("\n".join(kept), dropped) if dropped else (text, dropped)


def _lowered(text: str) -> bytes:
    """What is enough to find a phrase of ASCII: ten times quicker than `str.lower` where the text has other letters."""
    return text.encode("utf-8", "surrogatepass").lower()


def _closes(above: str, line: str, words: int) -> bool:
    return line.endswith(TERMINAL) and not above.endswith(TERMINAL) and len(above.split(None, words)) > words


def judged_lines(text: str, rules: Lines) -> Iterator[Verdict]:
    """C4's reasons to reject what is left of a page."""
    if rules.lorem_ipsum and b"lorem ipsum" in _lowered(text):
        yield Verdict("lorem_ipsum", "")
    if rules.curly_brackets and "{" in text:
        yield Verdict("curly_brackets", "")
    if rules.min_sentences is not None:
        found = 0
        for line in text.split("\n"):
            if found >= rules.min_sentences:
                return
            if bare := line.strip():
                found += len(SENTENCE.findall(bare)) + (not bare.endswith(TERMINAL))
        yield from _below("min_sentences", found, rules.min_sentences)


ALPHANUMERIC = re.compile(r"[^\W_]")
ALPHABETIC = re.compile(r"[^\W\d_]")
UNSPACED = re.compile("[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
"""Thai, Lao, Tibetan, Burmese, Khmer, kana and Chinese characters: no whitespace stands between their words."""


def judged_quality(text: str, words: Words, language: str, rules: Quality) -> Iterator[Verdict]:
    """Gopher's reasons to reject a document; those about words do not hold for scripts that put nothing between them."""
    if not words.all:
        return
    worst = next(_judged_words(text, words, language, rules), None)
    if worst and (text.isascii() or 5 * len(UNSPACED.findall(text)) <= len(text)):
        yield worst
    lines = [line.strip() for line in text.splitlines()]
    yield from _above("max_bullet_lines", sum(line.startswith(("•", "-")) for line in lines) / len(lines), rules.max_bullet_lines)
    yield from _above("max_ellipsis_lines", sum(line.endswith(("...", "…")) for line in lines) / len(lines), rules.max_ellipsis_lines)


def _judged_words(text: str, words: Words, language: str, rules: Quality) -> Iterator[Verdict]:
    total = len(words.all)
    odd = [(word, count) for word, count in words.counts.items() if not (word.isalpha() or word[:-1].isalpha())]
    marks = [(word, count) for word, count in odd if not ALPHANUMERIC.search(word)]
    known = total - sum(count for _, count in marks)
    characters = int(words.lengths @ words.times) - sum(len(word) * count for word, count in marks)
    yield from _below("min_words", known, rules.min_words)
    yield from _above("max_words", known, rules.max_words)
    yield from _below("min_mean_length", characters / max(1, known), rules.min_mean_length)
    yield from _above("max_mean_length", characters / max(1, known), rules.max_mean_length)
    yield from _above("max_symbol_ratio", text.count("#") / total, rules.max_symbol_ratio)
    yield from _above("max_symbol_ratio", (text.count("...") + text.count("…")) / total, rules.max_symbol_ratio)
    alphabetic = total - sum(count for word, count in odd if not ALPHABETIC.search(word))
    yield from _below("min_alphabetic", alphabetic / total, rules.min_alphabetic)
    if language in ("", "en"):
        yield from _below("min_stop_words", sum(word in words.counts for word in rules.stop_words), rules.min_stop_words)


TOP, DUPLICATE = range(2, 5), range(5, 11)
FACTORS = np.array([pow(0x9E3779B97F4A7C15, power, 1 << 64) for power in range(1, 11)], np.uint64)


def judged_repetition(text: str, words: Words, rules: Repetition) -> Iterator[Verdict]:
    """Gopher's reasons to call a document repetitive."""
    if not text:
        return
    paragraphs = [bare for part in text.strip().split("\n\n") if (bare := part.strip("\n"))]
    for name, parts in (("paragraph", paragraphs), ("line", [line for line in text.split("\n") if line])):
        share, characters = repeated(parts)
        yield from _above(f"{name}s", share, getattr(rules, f"{name}s"))
        yield from _above(f"{name}_characters", characters / len(text), getattr(rules, f"{name}_characters"))
    for n in TOP:
        limit = getattr(rules, f"top_{n}gram")
        if limit is not None and most_of_top(words, n) > limit * len(text):
            yield from _above(f"top_{n}gram", top(words.all, n) / len(text), limit)
    limits = {n: limit for n in DUPLICATE if (limit := getattr(rules, f"duplicate_{n}gram")) is not None}
    if limits and most_of_duplicates(words, min(limits)) > min(limits.values()) * len(text):
        for n, limit in limits.items():
            yield from _above(f"duplicate_{n}gram", duplicate(words.all, n) / len(text), limit)


def repeated(parts: Sequence[str]) -> tuple[float, int]:
    """The share of `parts` that stood before, and how many characters those have."""
    counts = Counter(parts)
    if len(counts) == len(parts):
        return 0.0, 0
    return 1 - len(counts) / len(parts), sum((count - 1) * len(part) for part, count in counts.items() if count > 1)


def ngrams(words: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    """All runs of `n` words."""
    return zip(*(words[first:] for first in range(n)), strict=False)


def top(words: Sequence[str], n: int) -> int:
    """Characters, spaces included, in all occurrences of the most frequent n-gram; 0 when none occurs twice."""
    counts = Counter(ngrams(words, n))
    gram, count = max(counts.items(), key=lambda item: item[1], default=((), 0))
    return count * (sum(map(len, gram)) + n - 1) if count > 1 else 0


def duplicate(words: Sequence[str], n: int) -> int:
    """Characters in n-grams that stood before, none counted twice: after one has been found the search goes on behind it."""
    seen, found, start = set(), 0, 0
    while start + n <= len(words):
        gram = tuple(words[start : start + n])
        if gram in seen:
            found += sum(map(len, gram))
            start += n
        else:
            seen.add(gram)
            start += 1
    return found


def most_of_top(words: Words, n: int) -> int:
    """A bound of `top`, quick where texts repeat little: an n-gram has no more characters than n times some word in all its places.

    Nor more than half as many, rounded up, of some pair's: looked at only where words alone tell too little.
    """
    return 0 if len(words.all) < n else min(n * words.most, -(-n // 2) * words.most_of_pairs)


def most_of_duplicates(words: Words, n: int) -> int:
    """A bound of `duplicate` for `n` and for more: characters of all words in n-grams that occur twice, told apart by 64-bit sums.

    What lies in an n-gram that stood before lies in shorter ones that did. Equal n-grams have equal sums, so that none is missed.
    """
    numbers, size = words.numbers, len(words.all) - n + 1
    if size < 2:
        return 0
    sums = sum(numbers[at : at + size].astype(np.uint64) * FACTORS[at] for at in range(n))
    ordered = np.sort(sums)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(twice):
        return 0
    found = np.minimum(np.searchsorted(twice, sums), len(twice) - 1)
    begins = twice[found] == sums
    inside = np.zeros(len(numbers), bool)
    for at in range(n):
        inside[at : at + size] |= begins
    return int(words.lengths[numbers[inside]].sum())
