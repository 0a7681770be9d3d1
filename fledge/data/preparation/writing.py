"""The files of a finished corpus, the manifest last."""

import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fledge.arch.record import to_json
from fledge.data.cleaning.changes import Changes
from fledge.data.corpus import FORMAT, PROFILE, Summary, dtype_of, seal
from fledge.data.fates import CUT, DUPLICATE, NEAR, REASONS, Fates, TextOf
from fledge.data.pieces import (
    Staged,
    one_line,
)
from fledge.data.preparation.shards import SPLITS, Shard
from fledge.data.profile import Profile
from fledge.text.tokenizer import Tokenizer


def write(
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


def write_log(path: Path, staged: list[Staged], fates: Fates) -> None:
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
