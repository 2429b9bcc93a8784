"""`python -m tests.release`: what people do to install this, done, a row of a table for each.

check      archives, installations, oldest versions, other interpreters: minutes, needs an index
core       smoke test and core tests with an interpreter in which wssl_fast is installed already
licences   writes docs/licences.md
"""

import argparse
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import distribution
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tests.release import archives, licences
from tests.release.archives import ROOT
from tests.release.environments import HERE, Environment, Failed, call, unplugged
from tests.release.requirements import closure

INSTALLS = {
    "pip install .": (),
    "pip install '.[metrics]'": ("metrics",),
    "pip install '.[inspect]'": ("inspect",),
    "pip install '.[examples,inspect]'": ("examples", "inspect"),
    "pip install '.[gpu]'": ("gpu",),
}
"""Commands of the pages, each from the top of a checkout; the extras that each asks for."""

AROUND = ("tests/cli", "tests/metrics", "tests/test_files.py", "tests/test_package.py")
CORE = (
    *("tests/test_alignment.py", "tests/test_compile.py", "tests/test_contract.py"),
    *("tests/test_errors.py", "tests/test_frechet.py", "tests/test_spectrum.py"),
    *("tests/test_sqrtm.py", "tests/test_uniformity.py", "tests/test_w2.py", *AROUND),
)
"""Tests that import nothing of the checkout but SHARED; AROUND, those for which numpy, rich,
safetensors, typer and what the extras bring matter."""

SHARED = ("tests/__init__.py", "tests/conftest.py", "tests/tolerances.py", "tests/zoo.py")
LOADS = """
import importlib.util, pathlib, sys, warnings
spec = importlib.util.spec_from_file_location("wssl_fast._cpu", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
warnings.simplefilter("error")
for path in pathlib.Path(sys.argv[2]).rglob("*.py"):
    compile(path.read_text(encoding="utf-8"), str(path), "exec")
print(*sorted(name for name in dir(module) if name[0] != "_"), sep=", ")
"""


class Release:
    """The checks, in an order in which later ones use what earlier ones made."""

    def __init__(self, folder: Path, torch: str) -> None:
        self.folder = folder
        self.torch = torch
        self.tree = self.fresh("tree")
        self.wheel = self.sdist = folder
        self.environment: Environment | None = None

    def fresh(self, name: str) -> Path:
        """A copy in which nothing was built: what is there already needs no compiler."""
        return archives.clean_tree(self.folder / name)

    def builds(self) -> str:
        self.sdist, _ = archives.build("sdist", self.tree, self.folder / "sdist")
        self.wheel, _ = archives.build(
            "wheel", self.tree, self.folder / "wheel", WSSL_FAST_NATIVE="1", WSSL_FAST_CUDA="0"
        )
        none(archives.sdist_problems(self.sdist))
        files = archives.members(self.wheel)
        none(archives.wheel_problems(files, {"_cpu"}, self.folder))
        return ", ".join(f"{p.name} {p.stat().st_size / 1024:.0f} KiB" for p in self.made())

    def repeats(self) -> str:
        tree = archives.unpack(self.sdist, self.folder / "unpacked")
        again, _ = archives.build(
            "wheel", tree, self.folder / "again", WSSL_FAST_NATIVE="1", WSSL_FAST_CUDA="0"
        )
        ours, theirs = archives.members(self.wheel), archives.members(again)
        none(sorted(n for n in ours.keys() | theirs.keys() if ours.get(n) != theirs.get(n)))
        return f"{len(ours)} files, the compiled module among them, to the last bit"

    def without_compiler(self) -> str:
        """`pip install .` as the README has it, and nothing but the environment on the path."""
        self.environment = environment = Environment(self.folder / "environment")
        environment.pip(
            *("install", "-c", str(ROOT / "constraints.txt"), "."),
            cwd=self.fresh("fallback"),
            PATH=str(environment.folder / "bin"),
        )
        return self.used(environment, "--pure")

    def with_compiler(self) -> str:
        if self.environment is None:
            raise Failed("no environment to install into")
        self.environment.pip("install", "--no-deps", "--no-index", str(self.wheel))
        return self.used(self.environment, "--compiled")

    def used(self, environment: Environment, *expected: str) -> str:
        environment.pip("check")
        elsewhere = Path(tempfile.mkdtemp(dir=self.folder)) / "elsewhere"
        said = environment.smoke(*expected, folder=elsewhere)
        if "wssl-fast doctor" not in environment.run("wssl-fast", "doctor"):
            raise Failed("wssl-fast doctor says nothing")
        environment.pip("uninstall", "--yes", "wssl-fast")
        none(sorted(name for name in environment.files() if "wssl" in name))
        return last_line(said)

    def extras(self) -> str:
        """What pip would install for each command of the pages; and that an error's advice takes
        the package that is there, no other one from an index."""
        if self.environment is None:
            raise Failed("no environment to install into")
        pip, pins = self.environment.pip, ("-c", str(ROOT / "constraints.txt"))
        pip("install", "--no-deps", "--no-index", str(self.wheel))
        for extras in filter(None, INSTALLS.values()):
            wanted = f"wssl-fast[{','.join(extras)}]"
            said = pip("install", "--dry-run", *pins, wanted)
            if "Would install" in said and "wssl-fast" in said.split("Would install")[1]:
                raise Failed(f"pip install '{wanted}' would replace what is installed:\n{said}")
            pip("install", "--dry-run", *pins, f".[{','.join(extras)}]", cwd=self.tree)
        return f"{len(INSTALLS) - 1} commands, with the pinned versions"

    def oldest_build(self) -> str:
        environment = Environment(self.folder / "oldest-build")
        pins = ("-c", str(ROOT / "constraints-oldest.txt"))
        environment.pip("install", *pins, "setuptools", "pybind11")
        out = self.folder / "oldest-wheel"
        wheel, _ = archives.build(
            "wheel", self.tree, out, environment.python, WSSL_FAST_NATIVE="1", WSSL_FAST_CUDA="0"
        )
        none(archives.wheel_problems(archives.members(wheel), {"_cpu"}, self.folder))
        return ", ".join(frozen(environment))

    def oldest(self) -> str:
        """On the lower bounds. The PyTorch that runs this is borrowed, unless another version was
        asked for, which is then tested too."""
        environment = Environment(self.folder / "oldest-environment")
        text = (ROOT / "constraints-oldest.txt").read_text()
        borrowed = self.torch == pinned("torch")
        if borrowed:
            old = set(re.findall(r"^([\w-]+)==", text, re.MULTILINE)) - {"setuptools"}
            beside = {"torch": distribution("torch"), **closure(of="torch")}
            environment.borrow(p for name, p in beside.items() if name not in old - {"torch"})
            text = re.sub(r"^setuptools==.*", "", text, flags=re.MULTILINE)
        pins = self.folder / "oldest.txt"
        pins.write_text(re.sub(r"^torch==\S+", f"torch=={self.torch}", text, flags=re.MULTILINE))
        wanted = [f"{self.wheel}[metrics,inspect]", "pytest", "hypothesis"]
        if not borrowed:
            wanted.append("setuptools")  # Triton 3.2 imports it and does not ask for it
        environment.pip("install", "-c", str(pins), *wanted)
        environment.pip("check")
        environment.smoke("--compiled", folder=self.folder / "oldest-elsewhere")
        tests = AROUND if borrowed else CORE
        found = last_line(core_tests(environment.python, self.folder / "oldest-core", tests))
        named = set(re.findall(r"^([\w-]+)==", text, re.MULTILINE))
        return f"{found}; {', '.join(v for v in frozen(environment) if v.split('==')[0] in named)}"

    def interpreter(self, python: str) -> str:
        """Builds the wheel and loads its compiled module; torch is not needed for that."""
        environment = Environment(Path(tempfile.mkdtemp(dir=self.folder)) / "environment", python)
        pins = ("-c", str(ROOT / "constraints.txt"))
        environment.pip("install", *pins, "setuptools", "pybind11")
        out = environment.folder / "wheel"
        wheel, _ = archives.build(
            "wheel", self.tree, out, environment.python, WSSL_FAST_NATIVE="1", WSSL_FAST_CUDA="0"
        )
        files = archives.members(wheel)
        none(archives.wheel_problems(files, {"_cpu"}, self.folder))
        (name,) = (name for name in files if archives.COMPILED.fullmatch(name))
        module = out / Path(name).name
        module.write_bytes(files[name])
        command = [str(environment.python), "-I", "-c", LOADS, str(module)]
        found = last_line(call([*command, str(self.tree / "wssl_fast")], out))
        return f"{wheel.name}; sources compile; its module has {found}"

    def made(self) -> tuple[Path, Path]:
        return self.sdist, self.wheel


def none(problems: list[str]) -> None:
    if problems:
        raise Failed("\n".join(problems))


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1].strip("= ")


def frozen(environment: Environment) -> list[str]:
    return environment.pip("freeze", "--all").split()


def core_tests(python: Path | str, folder: Path, tests: Sequence[str] = CORE) -> str:
    """Tests of the package alone, copied to where no checkout is near."""
    for name in (*tests, *SHARED, "pyproject.toml"):
        for file in archives.tracked(name):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, folder / file)
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    return call(command, folder, OMP_NUM_THREADS="1")


def pinned(package: str) -> str:
    text = (ROOT / "constraints.txt").read_text()
    (version,) = re.findall(rf"^{package}==(\S+)", text, re.MULTILINE)
    return str(version)


def check(given: argparse.Namespace, console: Console) -> int:
    with tempfile.TemporaryDirectory(prefix="wssl-release-") as name:
        release = Release(Path(name), given.torch)
        checks: dict[str, Callable[[], str]] = {
            "sdist and wheel, contents": release.builds,
            "wheel of the sdist is the same": release.repeats,
            "empty environment, no compiler": release.without_compiler,
            "compiled wheel": release.with_compiler,
            "extras": release.extras,
            "oldest build tools": release.oldest_build,
            "oldest versions": release.oldest,
        }
        for python in given.python:
            checks[python] = lambda python=python: release.interpreter(python)
        table, failed = Table("", "", "s", title="release", title_justify="left"), 0
        if not unplugged():
            console.print("no network namespaces here: Python's own sockets are watched, no more")
        for title, run in checks.items():
            if given.only not in title and run != release.builds:
                continue
            start = time.perf_counter()
            try:
                result = escape(run())
            except (Failed, RuntimeError, OSError, ValueError) as error:
                failed += 1
                end = "\n".join(str(error).splitlines()[-20:])
                result = f"[red]failed:[/] {escape(end)}"
            table.add_row(title, result, f"{time.perf_counter() - start:.0f}")
            console.print(f"{title}: {result}", highlight=False)
    console.print(table)
    return min(failed, 1)


def core(given: argparse.Namespace, console: Console) -> int:
    with tempfile.TemporaryDirectory(prefix="wssl-release-") as name:
        folder, smoke = Path(name), str(HERE / "smoke.py")
        (folder / "elsewhere").mkdir()
        for python in given.python or [sys.executable]:
            said = call([python, "-I", smoke, str(folder / "elsewhere")], folder)
            console.print(last_line(said), highlight=False)
            console.print(last_line(core_tests(python, folder / "core")), highlight=False)
    return 0


def write_licences(given: argparse.Namespace, console: Console) -> int:
    licences.PAGE.write_text(licences.page(), encoding="utf-8")
    console.print(f"wrote {licences.PAGE.relative_to(ROOT)}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.release",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = {"check": check, "core": core, "licences": write_licences}
    parser.add_argument("command", choices=commands, nargs="?", default="check")
    parser.add_argument(
        *("--python",),
        action="append",
        default=[],
        metavar="PATH",
        help="check: another interpreter to build for; core: the one to test",
    )
    parser.add_argument(
        *("--torch",),
        default=pinned("torch"),
        help="beside the oldest of all else; oldest pinned is 2.6.0, gigabytes on Linux "
        "(default: %(default)s, of constraints.txt)",
    )
    parser.add_argument(
        "--only", default="", metavar="WORD", help="checks with WORD in their title"
    )
    given = parser.parse_args()
    try:
        return commands[given.command](given, Console())
    except Failed as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
