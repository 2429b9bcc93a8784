"""Virtual environments to install into; pip works on them from outside, they hold none."""

import os
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution
from pathlib import Path

from tests.release.archives import environ
from tests.release.requirements import closure

HERE = Path(__file__).parent


class Failed(Exception):
    """A command that should have worked: the command and the end of what it said."""


class Environment:
    """A fresh one in `folder`, of the interpreter `python`."""

    def __init__(self, folder: Path, python: str = sys.executable) -> None:
        self.folder = folder
        self.python = folder / "bin" / "python"
        self.search_path = f"{folder / 'bin'}:{os.environ['PATH']}"
        call([python, "-m", "venv", "--without-pip", str(folder)], folder.parent)
        paths = "import sysconfig; print(sysconfig.get_path('purelib'))"
        self.packages = Path(call([str(self.python), "-I", "-c", paths], folder).strip())

    def pip(self, *arguments: str, cwd: Path | None = None, **settings: str) -> str:
        command = [sys.executable, "-m", "pip", "--python", str(self.python), *arguments]
        settings = {"PATH": self.search_path, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **settings}
        return call(command, cwd or self.folder, **settings)

    def run(self, *arguments: str, cwd: Path | None = None, **settings: str) -> str:
        """A program of bin/ with its arguments."""
        program = str(self.folder / "bin" / arguments[0])
        return call([program, *arguments[1:]], cwd or self.folder, **settings)

    def smoke(self, *arguments: str, folder: Path) -> str:
        """smoke.py on what is installed, from an empty folder and without a network."""
        folder.mkdir(parents=True)
        offline, smoke = str(HERE / "offline.py"), str(HERE / "smoke.py")
        command = [*unplugged(), str(self.python), "-I", offline, smoke, str(folder), *arguments]
        return call(command, folder, PATH=self.search_path)

    def files(self) -> set[str]:
        """All files in it, but for what Python compiles on import."""
        found = (path.relative_to(self.folder) for path in self.folder.rglob("*"))
        return {str(path) for path in found if "__pycache__" not in path.parts}

    def borrow(self, packages: Iterable[Distribution] | None = None) -> None:
        """Packages of the environment that runs this: what the package needs, and nothing else."""
        shelf = self.folder / "borrowed"
        shelf.mkdir()
        for package in closure().values() if packages is None else packages:
            names = {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}
            for name in names:
                target = Path(str(package.locate_file(name)))
                if target.exists() and not (shelf / name).exists():
                    (shelf / name).symlink_to(target)
        (self.packages / "borrowed.pth").write_text(f"{shelf}\n")


def unplugged() -> list[str]:
    """What to put before a command to take its network away, where this system lets one."""
    prefix = ["unshare", "--map-root-user", "--net"]
    try:
        subprocess.run([*prefix, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    return prefix


def call(command: list[str], cwd: Path, **settings: str) -> str:
    """What it printed, on both streams."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environ(**settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Failed(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout[-4000:]}")
    return done.stdout
