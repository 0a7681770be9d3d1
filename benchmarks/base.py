"""The base model that benchmarks of fine-tuning begin from: raised here from Wikipedia, in half an hour on two cores."""

import json
from pathlib import Path
from typing import Any

from record import data_folder

import fledge

RECIPE = {"time": "30m", "vocab": 8192, "set": ["batch.context=512"]}


def base_of(options: Any, folder: Path) -> Path:
    """The folder that `--base` names, made by the recipe before, or a new one in `folder`."""
    if options.base:
        return Path(options.base)
    fledge.pretrain([str(data_folder() / "text/wikipedia.jsonl.gz")], out=folder / "base", **RECIPE)
    return folder / "base"


def facts_of(base: Path) -> dict[str, Any]:
    """What a result says of its base, as the base's own folder says it."""
    found, run = fledge.show(str(base)).facts, json.loads((base / "run" / "run.json").read_text(encoding="utf-8"))
    return {
        "parameters": found["parameters"], "seconds": run["plan"]["seconds"], "context": run["batch"]["context"],
        "vocabulary": found["data"]["vocabulary"], "bytes": found["data"]["bytes"],
        "bits_per_byte": found["scores"]["validation"]["bits_per_byte"],
    }  # fmt: skip
