"""`import`: a public model as a folder of ours, which everything else opens too."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fledge.arch import parameter_count
from fledge.verbs import terminal
from fledge.verbs.session import Name, Place


@dataclass(frozen=True)
class Imported:
    """Where the model now lies, the family that it is written as, and how large it is."""

    out: str
    family: str
    parameters: int

    def __str__(self) -> str:
        return f"{self.out}: {self.family}, {terminal.size(self.parameters)} parameters"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def import_model(model: Name, /, *, out: Place, tokenizer: Place | None = None) -> Imported:
    """Import a public model into a folder; an adapter becomes one model with its base.

    Its tensors are checked one by one and keep their number type; what does not belong to the model is refused by name.

    Args:
        model: a hub id such as openai-community/gpt2, a folder (also of an adapter), or a .bin file of llama2.c.
        out: the folder to write.
        tokenizer: of a .bin file, where it is not tokenizer.bin or tokN.bin beside it.
    """
    from fledge.adapt.folder import open_model
    from fledge.weights import read_llama2c, save_model
    from fledge.weights.files import read_json

    if Path(out).is_file() or (Path(out).is_dir() and any(Path(out).iterdir())):
        raise ValueError(f"{out} exists and holds something: choose another --out")
    path = Path(model).expanduser()
    if path.is_file() and path.suffix == ".bin":
        network, words, facts = *read_llama2c(path, Path(tokenizer) if tokenizer is not None else None), dict[str, Any]()
    elif tokenizer is not None:
        raise ValueError(f"--tokenizer is for a .bin file of llama2.c, but {model} brings its own: leave it out")
    else:
        network, words, facts = open_model(model)
    kept = {"names": facts.get("names"), "parent": {"name": str(model), "weights": facts.get("weights"), "scores": facts.get("scores")}}
    kept |= {"embedding": facts["embedding"]} if "embedding" in facts else {}
    chat, generation = facts.get("chat") or facts.get("chat_template"), facts.get("generation")
    card = f"# {Path(out).name}\n\n{model}, imported with fledge.\n"
    save_model(out, network, words, chat, kept, generation, card, network.embedding.weight.dtype)
    return Imported(str(out), str(read_json(Path(out) / "config.json")["model_type"]), parameter_count(network.arch))
