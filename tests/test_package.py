"""What importing costs, what it needs, and that `pyproject.toml` names exactly what is imported."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Set
from importlib.metadata import packages_distributions
from pathlib import Path

import fledge

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in (ROOT / "fledge").rglob("*.py")
)
MATHEMATICS = {"torch", "numpy", "safetensors", "tokenizers"}  # all that model, train and generation may need
COMMAND_LINE = {"cyclopts", "rich"}
EXTRAS = {"sklearn", "scipy", "pyarrow", "zstandard", "tiktoken", "transformers", "matplotlib"}
TORCHLESS = ["arch", "presets", "text", "data", "report"]
TORCHLESS += ["evaluation.statistics", "evaluation.ngrams", "evaluation.compression", "evaluation.metrics"]


def modules_of(*rooms: str) -> list[str]:
    """Every module of these rooms, with the packages on the way there."""
    return [name for name in MODULES if any(f"{name}.".startswith(f"fledge.{room}.") for room in rooms)]


def run(code: str, absent: Set[str] = frozenset()) -> set[str]:
    """Run `code` in a new interpreter in which the packages of `absent` are not installed; the modules that are then loaded."""
    hide = f"import sys; sys.modules.update(dict.fromkeys({sorted(absent)!r}))\n"
    tell = "\nimport json; print(json.dumps([name for name, module in sys.modules.items() if module]))"
    result = subprocess.run([sys.executable, "-W", "error", "-c", hide + code + tell], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout.splitlines()[-1]))


def imports(*modules: str) -> str:
    return "\n".join(f"import {name}" for name in modules)


def test_import_fledge_loads_nearly_nothing():
    """The promise is 0.3 s; modules are counted instead, for their number does not depend on what else the machine does."""
    before, after = run(""), run("import fledge")
    loaded = {name.split(".")[0] for name in after - before}
    assert not loaded & (MATHEMATICS | COMMAND_LINE | EXTRAS)
    assert len(after - before) < 100


def test_help_loads_the_command_line_alone():
    loaded = run("from fledge.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit as end:\n    assert not end.code")
    assert not {name.split(".")[0] for name in loaded} & (EXTRAS | {"torch"})
    assert len(loaded) < 700, "help needs 0.4 s for about 1,000 modules"


def test_installed_command_prints_its_help_and_version():
    for flag, expected in (("--help", "demo"), ("--version", fledge.__version__)):
        code = f"import sys; from fledge.cli import main; sys.exit(main([{flag!r}]))"
        result = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env={**os.environ, "COLUMNS": "100"}
        )
        assert result.returncode == 0, result.stderr
        assert expected in result.stdout


def test_torchless_rooms_import_without_torch():
    run(imports(*modules_of(*TORCHLESS)), absent={"torch"} | EXTRAS)


def test_model_train_and_generation_import_with_the_mathematics_alone():
    run(imports(*modules_of("model", "generation", "train")), absent=COMMAND_LINE | EXTRAS)


def test_every_module_imports_with_the_core_alone():
    run(imports(*MODULES), absent=EXTRAS)


def imported() -> dict[str, set[str]]:
    """The top-level packages that the sources import anywhere, also inside functions, with the modules that do."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "fledge").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "extra":  # imported when it is needed
                names = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
            else:
                continue
            for name in map(str, names):
                found.setdefault(name.split(".")[0], set()).add(path.relative_to(ROOT).as_posix())
    return found


def test_dependencies_are_what_is_imported():
    """Nothing is imported that a newcomer would not get, and nothing is installed that no line uses."""
    packages = {name: modules for name, modules in imported().items() if name not in sys.stdlib_module_names and name != "fledge"}
    extras = PROJECT["optional-dependencies"]
    used = ("demo", "data", "documents", "remote", "hub", "harness", "ray", "serve")
    wanted = [*PROJECT["dependencies"], *(requirement for extra in used for requirement in extras[extra])]
    declared = {re.split(r"[<>=\[]", requirement)[0] for requirement in wanted}
    owners = {name: {owner.lower().replace("_", "-") for owner in packages_distributions().get(name, [name])} for name in packages}
    undeclared = {name: sorted(packages[name]) for name, owner in owners.items() if not owner & declared}
    assert not undeclared, f"imported, but not in pyproject.toml: {undeclared}"
    unused = declared - set().union(*owners.values()) - {"aiohttp", "s3fs"}  # which fsspec imports
    assert not unused, f"in pyproject.toml, but imported nowhere: {unused}"


def test_only_train_parallel_knows_of_other_processes():
    """Import contracts cannot name a part of another package, so the sources are read."""
    told = {path.relative_to(ROOT / "fledge") for path in (ROOT / "fledge").rglob("*.py") if "torch.distributed" in path.read_text("utf-8")}
    assert told
    assert {path.parent for path in told} == {Path("train/parallel")}
