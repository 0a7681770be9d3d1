"""lm-evaluation-harness gets from us what it gets from its own backend on the same folder."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from fledge.model import Transformer, initialise
from fledge.presets import PRESETS
from fledge.text import Tokenizer
from fledge.weights import open_model, save_model

pytest.importorskip("lm_eval", reason="needs fledge[harness]")
pytestmark = pytest.mark.filterwarnings("default")  # those libraries' own

ROWS = [
    {"activity_label": "Cook", "ctx": "A man cooks. he", "endings": ["cuts an onion.", "flies.", "sleeps in it.", "sings"], "label": "0"},
    {"activity_label": "Home", "ctx": "How to sew [title] Take a needle.", "endings": ["Thread it.", "Eat it.", "No", "Go."], "label": "1"},
    {"activity_label": "Sport", "ctx_a": "Two play.", "ctx_b": "the ball", "endings": ["rolls.", "is", "a b", "c"], "label": "3"},
]  # fmt: skip
ROLLING = """task: rolled
custom_dataset: !function made.texts
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - metric: bits_per_byte
"""
WRITTEN = """task: written
custom_dataset: !function made.texts
test_split: test
output_type: generate_until
doc_to_text: "{{text}}"
doc_to_target: "x"
generation_kwargs:
  until: ["e"]
  max_gen_toks: 9
metric_list:
  - metric: exact_match
"""
MADE = """import datasets

def texts(**_):
    rows = [{"text": text} for text in ("A short text.", "Another, which is longer than the context by a few letters. " * 3, "x")]
    return datasets.DatasetDict({"test": datasets.Dataset.from_list(rows)})
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A small model of random weights over bytes."""
    place, tokenizer = tmp_path_factory.mktemp("model"), Tokenizer.bytes()
    model = initialise(Transformer(PRESETS["fledge-1m"].arch(vocabulary=tokenizer.size, width=32, depth=2, context=96)), 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
        for control in tokenizer.controls.values():  # which we never write, and they do
            model.embedding.weight[control] = 0
    save_model(place / "m", model, tokenizer, None, {}, None, "random")
    return place / "m"


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> list[str]:
    place = tmp_path_factory.mktemp("tasks")
    for name, text in (("rolled.yaml", ROLLING), ("written.yaml", WRITTEN), ("made.py", MADE)):
        (place / name).write_text(text)
    (place / "hellaswag.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    return [f"hellaswag={place / 'hellaswag.jsonl'}", str(place / "rolled.yaml"), str(place / "written.yaml")]


def answers(samples: list[dict]) -> list:
    return [sample["resps"] for sample in samples]


def flat(nested: Sequence) -> list[float]:
    return [number for inner in nested for number in (flat(inner) if isinstance(inner, list | tuple) else [float(inner)])]


@pytest.mark.parametrize("shots", [None, 1])
def test_answers_and_scores_are_those_of_the_hf_backend(folder, tasks, shots, tmp_path):
    pytest.importorskip("accelerate", reason="their hf backend needs it")
    from lm_eval.models.huggingface import HFLM

    from fledge.evaluation.harness import Backend, loaded, run

    network, tokenizer, _ = open_model(folder)
    ours = run(Backend(network, tokenizer, kept=tmp_path / "kept.jsonl"), loaded(tasks, shots))
    theirs = run(HFLM(str(folder), device="cpu", dtype="float32", batch_size=2), loaded(tasks, shots))
    for task in ("hellaswag", "rolled"):
        for one, other in zip(flat(answers(ours["samples"][task])), flat(answers(theirs["samples"][task])), strict=True):
            assert one == pytest.approx(other, abs=1e-4, rel=2e-7)  # theirs adds up in fp32
    assert answers(ours["samples"]["written"]) == answers(theirs["samples"]["written"])
    for task, scores in theirs["results"].items():
        for name, value in scores.items():
            assert ours["results"][task][name] == (pytest.approx(value, abs=1e-4) if isinstance(value, float) else value)
    kept = run(
        Backend(network, tokenizer, kept=tmp_path / "kept.jsonl", progress=lambda *_: pytest.fail("all is known")), loaded(tasks, shots)
    )
    assert kept["results"] == ours["results"]


def test_what_cannot_be_run_is_a_sentence(tmp_path):
    from fledge.evaluation.harness import loaded

    with pytest.raises(ValueError, match="there is no such file"):
        loaded([str(tmp_path / "mine.yaml")])
    (tmp_path / "broken.jsonl").write_text('{"ctx": "a"}\n{"ctx": ')
    with pytest.raises(ValueError, match=r"broken.jsonl, line 2: the JSON breaks"):
        loaded([f"hellaswag={tmp_path / 'broken.jsonl'}"])
    (tmp_path / "wrong.jsonl").write_text("\n".join(json.dumps(row) for row in (ROWS[0], {"text": "a"})))
    with pytest.raises(ValueError, match=r"wrong.jsonl, line 2, does not fit the task hellaswag: KeyError"):
        loaded([f"hellaswag={tmp_path / 'wrong.jsonl'}"])
