"""`wssl_fast._cuda` built for a CPU: the kernel's own source under tests/cuda/emulator."""

import ctypes
import fcntl
import hashlib
import importlib.util
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType

import pybind11
import pytest

from wssl_fast.backends import cuda

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "csrc" / "cuda"
EMULATOR = Path(__file__).parent / "emulator"
BUILD = ROOT / "build" / "emulator"
FLAGS = ("-std=c++17", "-O2", "-g0", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra")
DEFINES = ("-DWSSL_EMULATED", "-Wno-unknown-pragmas")
H200 = cuda.Device(132, 227 * 1024, 90)


def why_not() -> str:
    """Why nothing can be emulated here; empty if it can."""
    return "" if shutil.which("g++") else "the emulator is compiled by g++, which is missing"


@cache
def library() -> Path:
    """The module's file, built if a source has changed since."""
    files = sorted(p for folder in (SOURCES, EMULATOR) for p in folder.iterdir() if p.is_file())
    digest = hashlib.sha256(b"".join(p.name.encode() + p.read_bytes() for p in files)).hexdigest()
    folder = BUILD / digest[:16]
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / ("_cuda" + sysconfig.get_config_var("EXT_SUFFIX"))
    with (BUILD / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one of the test processes builds, the others wait
        if not target.exists():
            _build(folder, target)
    return target


def _build(folder: Path, target: Path) -> None:
    include = [f"-I{p}" for p in (EMULATOR, SOURCES, pybind11.get_include())]
    include.append(f"-I{sysconfig.get_paths()['include']}")
    sources = [*sorted(SOURCES.glob("*.c*")), EMULATOR / "emulator.cpp"]
    sources = [p for p in sources if p.suffix in (".cu", ".cpp")]
    objects = [folder / f"{p.name}.o" for p in sources]
    commands = [
        ["g++", *FLAGS, *DEFINES, *include, "-x", "c++", "-c", str(source), "-o", str(out)]
        for source, out in zip(sources, objects, strict=True)
    ]
    running = [subprocess.Popen(c, stderr=subprocess.PIPE, text=True) for c in commands]
    for process in running:
        _, said = process.communicate()
        assert process.returncode == 0, said
    link = ["g++", "-shared", *map(str, objects), "-o", str(target.with_suffix(".part"))]
    subprocess.run(link, check=True)
    target.with_suffix(".part").rename(target)


@cache
def module() -> ModuleType:
    """The emulated `wssl_fast._cuda`."""
    spec = importlib.util.spec_from_file_location("_cuda", library())
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@contextmanager
def device(
    blocks: int = 3,
    *,
    shared_bytes: int = 227 * 1024,
    capability: int = 90,
    devices: int = 1,
    seed: int = 0,
) -> Iterator[cuda.Device]:
    """Inside, backends/cuda.py runs on an emulated device."""
    emulate = ctypes.CDLL(str(library())).wssl_emulate
    emulate(blocks, shared_bytes, capability, devices, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda, "_module", module())
        cuda.device.cache_clear()
        yield cuda.Device(blocks, shared_bytes, capability)
    cuda.device.cache_clear()
