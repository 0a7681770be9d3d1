"""Bulk encoding through tiktoken, built from the same merges and judged by the tokenizer that it replaces."""

import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tokenizers

# Without possessive quantifiers: Oniguruma, which `tokenizers` uses, reads them differently. Source: Llama 3's tokenizer.json.
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# Radford et al., 2019: encoder.py of the GPT-2 release.
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# tiktoken_ext/openai_public.py of tiktoken 0.14; `\z` is its `$`, which Oniguruma would find at the end of each line.
CL100K = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+\z|\s*[\r\n]|\s+(?!\S)|\s"
_SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
O200K = "|".join(
    (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+" + _SUFFIX,
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*" + _SUFFIX,
        r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    )
)
PATTERNS = (LLAMA3, GPT2, CL100K, O200K)

_SEEN = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_UNSEEN = [byte for byte in range(256) if byte not in _SEEN]
# The printable character that stands for each byte in a byte-level vocabulary, as in GPT-2's encoder.py: "Ġ" is 32.
BYTES = {**{chr(byte): byte for byte in _SEEN}, **{chr(256 + n): byte for n, byte in enumerate(_UNSEEN)}}
_TO_LATIN = {ord(c): byte for c, byte in BYTES.items()}

# What matches the same in tiktoken's engine, twice as fast, for it does not remember how to give a letter back.
QUICK = {
    LLAMA3: r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s*[\r\n]+|\s+(?!\S)|\s+",
    GPT2: r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s",
}
# What matches the same in a text that is cut before the last of several blanks ahead of a word, which is all that `(?!\S)` is for: an
# automaton, which cannot look ahead, needs 0.6 of the time. Of GPT-2's blanks a line end is one, the others match it before.
CUT = {pattern: pattern.replace(r"|\s+(?!\S)", "") for pattern in (LLAMA3, GPT2, O200K)}
SPARSE = 1000  # characters for each cut: where there are more, cutting costs as much as it saves

# Of a word of n bytes tiktoken looks at every pair again for each merge, and its pattern engine overflows its stack on a million
# blanks: texts with words this long are left to `tokenizers`.
LONGEST = 500
_LONG_RUN = re.compile(rf"[^\W_]{{{LONGEST}}}|[\W_]{{{LONGEST}}}")  # no pattern has words over this border that go on and on
BLOCK = 1 << 20  # characters of a text that are encoded at once, so that a long one takes little memory
_BORDER = re.compile(r"(?<=\S) (?=\S)")
WORD, LINE_END, SPACE = range(3)  # the kinds of a unit of UTF-16
_KINDS = np.zeros(1 << 16, np.uint8)
_KINDS[[9, 11, 12, 32, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000]] = SPACE  # Unicode's White_Space
_KINDS[[10, 13]] = LINE_END

_ODD = "".join(
    (
        "It's 1234567 o'clock, SHE'LL say: DON'T! 'ſt ½ ²³ ٣٤٥ Ⅷ ﬁ naïve Ünïcode e\u0301 c\u200d\u0301 ",
        "\r\n\r\n\t\tdef f(x):\n    return x  # ok   \n\n\n \n  a\u00a0b\u2003c\u2028 \x00\x07\x1c\x85\ufeff\ufffd ",
        "Ελληνικά, русский, עברית, العربية, हिन्दी, 中文字，日本語、한국어 👩\u200d👩\u200d👧🇩🇪 ",
        "<|endoftext|> <|im_start|><extra_id_0> ",
        *(70 * c for c in "= a\n"),
    )
)


Encode = Callable[[list[str], int], list[np.ndarray]]
"""Many texts to the tokens of each (length,), by so many threads."""


def bulk_encoder(backend: tokenizers.Tokenizer) -> Encode | None:
    """An encoder of many texts with the same ids as `backend`, several times as fast.

    Bytes and characters are looked up; byte-level BPE with a known pattern goes through tiktoken. `None`
    for any other tokenizer, without tiktoken, or if the ids differ on a sample of odd text and of the vocabulary.
    """
    spec = json.loads(backend.to_str())
    controls = {token["content"] for token in spec["added_tokens"]}
    if spec["model"]["type"] != "BPE" or spec["normalizer"] is not None or not all(token["special"] for token in spec["added_tokens"]):
        return None
    pieces = {piece: number for piece, number in spec["model"]["vocab"].items() if piece not in controls}

    def plain(text: str) -> list[int]:
        return backend.encode_batch_fast([text], add_special_tokens=False)[0].ids  # without offsets, which take longer than the ids

    encode = _by_lookup(spec, pieces) or _by_tiktoken(spec, pieces, plain)
    numbers = sorted(pieces.values())
    sample = [_ODD, backend.decode(numbers[:: max(1, len(numbers) // 2000)]), _ODD + " and so on" * SPARSE]
    return encode if encode is not None and all(map(np.array_equal, encode(sample, 1), map(plain, sample))) else None


def _by_lookup(spec: dict, pieces: dict[str, int]) -> Encode | None:
    """Without merges a token is a byte or a character."""
    if spec["model"]["merges"]:
        return None
    match spec["pre_tokenizer"]:
        case None:
            unknown = spec["model"]["vocab"].get(spec["model"]["unk_token"])
            return lambda texts, _: [np.array([pieces.get(c, unknown) for c in text], np.uint32) for text in texts]
        case {"type": "ByteLevel", "add_prefix_space": False}:
            numbers = np.array([pieces.get(c, 0) for c in sorted(BYTES, key=BYTES.__getitem__)], np.uint32)
            return lambda texts, _: [numbers[np.frombuffer(text.encode(), np.uint8)] for text in texts]
    return None


def _by_tiktoken(spec: dict, pieces: dict[str, int], plain: Callable[[str], list[int]]) -> Encode | None:
    try:
        import tiktoken
    except ImportError:
        return None
    pattern = pattern_of(spec["pre_tokenizer"])
    if pattern is None or not BYTES.keys() <= pieces.keys() or not BYTES.keys() >= set("".join(pieces)):
        return None
    ranks = {piece.translate(_TO_LATIN).encode("latin-1"): number for piece, number in pieces.items()}
    unused = {"<|fledge|>": max(ranks.values()) + 1}  # it is allowed nowhere; without any, each place of a text is looked at for it

    def encoder(pattern: str) -> Callable[[str], np.ndarray]:
        encoding = tiktoken.Encoding("fledge", pat_str=pattern, mergeable_ranks=ranks, special_tokens=unused)
        return lambda text: encoding.encode_to_numpy(text, disallowed_special=frozenset())

    whole = encoder(QUICK.get(pattern, pattern))
    cut = encoder(CUT[pattern]) if pattern in CUT else None

    def one(text: str) -> np.ndarray:
        return some(text) if len(text) <= BLOCK else np.concatenate([some(block) for block in _blocks(text)])

    def some(text: str) -> np.ndarray:
        if len(text) < LONGEST:
            return whole(text)
        units = _units(text)
        kinds = _KINDS.take(units)
        if _has_long_run(text, kinds, pattern == O200K):
            return np.array(plain(text), np.uint32)
        cuts = _cuts(kinds, pattern == GPT2)
        if cut is None or len(cuts) * SPARSE > len(text):
            return whole(text)
        if not len(cuts):
            return cut(text)
        return np.concatenate([cut(part.tobytes().decode("utf-16-le")) for part in np.split(units, cuts)])

    def encode(texts: list[str], threads: int) -> list[np.ndarray]:
        if threads == 1 or len(texts) == 1:
            return list(map(one, texts))
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(one, texts))

    return encode


def _blocks(text: str) -> Iterator[str]:
    """A text in blocks of about BLOCK characters, which end before a blank between two words: there every pattern has a border."""
    start = 0
    while len(text) - start > BLOCK and (found := _BORDER.search(text, start + BLOCK)):
        yield text[start : found.start()]
        start = found.start()
    yield text[start:]


def _units(text: str) -> np.ndarray:
    """(units of UTF-16,) uint16."""
    return np.frombuffer(text.encode("utf-16-le"), "<u2")


def _cuts(kinds: np.ndarray, line_ends: bool) -> np.ndarray:
    """Where the last of two or more blanks ahead of a word stands; `line_ends`: they are blanks as others are."""
    blank = kinds != WORD
    space = blank if line_ends else kinds == SPACE
    return np.flatnonzero(space[:-2] & space[1:-1] & ~blank[2:]) + 1


def _has_long_run(text: str, kinds: np.ndarray, marks: bool = False) -> bool:
    """Whether a word or a stretch of blanks has LONGEST characters; most texts are cleared by the kinds of their units alone.

    `marks`: a word goes on over marks, so that no border but a blank is sure.
    """
    blank, half = kinds != WORD, LONGEST // 2
    halves = blank[: len(blank) // half * half].reshape(-1, half)  # of which a long run fills one
    if halves.any(1).all() and not halves.all(1).any():
        return False
    edges = np.flatnonzero(blank[1:] != blank[:-1])
    longest = np.diff(edges, prepend=-1, append=len(blank) - 1).max()
    return bool(longest >= LONGEST) and (marks or _LONG_RUN.search(text) is not None)


def pattern_of(spec: dict | None) -> str | None:
    """The pattern by which a tokenizer.json splits its text, if it is a known one followed by bytes and nothing else."""
    match spec:
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}:
            return GPT2
        case {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            ],
        } if pattern in PATTERNS:
            return pattern
    return None
