"""The base model that benchmarks of fine-tuning begin from: raised here from Wikipedia, in half an hour on two cores."""

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
    """What a result says of its base."""
    found = fledge.show(str(base)).facts
    return {**RECIPE, "parameters": found["parameters"]}
