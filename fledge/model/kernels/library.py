"""The C++ beside it built with the system's compiler into the user's cache, once for each state of it, compiler and processor."""

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

HERE = Path(__file__).parent
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fopenmp", "-fPIC", "-fno-math-errno", "-fno-trapping-math")
ANY_ORDER = ("-fno-signed-zeros", "-fassociative-math", "-freciprocal-math")  # of sums, so that they vectorise
# What is not finite stays so in all of them, for training and generation refuse it.
SOURCES = {
    "cpu.cpp": ANY_ORDER,
    "attention.cpp": (*ANY_ORDER, "-Wno-psabi"),
    "decode.cpp": ("-ffp-contract=off", "-Wno-psabi"),  # sums in the order that stands there
    "products.cpp": (),
    "attention_tiles.cpp": (),
}
HEADERS = ("numbers.h", "tiles.h")
SECONDS = 120  # to compile; it takes about 5


@cache
def library() -> ctypes.CDLL | None:
    """The functions of all sources; None where there is no compiler or it does not manage."""
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

        def compile(*words: str) -> None:
            subprocess.run([compiler, *FLAGS, *words], check=True, capture_output=True, timeout=SECONDS)

        for source, flags in SOURCES.items():
            compile(*flags, "-c", str(HERE / source), "-o", str(Path(folder, source).with_suffix(".o")))
        # Torch's own OpenMP, where it brings one, so that both share their threads.
        threads = sorted(str(path) for path in Path(torch.__file__).parent.glob("lib/libgomp*.so*"))[:1]
        compile("-shared", *sorted(str(path) for path in Path(folder).glob("*.o")), *threads, "-o", str(made))
        os.replace(made, built)


def _identity(compiler: str) -> str:
    version = subprocess.run([compiler, "--version"], check=True, capture_output=True, timeout=SECONDS).stdout
    texts = [(HERE / name).read_bytes() for name in (*SOURCES, *HEADERS)]
    parts = (*texts, version, repr((FLAGS, SOURCES)).encode(), torch.__version__.encode(), _processor().encode())
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
