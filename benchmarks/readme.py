"""Writes the table of results into README.md, from the JSON of each benchmark."""

import json
import re
from pathlib import Path

from record import RESULTS

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- results -->\n", "<!-- end of results -->"


def table() -> str:
    """One row a benchmark, in Markdown."""
    rows = ["| claim | measured | |", "| --- | --- | --- |"]
    for path in sorted(RESULTS.glob("*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        holds = "reached" if found["reached"] else "not reached"
        rows.append(f"| {found['claim']} | {found['measured']} | [{holds}](benchmarks/results/{path.name}) |")
    return "\n".join(rows) + "\n"


def main() -> None:
    text = README.read_text(encoding="utf-8")
    new, found = re.subn(f"{BEGIN}.*?{END}", lambda _: f"{BEGIN}{table()}{END}", text, flags=re.DOTALL)
    assert found == 1, f"README.md needs one {BEGIN.strip()} and one {END}"
    README.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
