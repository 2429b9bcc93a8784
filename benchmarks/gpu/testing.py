"""The tests of a run: which, by how many processes, and what they said.

tests/triton and tests/cuda are lots of their own. The processes of a lot share its tests
(turns.py); one that hangs, crashes or loses the device costs the test that it was at, and another
goes on. What happened is known test by test, whenever time is up: a row a file of tests.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks.gpu import turns
from benchmarks.gpu.place import Place
from benchmarks.gpu.rows import Log, row
from benchmarks.gpu.supervise import ROOT, stop

FIRST = ("tiles", "gram", "w2", "newton_schulz_small", "graphs")  # what all else stands on
REST = ("w2_backward", "statistics", "covariance", "dispatch", "uniformity")
TRITON = tuple(f"tests/triton/test_{name}.py" for name in (*FIRST, *REST))
CUDA = ("tests/cuda/test_w2.py",)  # the other files there are the emulator's, and nvcc's
WORKERS, CUDA_WORKERS = 14, 2
MOST_STARTS = 40
POLL_SECONDS = 0.2
OLDEST = (8, 0)  # compute capability of csrc/cuda
CUT_OFF = "cut off"
ASK_SECONDS = 60.0
ASIDE = "no target"
"""Mode of a row whose failures are all of what no target measures."""
BESIDE_TARGETS = re.compile(
    r"test_(covariance|statistics|uniformity|newton_schulz_small)\.py|n>m|covariance"
)


@dataclass(frozen=True)
class Lot:
    """Tests of one report."""

    report: str
    selection: tuple[str, ...]
    workers: int

    def command(self, place: Place) -> list[str]:
        """One process of it."""
        command = [sys.executable, "-m", "pytest", *self.selection, "-q", "--tb=short"]
        command += ["-p", "no:cacheprovider", "-p", "benchmarks.gpu.turns"]
        command += ["--turns", str(self.folder(place)), "--test-seconds", str(turns.SECONDS)]
        return [*command, "--failures", str(place.report(self.report))]

    def folder(self, place: Place) -> Path:
        return place.scratch / self.report


@dataclass
class Tally:
    """What is known of a file of tests."""

    count: int = 0
    passed: set[str] = field(default_factory=set)
    skipped: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    """Test, why."""
    begun: set[str] = field(default_factory=set)

    @property
    def done(self) -> set[str]:
        return self.passed | self.skipped | set(self.failed)

    def wrong(self) -> str | None:
        """How many failed, and the first."""
        if not self.failed:
            return None
        name, why = next(iter(self.failed.items()))
        return f"{len(self.failed)} failed, first {name.split('::')[-1]}: {why}"[:300]

    def note(self) -> str:
        """Of how many; where it was cut off, how far it came."""
        good = len(self.passed - set(self.failed))
        said = f"{good} passed, {len(self.skipped)} skipped of {self.count}"
        if len(self.done) >= self.count:
            return said
        running = sorted(name.split("::")[-1] for name in self.begun - self.done)
        at = f", at {' and '.join(running)[:150]}" if running else ""
        return f"{CUT_OFF}: {said}{at}"

    def mode(self) -> str | None:
        """ASIDE if no target depends on what failed."""
        aside = self.failed and all(BESIDE_TARGETS.search(name) for name in self.failed)
        return ASIDE if aside else None


def triton_lot(selection: Sequence[str] = TRITON) -> Lot:
    """By as many processes as leave room for a sanitizer."""
    return Lot("tests", tuple(selection), max(1, min(WORKERS, (os.cpu_count() or 1) - 2)))


def cuda_lot() -> Lot:
    return Lot("tests_cuda", CUDA, CUDA_WORKERS)


def why_no_cuda(device: str) -> str:
    """Why csrc/cuda cannot run on this machine's device, so that the emulator would; empty if it
    can. Asked of a new process, since the module may have been built a moment ago."""
    if device != "cuda":
        return f"it runs on CUDA devices, not on {device}"
    capability = torch.cuda.get_device_capability()
    if capability < OLDEST:
        return f"it needs compute capability 8.0, the device has {capability[0]}.{capability[1]}"
    code = "from wssl_fast.backends import cuda; print(cuda.why_missing())"
    try:
        asked = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=ASK_SECONDS,
            check=True,
        )
    except subprocess.SubprocessError as error:
        return f"it cannot be imported: {error}"
    return asked.stdout.strip()


def not_selected(place: Place, why: str, log: Log) -> None:
    """The row of tests/cuda where it was left out."""
    log.say(f"tests/cuda left out: {why}")
    place.writer().add(row(group="tests", provider=CUDA[0], skipped=why))


def run(place: Place, lot: Lot, log: Log, until: float) -> list[str]:
    """A lot until `until` (time.time). What failed; being cut off is no failure."""
    folder = lot.folder(place)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    log.say(f"{lot.report}: {' '.join(lot.selection)}, at most {until - time.time():.0f} s")
    running: list[subprocess.Popen[bytes]] = []
    starts, why_not = 0, ""
    try:
        while True:
            while starts < lot.workers and len(running) < lot.workers:
                running.append(_start(place, lot))
                starts += 1
            for process in [one for one in running if one.poll() is not None]:
                running.remove(process)
                if _ended(folder, process.pid):
                    continue
                why_not = _lost(folder, process) or why_not
                if not why_not and starts < MOST_STARTS:
                    running.append(_start(place, lot))
                    starts += 1
            if not running or time.time() > until:
                break
            time.sleep(POLL_SECONDS)
    finally:
        stop(*running)
    return list(_told(place, lot, log, why_not))


def _start(place: Place, lot: Lot) -> subprocess.Popen[bytes]:
    with (lot.folder(place) / "output").open("ab") as out:
        return subprocess.Popen(
            lot.command(place),
            cwd=ROOT,
            stdout=out,
            stderr=out,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )


def _ended(folder: Path, pid: int) -> bool:
    """Whether a process came to its end: nothing was left for it."""
    return any(what == "end" for what, _, _ in turns.lines_of(folder, pid))


def _lost(folder: Path, process: subprocess.Popen[bytes]) -> str:
    """Notes the test that cost a process, and gives its other turns back. Why it is of no use to
    start another, if so."""
    begun: str | None = None
    lines = list(turns.lines_of(folder, process.pid))
    for what, name, _ in lines:
        begun = name if what == "begin" else None if name == begun and what != "file" else begun
    turns.give_back(folder, process.pid)
    code = process.returncode
    if code < 0:
        why = f"signal {signal.Signals(-code).name}"
    elif code == 1:  # faulthandler's
        why = f"not done in {turns.SECONDS:.0f} s"
    else:
        why = f"exit code {code}"
    if begun is not None:
        turns.note(folder, process.pid, "failed", begun, f"{why}, and its process with it")
    if any(what == "begin" for what, _, _ in lines):
        return ""
    said = (folder / "output").read_text(encoding="utf-8", errors="replace").splitlines()
    return f"{why}: {next((line for line in reversed(said) if line.strip()), 'no output')}"[:300]


def tally(folder: Path) -> dict[str, Tally]:
    """By file of tests, in their order."""
    found: dict[str, Tally] = {}
    for what, name, text in turns.lines_in(folder):
        one = found.setdefault(name.split("::", 1)[0], Tally())
        if what == "file":
            one.count = int(text)
        elif what == "begin":
            one.begun.add(name)
        elif what in ("passed", "skipped"):
            (one.passed if what == "passed" else one.skipped).add(name)
        elif what == "failed":
            one.failed.setdefault(name, text)
    found.pop("", None)
    return found


def _told(place: Place, lot: Lot, log: Log, why_not: str) -> Iterator[str]:
    """Rows and log of a lot; what failed."""
    found = tally(lot.folder(place))
    if why_not:
        found.setdefault(lot.selection[0], Tally()).failed["a process of these tests"] = why_not
    for path, one in found.items():
        wrong = one.wrong()
        note, mode = one.note(), one.mode()
        place.writer().add(row(group="tests", provider=path, mode=mode, wrong=wrong, note=note))
        log.say(f"{path}: {note}" + (f"; {len(one.failed)} failed" if wrong else ""))
        for name, why in list(one.failed.items())[:10]:
            log.write(f"    FAILED {name.split('::', 1)[-1]}: {why[:200]}")
        if wrong:
            yield wrong
