"""Marian's tokenizer: one vocabulary for both languages of a translator, and a model of SentencePiece for each.

Source of the rules: tokenization_marian.py of transformers 5.23. It brings Moses' punctuation along, but no text through it.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, processors

from fledge.text.files import MARIAN, Files, content_of, read_object
from fledge.text.sentencepiece import CONTROL, MANY, SPACE, UNIGRAM, SentencePiece
from fledge.text.tokenizer import Tokenizer

SPECIAL = {"unk_token": "<unk>", "eos_token": "</s>", "pad_token": "<pad>"}


class MarianTokenizer(Tokenizer):
    """Reads sources; its `target` reads targets, by the other of the two models (`contents`, of which `side` is the one that reads).

    A piece is looked up in the vocabulary (`backend`), and so are characters in a row that the model does not know, and `>>fra<<` at the
    start of a text, which asks a translator into many languages for one of them. What is not found there is `<unk>`.
    """

    def __init__(self, backend: tokenizers.Tokenizer, config: dict[str, Any], contents: tuple[bytes, bytes], side: int = 0):
        super().__init__(backend, config)
        self.contents, self.side = contents, side

    def __reduce__(self) -> tuple[Any, ...]:
        return MarianTokenizer._from_contents, (self.backend.to_str(), self.config, self.contents, self.side)

    @classmethod
    def _from_contents(cls, text: str, config: dict, contents: tuple[bytes, bytes], side: int) -> "MarianTokenizer":
        return cls(tokenizers.Tokenizer.from_str(text), config, contents, side)

    @classmethod
    def read(cls, files: Files) -> "MarianTokenizer":
        """The tokenizer of source.spm, target.spm and vocab.json; raises `ValueError` naming what is wrong about one of them."""
        source, target, listed = files.model
        vocabulary, config = read_object(listed), read_object(files.config) if files.config else {}
        if config.get("separate_vocabs"):
            raise ValueError(f"{files.config}: separate_vocabs is true, but a model of fledge has one vocabulary for both languages")
        ids = list(vocabulary.values())
        if not all(isinstance(number, int) and number >= 0 for number in ids) or len(set(ids)) < len(ids):
            raise ValueError(f"{listed} is to number each piece, from 0 on, and no two alike")
        names = {field: content_of(config.get(field)) or usual for field, usual in SPECIAL.items()}
        added = [content_of(token) for token in config.get("added_tokens_decoder", {}).values()]
        added += read_object(files.added) if files.added else []
        if missing := [name for name in (*names.values(), *added) if name not in vocabulary]:
            raise ValueError(
                f"{listed} has no piece {', '.join(dict.fromkeys(missing))}: it needs {', '.join(names.values())}, "
                "and what other files of the folder add to it"
            )
        contents = (source.read_bytes(), target.read_bytes())
        read = [_pieces(*side) for side in zip(contents, (source, target), strict=True)]
        closed = {piece.text for model in read for piece in model.pieces if piece.kind == CONTROL}
        backend = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token=names["unk_token"]))
        backend.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.Fuse(), decoders.Strip(" ", MANY, 0)])
        backend.add_special_tokens([*names.values(), *sorted(closed & vocabulary.keys())])
        end = names["eos_token"]
        backend.post_processor = processors.TemplateProcessing(single=f"$A {end}", special_tokens=[(end, vocabulary[end])])
        return cls(backend, {**config, **names, "backend": "custom", "tokenizer_class": "MarianTokenizer"}, contents)

    @cached_property
    def _reads(self) -> Tokenizer:
        pieces = _pieces(self.contents[self.side], MARIAN[self.side]).backend()
        pieces.add_special_tokens([SPECIAL["eos_token"]])  # in case it has none: only names are taken from it
        return Tokenizer(pieces)

    @property
    def target(self) -> "MarianTokenizer":
        return self._other

    @cached_property
    def _other(self) -> "MarianTokenizer":
        return MarianTokenizer(self.backend, self.config, self.contents, 1 - self.side)

    def encode(self, text: str) -> list[int]:
        [found] = self.encode_arrays([text])
        return found.tolist()

    def encode_arrays(self, texts: list[str], threads: int = 1) -> list[np.ndarray]:
        parts = list(map(_without_tag, texts))
        read = self._reads.pieces([text for _, text in parts])
        return [
            np.array([self._ids.get(name, self._unknown) for name in (*tag, *names)], np.uint32)
            for (tag, _), names in zip(parts, read, strict=True)
        ]

    @cached_property
    def _ids(self) -> Mapping[str, int]:
        return {name: number for name, number in self.backend.get_vocab(with_added_tokens=False).items() if name not in self.controls}

    @property
    def _unknown(self) -> int:
        return self.controls[self.config["unk_token"]]

    def fingerprint(self) -> str:
        whole = hashlib.sha256(super().fingerprint().encode())
        for part in (*self.contents, bytes([self.side])):
            whole.update(hashlib.sha256(part).digest())
        return whole.hexdigest()

    def _with(self, backend: tokenizers.Tokenizer) -> "MarianTokenizer":
        return MarianTokenizer(backend, self.config, self.contents, self.side)

    def _files(self) -> dict[str, bytes]:
        vocabulary = sorted(self.backend.get_vocab(with_added_tokens=False).items(), key=lambda entry: entry[1])
        return dict(zip(MARIAN, (*self.contents, json.dumps(dict(vocabulary), ensure_ascii=False).encode()), strict=True))


def _pieces(contents: bytes, name: str | Path) -> SentencePiece:
    try:
        model = SentencePiece.of(contents)
    except ValueError as reason:
        raise ValueError(f"{name}: {reason}") from None
    if model.model != UNIGRAM:
        raise ValueError(f"{name} merges its pieces (BPE), but Marian's are those of Unigram: convert it to a tokenizer.json")
    return model


def _without_tag(text: str) -> tuple[list[str], str]:
    end = text.find("<<") + 2 if text.startswith(">>") else 0
    return ([text[:end]], text[end:]) if end > 1 else ([], text)
