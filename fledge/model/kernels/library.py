"""`cpu.cpp` built with the system's compiler into the user's cache, once for each source, compiler and processor."""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch

SOURCE = Path(__file__).with_name("cpu.cpp")
# Sums may be taken in any order, so that they vectorise; what is not finite stays so, for training refuses it.
FLAGS = (
    "-std=c++17", "-O3", "-march=native", "-fopenmp", "-fPIC", "-shared",
    "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math", "-freciprocal-math",
)  # fmt: skip
SECONDS = 120  # to compile; it takes about 2


@cache
def library() -> ctypes.CDLL | None:
    """The functions of `cpu.cpp`; None where there is no compiler or it does not manage."""
    compiler = next((found for name in (os.environ.get("CXX"), "c++", "g++", "clang++") if name and (found := shutil.which(name))), None)
    if compiler is None:
        return None
    try:
        built = _folder() / f"cpu-{_identity(compiler)}.so"
        if not built.is_file():
            _build(compiler, built)
        found = ctypes.CDLL(str(built))
    except (OSError, subprocess.SubprocessError):
        return None
    for kind in ("float", "half"):
        getattr(found, f"cross_entropy_{kind}").restype = ctypes.c_float
    return found


def _build(compiler: str, built: Path) -> None:
    built.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=built.parent) as folder:
        made = Path(folder, "cpu.so")
        # Torch's own OpenMP, where it brings one, so that both share their threads.
        threads = sorted(str(path) for path in Path(torch.__file__).parent.glob("lib/libgomp*.so*"))[:1]
        subprocess.run([compiler, *FLAGS, str(SOURCE), *threads, "-o", str(made)], check=True, capture_output=True, timeout=SECONDS)
        os.replace(made, built)


def _identity(compiler: str) -> str:
    version = subprocess.run([compiler, "--version"], check=True, capture_output=True, timeout=SECONDS).stdout
    parts = (SOURCE.read_bytes(), version, " ".join(FLAGS).encode(), torch.__version__.encode(), _processor().encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _processor() -> str:
    """What `-march=native` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
    except OSError:
        return platform.processor()


def _folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fledge" / "kernels"
