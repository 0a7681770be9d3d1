"""WordPiece, as BERT reads its `vocab.txt` (Devlin et al., 2019: tokenization.py of google-research/bert)."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

from fledge.text.files import content_of

PREFIX = "##"  # of what goes on with a word
LONGEST = 100  # characters of a word; a longer one is unknown
SPECIAL = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]"}


def word_pieces(model: models.WordPiece, lower: bool, strip_accents: bool | None = None, chinese: bool = True) -> tokenizers.Tokenizer:
    """`model` over words and single marks, white space lost; `strip_accents` None is as `lower` says."""
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = normalizers.BertNormalizer(True, chinese, strip_accents, lower)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(PREFIX, cleanup=False)
    return backend


def learn_word_pieces(texts: Iterable[str], size: int, controls: list[str]) -> tokenizers.Tokenizer:
    """A vocabulary of `size` pieces, `controls` first, learned from texts, which are held meanwhile; half of it at most single characters.

    The last of `controls` stands for what is unknown.
    """
    backend, texts = _over({}, controls[-1]), list(texts)
    words, normal = backend.pre_tokenizer, backend.normalizer.normalize_str
    counts = Counter(c for text in texts for c in normal(text) if not c.isspace())
    letters = sorted(sorted(counts, key=lambda c: (-counts[c], c))[: size // 4])
    # Named beforehand, because the trainer numbers those it meets in another order each time, by which ties are decided.
    later = [PREFIX + c for c in letters if len(words.pre_tokenize_str(normal("a" + c))) == 1]
    long = pre_tokenizers.Split(Regex(rf"[^\s\p{{P}}$+<=>^`|~]{{{LONGEST + 1},}}"), "removed")  # of which nothing can be learned
    backend.pre_tokenizer = pre_tokenizers.Sequence([long, words])
    trainer = trainers.WordPieceTrainer(
        vocab_size=size, min_frequency=2, initial_alphabet=letters, limit_alphabet=len(letters), special_tokens=[*controls, *later],
        continuing_subword_prefix=PREFIX, show_progress=False,
    )  # fmt: skip
    backend.train_from_iterator(texts, trainer)
    return _over(backend.get_vocab(), controls[-1])


def _over(vocabulary: dict[str, int], unknown: str) -> tokenizers.Tokenizer:
    return word_pieces(models.WordPiece(vocabulary, unk_token=unknown, max_input_chars_per_word=LONGEST), lower=False)


def read_vocabulary(path: Path, config: Mapping[str, Any]) -> tuple[tokenizers.Tokenizer, dict[str, str]]:
    """The tokenizer of a `vocab.txt`, one piece a line, as its tokenizer_config.json says; and the names of its control tokens.

    Raises `ValueError` where a control token is none of the pieces.
    """
    pieces = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    ids = {piece: number for number, piece in enumerate(pieces)}
    if len(ids) < len(pieces):
        twice = next(piece for number, piece in enumerate(pieces) if ids[piece] != number)
        raise ValueError(f"{path}: the piece {twice!r} stands in two lines")
    names = {field: content_of(config.get(field)) or usual for field, usual in SPECIAL.items()}
    missing = [name for name in names.values() if name not in ids]
    if missing:
        raise ValueError(
            f"{path} has no piece {', '.join(missing)}: it is no vocabulary of WordPiece, or tokenizer_config.json must name them otherwise"
        )
    model = models.WordPiece(ids, unk_token=names["unk_token"], continuing_subword_prefix=PREFIX, max_input_chars_per_word=LONGEST)
    lower = bool(config.get("do_lower_case", True))
    backend = word_pieces(model, lower, config.get("strip_accents"), config.get("tokenize_chinese_chars", True))
    backend.add_special_tokens(list(names.values()))
    first, last = names["cls_token"], names["sep_token"]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        pair=f"{first} $A {last} $B:1 {last}:1",
        special_tokens=[(name, ids[name]) for name in (first, last)],
    )
    return backend, {**names, "eos_token": last}
