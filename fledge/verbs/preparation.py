"""`prepare`: text as a person has it becomes a corpus."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fledge.arch.record import did_you_mean, with_setting
from fledge.data.engine import EngineName
from fledge.verbs import terminal
from fledge.verbs.session import Column, Mix, Place, Settings, settings_of, texts_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from fledge.data.cleaning import Cleaning
    from fledge.data.corpus import Corpus
    from fledge.data.documents import Document, Rejected
    from fledge.data.preparation import Recipe, Standing
    from fledge.data.sources import Input
    from fledge.text import Tokenizer, Training

NAMELESS = "what has no name"  # a group, in sentences
STAGES = {
    "look": "looking for changes", "read": "reading", "unique": "looking for duplicates", "compare": "comparing with evaluation files",
    "near": "looking for near duplicates", "paragraphs": "taking out repeated paragraphs", "tokenizer": "learning a tokenizer",
    "tokenize": "tokenizing",
}  # fmt: skip


@dataclass(frozen=True)
class Prepared:
    """What `prepare` made: where, and how much of what; `groups`: of each name that sources were given ("" where none was)."""

    out: str
    documents: int
    bytes: int
    duplicates: int
    rejected: dict[str, int]
    bytes_in: int
    bytes_changed: int
    bytes_rejected: int
    train_tokens: int
    validation_tokens: int
    vocabulary: int
    tokenizer: str
    groups: dict[str, dict[str, int]]

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
    clean: Literal["off", "light", "web"] = "light",
    language: str | None = None,
    mask: str | None = None,
    set: Settings | None = None,
    near_duplicates: Literal["off", "remove", "keep"] = "off",
    paragraphs: bool = False,
    mix: Mix | None = None,
    without: Sequence[str] | None = None,
    compare: Sequence[str] | None = None,
    licence: str = "",
    strict: bool = False,
    discard: bool = False,
    workers: int = 0,
    engine: EngineName = "local",
) -> Prepared:
    """Turn text into a corpus: clean, unique, split, tokenized, hashed.

    The same command again goes on where it was stopped, and brings a finished corpus up to date when the text has changed.

    Args:
        source: files, folders, globs, URLs or hub ids of text, tables, HTML, PDF, Word, EPUB, e-mail or crawls, plain, compressed or in
            archives; general=wiki/ names a group of documents.
        out: the corpus folder.
        vocab: train a byte-level BPE of this many ids; by default about the square root of the text's bytes.
        tokenizer: with --vocab another kind, wordpiece or unigram; instead of training one: bytes, characters, gpt2, a hub id, or a
            folder or file that holds one.
        text_column: the column that holds the text of tables.
        validation: the share of documents held out.
        seed: of the split.
        clean: light repairs characters, web also drops what is no prose, off leaves every document as it came.
        language: keep documents in these languages only, such as en,de; each is recorded.
        mask: put a word in the place of each of these: email,phone,card,iban.
        set: any rule of cleaning, such as clean.quality.min_words=20 or clean.hyphens=all; may be given several times.
        near_duplicates: of documents that are nearly equal remove all but the first, or keep them on one side of the split.
        paragraphs: keep each paragraph of 100 characters or more only where it stands first.
        mix: the shares in which to train on the groups, such as general=0.7,domain=0.3, unless pretrain is given others.
        without: evaluation files; a document that shares 13 words in a row with one is left out.
        compare: tokenizers to set beside the corpus's own in the report, such as gpt2: hub ids, folders or files.
        licence: of the text; it is told in the report and in the card of each model trained on it.
        strict: end at the first thing that cannot be read, rather than leave it out and say so.
        discard: remove the working folder in the end; it is as large as the text, and an added file costs little as long as it is there.
        workers: processes; 0 means as many as there are processors and work for them.
        engine: local processes, or the tasks of a Ray cluster.
    """
    if made := next(iter(corpora_of(source).values()), None):
        raise ValueError(f"{made} is a corpus already: train on it with fledge pretrain {made}, or name the text that it was made of")
    from fledge.data.mixing import shares_of
    from fledge.data.preparation import Recipe
    from fledge.data.unique.near import Near

    corpus = corpus_from(
        source, Path(out), vocab, tokenizer, text_column, validation, seed,
        workers=workers, engine=engine, strict=strict, keep=not discard, mix=None if mix is None else shares_of(mix),
        compare=tuple(compare or ()),
        recipe=partial(
            Recipe, cleaning=cleaning_of(clean, language, mask, settings_of(set)), near=None if near_duplicates == "off" else Near(),
            near_duplicates="keep" if near_duplicates == "keep" else "remove", paragraphs=paragraphs, without=tuple(without or ()),
            licence=licence,
        ),
    )  # fmt: skip
    found = corpus.summary
    return Prepared(
        str(out), found.documents, found.bytes, found.duplicates, dict(found.rejected), found.bytes_in, -found.changed,
        found.bytes_rejected, found.train_tokens, found.validation_tokens, found.vocabulary, corpus.tokenizer.fingerprint(),
        {
            name: {
                f"{split}_{what}": getattr(shards, what)
                for split, shards in (("train", group.train), ("validation", group.validation)) for what in ("documents", "bytes", "tokens")
            } for name, group in corpus.groups.items()
        },
    )  # fmt: skip


def is_corpus(source: str | Path | Sequence[str | Path]) -> bool:
    """Whether one folder is named and is a corpus."""
    names = texts_of(source)
    return len(names) == 1 and os.path.isfile(Path(names[0]) / "corpus.json")  # false too where nothing may be looked at


def corpora_of(source: str | Path | Sequence[str | Path]) -> dict[str, Path]:
    """The folders of the corpora that are named, each by the name that it was given (`name=FOLDER`) or its folder has; none for text.

    Raises `ValueError` where only some are corpora, and where two have one name.
    """
    from fledge.data.sources import grouped

    named = [grouped(name) for name in texts_of(source)]
    text = [path for _, path in named if not is_corpus(path)]
    if len(text) == len(named):
        return {}
    found: dict[str, Path] = {}
    for name, path in named:
        if path in text:
            other = next(path for _, path in named if path not in text)
            raise ValueError(f"{other} is a corpus and {path} is none: prepare it too, with --tokenizer {other}, and name both corpora")
        name = name or Path(path).resolve().name
        if name in found:
            raise ValueError(f"{found[name]} and {path} are both called {name}: name them, such as domain={path}")
        found[name] = Path(path)
    return found


def corpus_from(
    source: str | Path | Sequence[str | Path],
    out: Path,
    vocab: int | None = None,
    tokenizer: str | None = None,
    text_column: str | None = None,
    validation: float = 0.1,
    seed: int = 0,
    standing: "Standing" = "update",
    recipe: "Callable[..., Recipe] | None" = None,
    **more: Any,
) -> "Corpus":
    """The corpus of what `source` names: opened where it names corpora, else prepared in `out`, saying what was found.

    `standing` and `more` are as `fledge.data.preparation.prepare` has them; `recipe` makes a recipe with more in it than is said here.
    """
    from fledge.data.corpus import Corpus
    from fledge.data.preparation import Recipe
    from fledge.data.sources import find
    from fledge.text import Tokenizer

    names, wanted = texts_of(source), chosen_tokenizer(tokenizer, vocab)
    if folders := corpora_of(names):
        corpus = Corpus.open(names[0]) if is_corpus(names) else Corpus.joined({name: Corpus.open(place) for name, place in folders.items()})
        if wanted is not None and not (
            isinstance(wanted, Tokenizer) and wanted.framing().fingerprint() == corpus.tokenizer.framing().fingerprint()
        ):
            raise ValueError(f"{names[0]} is a corpus and has a tokenizer, not {tokenizer or f'one of {vocab} ids'}: prepare its text anew")
        return corpus
    made = (recipe or Recipe)(wanted, validation, seed, text_column)
    return corpus_of(find(names), out, made, standing=standing, **more)


def cleaning_of(name: str, language: str | None, mask: str | None, settings: Mapping[str, str]) -> "Cleaning":
    """The cleaning of that name with these languages, masks and `clean.` settings.

    Raises `ValueError` for what is none of these, with the nearest that is.
    """
    from fledge.data.cleaning import CLEANINGS, Language, Privacy

    if name not in CLEANINGS:
        raise ValueError(f"--clean {name!r} is unknown{did_you_mean(name, CLEANINGS)}")
    cleaning = CLEANINGS[name]
    if language is not None:
        cleaning = replace(cleaning, language=replace(cleaning.language or Language(), keep=tuple(language.split(","))))
    if mask is not None:
        kinds: dict[str, Any] = {field.name: field.default for field in fields(Privacy)}
        for kind in mask.split(","):
            if kind not in kinds:
                raise ValueError(f"--mask {kind!r} is unknown{did_you_mean(kind, kinds)}")
        cleaning = replace(cleaning, privacy=Privacy(**{kind: word if kind in mask.split(",") else None for kind, word in kinds.items()}))
    for setting, value in settings.items():
        room, _, rule = setting.partition(".")
        if room != "clean" or not rule:
            raise ValueError(f"--set {setting}: the settings of preparing begin with clean., for example clean.hyphens=all")
        cleaning = with_setting(cleaning, rule, value)
    return cleaning


def corpus_of(
    given: "Sequence[Input] | Iterable[Document | Rejected]", out: Path, recipe: "Recipe", compare: Sequence[str] = (), **more: Any
) -> "Corpus":
    """The corpus of files or documents, prepared in `out` with a bar and a summary on the terminal, and a page about it beside it."""
    from fledge.data.preparation import Work, prepare
    from fledge.verbs.corpora import PAGE, describe

    with terminal.bar("Preparing", 1) as bar:
        started, stage_of = time.monotonic(), ""

        def progress(stage: str, done: int, total: int) -> None:
            nonlocal started, stage_of
            if stage != stage_of:
                started, stage_of = time.monotonic(), stage
                bar.begin(total)
            spent = time.monotonic() - started
            speed = f", {terminal.memory(done / spent)}/s" if spent > 1 and total > 1 else ""
            bar.to(done, f"{STAGES[stage]}{speed}", total)

        corpus = prepare(given, out, recipe, progress=progress, **more)
    for line in corpus.summary.said():
        terminal.say(f"  {line}")
    for group, of in corpus.groups.items() if len(corpus.groups) > 1 else ():
        terminal.say(f"  of {group or NAMELESS}: {of.said()}")
    if corpus.reused:
        terminal.say(f"  {out} holds this text already, prepared in this way.")
    if compare or not corpus.reused or not (out / PAGE).is_file():
        describe(corpus, compare)
    terminal.say(f"  What it holds, and what was left out: {out / PAGE}, or fledge show {out}")
    if corpus.news:
        terminal.say(f"  {out} was brought up to date: of its files {corpus.news}.")
    if more.get("keep"):
        kept = Work(out).folder
        size = sum(path.stat().st_size for path in kept.rglob("*"))
        terminal.say(f"  {kept} keeps {terminal.memory(size)}, so that a file that is added costs little; --discard removes it.")
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
