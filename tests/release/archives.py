"""sdist and wheel of this checkout: how they are built, and what must be in them and what not."""

import base64
import csv
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
VERSION = PROJECT["version"]
STEM = f"wssl_fast-{VERSION}"
COMPILED = re.compile(r"wssl_fast/_(cpu|cuda)\.[\w.-]+\.(so|pyd)")
INFO = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE", "top_level.txt"}
TOP = {
    *("CHANGELOG.md", "LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.py"),
    *("constraints.txt", "constraints-oldest.txt"),
}
GENERATED = re.compile(r"PKG-INFO|setup\.cfg|wssl_fast\.egg-info/[\w.-]+")
HOOK = "import sys; from setuptools import build_meta as b; getattr(b, sys.argv[1])(sys.argv[2])"


def tracked(*folders: str) -> set[str]:
    """Files of the checkout: what git knows and what it would take, by their names from the top."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others"]
    command += ["--exclude-standard", *folders]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {name for name in out.split("\0") if name and (ROOT / name).is_file()}


def clean_tree(folder: Path) -> Path:
    """A copy of the checkout without what builds and runs left in it."""
    for name in tracked():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target)
    return folder


def environ(**changes: str) -> dict[str, str]:
    """The environment without what steers builds, Python or torch."""
    steering = ("WSSL_", "PYTHON", "CUDA", "NVCC", "CXX", "CC", "CFLAGS", "TRITON", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(steering)}
    return {**kept, "SOURCE_DATE_EPOCH": "1700000000", **changes}


def build(
    kind: str, tree: Path, out: Path, python: Path | str = sys.executable, **settings: str
) -> tuple[Path, str]:
    """The `kind` (sdist, wheel) of `tree`, through the build backend that `python` has; and what
    the build said."""
    out.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [str(python), "-I", "-c", HOOK, f"build_{kind}", str(out)],
        cwd=tree,
        env=environ(**settings),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"no {kind} of {tree}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    (path,) = out.glob("*.tar.gz" if kind == "sdist" else "*.whl")
    return path, done.stdout + done.stderr


def unpack(sdist: Path, folder: Path) -> Path:
    with tarfile.open(sdist) as tar:
        tar.extractall(folder, filter="data")
    return folder / STEM


def members(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def wheel_problems(files: Mapping[str, bytes], compiled: set[str], *build_paths: Path) -> list[str]:
    """What is wrong with a wheel that should hold these compiled modules; `build_paths` are folders
    that it was built in."""
    info = f"{STEM}.dist-info"
    expected = tracked("wssl_fast") | {f"{info}/{name}" for name in INFO}
    modules = {name for name in files if COMPILED.fullmatch(name)}
    found = files.keys() - modules
    problems = [f"{name} is missing" for name in sorted(expected - found)]
    problems += [f"{name} does not belong there" for name in sorted(found - expected)]
    named = {name.split("/")[1].split(".")[0] for name in modules}
    if named != compiled:
        problems.append(f"compiled modules: {sorted(named)}, expected {sorted(compiled)}")
    problems += record_problems(files, f"{info}/RECORD")
    return problems + path_problems(files, *build_paths)


def record_problems(files: Mapping[str, bytes], record: str) -> list[str]:
    """RECORD lists every file but itself with its SHA-256 and its length, and no other."""
    rows = {row[0]: row[1:] for row in csv.reader(io.StringIO(files[record].decode()))}
    problems = [f"RECORD and files differ in {name}" for name in sorted(rows.keys() ^ files.keys())]
    for name in sorted(rows.keys() & files.keys() - {record}):
        digest = base64.urlsafe_b64encode(hashlib.sha256(files[name]).digest()).rstrip(b"=")
        if rows[name] != [f"sha256={digest.decode()}", str(len(files[name]))]:
            problems.append(f"RECORD says {rows[name]} of {name}")
    return problems


def path_problems(files: Mapping[str, bytes], *build_paths: Path) -> list[str]:
    """Folders of this machine that stand in a file: in debug information, asserts, run paths."""
    places = {ROOT, Path.home(), Path(tempfile.gettempdir()), *build_paths}
    places |= {Path(sys.prefix), Path(sys.base_prefix)}
    everywhere = {Path("/"), Path("/usr"), Path("/usr/local")}
    needles = {f"{place}/".encode() for place in places - everywhere}
    return [
        f"{name} names {needle.decode()!r} of this machine"
        for name, content in files.items()
        for needle in sorted(needles)
        if needle in content
    ]


def sdist_problems(sdist: Path) -> list[str]:
    """What is wrong with a source distribution: it holds what builds the wheel and no more."""
    problems, names = [], set()
    with tarfile.open(sdist) as tar:
        for member in tar:
            top, _, name = member.name.partition("/")
            if top != STEM or ".." in name.split("/"):
                problems.append(f"{member.name} lies outside {STEM}/")
            elif member.isfile():
                names.add(name)
            elif not member.isdir():
                problems.append(f"{name} is no plain file")
    expected = tracked("csrc", "wssl_fast") | TOP
    names = {name for name in names if not GENERATED.fullmatch(name)}
    problems += [f"{name} is missing" for name in sorted(expected - names)]
    return problems + [f"{name} does not belong there" for name in sorted(names - expected)]
