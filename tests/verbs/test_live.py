"""The live page: the report of a run while it lasts."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fledge.verbs import pages
from fledge.verbs.session import watched


def line(step: int, **more) -> str:
    facts = {"step": step, "tokens": 64 * step, "seconds": step / 2, "loss": 4 / step, "gradient_norm": 1.0, "learning_rate": 1e-3}
    return json.dumps({**facts, "tokens_per_second": 1234.5, "mfu": 0.31, "memory": 5e8, "peak_memory": 6e8, "seconds_left": 75.0, **more})


def at(step: int, total: int) -> Any:
    """As much of a `State` as a page reads."""
    return SimpleNamespace(step=step, total=total, loss=1.0)


def training_that_fails(folder: Path) -> None:
    with watched("A run", folder, 10) as (_, hooks):
        for act in hooks:
            act(at(3, 10))
        assert re.search("refresh.*Under way at step 3 of 10", (folder / "run" / "report.html").read_text(), re.DOTALL)
        raise FloatingPointError("the loss is nan")


@pytest.fixture
def run(tmp_path):
    (tmp_path / "model" / "run").mkdir(parents=True)
    return tmp_path / "model" / "run"


def test_it_tells_of_now_and_reads_itself_anew(run):
    lines = [line(1), line(2), json.dumps({"step": 2, "tokens": 128, "seconds": 1.0, "validation": {"loss": 2.25, "macro_f1": 0.5}})]
    (run / "metrics.jsonl").write_text("\n".join(lines))
    html = pages.live_page("Classifier x", 2, 40, run, 7).html()
    assert '<meta http-equiv="refresh" content="7">' in html
    for said in (
        "step 2 of 40; 1 min 15 s left",
        "2.000",
        "31.0%",
        "600 MB",
        "1,234",
        "held out: macro f1",
        "0.500",
        "Norm of the gradient",
    ):
        assert said in html, said
    assert "refresh" not in pages.live_page("Classifier x", 2, 40, run, None).html()


def test_it_is_written_as_often_as_its_cost_allows_and_stays_when_training_stops(run, monkeypatch):
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(pages, "time", clock)
    (run / "metrics.jsonl").write_text(line(1))
    page, written = pages.LivePage("A run", run), []

    def slowly(path):
        clock.now += 0.2
        written.append(path)

    monkeypatch.setattr(pages, "live_page", lambda *_: SimpleNamespace(write=slowly))
    for step in range(1, 1001):
        page(at(step, 1000))
        clock.now += 0.1
    assert len(written) == pytest.approx(1000 * 0.1 / (0.2 / pages.LIVE_SHARE), abs=1)


def test_a_stopped_run_leaves_a_page_that_stands_still(run):
    (run / "metrics.jsonl").write_text(line(3))
    with pytest.raises(FloatingPointError):
        training_that_fails(run.parent)
    html = (run / "report.html").read_text()
    assert "Stopped at step 3 of 10." in html
    assert "refresh" not in html
