"""What the core install adds to torch's own: the apparent sizes of two fresh environments, with and without pip's bytecode."""

import subprocess
import sys
import tempfile
from pathlib import Path

from record import write

LIMIT = 120.0  # MB of 10^6 bytes
ROOT = Path(__file__).parent.parent


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        alone, core = Path(folder, "torch"), Path(folder, "core")
        constraints = ["--constraint", str(ROOT / "constraints.txt")]
        install(alone, ["torch", *constraints])
        install(core, ["torch", str(ROOT), *constraints])
        runs = [{"environment": path.name, "megabytes": size(path, False), "with_bytecode": size(path, True)} for path in (alone, core)]
    added = round(runs[1]["megabytes"] - runs[0]["megabytes"], 1)
    compiled = round(runs[1]["with_bytecode"] - runs[0]["with_bytecode"], 1)
    write(
        "install_size",
        f"the core adds at most {LIMIT:.0f} MB to torch's own (files as installed, bytecode not counted)",
        f"{added:.1f} MB",
        runs,
        added <= LIMIT,
        added=added,
        added_with_bytecode=compiled,
    )


def install(path: Path, what: list[str]) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(path)], check=True)
    subprocess.run([str(path / "bin/python"), "-m", "pip", "install", "-qq", *what], check=True)


def size(path: Path, bytecode: bool) -> float:
    """MB of all installed files, pip's own left out."""
    files = [f for f in path.glob("lib/python*/site-packages/**/*") if f.is_file() and not f.is_symlink() and "pip" not in f.parts]
    return round(sum(f.stat().st_size for f in files if bytecode or f.suffix != ".pyc") / 1e6, 1)


if __name__ == "__main__":
    main()
