"""`export`: a model as one file for another runtime, opened and judged there before it is called done."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fledge.arch import parameter_count
from fledge.verbs import terminal
from fledge.verbs.session import Name, Place, refuse_unknown

if TYPE_CHECKING:
    from fledge.formats import Checked

Form = Literal["gguf"]
Numbers = Literal["f32", "f16", "bf16", "q8_0"]


@dataclass(frozen=True)
class Exported:
    """The file, the graph of the runtime that computes it, its numbers, and what the runtime and the model agreed on, if it is here."""

    out: str
    graph: str
    quantize: str
    parameters: int
    bytes: int
    checked: Checked | None

    def __str__(self) -> str:
        made = f"{self.out}: {self.graph}, {terminal.size(self.parameters)} parameters in {self.quantize}, {terminal.memory(self.bytes)}"
        unchecked = "not checked, for llama.cpp is not here: pip install xllamacpp, and export again to have it opened there"
        return f"{made}\n{self.checked or unchecked}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def export(model: Name, /, *, to: Form, out: Place, quantize: Numbers | None = None) -> Exported:
    """Export a model as one file for llama.cpp and what stands on it.

    Tokenizer, chat template, stop tokens and sampling settings are in it. Where xllamacpp is installed the file is opened in llama.cpp and
    compared with the model: the same ids, log-probabilities within the rounding of its numbers, the same text.

    Args:
        model: a model folder, an adapter's, or a hub id.
        to: gguf.
        out: the file; in a folder it gets the name that llama.cpp's convention gives it.
        quantize: the numbers of its matrices: f32, f16, bf16 or q8_0; by default bf16 where the model has it, else f16.
    """
    import torch

    from fledge.adapt.folder import folder_at, open_model
    from fledge.formats import Gguf, file_name

    refuse_unknown(to, Form, "--to")
    if quantize is not None:
        refuse_unknown(quantize, Numbers, "--quantize")
    if find_spec("gguf") is None:
        raise ValueError("export --to gguf needs gguf, which is not installed: pip install 'fledge[export]'")
    about = about_of(folder_at(model).path)
    network, tokenizer, facts = open_model(model)
    numbers = quantize or ("bf16" if network.embedding.weight.dtype == torch.bfloat16 else "f16")
    place = Path(out)
    if place.is_dir():
        place /= file_name(about["name"], network, numbers)
    if place.suffix != ".gguf" or place.exists():
        raise ValueError(f"--out {place}{' exists: choose another' if place.exists() else ' has to end in .gguf, or to be a folder'}")
    made = Gguf(network, tokenizer, facts, about, numbers)
    checked = made.write(place)
    return Exported(str(place), made.graph.name, numbers, parameter_count(network.arch), place.stat().st_size, checked)


def about_of(folder: Path) -> dict[str, Any]:
    """What the card of a model folder tells, by the names that GGUF has for it: the name at least."""
    from huggingface_hub import metadata_load

    path = folder / "README.md"
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    told = (metadata_load(path) or {}) if text.startswith("---") else {}
    title = re.search(r"^# +(.+)$", text, re.MULTILINE)
    first = re.search(r"^# .+\n+([^#\s].*)$", text, re.MULTILINE)
    languages, tags = ([value] if isinstance(value := told.get(name), str) else value for name in ("language", "tags"))
    found = {
        "name": title[1].strip() if title else folder.resolve().name,
        "description": first[1].strip() if first else None,
        "license": told.get("license"),
        "languages": languages,
        "tags": tags,
    }
    return {name: value for name, value in found.items() if value}
