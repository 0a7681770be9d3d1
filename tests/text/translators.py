"""A translator's tokenizer as Marian's are published: two models of SentencePiece's own trainer and a vocabulary of what they use."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import sentencepiece as spm

TAGS, FOREIGN = (">>eng<<", ">>fra<<"), ("中", "文", "中文", "<s>")  # in the vocabulary only


def write_marian(folder: Path, sources: Sequence[str], targets: Sequence[str], size: int, **options) -> dict[str, int]:
    """Writes the three files and returns the vocabulary, which lacks the pieces that no text is cut into."""
    folder.mkdir(parents=True, exist_ok=True)
    used: set[str] = set()
    for name, texts in (("source.spm", sources), ("target.spm", targets)):
        made = io.BytesIO()
        spm.SentencePieceTrainer.train(
            sentence_iterator=iter(texts), model_writer=made, vocab_size=size, hard_vocab_limit=False, character_coverage=1.0,
            num_threads=1, minloglevel=2, **options,
        )  # fmt: skip
        (folder / name).write_bytes(made.getvalue())
        pieces = spm.SentencePieceProcessor(model_proto=made.getvalue())
        used.update(piece for text in texts for piece in pieces.encode(text, out_type=str))
    vocabulary = {piece: number for number, piece in enumerate(["</s>", "<unk>", *sorted(used), *TAGS, *FOREIGN, "<pad>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    return vocabulary
