"""Tokenizers as others publish them: each kind of file as a `tokenizers` object with the ids that its makers' code gives."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors

from fledge.text.files import Files, content_of, read_object
from fledge.text.ranks import END, read_ranks
from fledge.text.sentencepiece import CONTROL, SPACE, UNKNOWN, Piece, SentencePiece, with_rounded_scores
from fledge.text.wordpiece import read_vocabulary

Read = tuple[tokenizers.Tokenizer, dict[str, Any]]


@dataclass(frozen=True)
class Frame:
    """What a family puts before and after a text, and how many sentinels follow on SentencePiece's pieces.

    `fairseq`: its ids are fairseq's, with `<s> <pad> </s> <unk>` before the pieces and `<mask>` behind them.
    """

    opening: bool = False
    closing: bool = False
    sentinels: int = 0
    fairseq: bool = False


# By `tokenizer_class` of tokenizer_config.json less "Tokenizer"; T5's sentinels are 100 unless `extra_ids` says otherwise.
FRAMES = {
    "T5": Frame(closing=True, sentinels=100),
    "MT5": Frame(closing=True),
    "Llama": Frame(opening=True),
    "CodeLlama": Frame(opening=True),
    "Gemma": Frame(opening=True),
    "XLMRoberta": Frame(opening=True, closing=True, fairseq=True),
}
# Where that file is missing, by `model_type` of config.json, else by the name of the file.
CLASSES = {
    "t5": "T5", "mt5": "MT5", "umt5": "MT5", "llama": "Llama", "mistral": "Llama", "mixtral": "Llama", "phi3": "Llama", "gemma": "Gemma",
    "gemma2": "Gemma", "gemma3": "Gemma", "gemma3_text": "Gemma", "xlm-roberta": "XLMRoberta",
    "spiece.model": "T5", "tokenizer.model": "Llama", "sentencepiece.bpe.model": "XLMRoberta",
}  # fmt: skip
BERTS = ("Bert", "DistilBert", "Electra", "MobileBert", "ConvBert", "LayoutLM", "Funnel", "SqueezeBert", "RetriBert", "Lxmert")
SENTINEL = re.compile(f"{SPACE}?<extra_id_[0-9]+>")  # mT5's are pieces, each with a blank before it (vocabularies.py of google/seqio)
NAMED = (*(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")), "additional_special_tokens")
KEPT = ("additional_special_tokens", "chat_template", "model_max_length")


def read_published(files: Files) -> Read:
    """The tokenizer of these files, and what its tokenizer_config.json is to say.

    Raises `ValueError` with what is wrong about a file, or `OSError`.
    """
    config = read_object(files.config) if files.config else {}
    first = files.model[0]
    if len(files.model) == 2:
        return with_added(byte_pairs(*files.model), _added(files, config)), config
    if first.suffix == ".json":
        return with_rounded_scores(tokenizers.Tokenizer.from_file(str(first))), config
    if first.suffix == ".tiktoken":
        return read_ranks(first), {"eos_token": END} | _kept(config)
    name = _class(files, config)
    if first.suffix == ".txt":
        if name and name not in BERTS:
            raise ValueError(f"{first}: how a {name}Tokenizer reads a {first.name} is not known: give a folder with its tokenizer.json")
        backend, names = read_vocabulary(first, config)
        return with_added(backend, _added(files, config)), names | _kept(config)
    if name and name not in FRAMES:
        raise ValueError(
            f"{first}: how a {name}Tokenizer numbers and frames its pieces is not known (known are {', '.join(FRAMES)}): "
            "give a folder with its tokenizer.json"
        )
    return _sentence_pieces(SentencePiece.read(first), FRAMES[name] if name else Frame(), config, _added(files, config))


def byte_pairs(vocabulary: Path, merges: Path) -> tokenizers.Tokenizer:
    """GPT-2's two files: byte-level BPE with its pattern, ended by `<|endoftext|>`."""
    backend = tokenizers.Tokenizer(models.BPE.from_file(str(vocabulary), str(merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([END])
    return backend


def with_added(backend: tokenizers.Tokenizer, added: Mapping[int, AddedToken]) -> tokenizers.Tokenizer:
    """`backend` with these tokens behind its own; raises `ValueError` where one would get another id."""
    there = {token.content for token in backend.get_added_tokens_decoder().values()}
    for number, token in sorted(added.items()):
        if token.content not in there:
            backend.add_tokens([token])
        if (given := backend.token_to_id(token.content)) != number:
            raise ValueError(
                f"{token.content!r} is to be token {number}, but it follows as {given}: this is not the vocabulary it was added to"
            )
    return backend


def _added(files: Files, config: Mapping[str, Any]) -> dict[int, AddedToken]:
    """What was added to a vocabulary, by id: in tokenizer_config.json, or in added_tokens.json, where those with a name are special."""
    if "added_tokens_decoder" in config or files.added is None:
        told = config.get("added_tokens_decoder", {}).items()
        return {
            int(number): AddedToken(token["content"], special=bool(token.get("special")), normalized=bool(token.get("normalized")))
            for number, token in told
        }
    named = read_object(files.named) if files.named else {}
    values = [of[name] for of in (config, named) for name in NAMED if name in of]
    special = {content_of(token) for value in values for token in (value if isinstance(value, list) else [value])}
    return {
        number: AddedToken(text, special=text in special, normalized=text not in special)
        for text, number in read_object(files.added).items()
    }


def _sentence_pieces(model: SentencePiece, frame: Frame, config: Mapping[str, Any], added: Mapping[int, AddedToken]) -> Read:
    if frame.fairseq:
        model = _as_fairseq(model)
    names = {f"{name}_token": piece for name, piece in model.special.items()} | ({"mask_token": "<mask>"} if frame.fairseq else {})
    names |= _kept(config)
    special = [token.content for token in added.values() if token.special]
    special += [piece.text for piece in model.pieces if SENTINEL.fullmatch(piece.text)]
    backend = model.backend({*special, *map(content_of, config.get("additional_special_tokens") or [])} - {""})
    sentinels = config.get("extra_ids", frame.sentinels) if frame.sentinels else 0
    backend.add_special_tokens([f"<extra_id_{n}>" for n in reversed(range(sentinels))])
    # As they stand in a text: a normalizer puts a blank before each part.
    with_added(backend, {number: AddedToken(token.content, special=token.special, normalized=False) for number, token in added.items()})
    before = [content_of(names.get("bos_token"))] if frame.opening and config.get("add_bos_token", True) else []
    after = [content_of(names.get("eos_token"))] if config.get("add_eos_token", frame.closing) else []
    ids = [(name, backend.token_to_id(name)) for name in dict.fromkeys(before + after)]
    if any(number is None for _, number in ids):
        raise ValueError(f"{' or '.join(name or 'a token' for name, number in ids if number is None)} is to frame a text, but is no piece")
    if ids:
        pair = [*before, "$A", *after, *before, "$B", *after]
        backend.post_processor = processors.TemplateProcessing(single=[*before, "$A", *after], pair=pair, special_tokens=ids)
    return backend, names


def _as_fairseq(model: SentencePiece) -> SentencePiece:
    first = [Piece("<s>", 0.0, CONTROL), Piece("<pad>", 0.0, CONTROL), Piece("</s>", 0.0, CONTROL), Piece("<unk>", 0.0, UNKNOWN)]
    special = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>"}
    return replace(model, pieces=(*first, *model.pieces[3:], Piece("<mask>", 0.0, CONTROL)), special=special)


def _class(files: Files, config: Mapping[str, Any]) -> str | None:
    """The class that reads these files less "Tokenizer", as far as it is said or known by the name of the file."""
    if named := config.get("tokenizer_class"):
        plain = named.removesuffix("Fast").removesuffix("Tokenizer")
        if plain not in ("PreTrained", "TokenizersBackend"):
            return plain
    kind = read_object(files.described).get("model_type") if files.described else None
    return CLASSES.get(kind or "") or CLASSES.get(files.model[0].name)


def _kept(config: Mapping[str, Any]) -> dict[str, Any]:
    """Names of tokens and what goes with the text: the rest stands in tokenizer.json once it is written."""
    named = {name: value for name, value in config.items() if name.endswith("_token") and not name.startswith("add_") and value}
    return named | {name: config[name] for name in KEPT if config.get(name)}
