"""What setup.py and its tests share about nvcc: where it is, what it knows, how it is called.

Standard library only: a build imports this file by its path, before anything is installed.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

DEFAULT_ARCHITECTURES = ("80", "90a", "100")
LAST_PLACE = "/usr/local/cuda"
# -Xptxas -v: registers, spills and barriers of every kernel, kept beside its object.
# --threads 2: two architectures of a file at once. With as many files as cores that costs 6%; one
# edited file, or the last long one of a build, takes 0.6 of the time.
NVCC_FLAGS = (
    *("-std=c++17", "-O3", "--expt-relaxed-constexpr", "--threads", "2", "-Xptxas", "-v"),
    *("-Xcompiler", "-fPIC,-fvisibility=hidden"),
)
# Asserts of other headers would put the folders of this machine into the module.
CXX_FLAGS = ("-std=c++17", "-O3", "-DNDEBUG", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra")
# The static runtime keeps its names to itself: torch loads another release of it, globally.
LINK_FLAGS = ("-shared", "-Wl,--exclude-libs,ALL")
SYSTEM_LIBRARIES = ("-lrt", "-lpthread", "-ldl")
# What ptxas reports of a kernel that gives no reason for concern; anything else is shown.
USUAL = (
    "^ptxas info +: ([0-9]+ bytes|Compiling|Function properties|Used|Compile time)"
    "|^ +[0-9]+ bytes stack frame"
)


class Unavailable(Exception):
    """The CUDA part cannot be built here; the message says what is missing."""


@dataclass(frozen=True)
class Toolkit:
    """A CUDA toolkit as its nvcc describes it."""

    nvcc: Path
    release: str  # "12.4"
    listed: frozenset[str]  # of --list-gpu-code: "80", "90"
    include: Path | None  # None: where the C++ compiler looks anyway
    cudart: Path  # libcudart_static.a


def setting(environ: Mapping[str, str]) -> str:
    """WSSL_FAST_CUDA: "0", "1" or "" (unset)."""
    value = environ.get("WSSL_FAST_CUDA", "")
    if value not in ("", "0", "1"):
        raise ValueError(
            f"WSSL_FAST_CUDA is {value!r}; expected 0 (skip the CUDA part), 1 (fail without it) "
            "or nothing (build it where nvcc is found)"
        )
    return value


def wanted(environ: Mapping[str, str]) -> tuple[str, ...]:
    """WSSL_FAST_CUDA_ARCHS, or the default.

    >>> wanted({"WSSL_FAST_CUDA_ARCHS": "80, 90a,80"})
    ('80', '90a')
    >>> wanted({})
    ('80', '90a', '100')
    """
    value = environ.get("WSSL_FAST_CUDA_ARCHS", "")
    names = tuple(dict.fromkeys(name.strip() for name in value.split(",")))
    if names == ("",):
        return DEFAULT_ARCHITECTURES
    if not all(re.fullmatch("[1-9][0-9]{1,2}a?", name) for name in names):
        raise ValueError(
            f"WSSL_FAST_CUDA_ARCHS is {value!r}; expected compute capabilities without the dot, "
            "separated by commas, such as 80,90a,100"
        )
    return names


def find_nvcc(environ: Mapping[str, str], last: str = LAST_PLACE) -> Path:
    """The first nvcc of CUDA_HOME, CUDA_PATH, PATH and ``last``."""
    homes = [environ.get("CUDA_HOME", ""), environ.get("CUDA_PATH", "")]
    found = [shutil.which("nvcc", path=str(Path(home, "bin"))) for home in homes if home]
    found.append(shutil.which("nvcc", path=environ.get("PATH", "")))
    found.append(shutil.which("nvcc", path=str(Path(last, "bin"))))
    for name in filter(None, found):
        # nvcc looks for its parts beside the path it is called by, so a link is followed; a link
        # to a compiler cache works by its own name.
        real = Path(name).resolve()
        return real if real.name == "nvcc" else Path(name).absolute()
    raise Unavailable(f"no nvcc in CUDA_HOME, CUDA_PATH, PATH or {last}")


def toolkit(nvcc: Path, cxx: Sequence[str] = ("g++",)) -> Toolkit:
    """Asks nvcc for its release, architectures and folders."""
    release = re.search(r"release (\d+\.\d+)", _ask(nvcc, "--version"))
    listed = frozenset(re.findall(r"sm_(\d+a?)\b", _ask(nvcc, "--list-gpu-code")))
    if release is None or not listed:
        raise Unavailable(f"{nvcc} names no release or no architectures; is it CUDA's nvcc?")
    # A wrapper lies elsewhere than the nvcc it calls, which says where it is.
    include, library = stated_folders(_ask(nvcc, "--dryrun", "-x", "cu", "-E", os.devnull))
    root = nvcc.parent.parent
    include += [root / "include", *sorted(root.glob("targets/*-linux/include"))]
    library += [root / "lib64", root / "lib", *sorted(root.glob("targets/*-linux/lib"))]
    headers = (path.resolve() for path in include if (path / "cuda_runtime.h").is_file())
    header = next(headers, None)
    # Named as a system folder, /usr/include hides itself from the C++ library's #include_next.
    header = None if header == Path("/usr/include") else header
    archives = (path / "libcudart_static.a" for path in library)
    archive = next((path for path in archives if path.is_file()), None)
    if archive is None:  # a distribution's own package: where its compiler looks
        archive = Path(_ask(*cxx, "-print-file-name=libcudart_static.a").strip())
    if not archive.is_absolute():
        raise Unavailable(f"libcudart_static.a of {nvcc} not found; CUDA's runtime brings it")
    return Toolkit(nvcc, release[1], listed, header, archive.resolve())


def stated_folders(dryrun: str) -> tuple[list[Path], list[Path]]:
    """Include and library folders of `nvcc --dryrun`.

    >>> stated_folders('#$ INCLUDES="-I/c/include"  \\n#$ LIBRARIES=  "-L/c/lib/stubs" "-L/c/lib"')
    ([PosixPath('/c/include')], [PosixPath('/c/lib/stubs'), PosixPath('/c/lib')])
    """
    include, library = (
        [
            Path(word[2:])
            for line in re.findall(rf"^#\$ {name}=(.*)$", dryrun, re.MULTILINE)
            for word in shlex.split(line)
            if word.startswith(flag)
        ]
        for name, flag in (("INCLUDES", "-I"), ("LIBRARIES", "-L"))
    )
    return include, library


def architectures(
    listed: Iterable[str], names: Iterable[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Those of ``names`` that an nvcc with ``listed`` compiles for, and the others.

    "90a" counts as known where "90" is listed: older releases list no suffixes.

    >>> architectures(["80", "90"], ["80", "90a", "100"])
    (('80', '90a'), ('100',))
    """
    listed, names = set(listed), tuple(names)
    kept = tuple(name for name in names if name in listed or name.removesuffix("a") in listed)
    return kept, tuple(name for name in names if name not in kept)


def gencode(names: Sequence[str]) -> list[str]:
    """nvcc's flags for machine code of ``names`` and PTX of the lowest, for devices to come.

    PTX of "90a" runs on nothing but 9.0, so the lowest is taken among names without a suffix.

    >>> gencode(["90a", "80"])  # doctest: +NORMALIZE_WHITESPACE
    ['-gencode', 'arch=compute_90a,code=sm_90a',
     '-gencode', 'arch=compute_80,code=[sm_80,compute_80]']
    """
    lowest = min((name for name in names if name.isdigit()), key=int, default="")
    flags = []
    for name in names:
        code = f"[sm_{name},compute_{name}]" if name == lowest else f"sm_{name}"
        flags += ["-gencode", f"arch=compute_{name},code={code}"]
    return flags


def ninja_text(
    sources: Sequence[Path],
    folder: Path,
    target: Path,
    kit: Toolkit,
    names: Sequence[str],
    *,
    include: Sequence[str] = (),
    cxx: Sequence[str] = ("g++",),
) -> str:
    """build.ninja: one object a source in ``folder``, linked into ``target``.

    A .cu is one edge for all architectures, since nvcc makes one object of them. ``include``: of
    the C++ sources. Paths are relative to where ninja runs.
    """
    # Unless told otherwise (NVCC_CCBIN), nvcc compiles host code with g++; CXX means both.
    ccbin = [] if list(cxx) == ["g++"] or len(cxx) > 1 else ["-ccbin", cxx[0]]
    nvcc = [str(kit.nvcc), *NVCC_FLAGS, *ccbin, *gencode(names), "-Icsrc"]
    system = [kit.include] if kit.include else []
    host = [*cxx, *CXX_FLAGS, "-Icsrc", *(f"-isystem{path}" for path in [*include, *system])]
    objects = [folder / f"{source.name}.o" for source in sources]
    lines = [
        "ninja_required_version = 1.5",
        f"builddir = {_path(folder)}",
        "rule nvcc",
        # ptxas reports on stderr; $out.ptxas keeps all of it, the log shows what is unusual. The
        # release makes a new toolkit in an old one's place recompile, whatever its dates.
        f"  command = {_shell(nvcc)} -MD -MF $out.d -c $in -o $out >$out.ptxas 2>&1; "
        f"status=$$?; grep -Ev {_shell([USUAL])} $out.ptxas; exit $$status # {kit.release}",
        "  depfile = $out.d",
        "  deps = gcc",
        f"  description = nvcc $in ({' '.join(f'sm_{name}' for name in names)})",
        "rule cxx",
        f"  command = {_shell(host)} -MD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "  description = c++ $in",
        "rule link",
        f"  command = {_shell([*cxx, *LINK_FLAGS])} -o $out $in {_shell(SYSTEM_LIBRARIES)}",
        "  description = link $out",
    ]
    for source, name in zip(sources, objects, strict=True):
        rule = "nvcc" if source.suffix == ".cu" else "cxx"
        lines.append(f"build {_path(name)}: {rule} {_path(source)}")
    inputs = " ".join(_path(path) for path in [*objects, kit.cudart])
    return "\n".join([*lines, f"build {_path(target)}: link {inputs}", ""])


def by_architecture(report: str) -> dict[str, str]:
    """ptxas's report on one file, "sm_80" and so on apart.

    >>> text = "ptxas info : 0 bytes gmem\\nptxas info : Compiling entry function 'f' for 'sm_80'"
    >>> by_architecture(f"{text}\\n{text.replace('80', '90a')}\\n")["sm_90a"].splitlines()[1]
    "ptxas info : Compiling entry function 'f' for 'sm_90a'"
    """
    parts: dict[str, list[str]] = {}
    name = ""
    ahead: list[str] = []
    for line in report.splitlines(keepends=True):
        start = re.search(r"Compiling entry function .* for '(sm_\w+)'", line)
        if start:
            name = start[1]
            parts.setdefault(name, []).extend(ahead)
            ahead = []
        if not name or "bytes gmem" in line:  # belongs to the kernels that follow
            ahead.append(line)
        else:
            parts[name].append(line)
    return {name: "".join(lines) for name, lines in parts.items()}


def write_reports(sources: Sequence[Path], objects: Path, folder: Path) -> None:
    """ptxas's report on each .cu as ``folder``/<stem>.sm_<architecture>.txt, and no others."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.sm_*.txt"):
        old.unlink()
    for source in sources:
        if source.suffix == ".cu":
            report = (objects / f"{source.name}.o.ptxas").read_text()
            for name, text in by_architecture(report).items():
                (folder / f"{source.stem}.{name}.txt").write_text(text)


def find_ninja() -> str:
    """The PyPI package's program, or that of PATH."""
    try:
        from ninja import BIN_DIR

        return str(Path(BIN_DIR, "ninja"))
    except ImportError:
        found = shutil.which("ninja")
    if found is None:
        raise Unavailable("no ninja (pip install ninja)")
    return found


def run_ninja(build_file: Path) -> None:
    """Builds, a process a core; its output is passed on, and the first failure is the error."""
    jobs = len(os.sched_getaffinity(0))
    process = subprocess.Popen(
        [find_ninja(), "-f", str(build_file), "-j", str(jobs)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    assert process.stdout is not None
    failed: list[str] = []
    for line in process.stdout:
        print(line, end="", file=sys.stderr, flush=True)
        if failed or line.startswith(("FAILED:", "ninja: ")):
            failed.append(line)
    if process.wait() != 0:
        # The line after FAILED repeats the command.
        shown = "".join(line for i, line in enumerate(failed[:12]) if i != 1)
        raise RuntimeError(shown.strip() or "ninja failed")


def _ask(*command: str | Path) -> str:
    try:
        done = subprocess.run(
            [str(word) for word in command],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise Unavailable(f"{command[0]} does not run: {error}") from error
    return done.stdout + done.stderr  # --dryrun writes to stderr


def _path(path: Path) -> str:
    """A path in a ninja build line."""
    return re.sub(r"([$ :])", r"$\1", str(path))


def _shell(words: Iterable[str]) -> str:
    """Words of a ninja command."""
    return shlex.join(words).replace("$", "$$")
