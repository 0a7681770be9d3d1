"""`prepare`: text as a person has it becomes a corpus."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fledge.verbs import terminal
from fledge.verbs.session import Column, Place, texts_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fledge.data.corpus import Corpus
    from fledge.data.sources import Document, Rejected
    from fledge.text import Tokenizer, Training


@dataclass(frozen=True)
class Prepared:
    """What `prepare` made: where, and how much of what."""

    out: str
    documents: int
    bytes: int
    duplicates: int
    rejected: dict[str, int]
    train_tokens: int
    validation_tokens: int
    vocabulary: int
    tokenizer: str

    def __str__(self) -> str:
        return f"The corpus is {self.out}. Train on it: fledge pretrain {self.out} --out DIR --time 10m"


def prepare(
    source: Sequence[str],
    /,
    *,
    out: Place,
    vocab: int | None = None,
    tokenizer: str | None = None,
    text_column: Column | None = None,
    validation: float = 0.1,
    seed: int = 0,
) -> Prepared:
    """Turn text into a corpus: unique, split, tokenized, hashed.

    Args:
        source: files, folders or globs; .txt .md .py .html and other text, .jsonl .json .csv .tsv .parquet, plain or .gz/.zst.
        out: the corpus folder.
        vocab: train a byte-level BPE of this many ids; by default about the square root of the text's bytes.
        tokenizer: with --vocab another kind, wordpiece or unigram; instead of training one: bytes, characters, gpt2, a hub id, or a
            folder or file that holds one.
        text_column: the column that holds the text of tables.
        validation: the share of documents held out.
        seed: of the split.
    """
    if is_corpus(source):
        raise ValueError(
            f"{source[0]} is a corpus already: train on it with fledge pretrain {source[0]}, or name the text that it was made of"
        )
    corpus = corpus_from(source, Path(out), vocab, tokenizer, text_column, validation, seed)
    found = corpus.summary
    return Prepared(
        str(out), found.documents, found.bytes, found.duplicates, dict(found.rejected), found.train_tokens, found.validation_tokens,
        found.vocabulary, corpus.tokenizer.fingerprint(),
    )  # fmt: skip


def is_corpus(source: str | Path | Sequence[str | Path]) -> bool:
    """Whether one folder is named and is a corpus."""
    names = texts_of(source)
    return len(names) == 1 and os.path.isfile(Path(names[0]) / "corpus.json")  # false too where nothing may be looked at


def corpus_from(
    source: str | Path | Sequence[str | Path],
    out: Path,
    vocab: int | None,
    tokenizer: str | None,
    text_column: str | None,
    validation: float,
    seed: int,
    replace_other: bool = False,
) -> "Corpus":
    """The corpus of what `source` names: opened when it is a corpus folder itself, else prepared in `out`, saying what was found.

    With `replace_other` it takes the place of a corpus in `out` that was made otherwise.
    """
    from fledge.data.corpus import Corpus
    from fledge.data.sources import read
    from fledge.text import Tokenizer

    names, wanted = texts_of(source), chosen_tokenizer(tokenizer, vocab)
    if is_corpus(names):
        corpus = Corpus.open(names[0])
        if wanted is not None and not (
            isinstance(wanted, Tokenizer) and wanted.framing().fingerprint() == corpus.tokenizer.framing().fingerprint()
        ):
            raise ValueError(f"{names[0]} is a corpus and has a tokenizer, not {tokenizer or f'one of {vocab} ids'}: prepare its text anew")
        return corpus
    with terminal.bar("Reading", 1) as bar:
        documents = list(read(names, text_column, progress=lambda stage, done, total: bar.to(done, total=total)))
    return corpus_of(documents, out, wanted, validation, seed, replace_other)


def corpus_of(
    documents: "Iterable[Document | Rejected]", out: Path, tokenizer, validation, seed: int, replace_other: bool = False
) -> "Corpus":
    """The corpus of documents, prepared in `out` with a bar and a summary on the terminal."""
    from fledge.data.corpus import prepare
    from fledge.data.sources import Document

    documents = list(documents)
    if tokenizer is None:
        tokenizer = vocabulary_for(sum(len(item.text) for item in documents if isinstance(item, Document)))
    with terminal.bar("Preparing", 1) as bar:

        def progress(stage: str, done: int, total: int) -> None:
            bar.to(done, stage, total)

        corpus = prepare(documents, out, tokenizer, validation, seed, progress, replace_other=replace_other)
    for line in corpus.summary.said():
        terminal.say(f"  {line}")
    if corpus.reused:
        terminal.say(f"  {out} holds this text already, prepared in this way.")
    return corpus


def chosen_tokenizer(name: str | None, vocab: int | None) -> "Tokenizer | Training | Literal['characters'] | int | None":
    """What `--tokenizer` and `--vocab` ask for, in the terms of `fledge.data.prepare`; None when neither was given."""
    from fledge.text import Tokenizer, Training

    if name == "wordpiece" or name == "unigram":
        if vocab is None:
            raise ValueError(f"--tokenizer {name} trains one: say how many ids it shall have, as in --vocab 8192")
        return Training(vocab, name)
    if name is None or name == "bpe":
        return vocab
    if vocab is not None:
        raise ValueError("--vocab trains a tokenizer and --tokenizer takes one that stands: give one of them")
    if name == "characters":
        return "characters"
    return Tokenizer.bytes() if name == "bytes" else Tokenizer.load(name)


def vocabulary_for(size: int) -> int:
    """A vocabulary for so many bytes of text: the power of two nearest to their root, from 512 to 32,768.

    The number of different words grows about as the root of a text's length (Heaps, 1978).
    """
    return 2 ** min(15, max(9, round(math.log2(max(1, size)) / 2)))
