"""A tokenizer as a GGUF file has it: byte-level BPE whose pattern llama.cpp knows by name."""

import json
from collections.abc import Sequence
from typing import Any

from fledge.formats.graphs import Fields
from fledge.text.bulk import BYTES, GPT2, LLAMA3, pattern_of
from fledge.text.tokenizer import Tokenizer

# llama.cpp splits text by functions of its own that it knows by these names (src/unicode.cpp), not by a pattern of the file.
PATTERNS = {LLAMA3: "llama-bpe", GPT2: "gpt-2"}
TAKES_WORDS_WHOLE = ("llama-bpe",)  # a word that is a token is taken as it is, whatever the merges make of it (src/llama-vocab.cpp)
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # gguf.TokenType
UNLIKE = ("dropout", "continuing_subword_prefix", "end_of_word_suffix")  # what BPE of `tokenizers` can do, and llama.cpp does not
STOPS = ("eos", "eot", "eom")  # the tokens that end what is written, by the names that GGUF has for three of them


def vocabulary(tokenizer: Tokenizer, size: int, stops: Sequence[int]) -> Fields:
    """The fields of a tokenizer for a model with `size` embeddings; `stops` are the tokens that end what it writes, an end of text first.

    Raises `ValueError` with the reason for a tokenizer that llama.cpp would read otherwise.
    """
    spec = json.loads(tokenizer.backend.to_str())
    model, added = spec["model"], spec["added_tokens"]
    pre = _pattern_name(spec)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    _check_whole_words(tokenizer, model, pre)
    names = {number: name for name, number in model["vocab"].items()} | {token["id"]: token["content"] for token in added}
    kinds = {token["id"]: CONTROL if token["special"] else USER_DEFINED for token in added}
    opening, closing = tokenizer.opening, tokenizer.closing
    end = tokenizer.end_of_text
    if len(opening) > 1 or closing not in ([], [end]):
        raise ValueError(f"this tokenizer puts {opening} before a text and {closing} after it, but llama.cpp one token and its end of text")
    beginning = tokenizer.named(("bos_token",)).get("bos_token", "")
    first = opening[0] if opening else tokenizer.controls.get(beginning, end)
    found: Fields = {
        "model": "gpt2",
        "pre": pre,
        "tokens": [names.get(number, f"[PAD{number}]") for number in range(size)],
        "token_type": [kinds.get(number, NORMAL) if number in names else UNUSED for number in range(size)],
        # A file without any is refused: one of tokens that no text holds never applies.
        "merges": merges or [f"{names[end]} {names[end]}"],
        "bos_token_id": first,
        "padding_token_id": tokenizer.pad,
        "add_bos_token": bool(opening),
        "add_eos_token": bool(closing),
        **{f"{name}_token_id": number for name, number in zip(STOPS, stops, strict=False)},
    }
    return found if tokenizer.mask is None else {**found, "mask_token_id": tokenizer.mask}


def _pattern_name(spec: dict[str, Any]) -> str:
    """llama.cpp's name for how this tokenizer.json splits a text."""
    otherwise = "train one with `fledge prepare` or `fledge pretrain`, whose own kind (bpe) it reads alike, or serve the folder as it is"
    model, pattern = spec["model"], pattern_of(spec["pre_tokenizer"])
    pieces = model["vocab"].keys() - {token["content"] for token in spec["added_tokens"]} if model["type"] == "BPE" else ()
    if not BYTES.keys() <= set(pieces) or not BYTES.keys() >= set("".join(pieces)):
        raise ValueError(f"this tokenizer is no BPE over bytes ({model['type']}), and fledge writes GGUF for those alone: {otherwise}")
    unlike = {name: model[name] for name in UNLIKE if model.get(name)}
    unlike |= {} if spec["normalizer"] is None else {"normalizer": spec["normalizer"]["type"]}
    unlike |= {
        token["content"]: "a token that takes the blanks around it, or whole words only"
        for token in spec["added_tokens"]
        if not token["special"] and (token["lstrip"] or token["rstrip"] or token["single_word"])
    }
    if unlike:
        raise ValueError(f"this tokenizer has {', '.join(f'{k} {v}' for k, v in unlike.items())}, which llama.cpp does not do: {otherwise}")
    if pattern is None and not model["merges"]:
        return PATTERNS[GPT2]  # every byte is a token, wherever the text is split
    if pattern not in PATTERNS:
        raise ValueError(f"this tokenizer splits text by a pattern that llama.cpp has no name for that fledge knows: {otherwise}")
    return PATTERNS[pattern]


def _check_whole_words(tokenizer: Tokenizer, model: dict[str, Any], pre: str) -> None:
    """`ValueError` where a word that is a token is taken whole on one side only."""
    whole = model.get("ignore_merges", False)
    if whole == (pre in TAKES_WORDS_WHOLE):
        return
    if whole:
        raise ValueError(f"this tokenizer takes a word that is a token whole, but llama.cpp does not where text is split as {pre} does")
    pieces = [(number, tokenizer.decode([number])) for name, number in model["vocab"].items() if name not in tokenizer.controls]
    split = tokenizer.backend.pre_tokenizer.pre_tokenize_str
    for (number, text), tokens in zip(pieces, tokenizer.encode_batch([text for _, text in pieces]), strict=True):
        if tokens != [number] and "\ufffd" not in text and len(split(text)) == 1:
            raise ValueError(f"this tokenizer reads {text!r} as the tokens {tokens}, but llama.cpp as the token {number} that it is")
