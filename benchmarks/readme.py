"""Writes the table of results into README.md, and that of the mixtures into docs/mixtures.md, from the JSON of each benchmark."""

import json
import re
from pathlib import Path

from record import RESULTS

README = Path(__file__).parents[1] / "README.md"
MIXTURES = Path(__file__).parents[1] / "docs" / "mixtures.md"
BEGIN, END = "<!-- results -->\n", "<!-- end of results -->"


def table() -> str:
    """One row a benchmark, in Markdown."""
    rows = ["| claim | measured | |", "| --- | --- | --- |"]
    for path in sorted(RESULTS.glob("*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        holds = "reached" if found["reached"] else "not reached"
        rows.append(f"| {found['claim']} | {found['measured']} | [{holds}](benchmarks/results/{path.name}) |")
    return "\n".join(rows) + "\n"


def mixtures() -> str:
    """One row a mixture: bits per byte of both kinds of held-out text, and how they changed."""

    def told(score: dict[str, float], sign: str = "") -> str:
        return f"{score['value']:{sign}.3f} ({score['low']:{sign}.3f} to {score['high']:{sign}.3f})"

    found = json.loads((RESULTS / "domain.json").read_text(encoding="utf-8"))
    rows = ["| mixture | speeches | change | general text | change |", "| --- | --- | --- | --- | --- |"]
    for run in found["runs"]:
        changes = [told(run[f"{group}_change"], "+") if run["mixture"] != "before" else "" for group in ("domain", "general")]
        rows.append(f"| {run['mixture']} | {told(run['domain'])} | {changes[0]} | {told(run['general'])} | {changes[1]} |")
    return "\n".join(rows) + "\n"


def put(path: Path, rows: str) -> None:
    """Rows into their place in a page."""
    text = path.read_text(encoding="utf-8")
    new, found = re.subn(f"{BEGIN}.*?{END}", lambda _: f"{BEGIN}{rows}{END}", text, flags=re.DOTALL)
    assert found == 1, f"{path.name} needs one {BEGIN.strip()} and one {END}"
    path.write_text(new, encoding="utf-8")


def main() -> None:
    put(README, table())
    put(MIXTURES, mixtures())


if __name__ == "__main__":
    main()
