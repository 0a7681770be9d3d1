"""Mixtures as a user types them: stored in a corpus, asked for, of several corpora, of texts; with limits, and scores by group."""

import json
import re
import shutil
from pathlib import Path

import pytest

import fledge
from fledge.data.corpus import Corpus
from fledge.verbs.pretraining import Guessed, Validation

from .conftest import TINY

FLAGS = [word for setting in TINY for word in ("--set", setting)]


def stories(folder: Path, name: str, count: int, words: str) -> str:
    place = folder / name
    place.mkdir()
    for i in range(count):
        (place / f"{i:02}.txt").write_text("".join(f"{words} {i * n} of {n}. " for n in range(20)), encoding="utf-8")
    return f"{name}={place}"


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> list[str]:
    """Two groups, of which one is a third of the other."""
    folder = tmp_path_factory.mktemp("texts")
    return [stories(folder, "general", 36, "The river is long, it is"), stories(folder, "domain", 12, "The rate of inflation was")]


@pytest.fixture(scope="module")
def corpus(texts, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("corpora") / "both"
    fledge.prepare(texts, out=out, tokenizer="bytes", mix="general=1,domain=3", discard=True)
    return out


def test_a_group_of_which_nothing_is_left_is_refused_before_there_is_a_corpus(texts, tmp_path, command):
    again = tmp_path / "again"
    again.mkdir()
    shutil.copy(texts[0].partition("=")[2] + "/03.txt", again)
    out = tmp_path / "corpus"
    asked = ("prepare", *texts, f"again={again}", "--out", out, "--tokenizer", "bytes", "--mix", "general=1,domain=1,again=1")
    said = command(*asked)
    assert said.code == 2
    assert "--mix takes from again, which has nothing to train on" in said.err
    assert not out.exists()
    assert command(*asked[:-1], "general=1,domain=1").code == 0


def trained(folder: Path) -> dict:
    return json.loads((folder / "run" / "run.json").read_text())


def test_a_corpus_knows_its_groups(corpus, texts, tmp_path, command):
    made, facts = Corpus.open(corpus), json.loads((corpus / "corpus.json").read_text())
    assert list(made.groups) == ["general", "domain"]
    assert made.mix == {"general": 0.25, "domain": 0.75}
    for split in ("train", "validation"):
        whole, parts = getattr(made, split), {name: getattr(group, split) for name, group in made.groups.items()}
        for what in ("documents", "bytes", "tokens"):
            assert {name: getattr(part, what) for name, part in parts.items()} == {
                name: sizes[split][what] for name, sizes in facts["sizes"].items()
            }
            assert sum(getattr(part, what) for part in parts.values()) == getattr(whole, what)
            assert all(getattr(part, what) > 0 for part in parts.values())
    for name, group in made.groups.items():
        for i in range(group.train.documents):
            assert ("inflation" in made.tokenizer.decode(group.train.document(i)[0].tolist())) == (name == "domain")
    shown = command("show", corpus).out
    assert re.search(r"domain +12 +12 +0 ", shown)
    assert "general 25.0%, domain 75.0%" in " ".join(shown.split())
    again = fledge.prepare(texts, out=tmp_path / "same", tokenizer="bytes")
    other = fledge.prepare(texts, out=tmp_path / "same", tokenizer="bytes", mix="domain=1")
    assert again == other
    assert Corpus.open(tmp_path / "same").mix == {"domain": 1.0}
    assert Corpus.open(tmp_path / "same").contents == made.contents


def test_each_group_has_its_held_out_part(tmp_path):
    """Two files, each a group of one document: the end of each is held out."""
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text("".join(f"{name} is line {n}.\n" for n in range(300)))
    fledge.prepare([f"{name}={tmp_path / name}.txt" for name in ("a", "b")], out=tmp_path / "c", tokenizer="bytes")
    made = Corpus.open(tmp_path / "c")
    for name, group in made.groups.items():
        parts = [made.tokenizer.decode(of.document(0)[0].tolist()) for of in (group.train, group.validation)]
        assert "".join(parts) == (tmp_path / f"{name}.txt").read_text()
        assert 0.05 < len(parts[1]) / len("".join(parts)) < 0.15


def test_the_mixture_is_what_was_asked_and_goes_on_bit_equal(corpus, tmp_path, command):
    words = [
        *FLAGS,
        "--arch",
        "fledge-1m",
        "--steps",
        20,
        "--set",
        "save.steps=8",
        "--set",
        "save.evaluate=10",
        "--seed",
        3,
        "--threads",
        1,
    ]
    ends = []
    for name in ("whole", "resumed"):
        flags = ["pretrain", corpus, "--out", tmp_path / name, "--mix", "general=0.7,domain=0.3", *words]
        done = command(*flags, "--json")
        assert done.code == 0, done.err
        assert "general 70.0%" in done.err
        if name == "resumed":
            shutil.rmtree(tmp_path / name / "run" / "step-20")
            done = command(*flags, "--json")
            assert "Going on from" in done.err
        ends.append((tmp_path / name / "model.safetensors").read_bytes())
    assert ends[0] == ends[1]
    assert trained(tmp_path / "whole")["data"]["mix"] == [["general", 0.7], ["domain", 0.3]]
    assert "Mixture: general 70.0%" in (tmp_path / "whole" / "README.md").read_text()
    lines = [json.loads(line) for line in (tmp_path / "whole" / "run" / "metrics.jsonl").read_text().splitlines()]
    scores = [line["validation"] for line in lines if "validation" in line]
    for score in scores:
        assert score["loss"] == pytest.approx(0.7 * score["loss_of_general"] + 0.3 * score["loss_of_domain"])
    found = done.json["validation"]
    low, high = found["groups"]["domain"]["interval"]
    assert low <= found["groups"]["domain"]["bits_per_byte"] <= high
    bounds = sorted(group["bits_per_byte"] for group in found["groups"].values())
    assert bounds[0] < found["bits_per_byte"] < bounds[1]
    told = {score.measure: score.value for score in fledge.evaluate(str(tmp_path / "whole")).scores}
    assert told["bits per byte of domain"] == pytest.approx(found["groups"]["domain"]["bits_per_byte"], rel=1e-5)
    assert told["bits per byte"] == pytest.approx(found["bits_per_byte"], rel=1e-5)


def test_the_corpus_may_say_the_mixture_or_temperature(corpus, tmp_path, command):
    own = command("pretrain", corpus, "--out", tmp_path / "own", *FLAGS, "--arch", "fledge-1m", "--steps", 2)
    assert own.code == 0, own.err
    assert trained(tmp_path / "own")["data"]["mix"] == [["general", 0.25], ["domain", 0.75]]
    equal = command("pretrain", corpus, "--out", tmp_path / "equal", *FLAGS, "--arch", "fledge-1m", "--steps", 2, "--temperature", 0)
    assert trained(tmp_path / "equal")["data"]["mix"] == [["general", 0.5], ["domain", 0.5]]
    assert "Mixture" in equal.err
    alone = command("pretrain", corpus, "--out", tmp_path / "alone", *FLAGS, "--arch", "fledge-1m", "--steps", 2, "--mix", "domain=1")
    assert "general is left out" in alone.err
    assert "general" in alone.out  # and still scored, so that one sees what is forgotten


def test_several_corpora_are_groups(texts, tmp_path, command):
    for text in texts:
        name, _, path = text.partition("=")
        fledge.prepare([path], out=tmp_path / name, tokenizer="bytes")
    words = [*FLAGS, "--arch", "fledge-1m", "--steps", 4, "--mix", "general=0.5,speeches=0.5"]
    done = command("pretrain", tmp_path / "general", f"speeches={tmp_path / 'domain'}", "--out", tmp_path / "m", *words, "--json")
    assert done.code == 0, done.err
    assert set(done.json["validation"]["groups"]) == {"general", "speeches"}
    told = {score.measure for score in fledge.evaluate(str(tmp_path / "m")).scores}
    assert {"bits per byte", "bits per byte of general", "bits per byte of speeches"} <= told
    fledge.prepare([texts[0]], out=tmp_path / "other", tokenizer="characters")
    for sources, said in (
        ([tmp_path / "general", tmp_path / "other"], "different tokenizers"),
        ([tmp_path / "general", texts[1]], "is none"),
        ([tmp_path / "general", f"general={tmp_path / 'domain'}"], "both called general"),
    ):
        refused = command("pretrain", *sources, "--out", tmp_path / "x", "--steps", 1)
        assert refused.code == 2
        assert said in refused.err


@pytest.mark.parametrize("objective", ["next-word", "masked-word", "denoise"])
def test_a_model_goes_on_with_texts_in_a_mixture(texts, tmp_path, objective):
    """Continued pretraining with replay, for every objective; the tokenizer stays the model's."""
    settings = ["arch.width=32", "arch.depth=1", "arch.context=64", "batch.rows=4", "batch.context=48"]
    first = fledge.pretrain([texts[0]], out=tmp_path / "base", objective=objective, tokenizer="bytes", steps=3, set=settings)
    on = fledge.pretrain(
        [texts[1], texts[0]], out=tmp_path / "on", from_=tmp_path / "base", mix="domain=0.7,general=0.3", steps=12, set=settings[3:]
    )
    assert isinstance(on.validation, Validation if objective == "next-word" else Guessed)
    assert set(on.validation.groups) == {"domain", "general"}
    assert not first.validation.groups
    assert (tmp_path / "on" / "tokenizer.json").read_bytes() == (tmp_path / "base" / "tokenizer.json").read_bytes()
    assert on.validation.loss < first.validation.loss
    assert json.loads((tmp_path / "on" / "fledge.json").read_text())["parent"]["name"] == str(tmp_path / "base")


def test_no_source_is_read_too_often(corpus, tmp_path, command):
    made = Corpus.open(corpus)
    domain, total = made.groups["domain"].train.tokens, 6 * made.groups["domain"].train.tokens
    words = ["pretrain", corpus, *FLAGS, "--arch", "fledge-1m", "--tokens", total, "--mix", "general=0.2,domain=0.8"]
    often = command(*words, "--out", tmp_path / "often")
    assert "domain is read 4.8 times" in often.err
    less = command(*words, "--out", tmp_path / "less", "--epochs-per-source", 3)
    assert less.code == 0, less.err
    assert "domain was to be 80.0%, but has no more for 3 epochs" in less.err
    run = trained(tmp_path / "less")
    tokens = run["plan"]["steps"] * 4 * 64
    assert dict(run["data"]["mix"])["domain"] * tokens == pytest.approx(3 * domain, rel=1e-3)
    assert run["plan"]["most"] == run["plan"]["steps"]
    never = command(*words, "--out", tmp_path / "never", "--epochs-per-source", 1)
    assert never.code == 2
    assert "epochs of each source" in never.err


def test_best_fit_packing_is_a_setting(corpus, tmp_path, command):
    words = ["--arch", "fledge-1m", "--steps", 3, "--mix", "domain=1"]
    done = command("pretrain", corpus, "--out", tmp_path / "m", *FLAGS, *words, "--set", "data.packing=best-fit")
    assert done.code == 0, done.err
    assert "domain: best-fit packing" in done.err
    assert "best-fit packing" in (tmp_path / "m" / "README.md").read_text()
    refused = command(
        "pretrain", corpus, "--out", tmp_path / "x", "--objective", "masked-word", *words[2:4], "--set", "data.packing=best-fit"
    )
    assert refused.code == 2
    assert "takes its rows from a stream" in refused.err


def test_what_cannot_be_mixed_is_one_sentence(corpus, texts, tmp_path, command):
    for flags, said in (
        (["--mix", "generla=1"], "did you mean general"),
        (["--mix", "general"], "is no share"),
        (["--mix", "general=1", "--temperature", 0.5], "give one of them"),
        (["--epochs-per-source", 0], "give for example 4"),
        (["--temperature", 3], "from 0"),
    ):
        refused = command("pretrain", corpus, "--out", tmp_path / "x", "--steps", 1, *flags)
        assert refused.code == 2, flags
        assert said in refused.err
    refused = command("prepare", *texts, "--out", tmp_path / "y", "--mix", "domian=1")
    assert refused.code == 2
    assert "did you mean domain" in refused.err
    again = command("prepare", f"general={corpus}", "--out", tmp_path / "y")
    assert "is a corpus already" in again.err
