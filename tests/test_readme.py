"""The README says what the results hold, and its commands are ones that there are."""

import json
import re
import shlex
from pathlib import Path

import pytest

from fledge.cli import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHELL = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
COMMANDS = [found[0] for block in SHELL for line in block.splitlines() if (found := re.search(r"^fledge .*|(?<=-m )fledge .*", line))]


def test_every_result_stands_in_the_table_as_measured():
    rows = {found[1]: found[0] for found in re.finditer(r"^\|.*\]\(benchmarks/results/(\w+)\.json\) \|$", README, re.MULTILINE)}
    results = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (ROOT / "benchmarks" / "results").glob("*.json")}
    assert rows.keys() == results.keys()
    for name, found in results.items():
        assert found["measured"] in rows[name], name
        assert ("[reached]" in rows[name]) == found["reached"], name


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_is_understood(line):
    words = shlex.split(line, comments=True)[1:]
    app.parse_args(words, exit_on_error=False, print_error=False)


def test_the_examples_in_python_compile():
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        compile(block, "README.md", "exec")


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
