"""Which documents are trained on and which are held out."""

from collections.abc import Sequence

import numpy as np

from fledge.data.corpus import share_of
from fledge.data.fates import CUT, TRAIN, VALIDATION, Fates
from fledge.data.pieces import (
    Part,
)
from fledge.data.unique.rows import Rows

LEAST_CUT = 256  # bytes of a document that are worth holding out


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
        if not len(chosen):
            continue
        raw = np.ascontiguousarray(own[chosen] if leads is None else hashes.at(leads[start + chosen])).tobytes()
        drawn = np.array([share_of(raw[place : place + 16], seed) for place in range(0, len(raw), 16)])
        out = chosen[drawn < validation]
        fate[out] = VALIDATION
        documents, total = documents + len(chosen), total + int(sizes[chosen].sum())
        held, held_bytes = held + len(out), held_bytes + int(sizes[out].sum())
        if alone is not None:
            chosen, drawn = chosen[alone[start + chosen]], drawn[alone[start + chosen]]
        if len(chosen):
            first, last, most = int(np.argmin(drawn)), int(np.argmax(drawn)), int(np.argmax(sizes[chosen]))
            lowest = min(lowest, (float(drawn[first]), number, int(chosen[first])))
            highest = max(highest, (float(drawn[last]), -number, -int(chosen[last])))
            longest = max(longest, (int(sizes[chosen[most]]), -number, -int(chosen[most])))
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
