"""What workers do with one piece or part: look at its files, read and clean it, compare it, take repeated paragraphs out of it."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from fledge.arch.record import to_json
from fledge.data.cleaning.cleaner import Cleaner, cleaner
from fledge.data.cleaning.settings import Cleaning
from fledge.data.documents import Document, Item, Rejected
from fledge.data.engine import Report
from fledge.data.fates import TRAIN
from fledge.data.pieces import (
    Look,
    Part,
    Piece,
    Staging,
    building,
    content_of,
    look_of,
    stands,
    word_count,
)
from fledge.data.preparation.recipe import OFF, Recipe
from fledge.data.sources import Input, read_input
from fledge.data.unique.contamination import Contaminated, Contamination
from fledge.data.unique.paragraphs import without

BATCH_BYTES = 1 << 21
REPORTED = 1 << 20  # characters after which a reader tells how far it is


@dataclass(frozen=True)
class Reading:
    """The order to read a piece into `folder`; `looks`: what looking at its files found."""

    piece: Piece
    looks: tuple[Look, ...]
    folder: Path
    recipe: Recipe
    strict: bool
    limit: int

    def __str__(self) -> str:
        return str(self.piece)


def read_piece(order: Reading, report: Report) -> None:
    """Read and clean one piece into its staged parts, unless they stand."""
    if stands(order.folder):
        report(order.piece.size)
        return
    first, recipe = order.piece.inputs[0], order.recipe
    clean = cleaner_of(recipe.cleaning)
    digests: dict[str, str] = {}
    with (
        building(order.folder, digests) as folder,
        Staging(folder, order.limit, digests, first.origin, first.group, recipe.near, recipe.paragraphs) as staging,
    ):
        if first.span.start:
            staging.source = first.source  # whose beginning lies in another piece
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
            if look.file is not None and look_of(given) != look.file:
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
def cleaner_of(settings: Cleaning) -> Cleaner | None:
    return None if settings == OFF else cleaner(settings)


@dataclass(frozen=True)
class Looking:
    """The order to look at files that are read in pieces of about `size` bytes."""

    inputs: tuple[Input, ...]
    size: int

    def __str__(self) -> str:
        return self.inputs[0].source


def look_at(order: Looking, report: Report) -> list[Look]:
    """What each file holds."""
    found = []
    for given in order.inputs:
        found.append(Look.at(given, order.size))
        report(given.size)
    return found


def batches(texts: Iterable[str], limit: int) -> Iterator[list[str]]:
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
    if not stands(order.folder):
        tests, found, number = _contamination(order.files, order.content), [], 0
        for batch in batches(order.part.texts(), BATCH_BYTES):
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
    if not stands(order.folder):
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
            records.tofile(folder / "00000.documents")
            for ending in ("json", "hashes.npy"):
                shutil.copyfile(f"{order.part.path}.{ending}", folder / f"00000.{ending}")
            facts = [len(records), int(records["bytes"].sum()), content_of(content, records), empty]
            (folder / "part.json").write_text(json.dumps(facts), encoding="utf-8")
    report(order.part.bytes)
    documents, size, digest, empty = json.loads((order.folder / "part.json").read_text(encoding="utf-8"))
    return Part(str(order.folder / "00000"), documents, size, digest), empty
