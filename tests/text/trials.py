"""Strings of every kind, encoded by fledge and by the code that the tokenizers' makers publish: each trial compares a hundred.

A small share of them are tests (test_trials.py), all of them a campaign (benchmarks/tokenizer_ids.py).
"""

import gzip
import json
import os
import random
import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fledge.text import RESERVED, Tokenizer
from fledge.text.sentencepiece import BYTE, CONTROL, NORMAL, SPACE, UNKNOWN, SentencePiece, rounded
from tests.faults import Trial

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

STRINGS = 100  # of a trial
# tiktoken_ext/openai_public.py, cl100k_base and r50k_base
CL100K = r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"""
R50K = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
SPELLED = [*RESERVED[:7], "</s>", "<s>", "<unk>", "<pad>", "[MASK]", "[CLS]", "[UNK]", "##ing", "<|fim_prefix|>", "<0x41>", SPACE]
BLANKS = " \t\n\r\u00a0\u2003\u3000\u2028\u0085\u200b\ufeff\x0b\x0c\x1c\x1f"
SCRIPTS = [range(*ends) for ends in (
    (0x41, 0x7B), (0xC0, 0x250), (0x370, 0x400), (0x400, 0x530), (0x590, 0x600), (0x600, 0x700), (0x900, 0x980), (0xE00, 0xE80),
    (0x1100, 0x1200), (0x1E00, 0x2000), (0x2000, 0x2070), (0x2460, 0x2500), (0x3040, 0x3100), (0x4E00, 0x5200), (0xAC00, 0xB000),
    (0xF900, 0xFB50), (0xFB50, 0xFE00), (0xFF00, 0xFFF0), (0x1D400, 0x1D800), (0x1F1E6, 0x1F650),
)]  # fmt: skip
PLANES = (0x80, 0x800, 0x10000, 0x20000, 0x110000)


class _Steady:
    """The characters, Σ aside, that Unicode 3.2 had with the category and parts of today."""

    def __contains__(self, c: str) -> bool:
        old = unicodedata.ucd_3_2_0
        if c == "Σ":
            return False
        return unicodedata.category(c) == old.category(c) != "Cn" and unicodedata.normalize("NFD", c) == old.normalize("NFD", c)


STEADY = _Steady()


def _planes(dice: random.Random) -> str:
    return "".join(chr(dice.randrange(dice.choice(PLANES))) for _ in range(dice.randint(1, 60)))


def _scripts(dice: random.Random) -> str:
    words = ("".join(map(chr, dice.choices(dice.choice(SCRIPTS), k=dice.randint(1, 8)))) for _ in range(dice.randint(1, 12)))
    return "".join(word + dice.choice(["", " ", " ", ", ", "-"]) for word in words)


def _blanks(dice: random.Random) -> str:
    return "".join(dice.choice([dice.choice(BLANKS) * dice.randint(1, 9), "a", "Ab", "1", "!", SPACE]) for _ in range(dice.randint(1, 20)))


def _controls(dice: random.Random) -> str:
    return "".join(
        chr(dice.choice([*range(32), 127, *range(0x80, 0xA0), 0xAD, 0x200D, 0xFFFE, 0x61, 0x20])) for _ in range(dice.randint(1, 40))
    )


def _specials(dice: random.Random) -> str:
    return "".join(dice.choice([*SPELLED, " ", "", "x", "word", "<", ">", "|"]) for _ in range(dice.randint(1, 12)))


def _surrogates(dice: random.Random) -> str:
    return "".join(chr(dice.choice([dice.randrange(0xD800, 0xE000), dice.randrange(0x20, 0x7F)])) for _ in range(dice.randint(1, 40)))


def _marks(dice: random.Random) -> str:
    letters = "aeiouAEIONnyYﬁﬀºÅ각ㅏかはक"
    return "".join(dice.choice(letters) + "".join(map(chr, dice.choices(range(0x300, 0x370), k=dice.randint(0, 4)))) for _ in range(12))


def _numbers(dice: random.Random) -> str:
    return "".join(
        dice.choice(["'s", "'LL", "'ſ", "12", "3456", ".", " ", "½", "²", "٣٤", "Ⅷ", "x", "\n", "="]) * dice.randint(1, 4)
        for _ in range(15)
    )


@cache
def _rows() -> list[str]:
    """Lines of real text in several languages, cut to 300 characters."""
    data = Path(os.environ["FLEDGE_DATA"])
    files = ("translate/multi30k-train.de.gz", "translate/multi30k-train.en.gz", "classify/ag-news.tsv.gz")
    lines = [line for file in files for line in gzip.decompress((data / file).read_bytes()).decode()[:1_000_000].splitlines()]
    with gzip.open(data / "text" / "wikipedia.jsonl.gz", "rt", encoding="utf-8") as file:
        lines += [line for _, row in zip(range(60), file, strict=False) for line in json.loads(row)["text"].splitlines()]
    return [line[:300] for line in lines if line.strip()]


def _lines(dice: random.Random) -> str:
    return dice.choice(_rows())


def _mixed(dice: random.Random) -> str:
    return "".join(dice.choice([_planes, _scripts, _blanks, _specials, _numbers, _lines])(dice)[:40] for _ in range(4))


MADE: dict[str, Callable[[random.Random], str]] = {
    "planes": _planes, "scripts": _scripts, "blanks": _blanks, "controls": _controls, "specials": _specials, "surrogates": _surrogates,
    "marks": _marks, "numbers": _numbers, "lines": _lines, "mixed": _mixed,
}  # fmt: skip


class Ids(Trial):
    """The ids of GPT-2, BERT, T5 and cl100k from their own files, by `encode` and by `encode_batch`.

    BERT's are compared with `transformers`, and with the algorithm as it was published, in Python: there without the characters that
    are not in Unicode 3.2 as they are today, because Python's tables and those of `tokenizers` are of different years, and without Σ,
    of which Python makes ς at the end of a word and `tokenizers` σ.

    `noted` are the strings that SentencePiece cuts otherwise because it adds scores in 32 bits, each one shown to be such.
    """

    KINDS = tuple(MADE)

    def __init__(self, root: Path):
        super().__init__(root)
        import tiktoken
        import transformers
        from sentencepiece import SentencePieceProcessor
        from tiktoken.load import data_gym_to_mergeable_bpe_ranks, load_tiktoken_bpe
        from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

        files = Path(os.environ["FLEDGE_DATA"]) / "tokenizers"
        gym = data_gym_to_mergeable_bpe_ranks(str(files / "gpt2" / "vocab.bpe"), str(files / "gpt2" / "encoder.json"))
        ranks = load_tiktoken_bpe(str(files / "tiktoken" / "cl100k_base.tiktoken"))
        bert = transformers.BertTokenizer(str(files / "bert-base-uncased" / "vocab.txt")).backend_tokenizer
        bert.encode_special_tokens = True  # people's text, as everywhere in fledge
        self.old = BertTokenizerLegacy(str(files / "bert-base-uncased" / "vocab.txt"))
        self.model = SentencePiece.read(files / "t5" / "spiece.model")
        self.pieces = SentencePieceProcessor(model_file=str(files / "t5" / "spiece.model"))
        self.theirs: dict[str, Callable[[str], list[int]]] = {
            "gpt2": tiktoken.Encoding("gpt2", pat_str=R50K, mergeable_ranks=gym, special_tokens={}).encode_ordinary,
            "bert-base-uncased": lambda text: bert.encode(text, add_special_tokens=False).ids,
            "t5": self.pieces.encode,
            "tiktoken": tiktoken.Encoding("cl100k", pat_str=CL100K, mergeable_ranks=ranks, special_tokens={}).encode_ordinary,
        }
        self.ours = {name: Tokenizer.load(files / name) for name in self.theirs}

    def complaint(self, kind: str, dice: random.Random, seed: int) -> str | None:
        made = _lines if kind == "untouched" else MADE[kind]
        return self.unequal([made(dice) for _ in range(STRINGS)])

    def original(self, text: str) -> list[int]:
        """BERT's ids by Devlin et al.'s tokenization.py, which `transformers` keeps."""
        words = self.old.basic_tokenizer.tokenize(text)
        return [self.old.vocab[piece] for word in words for piece in self.old.wordpiece_tokenizer.tokenize(word)]

    def unequal(self, texts: Sequence[str]) -> str | None:
        """Which tokenizer cuts which of the texts (by number) otherwise than its makers' code."""
        whole = [text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for text in texts]
        for name, theirs in self.theirs.items():
            batch = self.ours[name].encode_batch(list(texts))
            for number, text in enumerate(texts):
                known = "".join(c for c in whole[number] if c in STEADY)
                if name == "bert-base-uncased" and self.ours[name].encode(known) != self.original(known):
                    return f"BERT as published: string {number} of {len(text)} characters"
                expected, found = theirs(whole[number]), self.ours[name].encode(text)
                if found != batch[number]:
                    return f"{name}: encode and encode_batch differ on string {number}"
                if found == expected:
                    continue
                if name == "t5" and tied(self.pieces, self.model, whole[number], expected, found):
                    self.noted += 1
                    continue
                return f"{name}: string {number} of {len(text)} characters, categories {sorted({unicodedata.category(c) for c in text})}"
        return None


def tied(theirs: "SentencePieceProcessor", model: SentencePiece, text: str, expected: list[int], found: list[int]) -> bool:
    """Whether the best cut by sums in 32 bits over the whole text is SentencePiece's, and in 64 bits word by word the one found."""
    seen, controls = theirs.normalize(text), [piece.text[1:] for piece in model.pieces if piece.kind in (UNKNOWN, CONTROL, BYTE)]
    words = re.split(f"(?<=[^{SPACE}])(?={SPACE})|(?<=<)(?={'|'.join(controls)})", seen)
    return best([seen], model, np.float32) == expected and best(words, model, np.float64) == found


def best(parts: list[str], model: SentencePiece, number: type[np.floating]) -> list[int]:
    """The pieces of the highest sum of scores (Kudo, 2018), by the plain recurrence; what is unknown costs 10 more than any piece."""
    scores = {piece.text: (n, rounded(piece.score)) for n, piece in enumerate(model.pieces) if piece.kind == NORMAL}
    bytes_of = {piece.text: n for n, piece in enumerate(model.pieces) if piece.kind == BYTE}
    nothing = next(n for n, piece in enumerate(model.pieces) if piece.kind == UNKNOWN)
    cost, longest = float(number(min(score for _, score in scores.values())) - number(10)), max(map(len, scores))
    ids: list[int] = []
    for part in parts:
        reached: list[tuple[np.floating, int, int] | None] = [(number(0), 0, -1), *[None] * len(part)]
        for start in range(len(part)):
            here = reached[start]
            assert here is not None
            ends = range(start + 1, min(start + longest, len(part)) + 1)
            steps = [(end, *scores[part[start:end]]) for end in ends if part[start:end] in scores]
            if part[start] not in scores:
                steps.append((start + 1, nothing, cost))
            for end, token, score in steps:
                total, before = here[0] + number(score), reached[end]
                if before is None or total > before[0]:
                    reached[end] = (total, start, token)
        path, end = list[tuple[int, str]](), len(part)
        while end:
            step = reached[end]
            assert step is not None
            path.append((step[2], part[step[1] : end]))
            end = step[1]
        for token, text in reversed(path):
            if token != nothing:
                ids.append(token)
            elif model.byte_fallback:
                ids += [bytes_of[f"<0x{byte:02X}>"] for byte in text.encode()]
            elif ids[-1:] != [nothing]:
                ids.append(nothing)
    return ids
