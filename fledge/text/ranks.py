"""`.tiktoken` files: byte-level BPE as a list of byte strings with their ranks, from which the merges are recovered."""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers

from fledge.text.bulk import BYTES, CL100K, GPT2, O200K

CHARACTERS = {byte: c for c, byte in BYTES.items()}
END = "<|endoftext|>"
FILLS = {"<|fim_prefix|>": 100_258, "<|fim_middle|>": 100_259, "<|fim_suffix|>": 100_260}


@dataclass(frozen=True)
class Encoding:
    """What a `.tiktoken` file does not say: how a text is split, and the ids of its control tokens."""

    name: str
    pattern: str
    controls: Mapping[str, int]


# By the number of ranks. Source: tiktoken_ext/openai_public.py of tiktoken 0.14.
ENCODINGS = {
    50_256: Encoding("r50k_base", GPT2, {END: 50_256}),
    50_280: Encoding("p50k_base", GPT2, {END: 50_256}),
    100_256: Encoding("cl100k_base", CL100K, {END: 100_257, **FILLS, "<|endofprompt|>": 100_276}),
    199_998: Encoding("o200k_base", O200K, {END: 199_999, "<|endofprompt|>": 200_018}),
}


def read_ranks(path: Path) -> tokenizers.Tokenizer:
    """The tokenizer of a `.tiktoken` file, with the ids that tiktoken gives; ids that no rank has are control tokens.

    Raises `ValueError` for a file that holds no ranks, or those of an encoding that is not known.
    """
    try:
        rows = (line.split() for line in path.read_bytes().splitlines() if line)
        ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in rows}
    except (ValueError, binascii.Error) as reason:
        raise ValueError(f"{path} holds no ranks as tiktoken writes them ({reason})") from None
    encoding = ENCODINGS.get(len(ranks))
    if encoding is None:
        known = ", ".join(f"{one.name} ({count:,})" for count, one in ENCODINGS.items())
        raise ValueError(
            f"{path} holds {len(ranks):,} ranks, but how such a tokenizer splits a text stands in no file: "
            f"known are {known}; of any other, give a folder with its tokenizer.json"
        )
    if len(set(ranks.values())) < len(ranks) or not {bytes([byte]) for byte in range(256)} <= ranks.keys():
        raise ValueError(f"{path}: two byte strings have one rank, or a byte has none")
    vocabulary = {_named(token): rank for token, rank in ranks.items()} | dict(encoding.controls)
    taken = set(vocabulary.values())
    spares = {f"<|spare_{number}|>": number for number in range(max(taken)) if number not in taken}
    merges = [(_named(left), _named(right)) for left, right in _merges(ranks)]
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary | spares, merges=merges, ignore_merges=True))
    split = pre_tokenizers.Split(Regex(encoding.pattern), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(sorted({**encoding.controls, **spares}, key=(vocabulary | spares).__getitem__))
    return backend


def _named(token: bytes) -> str:
    return "".join(CHARACTERS[byte] for byte in token)


def _merges(ranks: Mapping[bytes, int]) -> list[tuple[bytes, bytes]]:
    """For each byte string that is reached by merging, in the order of ranks, the two parts that were merged last."""
    found = []
    for token, rank in sorted(ranks.items(), key=lambda one: one[1]):
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            pairs = [ranks.get(left + right, rank) for left, right in pairwise(parts)]
            best = min(pairs)
            if best >= rank:
                break
            at = pairs.index(best)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        if len(parts) == 2:
            found.append((parts[0], parts[1]))
    return found
