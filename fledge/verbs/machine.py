"""What this machine has, found without torch, so that it can be said at once."""

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Found:
    """Cores that this process may use, memory in bytes, and what makes matrix products fast."""

    cores: int
    memory: int
    processor: str
    bf16: bool
    amx: bool
    gpus: tuple[str, ...]

    def __str__(self) -> str:
        products = "AMX matrix units, bf16" if self.amx else "bf16 products" if self.bf16 else "no bf16 or AMX, so fp32"
        gpu = f"GPU: {', '.join(self.gpus)}" if self.gpus else "no GPU"
        cores = "1 core" if self.cores == 1 else f"{self.cores} cores"
        return f"{cores} ({self.processor}), {self.memory / 1e9:.0f} GB memory, {products}; {gpu}"


def look() -> Found:
    """What the operating system tells, limits of containers included."""
    flags = _processor_flags()
    amx, avx = "amx_bf16" in flags, "avx512_bf16" in flags
    return Found(_cores(), _memory(), _processor(), amx or avx or "bf16" in flags, amx, _gpus())


def _cores() -> int:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return min(usable, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):
        return usable


def _memory() -> int:
    try:
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0
    try:
        return min(whole, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):
        return whole


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


def _processor_flags() -> set[str]:
    return {flag for line in _cpuinfo().splitlines() if line.startswith(("flags", "Features")) for flag in line.split()}


def _processor() -> str:
    names = [line.partition(":")[2].strip() for line in _cpuinfo().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _gpus() -> tuple[str, ...]:
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        return ("Apple (not used yet)",)
    if shutil.which("nvidia-smi") is None:
        return ()
    try:
        told = subprocess.run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return tuple(told.stdout.strip().splitlines()) if told.returncode == 0 else ()
