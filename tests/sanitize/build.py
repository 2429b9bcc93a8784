"""wssl_fast._cpu with a sanitizer compiled in, in a folder of its own, and how to run with it."""

import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
FOLDER = ROOT / "build" / "sanitize"
MODULE_VARIABLE = "WSSL_FAST_SANITIZED"


@dataclass(frozen=True, eq=False)
class Sanitizer:
    """Attributes:
    kinds: as in -fsanitize=.
    libraries: preloaded into an interpreter that knows nothing of them.
    options: environment variables of the runtime.
    team: whether team.cpp stands for libgomp.
    """

    name: str
    kinds: str
    libraries: tuple[str, ...]
    options: dict[str, str]
    team: bool = False

    @property
    def module(self) -> Path:
        suffix = sysconfig.get_config_var("EXT_SUFFIX")
        return FOLDER / self.name / "wssl_fast" / f"_cpu{suffix}"


# An interpreter and torch keep memory to their end, on purpose: leaks are not looked for. A first
# error ends the process, so that no test can pass by it.
ADDRESS = Sanitizer(
    "address",
    "address,undefined",
    ("libasan.so", "libubsan.so", "libstdc++.so.6"),
    {
        "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=1",
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    },
)
THREAD = Sanitizer(
    "thread",
    "thread",
    ("libtsan.so", "libstdc++.so.6"),
    {"TSAN_OPTIONS": "halt_on_error=1:ignore_noninstrumented_modules=1"},
    team=True,
)


def why_not() -> str:
    """Why nothing can be built here; empty if it can."""
    if not sys.platform.startswith("linux"):
        return "sanitizers are preloaded as Linux does it"
    if shutil.which("g++") is None:
        return "g++ is missing"
    missing = [name for name in ADDRESS.libraries if not library(name).is_absolute()]
    return f"g++ has no {', '.join(missing)}" if missing else ""


def library(name: str) -> Path:
    """Where g++ has a runtime; the bare name if nowhere."""
    command = ["g++", f"-print-file-name={name}"]
    return Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())


def build(sanitizer: Sanitizer) -> Path:
    """The module, built if a source is newer. The installed one is left alone."""
    module = sanitizer.module
    sources = [*(ROOT / "csrc").glob("*.cpp"), *(ROOT / "csrc" / "cpu").iterdir()]
    sources += [ROOT / "setup.py", HERE / "team.cpp"]
    newest = max(path.stat().st_mtime for path in sources if path.is_file())
    if module.exists() and module.stat().st_mtime > newest:
        return module
    folder = FOLDER / sanitizer.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    environment = os.environ | {
        "WSSL_FAST_SANITIZE": sanitizer.kinds,
        "WSSL_FAST_NATIVE": "1",
        "WSSL_FAST_CUDA": "0",
    }
    if sanitizer.team:
        compiled = folder / "team.o"
        command = ["g++", "-std=c++17", "-O1", "-g1", "-fPIC", "-fvisibility=hidden"]
        command += [f"-fsanitize={sanitizer.kinds}", "-c", str(HERE / "team.cpp")]
        subprocess.run([*command, "-o", str(compiled)], check=True)
        environment["LDFLAGS"] = str(compiled)  # its symbols come before libgomp's
    command = [sys.executable, "setup.py", "--quiet", "build_ext"]
    command += [f"--build-lib={folder}", f"--build-temp={folder / 'objects'}"]
    subprocess.run(command, check=True, cwd=ROOT, env=environment)
    return module


def environment(sanitizer: Sanitizer) -> dict[str, str]:
    """Of a Python process in which `preload` puts the sanitized module in place."""
    preload = " ".join(str(library(name)) for name in sanitizer.libraries)
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return (
        os.environ
        | sanitizer.options
        | {
            "LD_PRELOAD": preload,
            "PYTHONPATH": path,
            MODULE_VARIABLE: str(sanitizer.module),
        }
    )
