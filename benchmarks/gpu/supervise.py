"""Workers that may crash or hang, and a run that loses nothing by it.

A kernel that reads outside its memory ends its process, and one that waits for a program that never
comes hangs it. So measurements run in a worker, which writes every step it begins to a journal;
when it dies or falls silent, the step is given up with its reason and a new worker goes on with the
rest.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
COMPILED = Path(os.environ.get("TRITON_CACHE_DIR") or Path.home() / ".triton" / "cache")
MOST_WORKERS = 12
POLL_SECONDS = 0.25
KILL_SECONDS = 20.0
EVERY_JOB = "*"
TOGETHER = "rounds"  # the step in which all of a job's survivors are timed: no one's fault


class Step(NamedTuple):
    """A step of a job, as `wssl_fast` of `512x8192 bfloat16`."""

    job: str
    name: str


class Journal:
    """Steps begun and jobs ended, a line each, on disk at once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, step: Step) -> None:
        self._write("begin", *step)

    def end(self, job: str) -> None:
        self._write("end", job, "")

    def ended(self) -> set[str]:
        """Jobs that are done with."""
        return {job for what, job, _ in self._lines() if what == "end"}

    def unfinished(self) -> Step | None:
        """The step in progress, if any."""
        lines = self._lines()
        if not lines or lines[-1][0] == "end":
            return None
        return Step(lines[-1][1], lines[-1][2])

    def silent_seconds(self) -> float:
        """Since the last line, or since Triton began the last kernel that it had to compile."""
        signs = [path.stat().st_mtime for path in (self.path, COMPILED) if path.exists()]
        return time.time() - max(signs, default=time.time())

    def touch(self) -> None:
        """Silence begins now."""
        self.path.touch()

    def _write(self, *fields: str) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\t".join(fields) + "\n")

    def _lines(self) -> list[list[str]]:
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8").splitlines()
        return [line.split("\t") for line in lines if line.count("\t") == 2]


def supervise(
    start: Callable[[Sequence[Step]], subprocess.Popen[bytes]],
    journal: Journal,
    lost: Callable[[Step, str], None],
    *,
    deadline: float,
    silence: float,
    skipped: Sequence[Step] = (),
) -> None:
    """Starts workers until one has done everything or `deadline` (time.time) is past.

    `start` gets the steps to leave out, `skipped` to begin with; a name that was lost in two jobs
    is left out of every job.
    `lost` is told each step that was given up, and why.
    """
    left_out = list(skipped)
    names: Counter[str] = Counter()
    for _ in range(MOST_WORKERS):
        ended = len(journal.ended())
        journal.touch()
        process = start(left_out)
        reason = _watch(process, journal, deadline, silence)
        if reason is None or time.time() > deadline:
            return
        step = journal.unfinished()
        lost(step or Step("", "worker"), reason)
        if step is None and len(journal.ended()) == ended:
            return  # it cannot even start
        if step is not None:
            left_out.append(step)
            names[step.name] += 1
            if step.name != TOGETHER and names[step.name] == 2:
                left_out.append(Step(EVERY_JOB, step.name))


def is_skipped(step: Step, skipped: Sequence[Step]) -> bool:
    """Whether `step` was given up before."""
    return step in skipped or Step(EVERY_JOB, step.name) in skipped


def parse_steps(text: str | None) -> list[Step]:
    """Steps as `python` passes them."""
    return [Step(*pair) for pair in json.loads(text)] if text else []


def python(
    *arguments: str, output: Path | None = None, skipped: Sequence[Step] = ()
) -> subprocess.Popen[bytes]:
    """`python -m benchmarks.gpu ...` in a process group of its own; its errors go to `output`."""
    command = [sys.executable, "-m", "benchmarks.gpu", *arguments]
    if skipped:
        command += ["--skip", json.dumps(skipped)]
    if output is None:
        return subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    with output.open("ab") as errors:
        return subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=errors)


def stop(*processes: subprocess.Popen[bytes]) -> None:
    """Ends processes that were started here, and those that they started."""
    running = [process for process in processes if process.poll() is None]
    for process in running:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    until = time.time() + KILL_SECONDS
    for process in running:
        with suppress(subprocess.TimeoutExpired):  # the driver may still hold it
            process.wait(timeout=max(until - time.time(), 0.0))


def _watch(
    process: subprocess.Popen[bytes], journal: Journal, deadline: float, silence: float
) -> str | None:
    """Why the process did not end well, or None."""
    try:
        while process.poll() is None:
            if time.time() > deadline:
                return "time is up"
            if journal.silent_seconds() > silence:
                return f"no progress in {silence:.0f} s: ended"
            time.sleep(POLL_SECONDS)
    finally:
        stop(process)
    code = process.returncode
    if code == 0:
        return None
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
