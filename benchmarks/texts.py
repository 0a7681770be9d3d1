"""Two texts that differ, for benchmarks of training: articles of Wikipedia, and speeches of the Federal Reserve."""

import gzip
import json
from pathlib import Path

from record import data_folder

from fledge.data.corpus import Corpus
from fledge.data.documents import Document
from fledge.data.preparation import Recipe, prepare

TEXTS = {"wikipedia": "text/wikipedia.jsonl.gz", "speeches": "domain/fed-speeches.jsonl.gz"}


def corpus_of(name: str, folder: Path, characters: int, vocabulary: int, validation: float) -> Corpus:
    """The corpus of the first documents of a text, as it stands in the folder if it does."""
    if (folder / name).exists():
        return Corpus.open(folder / name)
    documents, length = list[Document](), 0
    with gzip.open(data_folder() / TEXTS[name], "rt", encoding="utf-8") as file:
        for line in file:
            documents.append(Document(json.loads(line)["text"], name))
            length += len(documents[-1].text)
            if length > characters:
                break
    return prepare(documents, folder / name, Recipe(vocabulary, validation))
