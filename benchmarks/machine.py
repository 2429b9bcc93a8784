"""Where a measurement was made: a short machine name, the hardware and the versions of a row."""

import os
import platform
import re
import subprocess
from functools import cache
from pathlib import Path

import torch

import wssl_fast as wf

MACHINE_VARIABLE = "WSSL_BENCH_MACHINE"

# AMD's family number and model ranges (Linux kernel, arch/x86/kernel/cpu/amd.c): virtual machines
# hide the model's name but not these.
AMD_GENERATIONS = (
    (0x17, range(0x30), "zen1"),
    (0x17, range(0x30, 0x100), "zen2"),
    (0x19, range(0x10, 0x20), "zen4"),
    (0x19, range(0x60, 0x80), "zen4"),
    (0x19, range(0xA0, 0xB0), "zen4"),
    (0x19, range(0x100), "zen3"),
    (0x1A, range(0x100), "zen5"),
)


def machine_name(device: str = "cpu") -> str:
    """Folder of this machine's results, as "cpu-2core-zen4", or "cuda-" and the GPU's name for
    what ran on one; $WSSL_BENCH_MACHINE overrides it."""
    named = os.environ.get(MACHINE_VARIABLE)
    if named:
        return named
    if device == "cuda":
        return f"cuda-{_slug(torch.cuda.get_device_name())}"
    return f"cpu-{usable_cores()}core-{_generation()}"


def hardware(device: str = "cpu") -> dict[str, object]:
    """Processor, cores, threads that PyTorch uses, memory; the GPU where it was used."""
    gpu = {"gpu": torch.cuda.get_device_name()} if device == "cuda" else {}
    return gpu | {
        "cpu": _cpu_info().get("model name", platform.processor() or platform.machine()),
        "generation": _generation(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(_memory_bytes() / 2**30),
    }


def versions() -> dict[str, str]:
    """Python, PyTorch and this package."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "wssl_fast": wf.__version__,
    }


@cache
def commit() -> str:
    """The commit measured, with "+changes" if the tree differs from it; "unknown" outside git."""
    here = Path(__file__).parent
    try:
        head = _git(here, "rev-parse", "--short=12", "HEAD")
        changed = _git(here, "status", "--porcelain", "--", ":(top,exclude)benchmarks/results")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head}+changes" if changed else head


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def last_level_cache_bytes() -> int:
    """Size of the largest cache, 32 MiB where the system does not say."""
    sizes = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    found = [re.fullmatch(r"(\d+)([KMG])", size.read_text().strip()) for size in sizes]
    return max((int(m[1]) * units[m[2]] for m in found if m), default=32 * 2**20)


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@cache
def _cpu_info() -> dict[str, str]:
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    first_processor = path.read_text().split("\n\n")[0]
    pairs = (line.split(":", 1) for line in first_processor.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _generation() -> str:
    info = _cpu_info()
    if info.get("vendor_id") == "AuthenticAMD":
        family, model = int(info["cpu family"]), int(info["model"])
        for known_family, models, name in AMD_GENERATIONS:
            if family == known_family and model in models:
                return name
    name = info.get("model name") or platform.processor() or platform.machine() or "unknown"
    return _slug(re.sub(r"\(R\)|\(TM\)|CPU|Processor|@.*", " ", name))


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
