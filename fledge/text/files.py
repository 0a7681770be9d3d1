"""Where a tokenizer's files are: in a folder, in the hub's local cache, on the hub."""

import json
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MARIAN = ("source.spm", "target.spm", "vocab.json")

MODELS = (
    ("tokenizer.json",),
    ("encoder.json", "vocab.bpe"),  # GPT-2's own names
    ("vocab.json", "merges.txt"),  # and those of transformers
    ("spiece.model",),  # T5
    ("sentencepiece.bpe.model",),  # XLM-RoBERTa
    ("tokenizer.model",),  # Llama 2, Mistral, Gemma
    ("vocab.txt",),  # BERT
    MARIAN,
)
TOKENIZER_CONFIG = "tokenizer_config.json"
BESIDE = (TOKENIZER_CONFIG, "config.json", "added_tokens.json", "special_tokens_map.json")
HUB = {"gpt2": "openai-community/gpt2"}


@dataclass(frozen=True)
class Files:
    """`model`: those of one of `MODELS`, or one like them; the others: what there is of `BESIDE`, in its order."""

    model: tuple[Path, ...]
    config: Path | None = None
    described: Path | None = None
    added: Path | None = None
    named: Path | None = None


def tokenizer_files(name: str | Path) -> Files:
    """The files of the tokenizer called `name`: an existing path, else a hub id, first from the local cache.

    Raises `FileNotFoundError` with one sentence that says which files to put where.
    """
    path = Path(name)
    if path.is_dir():
        found = _in_folder(path)
        if found is None:
            raise FileNotFoundError(f"{path} holds no tokenizer: it needs {_needed()}")
        return found
    if path.is_file():
        return _beside((path,))
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", str(name)) or path.suffix in (".json", ".model", ".bpe", ".txt", ".tiktoken"):
        raise FileNotFoundError(f"there is no file or folder {name}: give a folder with {_needed()}")
    found = _on_hub(str(name))
    if found is None:
        raise FileNotFoundError(
            f"there is no file or folder {name}, and no tokenizer of that name in the local Hugging Face cache or within reach on the hub: "
            f"put {_needed()} into a folder and give its path"
        )
    return found


def holds_tokenizer(folder: Path) -> bool:
    """Whether a folder has the files of one."""
    return _in_folder(folder) is not None


def _needed() -> str:
    return ", or ".join(" and ".join(names) for names in MODELS)


def _in_folder(folder: Path) -> Files | None:
    for names in MODELS:
        model = tuple(folder / name for name in names)
        if all(path.is_file() for path in model):
            return _beside(model)
    ranks = sorted(folder.glob("*.tiktoken"))
    return _beside((ranks[0],)) if len(ranks) == 1 else None


def _beside(model: tuple[Path, ...]) -> Files:
    return Files(model, *(path if path.is_file() else None for path in (model[0].parent / name for name in BESIDE)))


def _on_hub(name: str) -> Files | None:
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    repositories = dict.fromkeys((name, HUB.get(name, name)))
    for repository in repositories:
        for names in MODELS:
            cached = [try_to_load_from_cache(repository, file) for file in (*names, *BESIDE)]
            paths = [Path(path) if isinstance(path, str) else None for path in cached]
            model = tuple(path for path in paths[: len(names)] if path)
            if len(model) == len(names):
                return Files(model, *paths[len(names) :])
    if constants.HF_HUB_OFFLINE:
        return None

    def download(file: str) -> Path | None:
        try:
            return Path(hf_hub_download(HUB.get(name, name), file))
        except LocalEntryNotFoundError:  # out of reach: to ask for the next file would cost as long again
            raise
        except EntryNotFoundError:
            return None

    with suppress(OSError):  # what every failure of the hub is: no network, no such repository, no right to read it
        for names in MODELS:
            model = tuple(path for path in map(download, names) if path)
            if len(model) == len(names):
                return Files(model, *map(download, BESIDE))
    return None


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; raises `ValueError` naming a file that holds none."""
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as reason:
        raise ValueError(f"{path} is no JSON: {reason}") from None
    if not isinstance(read, dict):
        raise ValueError(f"{path} holds a {type(read).__name__}, but a JSON object is needed")
    return read


def content_of(entry: str | dict | None) -> str:
    """The text of a token, which these files give as such or as a record with its `content`; empty where they give none."""
    return (entry.get("content") if isinstance(entry, dict) else entry) or ""
