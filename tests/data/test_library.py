"""The standard library as text: what is there is read, masked and paired; what is missing is not missed."""

import ast
import re
import sys

import pytest

from fledge.data.documents import Document, Rejected
from fledge.data.library import (
    DESCRIBE,
    WRITE,
    code_chunks,
    function_pairs,
    held_out,
    largest_packages,
    library_documents,
    masked,
    package,
    pieces,
)

WITHOUT = ("test", "lib2to3", "idlelib", "tkinter", "distutils", "encodings", "ensurepip")


@pytest.fixture(scope="module")
def library() -> list[Document]:
    return [item for item in library_documents(WITHOUT) if isinstance(item, Document)]


def test_reads_modules_and_topics(library):
    sources = [document.source for document in library]
    assert len(sources) == len(set(sources)) > 200
    assert {"ast.py", "json/decoder.py", "email/message.py", "pydoc_data/topics/assert"} <= set(sources)
    assert not {package(source) for source in sources} & set(WITHOUT)
    assert not any("site-packages" in source or source.startswith("/") for source in sources)
    assert all(isinstance(item, Document | Rejected) for item in library_documents(WITHOUT))


def test_missing_parts_are_not_missed(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    assert list(library_documents()) == []
    assert largest_packages([]) == ()


def test_the_same_modules_are_held_out_everywhere(library):
    held = held_out(library)
    assert 0.04 < len(held) / len(library) < 0.2
    assert held == held_out(library[::-1])
    assert held != held_out(library, seed=1)
    for name in largest_packages(library, 6):
        modules = {document.source for document in library if package(document.source) == name}
        assert len(modules & held) >= min(2, len(modules) // 4)


def test_chunks_do_not_name_their_package(library):
    packages = largest_packages(library, 6, without=["xml"])
    assert len(packages) == 6
    assert "xml" not in packages
    chunks = list(code_chunks(library, packages, characters=800))
    assert {chunk.label for chunk in chunks} == set(packages)
    for chunk in chunks:
        assert chunk.label.lower() not in chunk.text.lower()
        assert package(chunk.source) == chunk.label
        assert not re.search(r"^\s*import [a-z]+$", chunk.text, re.MULTILINE)
        assert chunk.text.strip()


def test_masking_by_hand():
    code = "import os, json\nfrom json import (\n    a,\n    b)\nfrom .x import y\nimport a \\\n  , b\nx = Json(_json.y)  # import\n"
    assert masked(code, "json") == "x = _(__.y)  # import\n"
    assert pieces("ab\ncd\nef\ng\n", 6) == ["ab\ncd\n", "ef\ng\n"]
    assert pieces("ab\ncd\nef\n", 6) == ["ab\ncd\n", "ef\n"]
    assert pieces("ab\ncd\ne\n", 6) == ["ab\ncd\n"]


def test_pairs_are_functions_with_their_sentence(library):
    some = [document for document in library if package(document.source) in ("json", "ast.py", "textwrap", "statistics", "asyncio")]
    pairs = list(function_pairs(some))
    assert len(pairs) > 100
    for pair in pairs:
        code = pair.input if pair.instruction == DESCRIBE else pair.output
        sentence = pair.output if pair.instruction == DESCRIBE else pair.input.split("\n")[-1]
        assert pair.instruction in (DESCRIBE, WRITE)
        (node,) = ast.parse(code).body
        assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        assert ast.get_docstring(node) is None or sentence not in (ast.get_docstring(node) or "")
        assert 10 <= len(sentence) <= 120
    assert {pair.instruction for pair in pairs} == {DESCRIBE, WRITE}


def test_code_that_cannot_be_parsed_is_passed_over():
    broken = Document("def f(:\n  'doc string here'\n", "a.py")
    assert list(function_pairs([broken, Document("prose", "topics/x")])) == []
