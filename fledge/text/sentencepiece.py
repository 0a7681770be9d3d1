"""SentencePiece's `.model` files as `tokenizers` objects that give the same ids.

Source of the format and the rules: sentencepiece_model.proto, normalizer.cc, unigram_model.cc and bpe_model.cc of google/sentencepiece 0.2.
"""

import io
import json
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

SPACE = "▁"  # stands for a blank
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
UNIGRAM, BPE = 1, 2
LEARNED = (NORMAL, USER_DEFINED)
LINE = 1000  # characters of a word to learn from
MANY = 1 << 16  # blanks that a decoded text does not begin with


@dataclass(frozen=True)
class Piece:
    """A row of the vocabulary; `kind` is NORMAL, CONTROL, ..."""

    text: str
    score: float = 0.0
    kind: int = NORMAL


@dataclass(frozen=True)
class SentencePiece:
    """What a `.model` file says; `special` maps unk, bos, eos and pad to their pieces, where there are such."""

    pieces: tuple[Piece, ...]
    model: int
    byte_fallback: bool
    special: Mapping[str, str]
    charsmap: bytes
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool

    @classmethod
    def read(cls, path: Path) -> "SentencePiece":
        """Raises `ValueError` for a file that is none, and for what no such tokenizer of a published model has."""
        try:
            return cls.of(path.read_bytes())
        except ValueError as reason:
            raise ValueError(f"{path}: {reason}") from None

    @classmethod
    def of(cls, contents: bytes) -> "SentencePiece":
        """What the contents of such a file say; raises `ValueError`."""
        try:
            parts = [(field, value) for field, value in _fields(contents) if isinstance(value, bytes)]
            pieces = tuple(_piece(value) for field, value in parts if field == 1)
            trainer, _ = _message(b"".join(value for field, value in parts if field == 2))
            normalizer, texts = _message(b"".join(value for field, value in parts if field == 3))
        except (ValueError, KeyError, IndexError, struct.error) as reason:
            raise ValueError(f"no model of SentencePiece ({reason})") from None
        kind = trainer.get(3, UNIGRAM)
        unsuitable = {
            "it has no pieces": not pieces,
            "it cuts words or characters only": kind not in (UNIGRAM, BPE),
            "it puts blanks behind words": trainer.get(24, 0),
            "it keeps blanks as they are": not normalizer.get(5, 1),
            "some of its pieces are switched off": any(piece.kind == UNUSED for piece in pieces),
            "it has no piece for what is unknown, or several": sum(piece.kind == UNKNOWN for piece in pieces) != 1,
        }
        for reason in (reason for reason, holds in unsuitable.items() if holds):
            raise ValueError(f"{reason}, which no tokenizer of a published model does: it needs a tokenizer.json")
        numbers = {name: _signed(trainer.get(field, default)) for name, field, default in _SPECIAL}
        special = {name: pieces[number].text for name, number in numbers.items() if 0 <= number < len(pieces)}
        prefixed, squeezed = bool(normalizer.get(3, 1)), bool(normalizer.get(4, 1))
        return cls(pieces, kind, bool(trainer.get(35, 0)), special, texts.get(2, b""), prefixed, squeezed)

    def backend(self, controls: Iterable[str] = ()) -> tokenizers.Tokenizer:
        """The tokenizer, without anything around a text.

        `controls` are the pieces that people's text must not become, besides those that the file itself says are: chat models name
        theirs in tokenizer_config.json.
        """
        closed = {piece.text for piece in self.pieces if piece.kind in (UNKNOWN, CONTROL)} | set(controls)
        verbatim = [piece.text for piece in self.pieces if piece.kind == USER_DEFINED and piece.text not in closed]
        if self.add_dummy_prefix and verbatim:
            raise ValueError(
                f"the piece {verbatim[0]!r} stands for itself in a text that a blank is put before, which `tokenizers` cannot do: "
                "it needs a tokenizer.json, or tokenizer_config.json must name it among additional_special_tokens"
            )
        made = tokenizers.Tokenizer(self._model(closed.union(verbatim)))
        steps: list[normalizers.Normalizer] = [normalizers.Precompiled(self.charsmap)] if self.charsmap else []
        if self.remove_extra_whitespaces:
            steps += [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Replace(Regex(r"\A "), "")]
        if self.add_dummy_prefix:
            steps.append(normalizers.Prepend(SPACE))
        steps.append(normalizers.Replace(" ", SPACE))
        if self.remove_extra_whitespaces:  # the look behind keeps a long run of blanks from being tried again at each of them
            steps.append(normalizers.Replace(Regex(f"(?<!{SPACE}){SPACE}+\\z"), ""))
        made.normalizer = normalizers.Sequence(steps)
        learned = [piece.text for piece in self.pieces if piece.kind in LEARNED]
        if SPACE in learned and not any(re.search(f"[^{SPACE}]{SPACE}", text) for text in learned):
            # no piece reaches from word to word
            made.pre_tokenizer = pre_tokenizers.Split(Regex(f"(?<=[^{SPACE}])(?={SPACE})"), "isolated")
        parts: list[decoders.Decoder] = [decoders.Replace(SPACE, " "), *([decoders.ByteFallback()] if self.byte_fallback else [])]
        blanks = MANY if self.remove_extra_whitespaces else int(self.add_dummy_prefix)
        made.decoder = decoders.Sequence([*parts, decoders.Fuse(), *([decoders.Strip(" ", blanks, 0)] if blanks else [])])
        made.add_tokens([AddedToken(text, normalized=True) for text in verbatim])
        made.add_special_tokens([piece.text for piece in self.pieces if piece.text in closed])
        unmatched = closed | {piece.text for piece in self.pieces if piece.kind == BYTE}
        if self.model == UNIGRAM:
            guard(made, unmatched)
        return made

    def _model(self, unmerged: set[str]) -> models.Model:
        if self.model == UNIGRAM:
            unknown = next(number for number, piece in enumerate(self.pieces) if piece.kind == UNKNOWN)
            return models.Unigram([(piece.text, rounded(piece.score)) for piece in self.pieces], unknown, self.byte_fallback)
        ids = {piece.text: number for number, piece in enumerate(self.pieces)}
        merges = merges_by_score(
            [(piece.text, piece.score) for piece in self.pieces if piece.kind == NORMAL and piece.text not in unmerged]
        )
        unknown = next(piece.text for piece in self.pieces if piece.kind == UNKNOWN)
        return models.BPE(vocab=ids, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=self.byte_fallback)


def rounded(score: float) -> float:
    """To 15 digits, which tokenizer.json holds exactly: of more, `tokenizers` reads another number than it wrote."""
    return float(f"{score:.15g}")


def with_rounded_scores(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """The same tokenizer, or one of Unigram with scores that are as they are read again."""
    if not isinstance(backend.model, models.Unigram):
        return backend
    spec = json.loads(backend.to_str())
    spec["model"]["vocab"] = [[piece, rounded(score)] for piece, score in spec["model"]["vocab"]]
    return tokenizers.Tokenizer.from_str(json.dumps(spec))


def merges_by_score(pieces: list[tuple[str, float]]) -> list[tuple[str, str]]:
    """The merges of SentencePiece's BPE, best first: any two pieces that together are one, by that one's score."""
    texts = {text for text, _ in pieces}
    return [
        (text[:i], text[i:])
        for text, _ in sorted(pieces, key=lambda piece: -piece[1])
        for i in range(len(text) - 1, 0, -1)
        if text[:i] in texts and text[i:] in texts
    ]


def guard(backend: tokenizers.Tokenizer, names: Iterable[str]) -> None:
    """Part a text inside of each of `names`, so that no text becomes one of these tokens of the model.

    The place is one over which no other token reaches and where what is unknown does not go on, where there is one: then nothing
    else changes.
    """
    closed = {name for name in names if len(name) > 1}
    known = backend.get_vocab(with_added_tokens=False).keys() - closed
    reaching = Counter(pair for text in known for pair in map("".join, pairwise(text)))

    def harm(name: str, cut: int) -> int:
        left, right = name[cut - 1 : cut + 1]
        return reaching[left + right] + (left not in known and right not in known)

    sides: dict[str, list[str]] = {}
    for name in sorted(closed):
        cut = min(range(1, len(name)), key=partial(harm, name))
        sides.setdefault(name[:cut], []).append(name[cut:])
    if sides:
        places = (f"(?<={_literal(left)})(?={'|'.join(map(_literal, rights))})" for left, rights in sides.items())
        cut = pre_tokenizers.Split(Regex("|".join(places)), "isolated")
        backend.pre_tokenizer = pre_tokenizers.Sequence([*([backend.pre_tokenizer] if backend.pre_tokenizer else []), cut])


def learn_pieces(words: Mapping[str, int], size: int, alphabet: Iterable[str]) -> list[tuple[str, float]]:
    """`size` pieces and their scores by SentencePiece's Unigram (Kudo, 2018) from words and how often each occurs; `alphabet` is in it.

    The same words give the same pieces, which the trainer of `tokenizers` (0.23) does not: it adds in another order each time.
    Raises `ValueError` where sentencepiece is not installed.
    """
    try:
        from sentencepiece import SentencePieceTrainer
    except ImportError:
        raise ValueError("a Unigram tokenizer is trained by sentencepiece, which is not installed: pip install 'fledge[data]'") from None
    letters, least = set(alphabet), -1.0
    parts: Counter[str] = Counter()
    for word, count in words.items():  # no piece is longer than 16 characters, and a line of more than 4,192 bytes is left out
        for start in range(0, len(word), LINE):
            parts[word[start : start + LINE]] += count
    seen, found = letters.intersection("".join(parts)), dict[str, float]()
    if parts:
        written = io.BytesIO()
        SentencePieceTrainer.train(
            sentence_iterator=(f"{part}\t{count}" for part, count in sorted(parts.items(), key=lambda one: (-one[1], one[0]))),
            model_writer=written, input_format="tsv", model_type="unigram", vocab_size=size - len(letters) + len(seen) + 1,
            hard_vocab_limit=False, character_coverage=1.0, unk_id=0, bos_id=-1, eos_id=-1, pad_id=-1, split_by_whitespace=False,
            split_by_unicode_script=False, split_by_number=False, normalization_rule_name="identity", add_dummy_prefix=False,
            remove_extra_whitespaces=False, num_threads=1, minloglevel=2,
        )  # fmt: skip
        found = {piece.text: rounded(piece.score) for piece in SentencePiece.of(written.getvalue()).pieces if piece.kind == NORMAL}
        least = rounded(min(found.values()) - 10)
    return [*found.items(), *((letter, least) for letter in alphabet if letter not in found)]


class Charsmap:
    """SentencePiece's normalizer by a precompiled map, which replaces the longest known sequence at each place of a text.

    `tokenizers`' own reading of the map looks at one grapheme at a time, takes the shortest sequence that begins it and drops what
    follows; where marks are stacked on a character, its ids are not SentencePiece's. Texts in `kept` stay as they are.
    """

    def __init__(self, blob: bytes, kept: Iterable[str] = ()):
        """Raises `ValueError` for a map that is cut off."""
        (size,) = struct.unpack_from("<I", blob) if len(blob) > 4 else (len(blob),)
        if not 0 < size < len(blob):
            raise ValueError(f"a map of characters of {len(blob):,} bytes, which does not hold what it says")
        self.units, self.texts, self.kept = memoryview(blob[4 : 4 + size // 4 * 4]).cast("I"), blob[4 + size :], tuple(kept)

    def __call__(self, text: str) -> str:
        """The text as the model was trained to see it, blanks not yet squeezed."""
        return text if text.isascii() and self._unchanged(text) else self._pattern.sub(self._replaced, text)

    @cached_property
    def _unchanged(self) -> Callable[[str], object]:
        """Whether a text consists of ASCII characters without a rule; no rule goes on with one."""
        inert = [chr(n) for n in range(32, 127) if not self.kept and self._of_ascii(n) is None]
        return re.compile(f"[{re.escape(''.join(inert))}]*").fullmatch if inert else lambda text: None

    def _of_ascii(self, byte: int) -> str | None:
        node = _offset(self.units[0]) ^ byte
        unit = self.units[node]
        return self._text(self.units[node ^ _offset(unit)]) if unit & 0x800000FF == byte and unit >> 8 & 1 else None

    def _text(self, leaf: int) -> str:
        start = leaf & 0x7FFFFFFF
        return self.texts[start : self.texts.index(0, start)].decode()

    @cached_property
    def rules(self) -> dict[str, str]:
        """Every sequence that is replaced, with what takes its place; walked in breadth through Darts-clone's double array."""
        import numpy as np

        units = np.frombuffer(self.units, "<u4")
        offsets, labels, leaf = _offset(units), units & 0x800000FF, (units >> 8) & 1
        letters, found, keys, nodes = np.arange(1, 256, dtype=np.uint32), dict[str, str](), [b""], offsets[:1]
        while len(keys):
            places = (nodes[:, None] ^ letters).clip(max=len(units) - 1)
            rows, columns = np.nonzero(labels[places] == letters)
            here = places[rows, columns]
            keys = [keys[row] + bytes([column + 1]) for row, column in zip(rows.tolist(), columns.tolist(), strict=True)]
            nodes = here ^ offsets[here]
            ends = np.flatnonzero(leaf[here])
            found.update((keys[row].decode(), self._text(self.units[int(nodes[row])])) for row in ends.tolist())
        return found

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self.rules))

    @cached_property
    def _pattern(self) -> re.Pattern:
        """A character that a rule can begin with, and what can follow it in one."""
        first, later = {key for key in self.rules if len(key) == 1}, {c for key in self.rules for c in key[1:]}
        alone, after = (f"[{re.escape(''.join(sorted(some)))}]" if some else "(?!)" for some in (first, later))
        kept = "".join(f"{re.escape(text)}|" for text in sorted(self.kept, key=len, reverse=True))
        return re.compile(f"{kept}{alone}{after}*|.{after}+", re.DOTALL)

    def _replaced(self, match: re.Match) -> str:
        run, at, done = match[0], 0, list[str]()
        if run in self.kept:
            return run
        if len(run) == 1:
            return self.rules.get(run, run)
        while at < len(run):
            known = (run[at : at + size] for size in range(min(self._longest, len(run) - at), 0, -1))
            taken = next((text for text in known if text in self.rules), None)
            done.append(run[at] if taken is None else self.rules[taken])
            at += 1 if taken is None else len(taken)
        return "".join(done)


_SPECIAL = (("unk", 40, 0), ("bos", 41, 1), ("eos", 42, 2), ("pad", 43, -1))


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The numbered fields of a message in protobuf's wire format (https://protobuf.dev/programming-guides/encoding)."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if wire not in (1, 2, 5):
            raise ValueError(f"byte {at:,} begins no field")
        size, at = _varint(data, at) if wire == 2 else ({1: 8, 5: 4}[wire], at)
        if at + size > len(data):
            raise ValueError(f"a field of {size:,} bytes at byte {at:,} of {len(data):,}")
        yield key >> 3, data[at : at + size]
        at += size


def _offset(unit):
    """Where the children of a node lie, relative to it: Darts-clone, include/darts.h."""
    return (unit >> 10) << ((unit & 512) >> 6)


def _message(data: bytes) -> tuple[dict[int, int], dict[int, bytes]]:
    """The fields of a message that are numbers, and those that are bytes; the last of each."""
    numbers, contents = dict[int, int](), dict[int, bytes]()
    for field, value in _fields(data):
        if isinstance(value, int):
            numbers[field] = value
        else:
            contents[field] = value
    return numbers, contents


def _piece(data: bytes) -> Piece:
    numbers, contents = _message(data)
    (score,) = struct.unpack("<f", contents.get(2, bytes(4)))
    return Piece(contents[1].decode(), score, numbers.get(3, NORMAL))


def _varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[at]
        number, shift, at = number | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return number, at
        if shift > 63:
            raise ValueError(f"a number without an end at byte {at:,}")


def _signed(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number


def _literal(text: str) -> str:
    """`text` for Oniguruma, in which a letter or a character above ASCII stands for itself."""
    return "".join(f"\\x{{{ord(c):X}}}" if c.isascii() and not c.isalnum() else c for c in text)
