"""The tests of a run: which, each lot in a process of its own, and what they said.

tests/triton and tests/cuda run side by side and fail apart: a kernel that breaks the device for its
process does not fail the other's tests.
"""

import importlib.util
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch

from benchmarks.gpu.place import Place
from benchmarks.gpu.rows import Log, row
from benchmarks.gpu.supervise import ROOT, stop

PYTEST, PYTEST_CUDA = "pytest", "pytest tests/cuda"  # providers of their rows
TRITON = ("tests/triton", "--ignore=tests/triton/test_compiled.py")
CUDA = ("tests/cuda/test_w2.py",)  # the other files there are the emulator's, and nvcc's
WORKERS = 6
OLDEST = (8, 0)  # compute capability of csrc/cuda
CUT_OFF = "cut off"
ASK_SECONDS = 60.0


@dataclass(frozen=True)
class Lot:
    """Tests of one process."""

    provider: str
    selection: tuple[str, ...]
    report: str

    def command(self) -> list[str]:
        """pytest, in parallel where xdist is there."""
        command = [sys.executable, "-m", "pytest", *self.selection, "-q", "--maxfail=25"]
        command += ["-o", "faulthandler_timeout=60"]
        if importlib.util.find_spec("xdist"):
            command += ["-n", str(min(WORKERS, os.cpu_count() or 1))]
        return command


def lots(why_no_cuda: str) -> list[Lot]:
    """What a run tests; not tests/cuda where there is a reason."""
    found = [Lot(PYTEST, TRITON, "tests")]
    if not why_no_cuda:
        found.append(Lot(PYTEST_CUDA, CUDA, "tests_cuda"))
    return found


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
    place.writer().add(row(group="tests", provider=PYTEST_CUDA, skipped=why))


def run(place: Place, wanted: Sequence[Lot], log: Log, until: float) -> list[str]:
    """All lots side by side until `until` (time.time). What failed; being cut off is no failure."""
    running = []
    with ExitStack() as held:
        for lot in wanted:
            command = lot.command()
            log.say(f"{' '.join(command[1:])}, at most {until - time.time():.0f} s")
            out = held.enter_context(place.report(lot.report).open("wb"))
            process = subprocess.Popen(
                command, cwd=ROOT, stdout=out, stderr=out, start_new_session=True
            )
            held.callback(stop, process)
            running.append(process)
        codes = [_wait(process, until) for process in running]
    pairs = zip(wanted, codes, strict=True)
    return [failed for lot, code in pairs if (failed := _told(place, lot, code, log))]


def _wait(process: subprocess.Popen[bytes], until: float) -> int | None:
    try:
        return process.wait(timeout=max(until - time.time(), 1))
    except subprocess.TimeoutExpired:
        return None


def _told(place: Place, lot: Lot, code: int | None, log: Log) -> str | None:
    """Row and log of one lot; what failed."""
    text = place.report(lot.report).read_text(encoding="utf-8", errors="replace")
    lines = text.splitlines()
    failed, note = outcome(lines, code)
    place.writer().add(row(group="tests", provider=lot.provider, wrong=failed, note=note))
    log.say(f"{lot.provider}: {note}")
    for line in [line for line in lines if line.startswith(("FAILED", "ERROR"))][:25]:
        log.write(f"    {line}")
    return failed


def outcome(lines: Sequence[str], code: int | None) -> tuple[str | None, str]:
    """What failed (None: nothing) and a note, from pytest's output; `code` None if cut off."""
    last = next((line.strip("= ") for line in reversed(lines) if line.strip()), "no output")
    if code is None:
        broken = any(re.fullmatch(r"[.FEsxX]*[FE][.FEsxX]*(\s+\[ *\d+%\])?", x) for x in lines)
        return "failed before they were cut off" if broken else None, f"{CUT_OFF}: {last}"
    return (None if code == 0 else f"failed: {last}"), last
