"""Data sets of the Hugging Face hub, row by row as they come, and folders that `datasets` has saved."""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

from fledge.data.documents import Item
from fledge.data.files import extra
from fledge.data.reading.tabular import row_documents
from fledge.data.tables import Row

PREFIX = "hf://datasets/"
SPLITS = "dataset_dict.json"  # beside the folders of a saved data set's splits
ID = r"[\w.-]+/[\w.-]+"


@dataclass(frozen=True)
class DataSet:
    """A data set by its id; what is not given is the hub's default: its newest revision, its one configuration, its train split."""

    name: str
    revision: str | None = None
    config: str | None = None
    split: str | None = None

    @classmethod
    def parse(cls, source: str) -> "DataSet | None":
        """`org/name` or `hf://datasets/org/name@revision?config=en&split=train`; None for anything else."""
        text, _, query = source.removeprefix(PREFIX).partition("?")
        name, _, revision = text.rstrip("/").partition("@")
        known = dict(parse_qsl(query))
        if not re.fullmatch(ID, name) or not known.keys() <= {"config", "split"} or (query and not source.startswith(PREFIX)):
            return None
        return cls(name, revision or None, known.get("config"), known.get("split"))

    def __str__(self) -> str:
        query = urlencode({name: value for name in ("config", "split") if (value := getattr(self, name))})
        return f"{PREFIX}{self.name}" + (f"@{self.revision}" if self.revision else "") + (f"?{query}" if query else "")


def newest(wanted: DataSet) -> str:
    """The commit that the data set is at; raises `ValueError` where the hub has no such one or is out of reach."""
    from huggingface_hub import HfApi
    from huggingface_hub.constants import HF_HUB_OFFLINE
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    if HF_HUB_OFFLINE:
        raise ValueError("as a data set's id it cannot be looked up, for HF_HUB_OFFLINE is set")
    try:
        return HfApi().dataset_info(wanted.name, revision=wanted.revision, timeout=20).sha or "main"
    except (RepositoryNotFoundError, RevisionNotFoundError):
        raise ValueError("the Hugging Face hub has no data set of this id that you may read") from None
    except Exception as error:
        raise ValueError(f"the Hugging Face hub could not be asked ({str(error).splitlines()[0]})") from None


def data_set(wanted: DataSet, text_column: str | None, limit: int) -> Iterator[Item]:
    """The rows of its train split, or of all splits where there is none; `line` is the row's number.

    Raises `ConnectionError` when the hub fails on the way, `ValueError` when a configuration must be named.
    """
    library = extra("datasets", str(wanted))
    for name, split in _splits(library, wanted):
        source = str(DataSet(wanted.name, wanted.revision, wanted.config, name))
        yield from row_documents(_rows(split, source), source, text_column, limit)


def _splits(library, wanted: DataSet) -> list:
    try:
        found = library.load_dataset(wanted.name, wanted.config, revision=wanted.revision, split=wanted.split, streaming=True)
    except (ValueError, OSError) as error:
        raise ValueError(f"{wanted}: {' '.join(str(error).split())}") from None
    if wanted.split:
        return [(wanted.split, found)]
    return [("train", found["train"])] if "train" in found else sorted(found.items())


def _rows(split, source: str) -> Iterator[Row]:
    try:
        for number, values in enumerate(split.decode(False), 1):
            yield Row(number, values)
    except Exception as error:
        raise ConnectionError(f"{source}: the transfer broke off ({error or type(error).__name__})") from error


def saved(folder: str) -> list[str] | None:
    """The Arrow files of a data set that `save_to_disk` wrote to `folder`, in their order; None when it is no such folder."""
    try:
        state = json.loads(Path(folder, "state.json").read_text(encoding="utf-8"))
        json.loads(Path(folder, "dataset_info.json").read_text(encoding="utf-8"))
        names = [os.path.basename(file["filename"]) for file in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return [os.path.join(folder, name) for name in names]
