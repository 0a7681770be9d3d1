"""`finetune classify` and `finetune instruct` on a person's own rows."""

import json
import shutil
from typing import Any

import pytest
import torch
import transformers

import fledge


def trunk(folder) -> dict[str, torch.Tensor]:
    return {name: value for name, value in fledge.load(folder).network.state_dict().items() if not name.startswith("head")}


def test_the_classifier_is_a_folder_with_its_scores(classifier, messages):
    facts = json.loads((classifier / "fledge.json").read_text())
    assert set(facts["scores"]) == {"validation", "test", "verdict"}
    assert fledge.load(classifier).predict("4 free prize")["label"] == "spam"
    assert (classifier / "run" / "report.html").is_file()
    assert facts["data"]["label_column"] == "label"


@pytest.mark.parametrize(("train", "moved"), [("head", 0), ("last-1", 1)])
def test_only_the_chosen_part_learns(base, messages, tmp_path, train, moved):
    fledge.finetune.classify(str(messages), out=tmp_path / "c", from_=str(base), train=train, balance="rows", epochs=1)
    before, after = trunk(base), trunk(tmp_path / "c")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert bool(changed) == bool(moved)
    assert not any("embedding" in name for name in changed)


def test_classify_says_what_it_found_ends_in_json_and_goes_on(base, messages, tmp_path, command):
    words = ["finetune", "classify", messages, "--out", tmp_path / "c", "--from", base, "--epochs", 1, "--set", "optimizer.rate=1e-2"]
    said = command(*words, "--json")
    assert said.code == 0
    assert "'text'" in said.err
    assert "'label'" in said.err
    assert [method["name"] for method in said.json["methods"]] == [
        "majority vote",
        "TF-IDF + logistic regression",
        "linear probe",
        "this model",
    ]
    again = command(*words, "--threads", 2)
    assert again.code == 0
    assert "This run is finished" in again.err
    other = command(*words, "--balance", "rows")
    assert other.code == 2
    assert 'balance: "labels" -> "rows"' in other.err


@pytest.mark.parametrize("verb", ["classify", "instruct", "pairs", "prefer"])
def test_no_epoch_is_refused_before_anything_is_read(base, tmp_path, command, verb):
    said = command("finetune", verb, tmp_path / "missing.csv", "--from", base, "--out", tmp_path / "c", "--epochs", 0)
    assert said.code == 2
    assert "--epochs 0 trains nothing: give at least 1" in said.err
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("verb", ["classify", "instruct"])
def test_a_run_keeps_its_data(base, tmp_path, command, verb):
    """The same command with a file that holds something else now neither goes on nor starts anew."""
    rows = [{"prompt": f"text {i}", "completion": "ab"[i % 2], "text": f"text {i}", "label": "ab"[i % 2]} for i in range(40)]
    path = tmp_path / "rows.json"
    for changed in ({}, {"completion": "c", "label": "a"}):
        path.write_text(json.dumps([*rows[:-1], {**rows[-1], **changed}]))
        flags = ["--text-column", "text", "--label-column", "label"] if verb == "classify" else []
        said = command("finetune", verb, path, "--out", tmp_path / "m", "--from", base, "--epochs", 1, *flags, "--json")
        if changed:
            assert said.code == 2
            assert "other data" in said.err
        else:
            assert said.json["validation"]["loss"] > 0


def labelled(kind: str, i: int) -> dict[str, Any]:
    match kind:
        case "several":
            has = {"free": i % 2 == 1, "call": i % 3 == 0}
            return {"text": f"{i} {' '.join(label for label in has if has[label])}", "label": [label for label in has if has[label]]}
        case "ordinal":
            return {"text": f"{i} {('poor', 'fine', 'super')[i % 3]}", "label": i % 3 + 1}
    second = "abcd"[i % 4 if i % 3 else (i + 1) % 4]
    return {"sentence1": f"{i} {'abcd'[i % 4] * 4}", "sentence2": second * 4, "label": i % 3 > 0}


@pytest.mark.parametrize(("kind", "arch"), [("several", "gpt2"), ("ordinal", "t5-small"), ("pairs", "bert-base"), ("pairs", "gpt2")])
def test_each_kind_of_label_is_learnt_and_opens_in_transformers(kind, arch, tmp_path, command):
    """Several labels, an order, pairs of texts: the same scores in transformers, and in predict what the folder says."""
    path = tmp_path / "rows.jsonl"
    rows = [labelled(kind, i) for i in range(90)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["finetune", "classify", path, "--out", tmp_path / "c", "--arch", arch, "--epochs", 14, "--label-column", "label"]
    settings = ("arch.width=32", "arch.heads=2", "arch.depth=1", "optimizer.rate=1e-2", "save.patience=0")
    flags = [*(["--labels", "ordinal"] if kind == "ordinal" else []), *(word for one in settings for word in ("--set", one))]
    said = command(*words, *flags, "--json")
    assert said.code == 0, said.err
    done = said.json
    assert done["choice"] == {"several": "several", "ordinal": "ordinal", "pairs": "single"}[kind]
    ours = done["methods"][-1]["score"]
    assert kind == "pairs" or ours["macro_f1"]["value"] > 0.8
    assert (ours["kappa"] is not None) == (kind == "ordinal")
    model = fledge.load(tmp_path / "c")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "c").eval()
    reader: Any = transformers.AutoTokenizer.from_pretrained(tmp_path / "c")
    row = rows[5]
    text = (row["sentence1"], row["sentence2"]) if kind == "pairs" else row["text"]
    read = reader(*([text] if isinstance(text, str) else text), return_tensors="pt", return_token_type_ids=arch == "bert-base")
    with torch.no_grad():
        scores = theirs(**read).logits[0]
    chances = scores.sigmoid() if theirs.config.problem_type == "multi_label_classification" else scores.softmax(-1)
    found = model.predict(text)
    assert found["scores"] == pytest.approx(dict(zip(model.arch.labels, chances.tolist(), strict=True)), abs=1e-5)
    if kind == "several":
        assert found["labels"] == [label for label, chance in found["scores"].items() if chance >= 0.5]
    out = command("predict", tmp_path / "c", "--file", path, "--out", tmp_path / "out.csv", "--json")
    assert out.code == 0, out.err
    assert out.json["rows"] == 90
    wrong = ("a", "b") if kind != "pairs" else "a"
    with pytest.raises(ValueError, match="one text"):
        model.predict(wrong)
    measured = command("evaluate", tmp_path / "c", "--on", path, "--label-column", "label", "--json")
    assert measured.code == 0, measured.err


def test_folders_and_test_rows_and_costs(base, tmp_path, command):
    for label, word in (("ham", "see you"), ("spam", "free prize")):
        (tmp_path / "texts" / label).mkdir(parents=True)
        for i in range(30):
            (tmp_path / "texts" / label / f"{i}.txt").write_text(f"{i} {word}")
    (tmp_path / "test.csv").write_text(
        "text,label\n" + "".join(f"{i} {('see you', 'free prize')[i % 2]},{('ham', 'spam')[i % 2]}\n" for i in range(40, 60))
    )
    words = ["finetune", "classify", tmp_path / "texts", "--from", base, "--epochs", 6, "--set", "optimizer.rate=2e-2", "--json"]
    said = command(*words, "--out", tmp_path / "a", "--test", tmp_path / "test.csv", "--cost", "spam=5")
    assert said.code == 0, said.err
    assert "20 rows to test on" in said.err
    assert said.json["methods"][0]["score"]["rows"] == 20
    first, second = said.json["thresholds"]
    assert first + second == pytest.approx(1)
    assert second < 0.5
    assert fledge.load(tmp_path / "a").facts["thresholds"] == [first, second]
    again = command(*words, "--out", tmp_path / "a", "--test", tmp_path / "test.csv", "--cost", "spam=5")
    assert again.json["calibration"]["temperature"] == pytest.approx(said.json["calibration"]["temperature"], rel=1e-3)


def test_a_search_tries_rates_and_keeps_the_best(base, messages, tmp_path, command):
    words = ["finetune", "classify", messages, "--from", base, "--train", "head", "--json"]
    without = command(*words, "--out", tmp_path / "a", "--search")
    assert without.code == 2
    assert "give it --time" in without.err
    assert not (tmp_path / "a").exists()
    said = command(*words, "--out", tmp_path / "a", "--search", "--time", "20s")
    assert said.code == 0, said.err
    tried = said.json["search"]
    assert len(tried) == 5
    assert len({trial["factor"] for trial in tried}) == 3
    assert said.json["validation"]["macro_f1"] >= max(trial["validation"]["macro_f1"] for trial in tried)
    assert "What the search tried" in (tmp_path / "a" / "run" / "report.html").read_text()
    again = command(*words, "--out", tmp_path / "a", "--search", "--time", "20s")
    assert again.code == 0, again.err
    assert again.json["search"] == tried
    assert again.json["validation"] == said.json["validation"]


def test_runs_in_other_orders_are_averaged(base, messages, tmp_path, command):
    """The folder holds the mean of what each run came to; called again it is the same, and a run that was lost is trained again."""
    words = ["finetune", "classify", messages, "--from", base, "--epochs", 6, "--set", "optimizer.rate=1e-2", "--json"]
    alone = command(*words, "--out", tmp_path / "one")
    assert alone.json["repeats"] == []
    said = command(*words, "--out", tmp_path / "a", "--runs", 3)
    assert said.code == 0, said.err
    first, *others = said.json["repeats"]
    assert first["validation"] == alone.json["validation"]
    assert said.json["steps"] == 3 * alone.json["steps"]
    members = [trunk(tmp_path / "one"), *(trunk(one["folder"]) for one in others)]
    mean = {name: sum(one[name] for one in members) / 3 for name in members[0]}
    kept = trunk(tmp_path / "a")
    assert all(any(not torch.equal(members[0][name], one[name]) for name in one) for one in members[1:])
    for name, value in mean.items():
        torch.testing.assert_close(kept[name], value, msg=name)
    assert "Runs from one start" in (tmp_path / "a" / "run" / "report.html").read_text()
    shutil.rmtree(others[1]["folder"])
    again = command(*words, "--out", tmp_path / "a", "--runs", 3)
    assert {name: value for name, value in again.json.items() if name not in ("seconds", "calibration")} == {
        name: value for name, value in said.json.items() if name not in ("seconds", "calibration")
    }


def test_the_time_that_is_left_is_for_more_runs(base, messages, tmp_path, command):
    said = command("finetune", "classify", messages, "--from", base, "--out", tmp_path / "a", "--time", "20s", "--json")
    assert said.code == 0, said.err
    assert 2 <= len(said.json["repeats"]) <= 4
    assert said.json["seconds"] < 20


@pytest.mark.parametrize("more", [["--from", "BASE", "--search", "--time", "20s"], ["--arch", "gpt2"]])
def test_what_cannot_be_averaged_is_refused(base, messages, tmp_path, command, more):
    said = command(
        "finetune", "classify", messages, "--out", tmp_path / "c", "--runs", 2, *(base if word == "BASE" else word for word in more)
    )
    assert said.code == 2
    assert "leave out --runs" in said.err
    assert not (tmp_path / "c").exists()


def test_random_weights_need_a_preset(messages, tmp_path, command):
    words = ["finetune", "classify", messages, "--out", tmp_path / "c"]
    nothing = command(*words)
    assert nothing.code == 2
    assert "--from MODEL" in nothing.err
    random = command(*words, "--arch", "fledge-1m", "--set", "arch.width=32", "--set", "arch.depth=1", "--epochs", 1)
    assert random.code == 0


TWICE = "text,label\n" + "".join(f"word {i},{'xy'[i % 2]}\n" for i in range(20))


@pytest.mark.parametrize(
    ("content", "flags", "words"),
    [
        ("text,label\na,x\nb,x\nc,x\n", [], "one label only"),
        ("text,label\na,x\nb,x\nc,y\n", [], "line 4"),
        ("text,label\na,x\nb,y\n", ["--label-column", "lable"], "did you mean label"),
        ("text\na\nb\n", [], "label"),
        ("text,label\n", [], "no rows"),
        (None, [], "does not exist"),
        ("text,label\na,x\nb,x\nc,y\nd,y\n", ["--train", "tail"], "last-N"),
        (TWICE, ["--train", "last-9"], "this model has 1 blocks"),
        (TWICE, ["--cost", "z=3"], "'z' is no label"),
        (TWICE, ["--cost", "x=-3"], "a cost is a number above 0"),
        (TWICE, ["--order", "x,z"], "label 'y' of column 'label' is not in --order"),
        (TWICE, ["--test", "TEST"], "line 2: label 'new' was never seen in training"),
        ("text,label\na,x\nb,x\nc,y\nd,y\n", [], "cannot be split"),
        (TWICE, ["--from", "/nowhere"], "/nowhere"),
        ("text,label\na,x\nb,x\nc,y\nd,y\n", ["--time", "abc"], "90s, 30m"),
    ],
)
def test_bad_rows_are_one_sentence(base, tmp_path, command, content, flags, words):
    path = tmp_path / "rows.csv"
    if content is not None:
        path.write_text(content)
    (tmp_path / "test.csv").write_text("text,label\nword 1,new\n")
    flags = [str(tmp_path / "test.csv") if flag == "TEST" else flag for flag in flags]
    said = command("finetune", "classify", path, "--out", tmp_path / "c", *([] if "--from" in flags else ["--from", base]), *flags)
    assert said.code == 2
    assert words in said.err
    assert not (tmp_path / "c").exists()


def test_the_assistant_answers_and_knows_its_format(assistant):
    facts = json.loads((assistant / "fledge.json").read_text())
    scores = facts["scores"]["perplexity of held-out answers"]
    assert scores["after"] < scores["before"]
    assert facts["chat"] == "chatml"
    model = fledge.load(assistant)
    assert model.chat([{"role": "user", "content": "Repeat 3."}], max_tokens=5, seed=0) == model.chat(
        [{"role": "user", "content": "Repeat 3."}], max_tokens=5, seed=0
    )


def test_answers_are_measured_before_and_after(base, tmp_path, command):
    """On rows of a file of their own, each said with its name; the card, the page and JSON hold the same numbers."""
    rows = [{"prompt": f"Say {i}", "completion": "yes"} for i in range(40)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    (tmp_path / "test.jsonl").write_text("\n".join(json.dumps({"prompt": f"Say {i}", "completion": "yes"}) for i in range(38, 44)))
    words = ["finetune", "instruct", tmp_path / "rows.json", "--out", tmp_path / "a", "--from", base, "--epochs", 30]
    said = command(*words, "--test", tmp_path / "test.jsonl", "--set", "optimizer.rate=1e-2", "--json")
    assert said.code == 0
    assert "2 of 6 questions" in said.err
    before, after = said.json["before"], said.json["after"]
    assert said.json["held_out"] == after["written"] == 6
    assert after["perplexity"]["value"] < before["perplexity"]["value"] / 2
    assert before["ended"]["value"] < 1 == after["ended"]["value"]
    assert [example["after"] for example in said.json["examples"]] == ["yes"] * 5
    assert {score["measure"]: score["interval"]["value"] for score in after["scores"]}["ROUGE-L"] == 100
    facts = json.loads((tmp_path / "a" / "fledge.json").read_text())
    assert facts["scores"]["ROUGE-L of its answers"]["after"] == 100
    assert "ROUGE-L of its answers" in (tmp_path / "a" / "README.md").read_text()
    assert "ROUGE-L of its answers" in (tmp_path / "a" / "run" / "report.html").read_text()
    assert command(*words[:4], tmp_path / "b", *words[5:], "--test", 0.95).code == 2
    assert not (tmp_path / "b").exists()


TURNS = "{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ ': ' ~ CONTENT ~ '<|im_end|>' }}{% endfor %}"
OPENING = "{% if add_generation_prompt %}<|im_start|>assistant: {% endif %}"


def with_template(base, folder, content: str):
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("run"))
    template = TURNS.replace("CONTENT", content) + OPENING
    (folder / "chat_template.jinja").write_text(template)
    return template


def test_an_imported_template_is_learned_and_kept(base, tmp_path, questions, command):
    template = with_template(base, tmp_path / "theirs", "m.content")
    words = ["finetune", "instruct", questions, "--from", tmp_path / "theirs", "--epochs", 1, "--set", "batch.context=128"]
    said = command(*words, "--out", tmp_path / "a", "--json")
    assert said.code == 0
    assert said.json["format"] == "the model's own chat template"
    assert (tmp_path / "a" / "chat_template.jinja").read_text() == template
    model = fledge.load(tmp_path / "a")
    assert model.tokenizer.special("<|im_end|>") in json.loads((tmp_path / "a" / "generation_config.json").read_text())["eos_token_id"]
    assert model.chat([{"role": "user", "content": "Repeat 3."}], max_tokens=4, seed=0) is not None
    shown = command("show", questions, "--from", tmp_path / "a", "--rows", 1)
    assert "<|im_start|>assistant: ⟦0!<|im_end|>⟧" in shown.out


def test_a_template_that_alters_contents_is_refused_where_it_would_be_used(base, tmp_path, questions, command):
    with_template(base, tmp_path / "theirs", "m.content | replace('Repeat', 'Say')")
    words = ["finetune", "instruct", questions, "--from", tmp_path / "theirs", "--epochs", 1, "--set", "batch.context=128"]
    said = command(*words, "--out", tmp_path / "a")
    assert said.code == 2
    assert "alters what message 1 (user) says: choose another with --format of fledge finetune" in said.err
    assert not (tmp_path / "a").exists()
    assert command(*words, "--out", tmp_path / "b", "--format", "chatml").code == 0
    assert fledge.load(tmp_path / "b").facts["chat"] == "chatml"
    with pytest.raises(ValueError, match="alters what message 1"):
        fledge.load(tmp_path / "theirs").chat([{"role": "user", "content": "Repeat 3."}])
    assert command("generate", tmp_path / "theirs", "Repeat", "--max-tokens", 2).code == 0


def test_alpaca_rows_in_the_alpaca_format(base, tmp_path, command):
    rows = [{"instruction": f"Add {i}.", "input": "" if i % 2 else str(i), "output": str(i + i)} for i in range(20)]
    (tmp_path / "rows.json").write_text(json.dumps([*rows, rows[0], {"instruction": "Nothing?", "input": "", "output": ""}]))
    words = ["finetune", "instruct", tmp_path / "rows.json", "--out", tmp_path / "a", "--from", base, "--epochs", 1, "--json"]
    said = command(*words, "--format", "alpaca", "--validation", 0.2)
    assert said.code == 0
    assert "equal to an earlier one" in said.err or "left out" in said.err
    assert said.json["conversations"] + 4 <= 22
    assert fledge.load(tmp_path / "a").facts["chat"] == "alpaca"
    assert command("finetune", "instruct", tmp_path / "rows.json", "--out", tmp_path / "b", "--from", base, "--format", "alpca").code == 2


def test_rows_without_an_answer_are_left_out_on_both_sides(base, tmp_path, command):
    whole = [{"instruction": f"Say {i}.", "output": f"{i}"} for i in range(20)]
    holes = [{"instruction": "" if i % 2 else f"Say nothing {i}.", "output": "something" if i % 2 else " "} for i in range(40)]
    (tmp_path / "rows.json").write_text(json.dumps([*whole, *holes]))
    words = ["finetune", "instruct", tmp_path / "rows.json", "--from", base, "--epochs", 1, "--validation", 0.4]
    said = command(*words, "--out", tmp_path / "a", "--json")
    assert said.code == 0
    assert "without an answer, left out" in said.err
    assert "with an empty question or turn, left out" in said.err
    assert said.json["conversations"] < 20
    assert all(example["question"] and example["answer"] for example in said.json["examples"])
    (tmp_path / "rows.json").write_text(json.dumps(holes))
    nothing = command(*words, "--out", tmp_path / "b")
    assert nothing.code == 2
    assert "none of 40 conversations has both a question and an answer" in nothing.err


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"instruction": "a", "output": "b"}\n{"instruction": oops}\n', "line 2"),
        ('{"messages": [{"role": "userr", "content": "b"}]}\n', "userr"),
        ('{"a": 1}\n', "instruction"),
        ('{"instruction": "a", "output": "b"}\n', "at least 3"),
    ],
)
def test_bad_conversations_are_one_sentence(base, tmp_path, command, content, words):
    (tmp_path / "rows.jsonl").write_text(content)
    said = command("finetune", "instruct", tmp_path / "rows.jsonl", "--out", tmp_path / "a", "--from", base)
    assert said.code == 2
    assert words in said.err
    assert not (tmp_path / "a").exists()


def test_a_classifier_becomes_no_assistant(classifier, questions, tmp_path, command):
    said = command("finetune", "instruct", questions, "--out", tmp_path / "a", "--from", classifier)
    assert said.code == 2
    assert "classifier" in said.err
