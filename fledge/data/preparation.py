"""Sources -> pieces -> staged parts -> a fate for each document -> shards: streaming, parallel, and going on after any end.

Everything follows from the sources and the settings alone, so that the corpus is the same, byte for byte, for any
number of workers and however often it was stopped on the way.
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from time import time_ns
from typing import Any, Literal

import numpy as np

from fledge.arch.record import differences, to_json
from fledge.data.cleaning.changes import Changes
from fledge.data.cleaning.cleaner import Cleaner, cleaner
from fledge.data.cleaning.settings import Cleaning
from fledge.data.corpus import FORMAT, MANIFEST, PROFILE, Corpus, Summary, dtype_of, seal, share_of
from fledge.data.documents import Document, Item, Rejected
from fledge.data.engine import Engine, EngineName, Report, engine_of
from fledge.data.fates import CONTAMINATED, CUT, DUPLICATE, NEAR, REASONS, REPEATED, TRAIN, VALIDATION, Fates, Shortened, TextOf
from fledge.data.files import Progress, require, sync
from fledge.data.mixing import among
from fledge.data.pieces import (
    UNFINISHED,
    Contents,
    Part,
    Piece,
    Staged,
    Staging,
    building,
    key_of,
    look_of,
    one_line,
    piece_size,
    pieces_of,
    word_count,
)
from fledge.data.profile import Profile, profiled
from fledge.data.sources import Input, find, read_input
from fledge.data.unique.contamination import Contaminated, Contamination
from fledge.data.unique.exact import exact_duplicates, kept_masks
from fledge.data.unique.near import Near, near_groups
from fledge.data.unique.paragraphs import without
from fledge.data.unique.rows import Rows
from fledge.text.tokenizer import Tokenizer, Training

SAMPLE_BYTES = 1 << 27  # of the text to train on, from which a tokenizer is learned
LEAST_CUT = 256  # bytes of a document that are worth holding out
BATCH_BYTES = 1 << 21
REPORTED = 1 << 20  # characters after which a reader tells how far it is
SPLITS = ("train", "validation")
OFF = Cleaning.off()
Standing = Literal["refuse", "update", "replace"]
Choice = Tokenizer | Training | Literal["characters"] | int | None


@dataclass(frozen=True)
class Recipe:
    """All that decides what a corpus of given sources holds.

    `tokenizer`: one that stands, or how many ids a byte-level BPE trained on the train part shall have, or another kind with
    that number, or `"characters"` (of it);
    by default a BPE as large as the text suggests. `validation`: the share of documents held out, chosen by their contents, or a
    function that says which (of documents in memory). Each group is
    split for itself. Of a single document, and where few or uneven ones would make the held-out part more than three times too large or
    small, the end of the longest is cut off, at the end of a line if there is one near.
    `near`: by what near duplicates are found, if they are; of each group the first is kept, or all, on one side of the split.
    `paragraphs`: those that stood before are taken out. `without`: evaluation files, with which no document may share 13 words in a row.
    `licence`: of the text, as it is told to those who get the corpus or a model trained on it.
    """

    tokenizer: Choice = None
    validation: float | Callable[[Document], bool] = 0.1
    seed: int = 0
    text_column: str | None = None
    cleaning: Cleaning = OFF
    near: Near | None = None
    near_duplicates: Literal["remove", "keep"] = "remove"
    paragraphs: bool = False
    without: tuple[str, ...] = ()
    licence: str = ""

    def __post_init__(self) -> None:
        if not callable(self.validation) and not 0 < self.validation < 1:
            raise ValueError(f"the validation share is {self.validation}, but it lies between 0 and 1: for example 0.1")
        if isinstance(self.tokenizer, str) and self.tokenizer != "characters":
            raise ValueError(f"tokenizer {self.tokenizer!r}: give a number of ids for a trained one, or 'characters', or a Tokenizer")

    def told(self) -> dict[str, Any]:
        """The recipe as JSON, a tokenizer by its hash."""
        chosen = Training(self.tokenizer) if isinstance(self.tokenizer, int) else self.tokenizer
        training = chosen if isinstance(chosen, Training) else None
        return {
            "tokenizer": chosen.fingerprint() if isinstance(chosen, Tokenizer) else training.kind if training else chosen or "bpe",
            "vocabulary": training.vocabulary if training else None,
            "validation": "chosen by the caller" if callable(self.validation) else self.validation,
            "seed": self.seed,
            "near_duplicates": self.near_duplicates if self.near else "off",
            "without": sorted({given.fingerprint() for given in find(self.without)}) if self.without else [],
            "licence": self.licence,
            **self.reading(),
        }

    def reading(self) -> dict[str, Any]:
        """What decides how a piece is read, as JSON."""
        near = {**to_json(self.near), **self.near.facts()} if self.near else None
        return {"text_column": self.text_column, "cleaning": to_json(self.cleaning), "near": near, "paragraphs": self.paragraphs}


def prepare(
    source: Iterable[Item] | Sequence[Input],
    out: Path | str,
    recipe: Recipe | None = None,
    *,
    workers: int = 0,
    engine: EngineName = "local",
    strict: bool = False,
    keep: bool = False,
    standing: Standing = "update",
    mix: Mapping[str, float] | None = None,
    piece_bytes: int | None = None,
    progress: Progress | None = None,
) -> Corpus:
    """Writes the corpus folder `out` from `source`: what `find` found, or documents in memory.

    Documents equal up to white space count once. `strict` raises for the first thing that is rejected. What was finished when a
    run ends early lies in a working folder beside `out`, `.NAME.work`, and the next one goes on from there; `keep` leaves it there
    even after the end (it is as large as the text), so that a changed source costs little more than itself.
    `mix`: the shares of its groups by which the corpus is trained on unless others are asked for.
    What `standing` says of a corpus that is there: made of the same by the same recipe, it is returned as it is; with
    `"update"`, one of other sources, or a damaged one, is brought up to date; `"replace"` replaces any corpus.

    Raises `ValueError` when nothing is left to read, when one side of the split would be empty, or when `out` holds anything else
    (with the differences); nothing else is overwritten. Whatever happens, `out` is either whole or not there.
    """
    out, recipe = Path(out), recipe or Recipe()
    told = recipe.told()
    found = _standing(out, told, recipe, standing)
    work = Work(out)
    given = _as_inputs(source, out)
    if mix and given is not None:
        among(mix, dict.fromkeys((one.group for one in given), 1))
    mixed = dict(mix) if mix else None
    total = sum(one.size for one in given) if given is not None else 0
    piece_bytes = piece_bytes or piece_size(total)
    if not workers:
        most = os.cpu_count() or 1
        workers = most if given is None else max(1, min(most, -(-total // piece_bytes)))
    with work.used(keep), engine_of(engine, workers) as does:
        run = _Run(work, recipe, does, strict, piece_bytes, progress or (lambda *_: None))
        if given is not None:
            pieces, looks = run.looked(given)
            made_of = key_of(told, piece_bytes, [piece.key(recipe.reading()) for piece in pieces])
            if (same := _unchanged(out, found, made_of, mixed, standing)) is not None:
                return same
            read = run.read(pieces, looks)
        else:
            read = run.taken(source)  # pyrefly: ignore[bad-argument-type]
            made_of = key_of(told, piece_bytes, [stage.folder.name for stage in read])
            if (same := _unchanged(out, found, made_of, mixed, standing)) is not None:
                return same
        if found is not None and standing == "refuse":
            work.wanted.clear()
            work.forget()
            raise ValueError(f"{out} was prepared from other text: choose another --out, or remove that folder")
        staged, fates = run.fates(read)
        tokenizer = run.tokenizer(staged, fates)
        shards = run.shards(staged, fates, tokenizer)
        with work.corpus() as folder:
            profile, summary = profiled(read, staged, fates, (shard.counts() for shard in shards), recipe.near)
            _log(folder / "rejected.log", staged, fates)
            _write(folder, staged, shards, tokenizer, profile, summary, {"settings": told, "made_of": made_of, "mix": mixed})
        work.put(out)
        work.forget()
    return replace(Corpus.open(out), news=run.news if found is not None else "")


def _as_inputs(source: Iterable[Any], out: Path) -> list[Input] | None:
    """What `find` found, without what lies in `out` itself; None if it is documents.

    Raises `ValueError` where a library is missing that is needed to read any of it.
    """
    if not (isinstance(source, (list, tuple)) and source and all(isinstance(item, Input) for item in source)):
        return None
    own = os.path.join(os.path.realpath(out), "")
    inputs = [given for given in source if given.place != "file" or not os.path.realpath(given.path).startswith(own)]
    for given in inputs:
        if not given.problem:
            require(given.source, given.format)
    return inputs


def _standing(out: Path, told: dict[str, Any], recipe: Recipe, standing: Standing) -> dict[str, Any] | None:
    """What the corpus in `out` says of itself; None where there is none."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not (out / MANIFEST).is_file():
        raise ValueError(f"{out} exists and is no corpus: choose another --out")
    try:
        facts = Corpus.facts(out)
    except ValueError:
        if standing == "replace":
            return None
        raise
    asked = told
    if isinstance(recipe.tokenizer, Tokenizer) and told["tokenizer"] == facts["tokenizer"]:  # its own, which it may have been trained for
        asked = told | {name: facts["settings"][name] for name in ("tokenizer", "vocabulary")}
    changed = differences(facts["settings"], asked)
    if changed and standing != "replace":
        raise ValueError(f"{out} was prepared otherwise ({'; '.join(changed)}): choose another --out, or remove that folder")
    return facts


def _unchanged(out: Path, found: dict[str, Any] | None, made_of: str, mix: dict[str, float] | None, standing: Standing) -> Corpus | None:
    if found is None or found["made_of"] != made_of or found["mix"] != mix:
        return None
    try:
        return replace(Corpus.open(out), reused=True)
    except ValueError:
        if standing == "refuse":
            raise
        return None


class Work:
    """The working folder of a corpus: what stages have made, by kind and key, and what files held."""

    def __init__(self, out: Path):
        out = Path(os.path.abspath(out))
        self.folder = out.parent / f".{out.name}.work"
        self.unfinished = out.parent / f".{out.name}{UNFINISHED}"
        self.before = out.parent / f".{out.name}.before"
        self.out = out
        self.wanted: set[tuple[str, str]] = set()

    @contextmanager
    def used(self, keep: bool) -> Iterator[None]:
        """It is there, and this process alone works in it; afterwards it is removed unless it is to be kept or holds finished work."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with _alone(self.folder):
            if self.before.exists():  # stopped between two renames
                if self.out.exists():
                    shutil.rmtree(self.before)
                else:
                    os.replace(self.before, self.out)
            shutil.rmtree(self.unfinished, ignore_errors=True)
            for leftover in self.folder.rglob(f"*{UNFINISHED}"):
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
            try:
                yield
            except BaseException:
                if not any(self.folder.glob("pieces/*")):
                    shutil.rmtree(self.folder, ignore_errors=True)
                raise
            if not keep:
                shutil.rmtree(self.folder)

    def place(self, kind: str, key: str) -> Path:
        """Where something is kept, which this run has a use for."""
        self.wanted.add((kind, key))
        return self.folder / kind / key

    @contextmanager
    def corpus(self) -> Iterator[Path]:
        """The folder in which a corpus is put together."""
        self.unfinished.mkdir()
        try:
            yield self.unfinished
        except BaseException:
            shutil.rmtree(self.unfinished, ignore_errors=True)
            raise

    def put(self, out: Path) -> None:
        """What was put together takes the place of `out`; whoever has the files of an older one open keeps them."""
        out = Path(os.path.abspath(out))
        if out.exists():
            os.replace(out, self.before)
        os.replace(self.unfinished, out)
        sync(out.parent)
        shutil.rmtree(self.before, ignore_errors=True)

    def forget(self) -> None:
        """Remove what this run had no use for: older versions of sources that changed, and what was made of them."""
        for path in self.folder.glob("*/*"):
            if (path.parent.name, path.name) not in self.wanted:
                shutil.rmtree(path)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Raises `ValueError` while another process prepares the same corpus."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with open(folder / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another process prepares this corpus already (it works in {folder}): wait for it, or stop it") from None
        yield


@dataclass(frozen=True)
class Reading:
    """The order to read a piece into `folder`; `looks`: how its files looked when their contents were hashed."""

    piece: Piece
    looks: tuple[list[int] | None, ...]
    folder: Path
    recipe: Recipe
    strict: bool
    limit: int

    def __str__(self) -> str:
        return str(self.piece)


def read_piece(order: Reading, report: Report) -> None:
    """Read and clean one piece into its staged parts."""
    first, recipe = order.piece.inputs[0], order.recipe
    clean = _cleaner(recipe.cleaning)
    with (
        building(order.folder) as folder,
        Staging(folder, order.limit, first.origin, first.group, recipe.near, recipe.paragraphs) as staging,
    ):
        for given, look in zip(order.piece.inputs, order.looks, strict=True):
            left, waiting = given.size, 0
            for item in read_input(given, recipe.text_column):
                take(item, staging, clean, order.strict)
                if isinstance(item, Document):
                    waiting += len(item.text)
                    if waiting > REPORTED and left:
                        done = min(left, waiting)
                        left, waiting = left - done, 0
                        report(done)
            report(left)
            if look is not None and look_of(given) != look:
                raise ValueError(f"{given.source} was changed while it was read: give the same command again")


def take(item: Item, staging: Staging, clean: Cleaner | None, strict: bool, held: int = -1) -> None:
    """Clean one item and stage what came of it."""
    if strict and isinstance(item, Rejected):
        raise ValueError(f"{item}: without --strict it would be left out")
    if clean is None or isinstance(item, Rejected):
        staging.add(item, held=held)
    else:
        staging.add(clean(item, staging.changes), len(item.text.encode()), held)


@lru_cache(1)
def _cleaner(settings: Cleaning) -> Cleaner | None:
    return None if settings == OFF else cleaner(settings)


@dataclass(frozen=True)
class Looking:
    """The order to hash files."""

    inputs: tuple[Input, ...]

    def __str__(self) -> str:
        return self.inputs[0].source


def look_at(order: Looking, report: Report) -> list[tuple[list[int] | None, str]]:
    """How each file looks, and what it holds."""
    found = []
    for given in order.inputs:
        found.append((look_of(given), given.fingerprint()))
        report(given.size)
    return found


@dataclass(frozen=True)
class Tokenizing:
    """The order to make the shards of a part in `folder`; `cut`: a document and the byte where its held-out end begins."""

    part: Part
    fates: bytes
    cut: tuple[int, int] | None
    tokenizer: Path
    fingerprint: str
    folder: Path

    def __str__(self) -> str:
        return self.part.path


@dataclass(frozen=True)
class Shard:
    """What became of a part, in `folder`: of each split that has any the tokens, documents, bytes and the SHA-256 of its two files."""

    folder: Path
    splits: dict[str, dict[str, Any]]

    @classmethod
    def open(cls, folder: Path) -> "Shard":
        """The shard in a folder; raises `OSError` or `ValueError` when it is not what it was."""
        splits = json.loads((folder / "shard.json").read_text(encoding="utf-8"))
        for split, facts in splits.items():
            for ending in ("bin", "idx"):
                with open(folder / f"{split}.{ending}", "rb") as stream:
                    if hashlib.file_digest(stream, "sha256").hexdigest() != facts[ending]:
                        raise ValueError(f"{folder}: {split}.{ending} is not what it was")
        return cls(folder, splits)

    def counts(self) -> dict[str, np.ndarray]:
        """Of each split the tokens of its documents, (documents,) int64, each with the one that ends it."""
        starts = {split: np.fromfile(self.folder / f"{split}.idx", "<i8")[::2] for split in self.splits}
        return {split: np.diff(start, append=self.splits[split]["tokens"]) for split, start in starts.items()}


def tokenize_part(order: Tokenizing, report: Report) -> Shard:
    """Make the shards of one part, unless they stand."""
    try:
        found = Shard.open(order.folder)
        report(order.part.bytes)
        return found
    except (OSError, ValueError):
        shutil.rmtree(order.folder, ignore_errors=True)
    tokenizer = _tokenizer(order.tokenizer, order.fingerprint)
    with building(order.folder) as folder:
        writers = {split: _ShardWriter(folder, split, tokenizer) for split in SPLITS}
        fates, records = np.frombuffer(order.fates, np.uint8), order.part.records()
        chosen = np.flatnonzero(fates <= CUT)
        texts = order.part.texts(chosen, records)
        numbers = iter(chosen.tolist())
        for batch in _batches(texts, BATCH_BYTES):
            parted: dict[str, list[str]] = {split: [] for split in SPLITS}
            size = 0
            for number, text in zip(islice(numbers, len(batch)), batch, strict=True):
                size += int(records["bytes"][number])
                if fates[number] == CUT:
                    assert order.cut is not None
                    raw = text.encode()
                    parted["train"].append(raw[: order.cut[1]].decode())
                    parted["validation"].append(raw[order.cut[1] :].decode())
                else:
                    parted[SPLITS[fates[number]]].append(text)
            for split, some in parted.items():
                writers[split].add(some)
            report(size)
        splits = {split: facts for split, writer in writers.items() if (facts := writer.close()) is not None}
        (folder / "shard.json").write_text(json.dumps(splits), encoding="utf-8")
    return Shard(order.folder, splits)


@lru_cache(1)
def _tokenizer(folder: Path, fingerprint: str) -> Tokenizer:
    return Tokenizer.load(folder)


def _batches(texts: Iterable[str], limit: int) -> Iterator[list[str]]:
    """Runs of texts of about `limit` characters at the most; a longer one is a run of its own."""
    batch: list[str] = []
    filled = 0
    for text in texts:
        if batch and filled + len(text) > limit:
            yield batch
            batch, filled = [], 0
        batch.append(text)
        filled += len(text)
    if batch:
        yield batch


class _ShardWriter:
    """The two files of one split: the tokens, and where each document starts and how many bytes its text has."""

    def __init__(self, folder: Path, split: str, tokenizer: Tokenizer):
        self.tokenizer, self.dtype = tokenizer, dtype_of(tokenizer)
        self.path, self.index = folder / f"{split}.bin", folder / f"{split}.idx"
        self.end = np.array([tokenizer.end_of_text], self.dtype)
        self.starts: list[int] = []
        self.sizes: list[int] = []
        self.tokens, self.hash = 0, hashlib.sha256()
        self.file = open(self.path, "wb")  # noqa: SIM115

    def add(self, texts: list[str]) -> None:
        for text, tokens in zip(texts, self.tokenizer.encode_arrays(texts), strict=True):
            self.starts.append(self.tokens)
            self.sizes.append(len(text.encode()))
            self.tokens += len(tokens) + 1
            for part in (tokens.astype(self.dtype, copy=False), self.end):
                self.file.write(part.data)
                self.hash.update(part.data)

    def close(self) -> dict[str, Any] | None:
        """What was written; None, and no files, if nothing was."""
        self.file.close()
        if not self.tokens:
            self.path.unlink()
            return None
        index = np.column_stack([self.starts, self.sizes]).astype("<i8").tobytes()
        self.index.write_bytes(index)
        counts = {"tokens": self.tokens, "documents": len(self.starts), "bytes": sum(self.sizes)}
        return {**counts, "bin": self.hash.hexdigest(), "idx": hashlib.sha256(index).hexdigest()}


@dataclass(frozen=True)
class Plain:
    """A function of an item as a task."""

    function: Callable[[Any], Any]

    def __call__(self, item: Any, report: Report) -> Any:
        return self.function(item)


@dataclass(frozen=True)
class Comparing:
    """The order to compare a part with evaluation files; `content` is a hash of theirs."""

    part: Part
    files: tuple[str, ...]
    content: str
    folder: Path

    def __str__(self) -> str:
        return self.part.path


def compare_part(order: Comparing, report: Report) -> list[tuple[int, Contaminated]]:
    """The numbers of the documents of a part that share words with evaluation files, and what they share."""
    kept = order.folder / "found.json"
    if not kept.is_file():
        tests, found, number = _contamination(order.files, order.content), [], 0
        for batch in _batches(order.part.texts(), BATCH_BYTES):
            found += [(number + at, to_json(shared)) for at, shared in enumerate(tests.found_each(batch)) if shared is not None]
            number += len(batch)
        with building(order.folder) as folder:
            (folder / "found.json").write_text(json.dumps(found), encoding="utf-8")
    report(order.part.bytes)
    return [(number, Contaminated(**shared)) for number, shared in json.loads(kept.read_text(encoding="utf-8"))]


@lru_cache(1)
def _contamination(files: tuple[str, ...], content: str) -> Contamination:
    return Contamination.of(files)


@dataclass(frozen=True)
class Shortening:
    """The order to write a part without its `repeated` paragraphs (packed bits)."""

    part: Part
    fates: bytes
    repeated: bytes
    folder: Path

    def __str__(self) -> str:
        return self.part.path


def shorten_part(order: Shortening, report: Report) -> tuple[Part, list[int]]:
    """The part without repeated paragraphs, and the numbers of the documents of which nothing is left."""
    if not (order.folder / "part.json").is_file():
        records, fates = order.part.records(), np.frombuffer(order.fates, np.uint8)
        repeated = np.unpackbits(np.frombuffer(order.repeated, np.uint8), count=int(records["paragraphs"].sum())).astype(bool)
        masks = np.split(repeated, np.cumsum(records["paragraphs"])[:-1])
        empty, content = [], hashlib.sha256()
        with building(order.folder) as folder:
            with open(folder / "00000.text", "wb") as file:
                for number, (text, mask) in enumerate(zip(order.part.texts(), masks, strict=True)):
                    rest = without(text, mask) if fates[number] == TRAIN else text
                    empty += [number] if not rest.strip() else []
                    raw = rest.encode()
                    records["bytes"][number] = len(raw)
                    records["characters"][number], records["words"][number] = len(rest), word_count(raw)
                    content.update(raw)
                    file.write(raw)
            content.update(records["bytes"].tobytes())
            records.tofile(folder / "00000.documents")
            for ending in ("json", "hashes.npy"):
                shutil.copyfile(f"{order.part.path}.{ending}", folder / f"00000.{ending}")
            facts = [len(records), int(records["bytes"].sum()), content.hexdigest(), empty]
            (folder / "part.json").write_text(json.dumps(facts), encoding="utf-8")
    report(order.part.bytes)
    documents, size, digest, empty = json.loads((order.folder / "part.json").read_text(encoding="utf-8"))
    return Part(str(order.folder / "00000"), documents, size, digest), empty


@dataclass
class _Run:
    """The stages, and what they all need."""

    work: Work
    recipe: Recipe
    engine: Engine
    strict: bool
    piece_bytes: int
    progress: Progress
    done: int = field(default=0, init=False)
    news: str = field(default="", init=False)

    def _mapped(self, stage: str, task: Any, orders: Sequence[Any], total: int, done: int = 0) -> Iterator[Any]:
        """The results of a task, with the progress told in bytes."""
        self.done = done

        def report(more: int) -> None:
            self.done += more
            self.progress(stage, self.done, total)

        self.progress(stage, done, total)
        return self.engine.map(task, orders, report)

    def looked(self, inputs: list[Input]) -> tuple[list[Piece], dict[str, list[int] | None]]:
        """The pieces of the inputs, whose contents are hashed, as far as they are not known; and how each looked."""
        contents = Contents(self.work.folder / "contents.json")
        found = {given.path: known for given in inputs if (known := contents.known_of(given)) is not None}
        unknown = [given for given in inputs if given.path not in found]
        orders = [Looking(piece.inputs) for piece in pieces_of(unknown, [""] * len(unknown), self.piece_bytes)]
        now, total = time_ns(), sum(given.size for given in unknown)
        for order, seen in zip(orders, self._mapped("look", look_at, orders, total), strict=True):
            found |= zip((given.path for given in order.inputs), seen, strict=True)
        for path, (look, content) in found.items():
            contents.note(path, look, content, now)
        self.news = contents.news()
        contents.save()
        looks = {path: look for path, (look, _) in found.items()}
        return pieces_of(inputs, [found[given.path][1] for given in inputs], self.piece_bytes), looks

    def read(self, pieces: list[Piece], looks: dict[str, list[int] | None]) -> list[Staged]:
        """Each piece in its staged parts; those that stand are not read again."""
        recipe = replace(self.recipe, tokenizer=None, validation=0.1)  # which a piece does not depend on
        settings = [recipe.reading(), self.piece_bytes]
        folders = [self.work.place("pieces", piece.key(settings)) for piece in pieces]
        standing = [_staged(folder) for folder in folders]
        orders = [
            Reading(piece, tuple(looks[given.path] for given in piece.inputs), folder, recipe, self.strict, self.piece_bytes)
            for piece, folder, stands in zip(pieces, folders, standing, strict=True)
            if stands is None
        ]
        total, left = sum(piece.size for piece in pieces), sum(order.piece.size for order in orders)
        for _ in self._mapped("read", read_piece, orders, total, total - left):
            pass
        return [Staged.open(folder) if stands is None else stands for folder, stands in zip(folders, standing, strict=True)]

    def taken(self, items: Iterable[Item]) -> list[Staged]:
        """Documents in memory in staged pieces, each of one group and named by what it holds."""
        staged: list[Staged] = []
        recipe, clean = self.recipe, _cleaner(self.recipe.cleaning)
        source = iter(items)
        item = next(source, None)
        while item is not None:
            group = item.group if isinstance(item, Document) else ""
            with building(self.work.folder / "pieces" / "taken") as folder:
                with Staging(folder, self.piece_bytes, "", group, recipe.near, recipe.paragraphs) as staging:
                    while item is not None and staging.size < self.piece_bytes:
                        if isinstance(item, Document) and item.group != group:
                            break
                        held = int(recipe.validation(item)) if callable(recipe.validation) and isinstance(item, Document) else -1
                        take(item, staging, clean, self.strict, held)
                        item = next(source, None)
                key = key_of(staging.key(), recipe.reading())
            target = self.work.place("pieces", key)
            shutil.rmtree(target, ignore_errors=True)
            os.replace(self.work.folder / "pieces" / "taken", target)
            staged.append(Staged.open(target))
        return staged

    def fates(self, staged: list[Staged]) -> tuple[list[Staged], Fates]:
        """What becomes of each document; the pieces again, without repeated paragraphs if those are to go."""
        recipe, parts = self.recipe, [part for stage in staged for part in stage.parts]
        self.progress("unique", 0, 1)
        hashes = Rows(tuple(part.array("hashes") for part in parts))
        pairs = exact_duplicates(hashes) if parts else np.zeros((0, 2), np.int64)
        fates = Fates([np.where(kept, TRAIN, DUPLICATE).astype(np.uint8) for kept in kept_masks(pairs, hashes)])
        fates.originals = pairs
        if recipe.without:
            self._contaminated(parts, fates)
        leads = self._near(parts, pairs, fates) if recipe.near else None
        if recipe.paragraphs:
            staged = self._without_repeated(staged, fates)
            parts = [part for stage in staged for part in stage.parts]
        documents = sum(int((fate == TRAIN).sum()) for fate in fates.of)
        if not documents:
            examples = [example for stage in staged for example in stage.examples]
            raise ValueError("there is no text to prepare" + "".join(f"\n  {example}" for example in examples[:5]))
        if callable(recipe.validation):
            for part, fate in zip(parts, fates.of, strict=True):
                fate[(fate == TRAIN) & (part.records()["held"] == 1)] = VALIDATION
        else:
            groups = [stage.group for stage in staged for _ in stage.parts]
            for group in dict.fromkeys(groups):
                own = [number for number, name in enumerate(groups) if name == group]
                split(parts, fates, recipe.validation, recipe.seed, leads, own)
        held = sum(int((fate == VALIDATION).sum()) for fate in fates.of)
        if not fates.cuts and held in (0, documents):
            raise ValueError(f"of {documents} documents {held} are held out for validation: both sides need at least one")
        return staged, fates

    def _contaminated(self, parts: list[Part], fates: Fates) -> None:
        """Mark what shares words with evaluation files."""
        files = tuple(self.recipe.without)
        content = key_of(sorted(given.fingerprint() for given in find(files)))
        orders = [Comparing(part, files, content, self.work.place("compared", key_of(part.content, content))) for part in parts]
        total = sum(part.bytes for part in parts)
        start = 0
        for fate, found in zip(fates.of, self._mapped("compare", compare_part, orders, total), strict=True):
            for number, shared in found:
                if fate[number] == TRAIN:
                    fate[number] = CONTAMINATED
                    fates.contaminated[start + number] = shared
            start += len(fate)

    def _near(self, parts: list[Part], pairs: np.ndarray, fates: Fates) -> np.ndarray:
        """Mark near duplicates; (documents,) int64: the document that decides where each one of its group belongs."""
        assert self.recipe.near is not None
        signatures = Rows(tuple(part.array("signatures") for part in parts))
        roots = np.arange(len(signatures))
        roots[pairs[:, 0]] = pairs[:, 1]
        total = sum(part.bytes for part in parts)

        def wave(done: int, waves: int) -> None:
            self.progress("near", total * done // waves, total)

        roots = near_groups(signatures, TextOf(tuple(parts)), self.recipe.near, roots, self._spread, wave)
        whole = np.concatenate(fates.of)
        alive = np.flatnonzero(whole == TRAIN)
        leads = np.full(len(whole), len(whole))
        np.minimum.at(leads, roots[alive], alive)
        leads = leads[roots]
        fates.groups = np.where(whole == TRAIN, leads, -1)
        if self.recipe.near_duplicates == "remove":
            others = alive[leads[alive] != alive]
            whole[others] = NEAR
            pairs = np.concatenate([fates.originals, np.stack([others, leads[others]], 1)])
            fates.originals = pairs[np.argsort(pairs[:, 0], kind="stable")]
            fates.of = np.split(whole, np.cumsum([len(fate) for fate in fates.of])[:-1])
        return leads

    def _spread(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        return self.engine.map(Plain(function), items)

    def _without_repeated(self, staged: list[Staged], fates: Fates) -> list[Staged]:
        """The pieces with each paragraph where it stands first only; documents of which nothing is left are marked."""
        parts = [part for stage in staged for part in stage.parts]
        rows = Rows(tuple(part.array("paragraphs") for part in parts))
        among = Rows(tuple(np.repeat(fate == TRAIN, part.records()["paragraphs"]) for part, fate in zip(parts, fates.of, strict=True)))
        kept = kept_masks(exact_duplicates(rows, among), rows)
        orders: list[Shortening | None] = []
        for part, fate, mask in zip(parts, fates.of, kept, strict=True):
            raw = np.packbits(~mask).tobytes()
            key = key_of(part.content, hashlib.sha256(raw).hexdigest(), hashlib.sha256(fate == TRAIN).hexdigest())
            folder = self.work.place("shortened", key)
            orders.append(Shortening(part, fate.tobytes(), raw, folder) if not mask.all() else None)
        wanted = [order for order in orders if order is not None]
        made = self._mapped("paragraphs", shorten_part, wanted, sum(order.part.bytes for order in wanted))
        shorter: list[Part] = []
        for part, fate, mask, order in zip(parts, fates.of, kept, orders, strict=True):
            if order is None:
                shorter.append(part)
                continue
            found, empty = next(made)
            fate[empty] = REPEATED
            shorter.append(found)
            fates.shortened = _more(fates.shortened, part, found, fate, mask)
        each = iter(shorter)
        return [replace(stage, parts=tuple(next(each) for _ in stage.parts)) for stage in staged]

    def tokenizer(self, staged: list[Staged], fates: Fates) -> Tokenizer:
        """The tokenizer that stands, or one trained on a sample of what is trained on."""
        wanted = self.recipe.tokenizer
        if isinstance(wanted, Tokenizer):
            return wanted
        parts = [part for stage in staged for part in stage.parts]
        size = sum(int(part.records()["bytes"][fate <= CUT].sum()) for part, fate in zip(parts, fates.of, strict=True))
        if not isinstance(wanted, str):
            wanted = wanted if isinstance(wanted, Training) else Training(wanted or vocabulary_for(size))
        rate = 1.0 if wanted == "characters" else min(1.0, SAMPLE_BYTES / max(1, size))
        sample = _Sample(parts, fates, rate)
        folder = self.work.place("tokenizers", key_of(to_json(wanted) if isinstance(wanted, Training) else wanted, sample.key()))
        if not folder.is_dir():
            self.progress("tokenizer", 0, 1)
            made = Tokenizer.learned(sample.texts(), wanted)
            with building(folder) as place:
                made.save(place)
            self.progress("tokenizer", 1, 1)
        return Tokenizer.load(folder)

    def shards(self, staged: list[Staged], fates: Fates, tokenizer: Tokenizer) -> list[Shard]:
        """The shards of each part."""
        fingerprint = tokenizer.fingerprint()
        folder = self.work.place("tokenizers", fingerprint)
        if not folder.is_dir():
            with building(folder) as place:
                tokenizer.save(place)
        parts = [part for stage in staged for part in stage.parts]
        orders = []
        for number, (part, fate) in enumerate(zip(parts, fates.of, strict=True)):
            cut = next(((at, byte) for (of, at), byte in fates.cuts.items() if of == number), None)
            raw = fate.tobytes()
            key = key_of(FORMAT, part.content, hashlib.sha256(raw).hexdigest(), cut, fingerprint)
            orders.append(Tokenizing(part, raw, cut, folder, fingerprint, self.work.place("shards", key)))
        return list(self._mapped("tokenize", tokenize_part, orders, sum(part.bytes for part in parts)))


def _more(so_far: Shortened, before: Part, after: Part, fate: np.ndarray, kept: np.ndarray) -> Shortened:
    """What repeated paragraphs took from the documents of one more part; `kept`: which of its paragraphs stay."""
    records, left = before.records(), fate == TRAIN
    lost = (records["bytes"] - after.records()["bytes"])[left]
    paragraphs = int((np.repeat(left, records["paragraphs"]) & ~kept).sum())
    return Shortened(so_far.documents + int((lost > 0).sum()), so_far.paragraphs + paragraphs, so_far.bytes + int(lost.sum()))


def _staged(folder: Path) -> Staged | None:
    try:
        return Staged.open(folder)
    except (OSError, ValueError):
        shutil.rmtree(folder, ignore_errors=True)
        return None


def split(
    parts: Sequence[Part], fates: Fates, validation: float, seed: int, leads: np.ndarray | None, numbers: Sequence[int]
) -> None:  # fmt: skip
    """Mark what is held out of the parts of these numbers: each document by its content alone, except where there are too few, or too
    uneven ones.

    `leads`: the document by whose content each is judged, so that near duplicates stay on one side.
    """
    hashes = Rows(tuple(part.array("hashes") for part in parts))
    alone = np.bincount(leads, minlength=len(leads) + 1)[leads] == 1 if leads is not None else None
    within, documents, total, held, held_bytes = set(numbers), 0, 0, 0, 0
    lowest, highest, longest = (2.0, 0, 0), (-1.0, 0, 0), (-1, 0, 0)
    for number, ((start, own), part, fate) in enumerate(zip(hashes.each(), parts, fates.of, strict=True)):
        if number not in within:
            continue
        sizes = part.records()["bytes"]
        chosen = np.flatnonzero(fate == TRAIN)
        raw = np.ascontiguousarray(own[chosen] if leads is None or not len(chosen) else hashes.at(leads[start + chosen])).tobytes()
        for place, at in enumerate(chosen.tolist()):
            drawn, size = share_of(raw[16 * place : 16 * place + 16], seed), int(sizes[at])
            documents, total = documents + 1, total + size
            if drawn < validation:
                fate[at] = VALIDATION
                held, held_bytes = held + 1, held_bytes + size
            if alone is None or alone[start + at]:
                lowest, highest = min(lowest, (drawn, number, at)), max(highest, (drawn, -number, -at))
                longest = max(longest, (size, -number, -at))
    aim, size = validation * total, longest[0]
    number, at = -longest[1], -longest[2]
    if size < 0:
        return
    if documents == 1:
        _cut(parts, fates, number, at, 1 - validation)
        return
    if not held:
        fates.of[lowest[1]][lowest[2]] = VALIDATION
        held_bytes = int(parts[lowest[1]].records()["bytes"][lowest[2]])
    if held == documents:
        fates.of[-highest[1]][-highest[2]] = TRAIN
        held_bytes -= int(parts[-highest[1]].records()["bytes"][-highest[2]])
    if not aim / 3 < held_bytes < aim * 3 and size > 2 * aim > 2 * LEAST_CUT:
        for fate in (fates.of[own] for own in numbers):
            fate[fate == VALIDATION] = TRAIN
        _cut(parts, fates, number, at, 1 - aim / size)


def _cut(parts: Sequence[Part], fates: Fates, number: int, at: int, train_share: float) -> None:
    """One document in two: at the line end nearest to the share, if one lies within a twentieth of the text, else between characters."""
    part = parts[number]
    [text] = part.texts(np.array([at]))
    border = int(len(text) * train_share)
    reach = len(text) // 20
    before, after = text.rfind("\n", border - reach, border) + 1, text.find("\n", border, border + reach) + 1
    near = [place for place in (before, after) if place]
    border = min(near, key=lambda place: abs(place - border)) if near else border
    if not text[:border].strip() or not text[border:].strip():
        raise ValueError(f"{part.place(part.records()[at])} is too short to hold out a part for validation: give more text")
    fates.of[number][at] = CUT
    fates.cuts[number, at] = len(text[:border].encode())


@dataclass(frozen=True)
class _Sample:
    """The documents to train a tokenizer on: those of the train part whose content falls below `rate`."""

    parts: Sequence[Part]
    fates: Fates
    rate: float

    def _chosen(self, number: int) -> np.ndarray:
        fate = self.fates.of[number]
        trained = (fate == TRAIN) | (fate == CUT)
        if self.rate < 1:
            trained &= np.load(self.parts[number].array("hashes"))[:, 1] < np.uint64(self.rate * 2**64)
        return np.flatnonzero(trained)

    def key(self) -> str:
        whole = hashlib.sha256()
        for number, part in enumerate(self.parts):
            whole.update(part.content.encode() + self._chosen(number).tobytes())
        return key_of(whole.hexdigest(), sorted(self.fates.cuts.items()))

    def texts(self) -> Iterator[str]:
        for number, part in enumerate(self.parts):
            chosen = self._chosen(number)
            for at, text in zip(chosen.tolist(), part.texts(chosen), strict=True):
                cut = self.fates.cuts.get((number, at))
                yield text if cut is None else text.encode()[:cut].decode()


def vocabulary_for(size: int) -> int:
    """A vocabulary for so many bytes of text: the power of two nearest to their root, from 512 to 32,768.

    The number of different words grows about as the root of a text's length (Heaps, 1978).
    """
    return 2 ** min(15, max(9, round(math.log2(max(1, size)) / 2)))


def _write(
    folder: Path, staged: list[Staged], shards: list[Shard], tokenizer: Tokenizer, profile: Profile, summary: Summary, facts: dict[str, Any]
) -> None:
    """All other files of a corpus, the manifest last."""
    hashes: dict[str, dict[str, Any]] = {}
    names: dict[str, list[str]] = {split: [] for split in SPLITS}
    groups: dict[str, str] = {}
    sizes: dict[str, dict[str, dict[str, int]]] = {}
    each = iter(stage.group for stage in staged for _ in stage.parts)
    contents = {split: hashlib.sha256() for split in SPLITS}
    tokens = dict.fromkeys(SPLITS, 0)
    for shard in shards:
        group = next(each)
        for split, found in shard.splits.items():
            name = f"{split}-{len(names[split]):05}"
            names[split].append(name)
            groups[name] = group
            size = sizes.setdefault(group, {one: dict.fromkeys(("documents", "bytes", "tokens"), 0) for one in SPLITS})[split]
            for what in size:
                size[what] += found[what]
            tokens[split] += found["tokens"]
            for ending in ("bin", "idx"):
                _link(shard.folder / f"{split}.{ending}", folder / f"{name}.{ending}")
                hashes[f"{name}.{ending}"] = {"sha256": found[ending], "bytes": (folder / f"{name}.{ending}").stat().st_size}
                contents[split].update(bytes.fromhex(found[ending]))
    summary = replace(summary, train_tokens=tokens["train"], validation_tokens=tokens["validation"], vocabulary=tokenizer.size)
    whole = {
        "format": FORMAT,
        **facts,
        "contents": {split: contents[split].hexdigest() for split in SPLITS},
        "tokenizer": tokenizer.fingerprint(),
        "dtype": dtype_of(tokenizer).str,
        "splits": names,
        "groups": groups,
        "sizes": sizes,
        "cleaning": to_json(sum((stage.changes for stage in staged), Changes())),
        "summary": to_json(summary),
    }
    tokenizer.save(folder)
    (folder / PROFILE).write_text(json.dumps(to_json(profile), indent=1), encoding="utf-8")
    (folder / "corpus.json").write_text(json.dumps(whole, indent=1), encoding="utf-8")
    seal(folder, hashes)


def _link(made: Path, wanted: Path) -> None:
    """The same file under another name, or a copy where there is no such thing."""
    try:
        os.link(made, wanted)
    except OSError:
        shutil.copyfile(made, wanted)


def _log(path: Path, staged: list[Staged], fates: Fates) -> None:
    """One line for everything that is not in the corpus, with its file and line: piece after piece."""
    every, start = iter(fates.of), 0
    texts = TextOf(tuple(part for stage in staged for part in stage.parts))
    with open(path, "w", encoding="utf-8", errors="backslashreplace") as log:
        for stage in staged:
            with open(stage.folder / "rejected.log", encoding="utf-8") as own:
                shutil.copyfileobj(own, log)
            for _ in stage.parts:
                fate = next(every)
                for at in np.flatnonzero(fate > CUT).tolist():
                    number, reason = start + at, REASONS[int(fate[at])]
                    if fate[at] in (DUPLICATE, NEAR):
                        reason += f" (of {texts.place(fates.original(number))})"
                    elif number in fates.contaminated:
                        reason += f" ({fates.contaminated[number]})"
                    log.write(one_line(f"{texts.place(number)}: {reason}"))
                start += len(fate)
