"""`predict` on a text, a file, its lines and tables."""

import csv
import json

import pytest
import tokenizers
import torch
import transformers

import fledge
from fledge.text import Tokenizer
from fledge.verbs.prediction import Prediction


def test_a_text(classifier, command):
    said = command("predict", classifier, "9 free prize", "--json")
    assert said.json["label"] == "spam"
    assert sum(said.json["scores"].values()) == pytest.approx(1)
    assert command("predict", classifier, "9 free prize").out.splitlines()[0].endswith("spam")


def test_a_file_its_lines_and_tables(classifier, messages, tmp_path, command):
    (tmp_path / "a.txt").write_bytes(b"9 free prize\n3 \xff see you\n\n")
    assert command("predict", classifier, "--file", tmp_path / "a.txt").out.count("\n") == 1
    lines = command("predict", classifier, "--file", tmp_path / "a.txt", "--lines")
    assert lines.out == "spam\nham\n"
    assert "1 invalid UTF-8 sequence replaced" in lines.err
    for name in ("out.csv", "out.jsonl"):
        said = command("predict", classifier, "--file", messages, "--out", tmp_path / name, "--json")
        assert said.code == 0
        assert said.json["rows"] == 80
        assert sum(said.json["counts"].values()) == 80
    below = command("predict", classifier, "--file", messages, "--out", tmp_path / "new" / "folder" / "out.jsonl")
    assert below.code == 0
    assert (tmp_path / "new" / "folder" / "out.jsonl").read_bytes() == (tmp_path / "out.jsonl").read_bytes()
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["out.jsonl"]
    with (tmp_path / "out.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["predicted"] for row in table] == [row["predicted"] for row in rows]
    assert sum(row["predicted"] == row["label"] for row in rows) > 70
    again = command("predict", classifier, "--file", messages, "--out", tmp_path / "out.csv")
    assert again.code == 2
    assert "exists" in again.err


@pytest.mark.parametrize(
    ("name", "content", "flags", "words"),
    [
        ("no.txt", None, [], "no.txt does not exist"),
        ("empty.txt", b"", [], "empty"),
        ("binary.txt", b"\0\1\2", [], "binary"),
        ("rows.csv", b"text,n\nhello,1\n,2\n", ["--text-column", "text"], "line 3"),
        ("rows.csv", b"text,n\nhello,1\n", ["--text-column", "txt"], "did you mean text"),
        ("a.txt", b"hello", ["--out", "x.html"], ".jsonl"),
        ("a.txt", b"hello", ["and a text"], "either a text or --file"),
    ],
)
def test_bad_files_are_one_sentence(classifier, tmp_path, command, name, content, flags, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    said = command("predict", classifier, *flags, "--file", tmp_path / name)
    assert said.code == 2
    assert words in said.err
    assert not said.out


def test_a_language_model_is_no_classifier(base, messages, tmp_path, command):
    for words in (["hello"], ["--file", messages, "--out", tmp_path / "out.csv"]):
        said = command("predict", base, *words)
        assert said.code == 2
        assert "fledge finetune classify" in said.err
    assert list(tmp_path.iterdir()) == []


def test_the_function_takes_paths_and_texts(classifier, messages):
    assert fledge.predict(str(classifier), "5 see you") == Prediction(**fledge.load(classifier).predict("5 see you"))
    assert fledge.predict(classifier, file=str(messages)) == fledge.predict(classifier, file=messages)


def test_an_encoder_fills_in_what_is_masked(encoder, tmp_path, command):
    model = fledge.load(encoder)
    found = model.predict("retur[MASK] None")
    [words] = found["masks"]
    assert len(words) <= 5
    assert 0 < sum(words.values()) <= 1
    assert list(words.values()) == sorted(words.values(), reverse=True)
    tokens = model.tokenizer.encode("retur"), model.tokenizer.encode(" None")
    scores = model.logits([model.tokenizer.framed([*tokens[0], model.tokenizer.special("<|mask|>") or 0, *tokens[1]])])
    chances = scores[0, 1 + len(tokens[0])].index_fill(0, torch.tensor(sorted(model.tokenizer.controls.values())), -torch.inf).softmax(-1)
    best = int(chances.argmax())
    assert found["text"] == f"retur{model.tokenizer.decode([best])} None"
    name = model.tokenizer.decode([best]).strip() or model.tokenizer.piece(best)
    assert words[name] >= float(chances[best]) - 1e-6
    assert model.predict("retur<|mask|> None") == found
    assert len(model.predict("[MASK][MASK]")["masks"]) == 2
    said = command("predict", encoder, "retur[MASK] None")
    assert said.out.splitlines()[0] == found["text"]
    (tmp_path / "rows.csv").write_text("text,n\nretur[MASK] None,1\nd[MASK]f x,2\n")
    said = command("predict", encoder, "--file", tmp_path / "rows.csv", "--out", tmp_path / "out.jsonl")
    assert said.code == 0, said.err
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert rows[0]["predicted"] == found["text"]
    nothing = command("predict", encoder, "return None")
    assert nothing.code == 2
    assert "[MASK]" in nothing.err


def test_a_denoiser_fills_gaps_with_spans(denoiser, tmp_path, command):
    """Each span is what the best next tokens come to, up to the sentinel after it; other control tokens in a text are characters."""
    model = fledge.load(denoiser)
    text = "one two ___ four ___ six"
    found = model.predict(text)
    for marked in (text.replace("___", "[MASK]"), text.replace("___", "<extra_id_7>", 1), text.replace("___", "<|mask|>")):
        assert model.predict(marked) == found
    beside = model.predict(["six ___", text])[1]
    assert beside["text"] == found["text"]
    assert [list(part.values()) for part in beside["masks"]] == [pytest.approx(list(part.values()), rel=1e-3) for part in found["masks"]]
    words = model.tokenizer
    pieces = [words.encode(piece) for piece in ("one two", " four", " six")]
    sentinels, stops = words.sentinels[:2], {words.end_of_text, *words.sentinels}
    controls, banned = (torch.tensor(sorted(set(words.controls.values()) - ends)) for ends in (set(), stops))
    source = words.framed([*pieces[0], sentinels[0], *pieces[1], sentinels[1], *pieces[2]])
    target, spans = [model.arch.start or 0], []
    for sentinel in sentinels:
        target.append(sentinel)
        spans.append([])
        while len(spans[-1]) < 20:
            scores = model.logits([source], [target])[0, -1, : words.size]
            token = int(scores.index_fill(0, banned if spans[-1] else controls, -torch.inf).argmax())
            if token in stops:
                break
            target.append(token)
            spans[-1].append(token)
    assert found["text"] == words.decode([*pieces[0], *spans[0], *pieces[1], *spans[1], *pieces[2]])
    assert [next(iter(part)) for part in found["masks"]] == [words.decode(span).strip() for span in spans]
    assert model.predict("<|endoftext|><|pad|> ___")["text"].startswith("<|endoftext|><|pad|>")
    said = command("predict", denoiser, text)
    assert said.out.splitlines()[0] == found["text"]
    (tmp_path / "rows.csv").write_text("text,n\none ___ three,1\n")
    assert command("predict", denoiser, "--file", tmp_path / "rows.csv", "--out", tmp_path / "out.jsonl").code == 0
    assert json.loads((tmp_path / "out.jsonl").read_text())["predicted"] == model.predict("one ___ three")["text"]
    for words_of_command, hint in (
        (["predict", denoiser, "one two"], "[MASK]"),
        (["predict", denoiser, "___ " * 101], "101 gaps"),
        (["generate", denoiser, "one two"], "fledge predict"),
    ):
        said = command(*words_of_command)
        assert said.code == 2
        assert hint in said.err


@pytest.mark.parametrize("arch", ["bert-base", "modernbert-base", "t5-small", "gpt2"])
def test_a_classifier_of_any_family(messages, tmp_path, arch):
    """From random weights, or from the encoder; its own family opens it and says the same."""
    settings = ["arch.width=32", "arch.heads=2", "arch.depth=1", "optimizer.rate=3e-3", "save.patience=0"]
    out = tmp_path / "c"
    done = fledge.finetune.classify(messages, out=out, arch=arch, epochs=24, set=settings)
    assert done.score.accuracy.value > 0.9
    model = fledge.load(out)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(out).eval()
    tokens = model.tokenizer.framed(model.tokenizer.encode("9 free prize"))
    with torch.no_grad():
        chances = theirs(torch.tensor([tokens])).logits[0].softmax(-1).tolist()
    assert model.predict("9 free prize")["scores"] == pytest.approx(dict(zip(model.arch.labels, chances, strict=True)), abs=1e-5)


def test_a_pretrained_encoder_becomes_a_classifier(encoder, messages, tmp_path):
    done = fledge.finetune.classify(messages, out=tmp_path / "c", from_=encoder, epochs=90, set=["save.patience=0"])
    assert done.score.accuracy.value > 0.9


def test_a_tokenizer_without_a_word_fills_nothing_in(encoder, tmp_path):
    """Its byte pieces declared control tokens, as a broken tokenizer_config.json once did."""
    model = fledge.load(str(encoder))
    backend = tokenizers.Tokenizer.from_str(model.tokenizer.backend.to_str())
    backend.add_special_tokens([name for name, _ in backend.get_vocab().items()])
    model.tokenizer = Tokenizer(backend)
    with pytest.raises(ValueError, match="all 384 tokens of this model's tokenizer are control tokens"):
        model.predict("the ___ is")
