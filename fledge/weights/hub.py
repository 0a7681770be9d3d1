"""Where a model lies: a path, the local Hugging Face cache, the Hub."""

import re
from contextlib import suppress
from pathlib import Path

from fledge.text.files import HUB

NEEDED = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.bpe", "*.model", "*.spm", "*.tiktoken"]

CONFIGS = ("config.json", "adapter_config.json")  # of a model, of an adapter for one


def resolve(name: str | Path) -> Path:
    """The folder of a path or hub id, downloaded at most once; pickles are never fetched.

    Raises `FileNotFoundError` saying which files to put where when it is neither here nor to be had.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise ValueError(f"{name} is a file, but a model is a folder with config.json and model.safetensors: give its folder")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(name)) or ".." in str(name):
        raise FileNotFoundError(f"{name} does not exist: give the path of a model folder, or a hub id such as openai-community/gpt2")
    from huggingface_hub import snapshot_download

    repository = HUB.get(str(name), str(name))
    for spelling in (str(name), repository):
        with suppress(OSError, ValueError):  # not in the cache
            cached = Path(snapshot_download(spelling, allow_patterns=NEEDED, local_files_only=True))
            if any((cached / name).is_file() for name in CONFIGS) and any(cached.glob("*.safetensors")):
                return cached
    try:
        return Path(snapshot_download(repository, allow_patterns=NEEDED))
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise FileNotFoundError(
            f"{name} is no folder here, not whole in the local Hugging Face cache, and the Hub did not give it "
            f"({type(error).__name__}). Put config.json, model.safetensors, tokenizer.json and tokenizer_config.json "
            f"from https://huggingface.co/{repository} into a folder and give its path"
        ) from None
