"""Preparing keeps the sum exact, splits without leakage, and goes on to the same bytes after any end, with any number of workers."""

import hashlib
import json
import os
import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fledge.data.cleaning import LIGHT, Privacy
from fledge.data.corpus import Corpus
from fledge.data.documents import Document, Rejected
from fledge.data.engine import Processes
from fledge.data.preparation import Recipe, Work, prepare, stages, writing
from fledge.data.profile import Profile
from fledge.data.sources import find
from fledge.data.unique.near import Near
from fledge.text.tokenizer import Tokenizer


def documents(count: int, seed: int = 0) -> list[Document]:
    dice = random.Random(seed)
    return [
        Document(f"text {i}: " + " ".join(dice.choices(["ä", "bee", "sea\n", "日本", "<|endoftext|>"], k=dice.randint(1, 40))), f"{i}.txt")
        for i in range(count)
    ]


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_duplicates_and_rejections_add_up(tmp_path):
    items = [
        Document("a b", "1"),
        Document("a  b\n", "2"),
        Document("caf\u00e9", "3"),
        Document("cafe\u0301", "4"),
        Document("c", "5", 7, "body", 2),
    ]
    rejected = [Rejected("binary", "6"), Rejected("broken row", "7", 3, "why"), Rejected("binary", "8")]
    summary = prepare([*items, *rejected], tmp_path / "c", Recipe(Tokenizer.bytes())).summary
    assert (summary.items, summary.documents, summary.duplicates, summary.rejected) == (8, 3, 2, {"binary": 2, "broken row": 1})
    assert summary.items == summary.documents + summary.duplicates + sum(summary.rejected.values())
    assert summary.rejections == ("6: binary", "7, line 3: broken row (why)", "8: binary")
    assert (summary.columns, summary.replaced) == ({"5": "body"}, 2)


def test_split_follows_from_content_alone(tmp_path):
    def held(name: str, texts: list[Document], seed: int = 0) -> set[str]:
        shards = prepare(texts, tmp_path / name, Recipe(Tokenizer.bytes(), seed=seed)).validation
        return {Tokenizer.bytes().decode(shards.document(i)[0].tolist()) for i in range(shards.documents)}

    texts = documents(100)
    first = held("a", texts)
    assert held("b", texts[::-1]) == first
    assert held("c", texts[:50]) == first & {document.text for document in texts[:50]}
    assert held("d", texts, seed=1) != first
    assert len(held("e", texts[:2])) == 1


def test_single_document_is_cut_at_a_line(tmp_path):
    for text, train in (("0123456\n" * 1000, 7200), ("x" * 1000, 900), ("x" * 890 + "\n" + "x" * 109, 891)):
        corpus = prepare([Document(text, "one")], tmp_path / str(train), Recipe(Tokenizer.bytes()))
        assert (corpus.train.bytes, corpus.validation.bytes, corpus.summary.documents) == (train, len(text) - train, 1)


def test_tokenizer_is_trained_on_the_train_part_only(tmp_path):
    items = [Document("abc abc " * 50, "train"), Document("xyz " * 500, "held")]
    corpus = prepare(items, tmp_path / "c", Recipe("characters", lambda document: document.source == "held"))
    assert corpus.tokenizer.decode(corpus.train.document(0)[0].tolist()) == "abc abc " * 50
    assert "x" not in corpus.tokenizer.decode(corpus.validation.document(0)[0].tolist())
    assert prepare(items, tmp_path / "d", Recipe(512)).tokenizer.kind == "bpe"


def test_standing_corpus_is_returned_or_refused(tmp_path):
    out = tmp_path / "c"
    first = prepare(documents(20), out, Recipe(512))
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert not first.reused
    assert prepare(documents(20), out, Recipe(512)).reused
    for changed, said in (
        (lambda: prepare(documents(20), out, Recipe(640)), "vocabulary: 512 -> 640"),
        (lambda: prepare(documents(21), out, Recipe(512), standing="refuse"), "other text"),
        (lambda: prepare(documents(20), out, Recipe(512, seed=3)), "seed: 0 -> 3"),
        (lambda: prepare(documents(20), out, Recipe(Tokenizer.bytes())), "tokenizer: "),
    ):
        with pytest.raises(ValueError, match=said):
            changed()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("dear")
    for standing in ("refuse", "update", "replace"):
        with pytest.raises(ValueError, match="exists and is no corpus"):
            prepare(documents(20), tmp_path / "other", standing=standing)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "other"]


def test_another_corpus_is_replaced_if_asked(tmp_path):
    prepare(documents(30), tmp_path / "c", Recipe(512))
    assert prepare(documents(30), tmp_path / "c", Recipe(512), standing="replace").reused
    for damaged in (False, True):
        if damaged:
            (tmp_path / "c" / "train-00000.bin").write_bytes(b"")
        replaced = prepare(documents(20 + damaged), tmp_path / "c", Recipe(Tokenizer.bytes()), standing="replace")
        clean = prepare(documents(20 + damaged), tmp_path / f"clean{damaged}", Recipe(Tokenizer.bytes()))
        assert not replaced.reused
        assert {path.name: path.read_bytes() for path in replaced.folder.iterdir()} == {
            path.name: path.read_bytes() for path in clean.folder.iterdir()
        }


def test_a_failure_leaves_what_was_finished_and_the_next_run_goes_on(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(writing, "seal", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            prepare(documents(20), tmp_path / "c", Recipe(512))
    assert [path.name for path in tmp_path.iterdir()] == [".c.work"]
    monkeypatch.setattr(Tokenizer, "train", None)
    prepare(documents(20), tmp_path / "c", Recipe(512))
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def notes(folder: Path, count: int = 40, seed: int = 0) -> Path:
    """A folder of notes, one of them empty, one twice, beside a table with a broken row."""
    folder.mkdir()
    for number, document in enumerate(documents(count, seed)):
        (folder / f"{number:02}.txt").write_text(document.text)
    (folder / "again.txt").write_text(documents(1, seed)[0].text)
    (folder / "empty.txt").touch()
    (folder / "rows.jsonl").write_text('{"text": "a row"}\n{"text": \n' * 20)
    return folder


def test_shards_are_the_same_for_any_number_of_workers(tmp_path):
    inputs = find([str(notes(tmp_path / "notes"))])
    made = [hashes(prepare(inputs, tmp_path / f"c{n}", Recipe(448), workers=n, piece_bytes=500).folder) for n in (1, 3)]
    assert made[0] == made[1]
    assert len(made[0]) > 20
    log = (tmp_path / "c3" / "rejected.log").read_text().splitlines()
    counts = json.loads((tmp_path / "c3" / "profile.json").read_text())["tallies"]
    assert len(log) == sum(row["documents"] for row in counts if row["reason"]) == 1 + 1 + 20 + 19
    assert any(re.fullmatch(r".*again.txt: duplicate \(of .*00.txt\)", line) for line in log)
    assert any(re.match(r".*rows.jsonl, line 4: broken row", line) for line in log)
    assert sum(row["bytes_in"] for row in counts if not row["reason"]) == sum(row["bytes"] for row in counts)


def test_an_added_file_costs_little_more_than_itself(tmp_path, monkeypatch):
    folder, tasks = notes(tmp_path / "notes"), list[str]()
    for name in ("read_piece", "tokenize_part"):
        work = getattr(stages, name)

        def spied(order, report, work=work, name=name):
            stood = order.folder.exists()
            tasks.extend([] if stood else [name])
            return work(order, report)

        monkeypatch.setattr(stages, name, spied)

    def made(name: str, keep: bool = True) -> Corpus:
        tasks.clear()
        return prepare(find([str(folder)]), tmp_path / name, Recipe(Tokenizer.bytes()), workers=1, piece_bytes=500, keep=keep)

    assert not made("c").news
    every = len(tasks)
    before = Corpus.open(tmp_path / "c")
    (folder / "20b.txt").write_text("one more")
    open_still = before.train.window(0, 100)
    assert made("c").news == "1 added, 43 as before"
    assert 0 < len(tasks) <= 6 < every / 4
    assert Corpus.open(tmp_path / "c").summary.documents == before.summary.documents + 1
    assert np.array_equal(before.train.window(0, 100), open_still)
    assert made("c").reused
    assert not tasks
    made("clean", keep=False)
    assert hashes(tmp_path / "clean") == hashes(tmp_path / "c")
    path = folder / "30.txt"
    times, text = os.stat(path), path.read_text()
    path.write_text(text[::-1])
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert made("c").news == "1 changed, 43 as before"
    assert len(tasks) == 2
    path.unlink()
    made("c")
    made("fewer", keep=False)
    assert hashes(tmp_path / "fewer") == hashes(tmp_path / "c")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".c.work", "c", "clean", "fewer", "notes"]


def test_a_large_file_is_read_in_spans_and_makes_the_same_corpus(tmp_path, monkeypatch):
    read, path = list[str](), tmp_path / "rows.jsonl"
    work = stages.read_piece

    def spied(order, report):
        read.extend([] if order.folder.exists() else [str(order.piece)])
        return work(order, report)

    def made(name: str, workers: int = 1, keep: bool = True) -> Corpus:
        read.clear()
        recipe = Recipe(Tokenizer.bytes(), cleaning=LIGHT)
        return prepare(find([str(path)]), tmp_path / name, recipe, workers=workers, piece_bytes=1000, keep=keep)

    rows = [json.dumps({"text": document.text}) + "\n" for document in documents(200)]
    path.write_text("".join(rows))
    several = made("several", workers=3)
    monkeypatch.setattr(stages, "read_piece", spied)
    assert hashes(made("one").folder) == hashes(several.folder)
    assert len(read) > 10
    assert (several.summary.files, several.summary.items) == (1, 200)
    texts = [Tokenizer.bytes().decode(split.document(n)[0].tolist()) for split in (several.train, several.validation)
             for n in range(split.documents)]  # fmt: skip
    assert sorted(texts) == sorted({document.text for document in documents(200)})
    path.write_text("".join(rows) + rows[0] + "{broken\n")
    assert made("one").summary.rejected == {"broken row": 1}
    assert len(read) == 1
    made("clean", keep=False)
    assert hashes(tmp_path / "clean") == hashes(tmp_path / "one")


def test_a_damaged_corpus_is_made_again_from_what_is_kept(tmp_path):
    inputs = find([str(notes(tmp_path / "notes"))])
    good = hashes(prepare(inputs, tmp_path / "c", Recipe(448), workers=1, keep=True).folder)
    path = tmp_path / "c" / "train-00000.bin"
    path.write_bytes(path.read_bytes()[:-1] + b"?")  # the kept shard too, which is the same file
    assert not prepare(inputs, tmp_path / "c", Recipe(448), workers=1, keep=True).reused
    assert hashes(tmp_path / "c") == good


def test_only_one_run_prepares_a_corpus(tmp_path):
    with Work(tmp_path / "c").used(False), pytest.raises(ValueError, match="another process"):
        prepare(documents(20), tmp_path / "c")


def test_strict_ends_at_the_first_thing_that_is_rejected(tmp_path):
    for source in ([*documents(3), Rejected("binary", "a.png")], find([str(notes(tmp_path / "notes"))])):
        with pytest.raises(ValueError, match="without --strict"):
            prepare(source, tmp_path / "c", strict=True)
    assert not (tmp_path / "c").exists()


def die(item: str, report: Callable[[int], None]) -> str:
    report(1)
    if item == "dies":
        os.kill(os.getpid(), 9)
    if item == "fails":
        raise ValueError("wrong")
    return item.upper()


def test_processes_give_results_in_order_and_name_what_killed_them():
    seen: list[int] = []
    with Processes(3) as processes:
        assert list(processes.map(die, [f"item {i}" for i in range(20)], seen.append)) == [f"ITEM {i}" for i in range(20)]
        assert sum(seen) == 20
        with pytest.raises(ValueError, match="wrong"):
            list(processes.map(die, ["fine", "fails", "fine"]))
        with pytest.raises(ChildProcessError, match=r"worked on dies was killed \(SIGKILL\)"):
            list(processes.map(die, ["fine", "dies", "fine"]))
        assert list(processes.map(die, ["a", "b"])) == ["A", "B"]


def test_bad_arguments_are_refused(tmp_path):
    cases: list[tuple[list, dict[str, Any], str]] = [
        ([], {}, "no text to prepare"),
        ([Rejected("binary", "a.png")], {}, "a.png: binary"),
        (documents(3), {"validation": 1.5}, "between 0 and 1"),
        (documents(3), {"validation": lambda _: False}, "0 are held out"),
        ([Document("x", "a")], {}, "too short"),
    ]
    for items, settings, said in cases:
        with pytest.raises(ValueError, match=said):
            prepare(items, tmp_path / "c", Recipe(**settings))
    assert not (tmp_path / "c").exists()


def test_progress_reaches_the_total(tmp_path):
    seen = []
    prepare(documents(50), tmp_path / "c", Recipe(512), progress=lambda *report: seen.append(report))
    assert [stage for stage, done, total in seen if done == total] == ["tokenizer", "tokenize"]


def test_large_vocabularies_take_four_bytes(tmp_path):
    tokenizer = Tokenizer.characters([chr(i) for i in range(0x4E00, 0x4E00 + 68_000) if not 0xD800 <= i < 0xE000])
    corpus = prepare([Document("一丁\U00015000", "a"), Document("七", "b")], tmp_path / "c", Recipe(tokenizer))
    assert tokenizer.size > 65_536
    assert json.loads((corpus.folder / "corpus.json").read_text())["dtype"] == "<u4"
    every = [shards.document(i)[0].tolist() for shards in (corpus.train, corpus.validation) for i in range(shards.documents)]
    assert sorted(map(tokenizer.decode, every)) == ["一丁\U00015000", "七"]


def stories(count: int) -> list[str]:
    dice = random.Random(5)
    words = ["river", "stone", "lamp", "winter", "bread", "harbour", "letter", "violin", "orchard", "mirror", "copper", "meadow"]
    return [" ".join(f"{dice.choice(words)}{dice.randint(0, 99)}" for _ in range(80)) for _ in range(count)]


def test_everything_at_once_keeps_the_sum_exact_and_the_sides_apart(tmp_path):
    """Planted: a near duplicate of each third story, two contaminated ones, a paragraph that stands in many, masked addresses."""
    every, paragraph = (
        stories(60),
        "This paragraph stands at the end of every story, and says so at length: in more than a hundred letters.",
    )
    near = [story.replace(story.split()[20], "changed") for story in every[::3]]
    question = " ".join(stories(61)[-1].split()[:20])
    (tmp_path / "test.jsonl").write_text(json.dumps({"question": question}) + "\n")
    found = [
        *(Document(f"{story} write to a{n}@example.org\n\n{paragraph}", f"story{n}", group="main") for n, story in enumerate(every)),
        *(Document(story, f"near{n}", group="main") for n, story in enumerate(near)),
        *(Document(f"{story} {question}", f"bad{n}", group="other") for n, story in enumerate(stories(63)[61:])),
        Document(f"\ufeff{paragraph}\r\n", "nothing else", group="other"),
        Document(every[0], "again", group="other"),
        Document(every[0], "and again", group="other"),
        Document(stories(64)[-1], "fine", group="other"),
    ]
    cleaning = replace(LIGHT, privacy=Privacy())
    recipe = Recipe(Tokenizer.bytes(), 0.3, cleaning=cleaning, near=Near(), paragraphs=True, without=(str(tmp_path / "test.jsonl"),))
    corpora = {
        mode: prepare(found, tmp_path / mode, replace(recipe, near_duplicates=mode), workers=workers, piece_bytes=4000)
        for mode, workers in (("remove", 1), ("keep", 3))
    }
    for corpus in corpora.values():
        facts = json.loads((corpus.folder / "corpus.json").read_text())
        counts, changed = Profile.of(corpus).sums("reason"), sum(rule["bytes"] for rule in facts["cleaning"]["changed"].values())
        summary = corpus.summary
        assert summary.items == len(found) == sum(row.documents for row in counts)
        assert summary.bytes_in == sum(len(document.text.encode()) for document in found) == sum(row.bytes_in for row in counts)
        assert summary.bytes == corpus.train.bytes + corpus.validation.bytes == sum(row.bytes for row in counts)
        assert summary.bytes_in == summary.bytes + summary.changed + summary.bytes_rejected
        assert changed < 0 < summary.changed
        assert summary.rejected["contaminated"] == 2
        assert summary.rejected["repeated paragraphs"] == 1
        assert set(facts["groups"].values()) == {"main", "other"}
    removed, kept = corpora["remove"].summary, corpora["keep"].summary
    assert (removed.rejected["near duplicate"], removed.duplicates) == (21, 1)
    assert "near duplicate" not in kept.rejected
    log = (tmp_path / "remove" / "rejected.log").read_text()
    assert "near3: near duplicate (of story9)" in log
    assert re.search(r"bad0: contaminated \(shares '.*' with .*test.jsonl, line 1\)", log)
    assert len(log.splitlines()) == 2 + 1 + 21 + 1
    sides = []
    for shards in (corpora["keep"].train, corpora["keep"].validation):
        texts = [Tokenizer.bytes().decode(shards.document(n)[0].tolist()) for n in range(shards.documents)]
        assert not any("@" in text for text in texts)
        sides.append({" ".join(text.split()[:15]) for text in texts})
    assert not sides[0] & sides[1]
    assert len(sides[1]) > 5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ray_makes_the_same_corpus(tmp_path):
    pytest.importorskip("ray")
    inputs = find([str(notes(tmp_path / "notes"))])
    recipe = Recipe(448, near=Near(), paragraphs=True)
    local, ray = (prepare(inputs, tmp_path / name, recipe, engine=name, workers=2, piece_bytes=500) for name in ("local", "ray"))
    assert hashes(local.folder) == hashes(ray.folder)
