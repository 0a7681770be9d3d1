"""The text that every machine with Python has: the sources of its standard library and the language reference in `pydoc_data`."""

import ast
import importlib
import os
import re
import sysconfig
import textwrap
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fledge.data.corpus import share
from fledge.data.documents import Document, Rejected
from fledge.data.files import decoded, mended

SKIPPED = ("site-packages", "dist-packages", "__pycache__", "lib-dynload", "pydoc_data")
DESCRIBE = "Describe what this function does."
WRITE = "Write a Python function for this description."
MASK = "_"


def library_documents(without: Collection[str] = ()) -> Iterator[Document | Rejected]:
    """Each module of the standard library and each topic of the language reference; `source` is its path in the library.

    `without` are packages (first parts of paths, such as `test`) to leave out. Parts that this Python lacks are not missed.
    """
    root = Path(sysconfig.get_path("stdlib"))
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in (*SKIPPED, *without) and not name.startswith((".", "config-")))
        for name in sorted(files):
            path = Path(folder, name)
            if name.endswith(".py") and package(source := path.relative_to(root).as_posix()) not in without:
                yield _module(path, source)
    yield from () if "pydoc_data" in without else _topics()


def _module(path: Path, source: str) -> Document | Rejected:
    raw = path.read_bytes()
    if b"\0" in raw:
        return Rejected("binary", source, detail="it holds NUL bytes")
    text, replaced = decoded(raw)
    text, halves = mended(text)
    return Document(text, source, replaced=replaced + halves) if text.strip() else Rejected("empty file", source)


def _topics() -> Iterator[Document]:
    try:
        topics = importlib.import_module("pydoc_data.topics").topics
    except (ImportError, AttributeError):
        return
    for name, text in sorted(topics.items()):
        yield Document(mended(text)[0], f"pydoc_data/topics/{name}")


def package(source: str) -> str:
    """The part of the library that a path lies in: `email` for `email/mime/text.py`, `ast` for `ast.py`."""
    return source.split("/")[0].removesuffix(".py")


def held_out(documents: Iterable[Document], fraction: float = 0.1, seed: int = 0, least: int = 2) -> frozenset[str]:
    """The sources held out, from pretraining, the classifier and the assistant alike; which ones follows from their contents alone.

    Of each package a `fraction` of its text, in `least` modules at the least where it has four times as many, so that every package
    can be tested; of everything else (single modules, topics) a fraction too. A module of more than a quarter of its group stays.
    """
    groups: dict[str, list[Document]] = {}
    for document in documents:
        groups.setdefault(package(document.source) if _in_package(document) else "", []).append(document)
    found: set[str] = set()
    for group in groups.values():
        whole = sum(len(document.text) for document in group)
        fewest = least if len(group) >= 4 * least else 0
        taken: list[Document] = []
        for document in sorted(group, key=lambda document: share(document.text, seed)):
            text = sum(len(other.text) for other in taken)
            if len(taken) >= fewest and text >= fraction * whole:
                break
            if len(document.text) <= whole / 4:
                taken.append(document)
        found.update(document.source for document in taken)
    return frozenset(found)


@dataclass(frozen=True)
class Chunk:
    """A piece of code, the package it comes from (masked in it) and the module."""

    text: str
    label: str
    source: str


def largest_packages(documents: Iterable[Document], count: int = 10, without: Collection[str] = ()) -> tuple[str, ...]:
    """The packages (folders, not single modules) with the most code, in the order of their names; fewer where there are fewer."""
    sizes = Counter[str]()
    for document in documents:
        if _in_package(document) and package(document.source) not in without:
            sizes[package(document.source)] += len(document.text)
    return tuple(sorted(name for name, _ in sizes.most_common(count)))


def code_chunks(documents: Iterable[Document], packages: Collection[str], characters: int = 1000) -> Iterator[Chunk]:
    """Pieces of about so many characters of the modules in `packages`, cut between lines.

    Imports are removed, and so are mentions of the package's own name, in every spelling.
    """
    for document in documents:
        name = package(document.source)
        if _in_package(document) and name in packages:
            yield from (Chunk(text, name, document.source) for text in pieces(masked(document.text, name), characters))


def _in_package(document: Document) -> bool:
    return document.source.endswith(".py") and "/" in document.source


IMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+[\w.]+[ \t]+import[ \t]*(?:\([^)]*\)|(?:[^\n\\]|\\\n)*)|import[ \t]+(?:[^\n\\]|\\\n)*)\n?", re.MULTILINE
)


def masked(code: str, name: str) -> str:
    """`code` without its imports and without `name` in any spelling.

    >>> masked("import json.tool\\ndef JSONloads(s): return _json.loads(s)", "json")
    'def _loads(s): return __.loads(s)'
    """
    return re.sub(re.escape(name), MASK, IMPORT.sub("", code), flags=re.IGNORECASE)


def pieces(text: str, characters: int) -> list[str]:
    """`text` cut between lines into pieces of at least so many characters; a rest of less than half of that is dropped."""
    found, piece = [], ""
    for line in text.splitlines(keepends=True):
        piece += line
        if len(piece) >= characters:
            found.append(piece)
            piece = ""
    return [piece for piece in [*found, *([piece] if len(piece) >= characters / 2 else [])] if piece.strip()]


@dataclass(frozen=True)
class Pair:
    """A question about a function of the library and its answer, as an Alpaca row has them."""

    instruction: str
    input: str
    output: str
    source: str


def function_pairs(documents: Iterable[Document], characters: int = 600, short: int = 300) -> Iterator[Pair]:
    """Functions of at most so many characters with the first line of their docstring, and for `short` ones the reverse too."""
    for document in documents:
        if not document.source.endswith(".py"):
            continue
        for signature, code, answer in _functions(document.text):
            if len(code) <= characters:
                yield Pair(DESCRIBE, code, answer, document.source)
            if len(code) <= short:
                yield Pair(WRITE, f"{signature}\n{answer}", code, document.source)


def _functions(text: str) -> Iterator[tuple[str, str, str]]:
    """Head, code without docstring, and first line of the docstring of each function that has one of a sentence."""
    lines = text.split("\n")
    for node in _definitions(_parsed(text)):
        if len(node.body) < 2:
            continue
        answer = (ast.get_docstring(node) or "").split("\n")[0].strip()
        first, second = node.body[0], node.body[1]
        if not 10 <= len(answer) <= 120 or second.lineno <= (first.end_lineno or first.lineno) or first.lineno == node.lineno:
            continue
        head = textwrap.dedent("\n".join(lines[node.lineno - 1 : first.lineno - 1]))
        body = lines[node.lineno - 1 : first.lineno - 1] + lines[(first.end_lineno or first.lineno) : node.end_lineno]
        yield head.strip(), textwrap.dedent("\n".join(body)).strip(), answer


def _definitions(node: ast.AST | None) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Functions at any depth of statements; expressions, most of a tree, hold none."""
    for child in getattr(node, "body", ()):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
        yield from _definitions(child)


def _parsed(text: str) -> ast.Module | None:
    """The syntax tree, unless this Python cannot read the code (the library's tests hold such)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return None
