"""Strings to token ids and back, on the `tokenizers` library; text from people never becomes a control token."""

import base64
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers, processors, trainers

from fledge.text.bulk import BYTES, LLAMA3, bulk_encoder
from fledge.text.files import MARIAN, content_of, tokenizer_files
from fledge.text.published import read_published
from fledge.text.sentencepiece import SPACE, Charsmap, guard, learn_pieces
from fledge.text.wordpiece import learn_word_pieces

RESERVED = ("<|endoftext|>", "<|pad|>", "<|mask|>", "<|im_start|>", "<|im_end|>", *(f"<extra_id_{n}>" for n in range(100)))
UNKNOWN = "<|unk|>"
SPARES = 23  # at least; with RESERVED they fill two times 64
ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "[SEP]")  # of imported tokenizers that do not name theirs


Kind = Literal["bpe", "wordpiece", "unigram"]


@dataclass(frozen=True)
class Training:
    """A tokenizer that is still to be trained: how many ids, and of which kind."""

    vocabulary: int
    kind: Kind = "bpe"


class Tokenizer:
    """A `tokenizers.Tokenizer` (`backend`) whose `encode` never yields a control token, whatever the text spells.

    Ids are 0 to `size` - 1, spares included; `controls` maps the text of each control token to its id; `config` is
    what its `tokenizer_config.json` said. It pickles and deep-copies whole, so it can be sent to other processes.
    Text may be any Python string: unpaired surrogates, which UTF-8 cannot hold, are read as U+FFFD.
    """

    def __init__(self, backend: tokenizers.Tokenizer, config: dict | None = None):
        """Takes `backend` over: `encode_special_tokens` is on (it is not part of tokenizer.json), truncation and padding are off.

        Raises `ValueError` if there is no token that ends a text.
        """
        backend.encode_special_tokens = True
        backend.no_truncation()
        backend.no_padding()
        self.backend = backend
        self.config = config or {}
        self._known: str | None = None  # fingerprint
        self.controls = {token.content: number for number, token in backend.get_added_tokens_decoder().items() if token.special}
        self.size = max(backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        self.end_of_text = self._end_of_text()
        self.pad = self._first("<|pad|>", content_of(self.config.get("pad_token")), default=self.end_of_text)
        mask = self._first("<|mask|>", content_of(self.config.get("mask_token")), "[MASK]", "<mask>", default=-1)
        self.mask = None if mask < 0 else mask

    def __reduce__(self) -> tuple[Any, ...]:
        return Tokenizer._from_json, (self.backend.to_str(), self.config)

    @classmethod
    def _from_json(cls, text: str, config: dict) -> "Tokenizer":
        return cls(tokenizers.Tokenizer.from_str(text), config)

    @property
    def kind(self) -> str:
        """`bpe`, `wordpiece`, `unigram`, `bytes` or `characters` for those made here, `loaded` for any other."""
        if [self.controls.get(name) for name in RESERVED] != list(range(len(RESERVED))):
            return "loaded"
        if isinstance(self.backend.model, models.WordPiece):
            return "wordpiece"
        if isinstance(self.backend.model, models.Unigram):
            return "unigram"
        if UNKNOWN in self.controls:
            return "characters"
        return "bytes" if self.size == _round_up(len(RESERVED) + 256 + SPARES) else "bpe"

    def special(self, name: str) -> int | None:
        """The id of the control token spelled `name`, such as `<|im_start|>`; `None` if there is no such token."""
        return self.controls.get(name)

    @cached_property
    def sentinels(self) -> list[int]:
        """The control tokens `<extra_id_0>`, `<extra_id_1>`, ... that stand for spans of a text, in this order; none if it has none."""
        names = (name for n in range(100) for name in (f"<extra_id_{n}>", f"{SPACE}<extra_id_{n}>"))
        return [number for name in names if (number := self.special(name)) is not None]

    @cached_property
    def opening(self) -> list[int]:
        """The control tokens that this tokenizer puts before a text, such as Llama's `<s>` or BERT's `[CLS]`; none if made here."""
        encoding = self.backend.encode("a")
        return encoding.ids[: (*encoding.special_tokens_mask, 0).index(0)]

    @cached_property
    def closing(self) -> list[int]:
        """The control tokens that it puts after a text, such as T5's `</s>` or BERT's `[SEP]`; none if made here and not `framing`."""
        encoding = self.backend.encode("a")
        return encoding.ids[len(encoding.ids) - (*encoding.special_tokens_mask[::-1], 0).index(0) :]

    def framed(self, tokens: Sequence[int], longest: int | None = None) -> list[int]:
        """`tokens` between `opening` and `closing`, cut at their end so that all together are at most `longest`."""
        room = None if longest is None else max(0, longest - len(self.opening) - len(self.closing))
        return [*self.opening, *tokens[:room], *self.closing]

    def framing(self, opening: bool = False, closing: bool = False) -> "Tokenizer":
        """The same, to put the token that ends a text before or after each text (or neither), as encoders are used to.

        It stands in tokenizer.json, so that `transformers` does it too; `encode` is as before.
        """
        backend = tokenizers.Tokenizer.from_str(self.backend.to_str())
        end = next(name for name, number in self.controls.items() if number == self.end_of_text)
        template = [*([end] if opening else []), "$A", *([end] if closing else [])]
        backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=[(end, self.end_of_text)])
        return self._with(backend)

    def _with(self, backend: tokenizers.Tokenizer) -> "Tokenizer":
        return Tokenizer(backend, self.config)

    @property
    def target(self) -> "Tokenizer":
        """What encodes the targets of pairs: the same, unless what is written is cut otherwise than what is read."""
        return self

    def words(self, tokens: Sequence[int]) -> list[int]:
        """The number of the word that each token is a part of; of a control token, and of what is no letter or digit, its own.

        >>> tokenizer.words(tokenizer.encode("unlike un like"))  # un|like|·un|·like
        [0, 0, 1, 2]
        """
        numbers, number, joins = [], -1, False
        for token in tokens:
            opens, goes_on = self._parts_of_words[token]
            number += not (joins and goes_on)
            numbers.append(number)
            joins = opens
        return numbers

    @cached_property
    def _parts_of_words(self) -> list[tuple[bool, bool]]:
        """For each id whether a word can go on after its token, and whether the token can go on with one."""
        prefix = getattr(self.backend.model, "continuing_subword_prefix", None)
        names = [self.backend.id_to_token(number) or "" for number in range(self.size)]
        spaced = any(name.startswith(SPACE) for name in names)

        def parts(name: str) -> tuple[bool, bool]:
            if name in self.controls or not name:
                return False, False
            if isinstance(self.backend.model, models.WordPiece):
                return True, name.startswith(prefix or "##")
            if spaced:
                return True, not name.startswith(SPACE)
            return _in_word(name[-1]), _in_word(name[0])

        return [parts(name) for name in names]

    def encode(self, text: str) -> list[int]:
        """The token ids of `text`; `<|endoftext|>` and the like in it are ordinary characters."""
        [encoding] = self._direct.encode_batch_fast([self._read(text)], add_special_tokens=False)
        return encoding.ids

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """`encode` of each text, the same ids by the fastest way that is at hand: tiktoken where it is installed."""
        return [tokens.tolist() for tokens in self.encode_arrays(texts, os.cpu_count() or 1)]

    def encode_arrays(self, texts: list[str], threads: int = 1) -> list[np.ndarray]:
        """The same as arrays (length,) of unsigned integers, which costs less where the tokens go to disk, by so many threads."""
        if self._bulk is not None:  # none that maps characters is encoded in bulk
            try:
                return self._bulk(texts, threads)
            except UnicodeEncodeError:
                return self._bulk([_unicode(text) for text in texts], threads)
        texts = [self._read(text) for text in texts]
        return [np.array(encoding.ids, np.uint32) for encoding in self._direct.encode_batch_fast(texts, add_special_tokens=False)]

    def pieces(self, texts: list[str]) -> list[list[str]]:
        """The tokens of each text by name, of Unigram what is unknown as it stands in the text."""
        return [encoding.tokens for encoding in self._direct.encode_batch(list(map(self._read, texts)), add_special_tokens=False)]

    def _read(self, text: str) -> str:
        """Text as the model below is to see it: Unicode, and in a tokenizer of SentencePiece's mapped as that maps it."""
        text = _unicode(text)
        return text if self._charsmap is None else self._charsmap(text)

    @cached_property
    def _charsmap(self) -> Charsmap | None:
        """The map of characters, where it is the first step of normalization; applied here, as `tokenizers` reads it otherwise."""
        if self.backend.normalizer is None:
            return None
        first = _steps(json.loads(self.backend.normalizer.__getstate__()))[0]
        if first["type"] != "Precompiled":
            return None
        return _charsmap(base64.b64decode(first["precompiled_charsmap"]), tuple(self._verbatim))

    @property
    def _verbatim(self) -> list[str]:
        return [token.content for token in self.backend.get_added_tokens_decoder().values() if not token.special]

    @cached_property
    def _direct(self) -> tokenizers.Tokenizer:
        """`backend` without the map of characters."""
        if self._charsmap is None:
            return self.backend
        spec = json.loads(self.backend.to_str())
        spec["normalizer"] = {"type": "Sequence", "normalizers": _steps(spec["normalizer"])[1:]}
        direct = tokenizers.Tokenizer.from_str(json.dumps(spec))
        direct.encode_special_tokens = True
        return direct

    @cached_property
    def _bulk(self):
        return bulk_encoder(self.backend)

    def decode(self, tokens: Sequence[int], specials: bool = False) -> str:
        """The text of `tokens`, control tokens left out unless `specials`; bytes that are no UTF-8 become U+FFFD."""
        return self.backend.decode(list(map(int, tokens)), skip_special_tokens=not specials)

    def piece(self, token: int) -> str:
        """One token in printable form, for tables: a space is `·`, what cannot be seen is escaped, half a character is `<0xE2>`.

        Raises `ValueError` for an id that no token has.
        """
        name = self.backend.id_to_token(token)
        if name is None:
            raise ValueError(f"token {token:,}, but this tokenizer has ids 0 to {self.size - 1:,}")
        if name in self.controls:
            return name
        text = self.decode([token])
        if "\ufffd" in text and all(c in BYTES for c in name):
            return "".join(f"<0x{BYTES[c]:02X}>" for c in name)
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text).replace(" ", "·")

    def controlled(self, text: str) -> list[int | str]:
        """The text of a format, which may spell control tokens: their ids, and what stands between them.

        >>> tokenizer.controlled("<|im_start|>user")
        [3, 'user']
        """
        parts = self._control_names.split(text) if self.controls else [text]
        return [self.controls.get(part, part) for part in parts if part]

    @cached_property
    def _control_names(self) -> re.Pattern[str]:
        longest_first = sorted(self.controls, key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, longest_first))})")

    def named(self, names: Sequence[str]) -> dict[str, str]:
        """The texts of control tokens by the names that tokenizer_config.json has for them, such as `bos_token`, where it has them."""
        end = next(name for name, number in self.controls.items() if number == self.end_of_text)
        found = {name: content_of(self.config.get(name)) for name in names}
        return {"eos_token": end} | {name: text for name, text in found.items() if text}

    def fingerprint(self) -> str:
        """SHA-256 of the canonical tokenizer.json: keys sorted, no white space."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        if self._known is not None:
            return self._known
        canonical = json.dumps(json.loads(self.backend.to_str()), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def save(self, folder: Path, context: int | None = None) -> None:
        """Writes `tokenizer_config.json` and `tokenizer.json` (or what else stands for it), as transformers opens them.

        `context`, in tokens, is `model_max_length`.
        """
        names = {number: name for name, number in self.controls.items()}
        config = {
            "backend": "tokenizers",
            "tokenizer_class": "PreTrainedTokenizerFast",  # transformers 5 calls it TokenizersBackend and knows both names
            "clean_up_tokenization_spaces": False,
            **{
                name: value for name, value in self.config.items() if name != "chat_template"
            },  # a model's own file, which says which it has
            "eos_token": names[self.end_of_text],
            "pad_token": names[self.pad],
            **({"unk_token": UNKNOWN} if UNKNOWN in self.controls else {}),
            **({"model_max_length": context} if context else {}),
        }
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name, contents in self._files().items():
            (Path(folder) / name).write_bytes(contents)
        (Path(folder) / "tokenizer_config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def _files(self) -> dict[str, bytes]:
        return {"tokenizer.json": self.backend.to_str(pretty=True).encode()}

    @classmethod
    def train(cls, texts: Iterable[str], vocabulary: int, kind: Kind = "bpe") -> "Tokenizer":
        """A tokenizer learned from `texts`: RESERVED, what is learned, spares.

        `bpe` and `unigram` stand on the 256 bytes, are cut by Llama 3's pattern and give back every text. `wordpiece` is BERT's with
        capitals and accents kept: it gives back words and marks with single blanks between them, and a word with a character that
        did not occur, or of more than 100, as `<|unk|>`.
        `vocabulary` is the total, rounded up to a multiple of 64; it ends up smaller if too few pieces occur twice.
        Raises `ValueError` if it has no room for the reserved tokens and the bytes or characters that pieces are made of, and where
        sentencepiece, which learns `unigram`, is not installed.
        """
        least, units = len(RESERVED) + 256 + SPARES, "characters" if kind == "wordpiece" else "bytes"
        if vocabulary < least:
            raise ValueError(
                f"a vocabulary of {vocabulary:,}, but {len(RESERVED)} reserved tokens, 256 {units} "
                f"and {SPARES} spares need at least {least}: use vocabulary={least}, or more"
            )
        size = _round_up(vocabulary) - SPARES
        if kind == "wordpiece":
            return cls(_with_spares(learn_word_pieces(_cut(texts), size, [*RESERVED, UNKNOWN]), UNKNOWN))
        split = pre_tokenizers.Split(Regex(LLAMA3), "isolated")
        if kind == "unigram":
            words = Counter(
                word for text in _cut(texts) for word, _ in _byte_level(models.BPE(), split).pre_tokenizer.pre_tokenize_str(text)
            )
            pieces = learn_pieces(words, size - len(RESERVED), BYTES)
            return cls(_with_spares(_byte_level(models.Unigram([*((name, 0.0) for name in RESERVED), *pieces]), split)))
        backend = _byte_level(models.BPE(), split)
        trainer = trainers.BpeTrainer(
            vocab_size=size, min_frequency=2, special_tokens=list(RESERVED), initial_alphabet=list(BYTES), show_progress=False
        )
        backend.train_from_iterator(_cut(texts), trainer)
        return cls(_with_spares(backend))

    @classmethod
    def learned(cls, texts: Iterable[str], wanted: "Training | Literal['characters'] | int") -> "Tokenizer":
        """What is `wanted`, from `texts`: byte-level BPE of so many ids, a kind with its number, or one token for each character."""
        if wanted == "characters":
            return cls.characters(texts)
        asked = Training(wanted) if isinstance(wanted, int) else wanted
        return cls.train(texts, asked.vocabulary, asked.kind)

    @classmethod
    def bytes(cls) -> "Tokenizer":
        """One token for each of the 256 bytes of UTF-8, byte b as id `len(RESERVED) + b`; nothing is learned."""
        pieces = sorted(BYTES, key=BYTES.__getitem__)
        return cls(_with_spares(_byte_level(_without_merges([*RESERVED, *pieces]))))

    @classmethod
    def characters(cls, texts: Iterable[str]) -> "Tokenizer":
        """One token for each character that occurs in `texts`, in code-point order; any other is `<|unk|>`."""
        alphabet = sorted(set().union(*map(_unicode, texts)))
        backend = tokenizers.Tokenizer(_without_merges([*RESERVED, UNKNOWN, *alphabet], UNKNOWN))
        backend.decoder = decoders.Fuse()
        return cls(_with_spares(backend, UNKNOWN))

    @classmethod
    def load(cls, name: str | Path, fingerprint: str | None = None) -> "Tokenizer":
        """A tokenizer from a folder, a name on the hub, or one file, as `fledge.text.published` reads them.

        `fingerprint`: the one that it has, where that is known: finding it takes as long as all the rest.
        Raises `FileNotFoundError` with the files that are needed and where to put them, `ValueError` for files that are no
        tokenizer or one in which text could spell a control token.
        """
        files = tokenizer_files(name)
        try:
            if tuple(path.name for path in files.model) == MARIAN:
                from fledge.text.marian import MarianTokenizer  # a Tokenizer itself

                return MarianTokenizer.read(files)
            backend, config = read_published(files)
        except (OSError, ValueError):
            raise
        except Exception as reason:  # tokenizers raises bare Exceptions
            raise ValueError(
                f"{' and '.join(map(str, files.model))}: not a tokenizer that tokenizers {tokenizers.__version__} can read: {reason}"
            ) from None
        tokenizer = cls(backend, config)
        if tokenizer._spelled():
            guard(backend, backend.get_vocab(with_added_tokens=False).keys() & tokenizer.controls.keys())
            tokenizer = cls(backend, config)
        for control in tokenizer._spelled():
            raise ValueError(
                f"{name}: the text {control!r} would become the control token {tokenizer.controls[control]} in this tokenizer "
                f"({type(backend.model).__name__}): use a byte-level BPE"
            )
        tokenizer._known = fingerprint
        return tokenizer

    def _spelled(self) -> list[str]:
        """The control tokens that a text could become, but for what stands for the unknown."""
        model = self.backend.model
        spelled = [name for name, number in self.controls.items() if number in self.encode(name)]
        if spelled and isinstance(model, models.Unigram):
            unknown = json.loads(model.__getstate__())["unk_id"]
        else:
            unknown = self.controls.get(getattr(model, "unk_token", None) or "")
        return [name for name in spelled if self.controls[name] != unknown]

    def _end_of_text(self) -> int:
        named = content_of(self.config.get("eos_token"))
        end = self._first(named, *ENDS, default=-1)
        if end < 0:
            raise ValueError(
                f"no token of this tokenizer ends a text: name it as eos_token in tokenizer_config.json, or have one of {', '.join(ENDS)}"
            )
        return end

    def _first(self, *names: str, default: int) -> int:
        return next((self.controls[name] for name in names if name in self.controls), default)


@lru_cache(maxsize=4)
def _charsmap(blob: bytes, kept: tuple[str, ...]) -> Charsmap:
    """One for all tokenizers with this map, for it takes a second to read; most have the same."""
    return Charsmap(blob, kept)


def _steps(normalizer: dict) -> list[dict]:
    """The steps of a normalizer as it stands in tokenizer.json; an empty one has one that does nothing."""
    return normalizer.get("normalizers") or [normalizer]


def _in_word(character: str) -> bool:
    """Whether a character of a vocabulary, which of a byte-level one is a byte, is a part of a word."""
    byte = BYTES.get(character)
    return character.isalnum() if byte is None else byte >= 128 or chr(byte).isalnum()


def _unicode(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _round_up(count: int) -> int:
    return -(-count // 64) * 64


def _cut(texts: Iterable[str], length: int = 10_000) -> Iterator[str]:
    """Pieces of even size keep all cores of the trainer busy, and no run of letters becomes one endless word."""
    for text in texts:
        text = _unicode(text)
        yield from (text[i : i + length] for i in range(0, len(text), length))


def _without_merges(tokens: list[str], unknown: str | None = None) -> models.BPE:
    return models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[], unk_token=unknown)


def _byte_level(model: models.Model, split: pre_tokenizers.Split | None = None) -> tokenizers.Tokenizer:
    """`model` over bytes written as GPT-2's printable characters."""
    backend = tokenizers.Tokenizer(model)
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes]) if split else to_bytes
    backend.decoder = decoders.ByteLevel()
    return backend


def _with_spares(backend: tokenizers.Tokenizer, *controls: str) -> tokenizers.Tokenizer:
    spares = _round_up(backend.get_vocab_size() + SPARES) - backend.get_vocab_size()
    backend.add_special_tokens([*RESERVED, *controls, *(f"<|spare_{n}|>" for n in range(spares))])
    return backend
