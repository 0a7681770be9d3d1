"""`show`: what a preset, a model, a corpus or a training file holds, in the terminal."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fledge.arch import Arch, forward_flops, parameter_count, parts
from fledge.arch.record import did_you_mean, to_json
from fledge.verbs import terminal
from fledge.verbs.finetune.instructing import Format
from fledge.verbs.lens import lens_on
from fledge.verbs.model import SAMPLING
from fledge.verbs.preparation import is_corpus
from fledge.verbs.session import Column, Name, Place, is_model

COLUMNS = 80  # of a terminal
WRITING = {"do_sample", "max_new_tokens", "num_beams", "length_penalty", *SAMPLING}  # of a generation_config.json, what decides the text


@dataclass(frozen=True)
class Shown:
    """What was looked at: `kind` is preset, model, corpus or conversations."""

    kind: str
    name: str
    facts: dict[str, Any]
    text: str

    def __str__(self) -> str:
        return self.text

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "name": self.name, **self.facts}


def show(
    name: Name,
    /,
    *,
    from_: Name | None = None,
    verify: bool = False,
    rows: int = 3,
    out: Place | None = None,
    format: Format | None = None,
    everything: bool = False,
    context: int | None = None,
    prompt_column: Column | None = None,
    answer_column: Column | None = None,
) -> Shown:
    """Show an architecture, a model folder, a corpus, or with --from which tokens of training data are trained on.

    Args:
        name: a preset, a model folder or hub id, a corpus folder, or a file of instructions (with --from).
        from_: the model that would be fine-tuned, whose tokenizer and chat format read the file.
        verify: compare the weights with the hash that was stored when they were saved.
        rows: how many conversations of a file to show.
        out: with --from: write this HTML page too.
        format: with --from: how turns are written, as finetune instruct takes it.
        everything: with --from: train on the questions too.
        context: with --from: tokens in a row of training; by default what finetune instruct would take.
        prompt_column: with --from: the column of the questions, where the guess is wrong.
        answer_column: with --from: the column of the answers.
    """
    from fledge.presets import PRESETS

    name, path = str(name), Path(name)
    if from_ is not None:
        found = lens_on(name, from_, format, everything, rows, context, prompt_column, answer_column)
        if out is not None:
            found.page().write(out)
            terminal.say(f"  {out} shows the same as a page")
        return Shown("conversations", name, found.to_json(), str(found))
    if is_corpus(name):
        return show_corpus(path)
    if is_model(path) or ("/" in name and not path.exists()):
        return show_model(name, verify)
    if path.exists():
        raise ValueError(f"{name} is neither a model nor a corpus folder; to see how a file is trained on: fledge show {name} --from MODEL")
    if name not in PRESETS:
        raise ValueError(f"{name!r} is no folder and no preset{did_you_mean(name, PRESETS)}")
    preset = PRESETS[name]
    arch = preset.arch()
    terminal.say(f"{name} is a preset ({preset.source})")
    return Shown("preset", name, {"arch": to_json(arch), "parameters": preset.parameters}, drawing(arch))


def drawing(arch: Arch) -> str:
    """The parts of an architecture in the order of a forward pass, as lines of text: shapes, parameters, operations per token."""
    length = arch.context
    found = parts(arch, length)
    rows = [("", "parameters", "FLOP", "")]
    for part in found:
        name = f"{part.times} x {part.name}" if part.times > 1 else part.name
        rows.append((name, f"{part.parameters:,}", terminal.size(part.flops / length) if part.flops else "", part.shape))
    rows.append(("all", f"{parameter_count(arch):,}", terminal.size(forward_flops(arch, length) / length), ""))
    widths = [max(map(len, column)) for column in list(zip(*rows, strict=True))[:3]]
    lines = []
    for name, count, flops, shape in rows:
        before = f"{name:<{widths[0]}}  {count:>{widths[1]}}  {flops:>{widths[2]}}  "
        lines.append(
            textwrap.fill(shape, COLUMNS, initial_indent=before, subsequent_indent=" " * len(before)) if shape else before.rstrip()
        )
    return "\n".join([*lines, f"FLOP: operations a token, forward, over a context of {length:,} tokens"])


def show_model(name: str, verify: bool) -> Shown:
    from fledge.adapt.folder import folder_at
    from fledge.adapt.folder import verify as verify_weights

    folder = folder_at(name)
    lines = [drawing(folder.arch)]
    if verify:
        verify_weights(folder.path)
        lines.append("the weights are those that were saved")
    known = {key: folder.facts[key] for key in ("parent", "data", "scores", "chat") if folder.facts.get(key)}
    if writing := {key: value for key, value in (folder.facts.get("generation") or {}).items() if key in WRITING}:
        known["generation"] = writing
    lines += [f"{key}: {_flat(value)}" for key, value in known.items()]
    return Shown("model", name, {"arch": to_json(folder.arch), "parameters": parameter_count(folder.arch), **known}, "\n".join(lines))


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_flat(item)}" for key, item in value.items() if item not in (None, [], {}))
    if isinstance(value, list) and len(value) > 4:
        return f"{len(value):,} items"
    if isinstance(value, list):
        return (" to " if [type(item) for item in value] == [float, float] else ", ").join(map(_flat, value))
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)


def show_corpus(path: Path) -> Shown:
    """The numbers of `corpus.html`."""
    from fledge.data.corpus import Corpus
    from fledge.verbs.corpora import Described, told

    found = Described.of(Corpus.open(path))
    return Shown("corpus", str(path), found.to_json(), told(found))
