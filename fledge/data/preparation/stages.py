"""The stages in their order, each spread over the workers: looked, read, compared, split, a tokenizer, shards."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from time import time_ns
from typing import Any

import numpy as np

from fledge.arch.record import to_json
from fledge.data.corpus import FORMAT
from fledge.data.documents import Document, Item
from fledge.data.engine import Engine
from fledge.data.fates import CONTAMINATED, CUT, DUPLICATE, NEAR, REPEATED, TRAIN, VALIDATION, Fates, Shortened, TextOf
from fledge.data.files import Progress
from fledge.data.pieces import (
    Contents,
    Look,
    Part,
    Piece,
    Staged,
    Staging,
    building,
    key_of,
    parted,
    pieces_of,
    stands,
)
from fledge.data.preparation.recipe import Recipe, vocabulary_for
from fledge.data.preparation.shards import Shard, Tokenizing, tokenize_part
from fledge.data.preparation.splitting import split
from fledge.data.preparation.tasks import (
    Comparing,
    Looking,
    Plain,
    Reading,
    Shortening,
    cleaner_of,
    compare_part,
    look_at,
    read_piece,
    shorten_part,
    take,
)
from fledge.data.preparation.work import Work
from fledge.data.sources import Input, find
from fledge.data.unique.exact import exact_duplicates, kept_masks
from fledge.data.unique.near import near_groups
from fledge.data.unique.rows import Rows
from fledge.text.tokenizer import Tokenizer, Training

SAMPLE_BYTES = 1 << 27  # of the text to train on, from which a tokenizer is learned


@dataclass
class Stages:
    """The stages, and what they all need."""

    work: Work
    recipe: Recipe
    engine: Engine
    strict: bool
    piece_bytes: int
    progress: Progress
    done: int = field(default=0, init=False)
    news: str = field(default="", init=False)

    def _mapped(self, stage: str, task: Any, orders: Sequence[Any], total: int) -> Iterator[Any]:
        """The results of a task, with the progress told in bytes."""
        self.done = 0

        def report(more: int) -> None:
            self.done += more
            self.progress(stage, self.done, total)

        self.progress(stage, 0, total)
        return self.engine.map(task, orders, report)

    def looked(self, inputs: list[Input]) -> tuple[list[Piece], dict[str, Look]]:
        """The pieces of the inputs, which are looked at, as far as they are not known; and what was found."""
        contents = Contents(self.work.folder / "contents.json", self.piece_bytes)
        found = {given.path: known for given in inputs if (known := contents.known_of(given)) is not None}
        unknown = [given for given in inputs if given.path not in found]
        orders = [Looking(piece.inputs, self.piece_bytes) for piece in pieces_of(unknown, [""] * len(unknown), self.piece_bytes)]
        now, total = time_ns(), sum(given.size for given in unknown)
        for order, seen in zip(orders, self._mapped("look", look_at, orders, total), strict=True):
            found |= zip((given.path for given in order.inputs), seen, strict=True)
        for path, look in found.items():
            contents.note(path, look, now)
        self.news = contents.news()
        contents.save()
        return pieces_of(*parted(inputs, found), self.piece_bytes), found

    def read(self, pieces: list[Piece], looks: dict[str, Look]) -> list[Staged]:
        """Each piece in its staged parts; those that stand are not read again."""
        recipe = replace(self.recipe, tokenizer=None, validation=0.1)  # which a piece does not depend on
        settings = [recipe.reading(), self.piece_bytes]
        folders = [self.work.place("pieces", piece.key(settings)) for piece in pieces]
        orders = [
            Reading(piece, tuple(looks[given.path] for given in piece.inputs), folder, recipe, self.strict, self.piece_bytes)
            for piece, folder in zip(pieces, folders, strict=True)
        ]
        for _ in self._mapped("read", read_piece, orders, sum(piece.size for piece in pieces)):
            pass
        return [Staged.open(folder) for folder in folders]

    def taken(self, items: Iterable[Item]) -> list[Staged]:
        """Documents in memory in staged pieces, each of one group and named by what it holds."""
        staged: list[Staged] = []
        recipe, clean = self.recipe, cleaner_of(self.recipe.cleaning)
        source = iter(items)
        item = next(source, None)
        while item is not None:
            group = item.group if isinstance(item, Document) else ""
            digests: dict[str, str] = {}
            with building(self.work.folder / "pieces" / "taken", digests) as folder:
                with Staging(folder, self.piece_bytes, digests, "", group, recipe.near, recipe.paragraphs) as staging:
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
        if not stands(folder):
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
        if not stands(folder):
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
