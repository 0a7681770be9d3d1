"""A corpus with planted duplicates, near duplicates and pieces of an evaluation, and a judge of what a finder makes of it.

A small share of it is a test (test_planted.py), the whole a campaign (benchmarks/planted.py).
"""

import gzip
import json
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fledge.data.corpus import content_hash, share
from fledge.data.unique.contamination import Contamination
from fledge.data.unique.exact import digests, exact_duplicates
from fledge.data.unique.near import Near, near_groups
from fledge.data.unique.rows import Rows

CHANGED = 0.1  # of the words of a near duplicate
VALIDATION = 0.1
LEAST = 30  # words of a document
PIECE = 1000  # documents of a piece


@dataclass(frozen=True)
class Planted:
    """Documents in a mixed order; `kinds` and `twins` (-1: none) say of each what was planted, and as a copy of which other one."""

    texts: tuple[str, ...]
    kinds: tuple[str, ...]
    twins: tuple[int, ...]
    evaluation: tuple[str, ...]


@dataclass(frozen=True)
class Found:
    """For each document its fate, `train`, `validation`, `exact`, `near` or `contaminated`, and of which one it is a duplicate (or -1)."""

    fates: tuple[str, ...]
    originals: tuple[int, ...]


def _white_space(text: str, draw: random.Random) -> str:
    return draw.choice(["", " ", "\n"]) + draw.choice(["  ", "\n", "\t ", " \n\n"]).join(text.split())


def _composition(text: str, draw: random.Random) -> str:
    return unicodedata.normalize("NFD", text)


def _places(words: list[str], draw: random.Random, share: float = CHANGED) -> list[int]:
    return draw.sample(range(len(words)), round(share * len(words)))


def _substituted(words: list[str], draw: random.Random, stock: list[str]) -> list[str]:
    words = list(words)
    for place in _places(words, draw):
        words[place] = draw.choice(stock)
    return words


def _dropped(words: list[str], draw: random.Random, stock: list[str]) -> list[str]:
    gone = set(_places(words, draw))
    return [word for place, word in enumerate(words) if place not in gone]


def _inserted(words: list[str], draw: random.Random, stock: list[str]) -> list[str]:
    before = set(_places(words, draw))
    return [new for place, word in enumerate(words) for new in ([draw.choice(stock)] if place in before else []) + [word]]


def _shuffled(words: list[str], draw: random.Random, stock: list[str]) -> list[str]:
    """Neighbours change places: two words for each change."""
    words = list(words)
    for place in draw.sample(range(0, len(words) - 1, 2), max(1, round(CHANGED / 2 * len(words)))):
        words[place], words[place + 1] = words[place + 1], words[place]
    return words


EXACT = {"white space": _white_space, "composition": _composition}
NEAR = {"substituted": _substituted, "dropped": _dropped, "inserted": _inserted, "shuffled": _shuffled}


def _hidden(text: str, item: str, draw: random.Random) -> str:
    """13 to 30 words of `item`, in other case and with other punctuation, somewhere in `text`."""
    words = [word for word in item.split() if re.search(r"\w", word)]
    count = draw.randint(13, min(30, len(words)))
    first = draw.randrange(len(words) - count + 1)
    case = draw.choice([str.upper, str.lower, str.title])
    piece = [
        draw.choice(["", "(", '"']) + case(word.strip(".,;:!?\"'()")) + draw.choice(["", ",", "?!", " -"])
        for word in words[first : first + count]
    ]
    around = text.split()
    at = draw.randrange(len(around) + 1)
    return " ".join([*around[:at], *piece, *around[at:]])


def plant(folder: Path, count: int, seed: int = 0) -> Planted:
    """`count` documents out of paragraphs of the real texts in `folder`: 4 % exact, 12 % near duplicates, 4 % contaminated.

    Their order and which they are follow from the seed.
    """
    draw = random.Random(seed)
    clean = list(dict.fromkeys(_paragraphs(folder / "text" / "wikipedia.jsonl.gz")))
    with gzip.open(folder / "instruct" / "gsm8k-train.jsonl.gz", "rt", encoding="utf-8") as rows:
        items = [row["question"] for row in map(json.loads, rows) if len(re.findall(r"\w+", row["question"])) >= 25]
    evaluation = draw.sample(items, max(20, count // 100))
    exact, near, contaminated = count * 4 // 100, count * 12 // 100, count * 4 // 100
    base = draw.sample(clean, count - exact - near)
    stock = [word for text in base[:200] for word in text.split()]
    made = [("clean", text, -1) for text in base]
    for number in range(contaminated):
        made[number] = ("contaminated", _hidden(base[number], draw.choice(evaluation), draw), -1)
    of = list(range(contaminated, len(base)))
    accented = [number for number in of if unicodedata.normalize("NFD", base[number]) != base[number]]
    for number in range(exact):
        kind = list(EXACT)[number % len(EXACT)]
        twin = draw.choice(accented if kind == "composition" else of)
        made.append((kind, EXACT[kind](base[twin], draw), twin))
    for number, twin in enumerate(draw.sample(of, near)):
        kind = list(NEAR)[number % len(NEAR)]
        made.append((kind, " ".join(NEAR[kind](base[twin].split(), draw, stock)), twin))
    order = draw.sample(range(count), count)
    place = {number: at for at, number in enumerate(order)}
    kinds, texts, twins = zip(*(made[number] for number in order), strict=True)
    return Planted(texts, kinds, tuple(place.get(twin, -1) for twin in twins), tuple(evaluation))


def _paragraphs(path: Path) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") as rows:
        parts = [part.strip() for row in rows for part in json.loads(row)["text"].split("\n")]
    return [unicodedata.normalize("NFC", part) for part in parts if len(part.split()) >= LEAST]


def by_library(planted: Planted, folder: Path) -> Found:
    """What the library's own functions find, with the arrays of each piece in files as preparing a corpus has them."""
    (folder / "evaluation.jsonl").write_text(
        "".join(json.dumps({"question": item}) + "\n" for item in planted.evaluation), encoding="utf-8"
    )
    contamination, near = Contamination.of([str(folder / "evaluation.jsonl")]), Near()
    hashes, signatures, shared = list[Path](), list[Path](), list[bool]()
    for start in range(0, len(planted.texts), PIECE):
        texts = planted.texts[start : start + PIECE]
        for kind, paths, rows in (
            ("hashes", hashes, digests(content_hash(text) for text in texts)),
            ("signatures", signatures, near.signatures(texts)),
        ):
            paths.append(folder / f"{kind}-{start}.npy")
            np.save(paths[-1], rows)
        shared += [found is not None for found in contamination.found_each(texts)]
    equal = exact_duplicates(Rows(tuple(hashes)))
    first = np.arange(len(planted.texts))
    first[equal[:, 0]] = equal[:, 1]
    roots = near_groups(Rows(tuple(signatures)), planted.texts.__getitem__, near, first)
    fates = []
    for number, (original, root) in enumerate(zip(first.tolist(), roots.tolist(), strict=True)):
        side = "validation" if share(planted.texts[root], 0) < VALIDATION else "train"
        fates.append("exact" if original != number else "near" if root != number else "contaminated" if shared[number] else side)
    originals = [-1 if fate in ("train", "validation", "contaminated") else root for fate, root in zip(fates, roots.tolist(), strict=True)]
    return Found(tuple(fates), tuple(originals))


def judged(planted: Planted, found: Found) -> dict[str, Any]:
    """Counts: of each kind how many were planted and found, false alarms among the others, and pairs parted by the split.

    A planted copy is found when the later one of it and its twin is taken for a duplicate. A clean document that is taken for one is
    a false alarm unless its exact similarity to the document named, by plain sets of words, says that it is one by nature.
    """
    planted_of, found_of, false, natural, clean, leaked = Counter[str](), Counter[str](), 0, 0, 0, 0
    copies = set[int]()
    for number, (kind, twin) in enumerate(zip(planted.kinds, planted.twins, strict=True)):
        if kind == "contaminated":
            planted_of[kind] += 1
            found_of[kind] += found.fates[number] == "contaminated"
        elif kind != "clean":
            later = max(number, twin)
            copies.add(later)
            planted_of[kind] += 1
            found_of[kind] += found.fates[later] in (("exact",) if kind in EXACT else ("exact", "near"))
            sides = {found.fates[number], found.fates[twin]}
            leaked += sides == {"train", "validation"}
    for number, kind in enumerate(planted.kinds):
        if kind != "contaminated" and number not in copies:
            clean += 1
            if found.fates[number] not in ("train", "validation"):
                original = found.originals[number]
                alike = original >= 0 and _similarity(planted.texts[number], planted.texts[original]) >= Near().threshold
                natural, false = natural + alike, false + (not alike)
    return {
        "documents": len(planted.texts), "planted": dict(planted_of), "found": dict(found_of), "clean": clean, "false": false,
        "near duplicates by nature": natural, "leaked": leaked,
    }  # fmt: skip


def _similarity(a: str, b: str) -> float:
    one, other = (
        {tuple(words[at : at + 3]) for at in range(len(words) - 2)}
        for words in (re.findall(r"[^\W_]+", text.casefold()) for text in (a, b))
    )
    return len(one & other) / len(one | other)


def shares(counts: dict[str, Any]) -> dict[str, float]:
    """Of exact and near duplicates and contaminated documents the share found, and of clean ones that of false alarms."""

    def share_of(kinds: tuple[str, ...]) -> float:
        return sum(counts["found"][kind] for kind in kinds) / sum(counts["planted"][kind] for kind in kinds)

    return {
        "exact": share_of(tuple(EXACT)), "near": share_of(tuple(NEAR)), "contaminated": share_of(("contaminated",)),
        "false": counts["false"] / counts["clean"],
    }  # fmt: skip


def reached(counts: dict[str, Any]) -> bool:
    """Whether all is as it must be: exact 100 %, near 95 %, contaminated 99 % found, 0.1 % false alarms, nothing leaked."""
    found = shares(counts)
    wanted = found["exact"] == 1 and found["near"] >= 0.95 and found["contaminated"] >= 0.99
    return wanted and found["false"] <= 0.001 and counts["leaked"] == 0


Finder = Callable[[Planted, Path], Found]
