"""From sources, or documents in memory, to a corpus folder that is whole or not there."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from fledge.arch.record import differences
from fledge.data.corpus import MANIFEST, Corpus
from fledge.data.documents import Item
from fledge.data.engine import EngineName, engine_of
from fledge.data.files import Progress, require
from fledge.data.mixing import among
from fledge.data.pieces import (
    key_of,
    piece_size,
)
from fledge.data.preparation.recipe import Recipe
from fledge.data.preparation.stages import Stages
from fledge.data.preparation.work import Work
from fledge.data.preparation.writing import write, write_log
from fledge.data.profile import profiled
from fledge.data.sources import Input, RealPaths
from fledge.text.tokenizer import Tokenizer

Standing = Literal["refuse", "update", "replace"]


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

    Raises `ValueError` when nothing is left to read, when one side of the split would be empty, when a group of `mix` has nothing left to
    train on, or when `out` holds anything else (with the differences); nothing else is overwritten. Whatever happens, `out` is either whole
    or not there.
    """
    out, recipe = Path(out), recipe or Recipe()
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
    with work.used(keep), engine_of(engine, workers, ("fledge.data.preparation",)) as does:
        told = recipe.told()
        found = _standing(out, told, recipe, standing)
        run = Stages(work, recipe, does, strict, piece_bytes, progress or (lambda *_: None))
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
        if mix:
            left = dict.fromkeys((stage.group for stage in staged), 0)
            for group, shard in zip((stage.group for stage in staged for _ in stage.parts), shards, strict=True):
                left[group] += shard.tokens
            among(mix, left)
        with work.corpus() as folder:
            profile, summary = profiled(read, staged, fates, (shard.counts() for shard in shards), recipe.near)
            write_log(folder / "rejected.log", staged, fates)
            write(folder, staged, shards, tokenizer, profile, summary, {"settings": told, "made_of": made_of, "mix": mixed})
        work.put(out)
        work.forget()
    return replace(Corpus.open(out), news=run.news if found is not None else "")


def _as_inputs(source: Iterable[Any], out: Path) -> list[Input] | None:
    """What `find` found, without what lies in `out` itself; None if it is documents.

    Raises `ValueError` where a library is missing that is needed to read any of it.
    """
    if not (isinstance(source, (list, tuple)) and source and all(isinstance(item, Input) for item in source)):
        return None
    own, real = os.path.join(os.path.realpath(out), ""), RealPaths()
    inputs = [given for given in source if given.place != "file" or not real(given.path).startswith(own)]
    for form, given in {given.format: given for given in reversed(inputs) if not given.problem}.items():
        require(given.source, form)
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
