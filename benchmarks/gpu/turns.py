"""A pytest plugin: processes that share a selection, and say at once what failed.

    python -m pytest -p benchmarks.gpu.turns --turns FOLDER tests/triton

Each process collects everything and takes groups of tests in their order, each group once: whoever
makes its file in FOLDER/taken first. A group is a test function with all parameters but `case`, so
that what needs the same kernels stays in one process; and of processes that need a kernel that
nobody compiled yet, one compiles and the others wait for it.

FOLDER/PID.txt has a line for whatever happens, on disk at once: `file` (path, how many tests),
`begin`, `passed`, `skipped`, `failed` (test, why), `end` (nothing is left). Failures in full go to
--failures. A test that takes too long ends its process, and so does one that leaves the device
unusable: testing.py starts another, which goes on with the rest.
"""

import faulthandler
import fcntl
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

SECONDS = 60.0  # of one test, without what it compiles
NICER = 5  # than a sanitizer beside it
LOST = 3  # exit code
LONGEST, MOST_BYTES = 12_000, 4 * 2**20  # of a failure in full, of all of them


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--turns", type=Path, help="folder that the processes share")
    parser.addoption("--failures", type=Path, help="file that failures are appended to")
    parser.addoption("--test-seconds", type=float, default=SECONDS, help="of one test")


def pytest_configure(config: pytest.Config) -> None:
    if config.option.turns is not None:
        config.pluginmanager.register(Turns(config), "turns-of-this-process")


class Turns:
    """This process's part."""

    def __init__(self, config: pytest.Config) -> None:
        option = config.option
        self.folder: Path = option.turns
        self.seconds: float = option.test_seconds
        (self.folder / "taken").mkdir(parents=True, exist_ok=True)
        self.failures = option.failures.open("ab", buffering=0)
        os.nice(NICER)
        share_compilation(self.folder.parent, self._unwatched)

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Instead of pytest's: of all tests, those whose turn came here."""
        for path, count in Counter(_path(item.nodeid) for item in session.items).items():
            self._say("file", path, str(count))
        mine = self._turns(session.items)
        item = next(mine, None)
        while item is not None:
            following = next(mine, None)  # what its fixtures are kept for
            self._say("begin", item.nodeid)
            self._watch()
            try:
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            finally:
                faulthandler.cancel_dump_traceback_later()
            item = following
        self._say("end", "")
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed(report.nodeid, report)
            if device_lost():
                os._exit(LOST)
        elif report.when == "call" or report.skipped:
            self._say("skipped" if report.skipped else "passed", report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._failed(report.nodeid, report)

    def _failed(self, name: str, report: Any) -> None:
        self._say("failed", name, reason(report))
        if os.fstat(self.failures.fileno()).st_size < MOST_BYTES:
            text = f"{name}\n{report.longreprtext[-LONGEST:]}\n\n"
            self.failures.write(text.encode(errors="replace"))

    def _turns(self, items: Sequence[pytest.Item]) -> Iterator[pytest.Item]:
        groups: dict[str, list[pytest.Item]] = {}
        for item in items:
            groups.setdefault(group(item), []).append(item)
        for name, members in groups.items():
            if take(self.folder / "taken", name):
                begun = begun_in(self.folder)  # by a process that did not live to end its group
                yield from (item for item in members if item.nodeid not in begun)

    def _watch(self) -> None:
        faulthandler.dump_traceback_later(self.seconds, exit=True, file=self.failures)

    @contextmanager
    def _unwatched(self) -> Iterator[None]:
        faulthandler.cancel_dump_traceback_later()
        try:
            yield
        finally:
            self._watch()

    def _say(self, what: str, name: str, text: str = "") -> None:
        note(self.folder, os.getpid(), what, name, text)


def group(item: pytest.Item) -> str:
    """Name of what needs the same kernels as `item`."""
    found = getattr(item, "callspec", None)
    own = item.nodeid.split("[", 1)[0]
    if found is None:
        return own
    return own + repr([(k, str(v)) for k, v in found.params.items() if k != "case"])


def take(folder: Path, name: str) -> bool:
    """Whether nobody had it yet. The file says which process has."""
    path = folder / hashlib.sha1(name.encode()).hexdigest()
    try:
        made = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return False
    with os.fdopen(made, "w") as file:
        file.write(str(os.getpid()))
    return True


def give_back(folder: Path, pid: int) -> None:
    """What a process took that is no more: others may have it."""
    for path in (folder / "taken").glob("*"):
        if path.read_text() == str(pid):
            path.unlink()


def lines_in(folder: Path) -> Iterator[tuple[str, str, str]]:
    """All whole lines of all processes."""
    for path in sorted(folder.glob("*.txt")):
        yield from lines_of(folder, int(path.stem))


def lines_of(folder: Path, pid: int) -> Iterator[tuple[str, str, str]]:
    """All whole lines of a process."""
    path = folder / f"{pid}.txt"
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.count("\t") == 2:
            what, name, text = line.split("\t")
            yield what, name, text


def note(folder: Path, pid: int, what: str, name: str, text: str = "") -> None:
    """A line of a process."""
    words = " ".join(text.split())[:300]
    with (folder / f"{pid}.txt").open("ab", buffering=0) as file:
        file.write(f"{what}\t{name}\t{words}\n".encode(errors="replace"))


def begun_in(folder: Path) -> set[str]:
    """Tests that some process began."""
    return {name for what, name, _ in lines_in(folder) if what == "begin"}


def reason(report: Any) -> str:
    """Why it failed, in a line."""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash is not None else report.longreprtext
    lines = [line for line in text.splitlines() if line.strip()]
    said = lines[0 if crash is not None else -1] if lines else "it does not say"
    when = getattr(report, "when", "collect")
    return said if when == "call" else f"{when}: {said}"


def device_lost() -> bool:
    """Whether the CUDA context is broken, so that every test to come would fail for this one."""
    import torch

    if not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
    except Exception:
        return True
    return False


def share_compilation(folder: Path, around: Callable[[], Any]) -> None:
    """From here on Triton's compiler works on one kernel in one process of those that share
    `folder`; the others find it in the disk cache. `around`: a context that it runs in."""
    try:
        from triton import compiler
    except ImportError:
        return
    compiler.compile = one_at_a_time(compiler.compile, folder / "compiling", around)


def one_at_a_time(
    make: Callable[..., Any], folder: Path, around: Callable[[], Any]
) -> Callable[..., Any]:
    """`make(source, target, options)` while no other process compiles the same."""
    folder.mkdir(parents=True, exist_ok=True)

    def shared(src: Any, target: Any = None, options: Any = None, **more: Any) -> Any:
        name = src.hash() if hasattr(src, "hash") else str(src)
        key = hashlib.sha1(f"{name} {options}".encode()).hexdigest()
        with around(), (folder / key).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # until closed, also by the end of the process
            return make(src, target=target, options=options, **more)

    return shared


def _path(nodeid: str) -> str:
    return nodeid.split("::", 1)[0]
