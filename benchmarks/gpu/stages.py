"""The stages of `make gpu`, each within its time: build, tests, sweep, table of targets."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.gpu import providers as p
from benchmarks.gpu import targets
from benchmarks.gpu.plan import Case, plan
from benchmarks.gpu.rates import measure_rates
from benchmarks.gpu.rows import Log, Rows, read, row
from benchmarks.gpu.supervise import ROOT, Journal, Step, is_skipped, python, stop, supervise
from benchmarks.gpu.sweep import Worker, case_row, warm
from benchmarks.gpu.timing import DeviceLostError, stopwatch

SECONDS = 535.0  # of 600 that a machine may give to one command
LAST_SECONDS = 6.0  # for the table
WORKER_SECONDS = 10.0  # before it is stopped, a worker should be writing its last rows
BUILD_SECONDS = 90.0
TESTS_SHARE = 0.4
SILENCE = 90.0  # of a worker that is given up: more than any one kernel, or step, takes
WARM_WORKERS = 4
TEST_WORKERS = 6
TESTS = ("tests/triton", "--ignore=tests/triton/test_compiled.py")
RATES = "rates"
COMPILED_BY_CALLS = (p.OURS, p.HIGHEST, p.DOUBLE, p.UNIFORMITY, p.COMPILED)
WARM_TIERS = ("target", "memory", "large", "dtype", "tall")


@dataclass(frozen=True)
class Place:
    """Where a run writes (few files, side by side: a lent machine gives back no more), and until
    when it goes on."""

    folder: Path
    deadline: float
    """time.time()."""
    device: str = "cuda"
    shapes: tuple[str, ...] = ()
    """Cases of a rehearsal, as `48x80 float32`; none: the plan."""

    @property
    def rows(self) -> Path:
        return self.folder / "gpu.jsonl"

    @property
    def journal(self) -> Path:
        return self.folder / "journal.txt"

    @property
    def errors(self) -> Path:
        """What workers and the build write to stderr."""
        return self.folder / "errors.txt"

    @property
    def tests(self) -> Path:
        return self.folder / "tests.txt"

    def cases(self) -> list[Case]:
        """What is to be measured, in order."""
        return [_rehearsed(text) for text in self.shapes] if self.shapes else plan()

    def arguments(self) -> list[str]:
        """For a worker."""
        shapes = [part for shape in self.shapes for part in ("--shape", shape)]
        place = ["--out", str(self.folder), "--deadline", str(self.deadline)]
        return [*place, "--device", self.device, *shapes]

    def logger(self) -> Log:
        return Log(self.folder / "log.txt", self.deadline)

    def writer(self) -> Rows:
        return Rows(self.rows, torch.device(self.device))


def _rehearsed(text: str) -> Case:
    shape, dtype = text.split()
    n, m = (int(part) for part in shape.split("x"))
    return Case("rehearsal", n, m, dtype, tuple(p.BY_NAME))


def everything(place: Place, tests: Sequence[str]) -> int:
    """Build, tests with compilation beside them, sweep, table. 0 if no test failed."""
    fresh(place)
    log = place.logger()
    log.say("building in place")
    build(place, log)
    failed = run_tests(place, tests, log) if tests else None
    sweep(place)
    return 1 if failed else 0


def fresh(place: Place) -> None:
    """Nothing of an earlier run."""
    place.folder.mkdir(parents=True, exist_ok=True)
    for old in (place.rows, place.journal, place.errors, place.tests, place.logger().path):
        old.unlink(missing_ok=True)


def build(place: Place, log: Log) -> None:
    """The compiled part, where the package lies; without it everything works, slower on a CPU."""
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    with place.errors.open("ab") as errors:
        try:
            done = subprocess.run(
                command, cwd=ROOT, stdout=errors, stderr=errors, timeout=BUILD_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            log.say(f"build: not done in {BUILD_SECONDS:.0f} s, going on without it")
            return
    if done.returncode:
        log.say(f"build: exit code {done.returncode} ({place.errors.name}), going on without it")


def run_tests(place: Place, selection: Sequence[str], log: Log) -> str | None:
    """pytest within its share of the time, while workers compile what the sweep will call. What
    failed, or None; being cut off is no failure."""
    until = time.time() + TESTS_SHARE * log.left()
    command = [sys.executable, "-m", "pytest", *selection, "-q", "--maxfail=25"]
    command += ["-o", "faulthandler_timeout=60"]
    if importlib.util.find_spec("xdist"):
        command += ["-n", str(min(TEST_WORKERS, os.cpu_count() or 1))]
    log.say(f"{' '.join(command[1:])}, at most {until - time.time():.0f} s")
    warming = _start_warming(place, until) if place.device == "cuda" else []
    ended = True
    with place.tests.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=out, stderr=out, start_new_session=True
        )
        try:
            process.wait(timeout=max(until - time.time(), 1))
        except subprocess.TimeoutExpired:
            ended = False
        finally:
            for one in (process, *warming):
                stop(one)
    lines = place.tests.read_text(encoding="utf-8", errors="replace").splitlines()
    failed, note = outcome(lines, process.returncode if ended else None)
    place.writer().add(row(group="tests", provider="pytest", wrong=failed, note=note))
    log.say(f"tests: {note}")
    for line in [line for line in lines if line.startswith(("FAILED", "ERROR"))][:25]:
        log.write(f"    {line}")
    return failed


def outcome(lines: Sequence[str], code: int | None) -> tuple[str | None, str]:
    """What failed (None: nothing) and a note, from pytest's output; `code` None if cut off."""
    last = next((line.strip("= ") for line in reversed(lines) if line.strip()), "no output")
    if code is None:
        broken = any(re.fullmatch(r"[.FEsxX]*[FE][.FEsxX]*(\s+\[ *\d+%\])?", x) for x in lines)
        return "failed before they were cut off" if broken else None, f"cut off: {last}"
    return (None if code == 0 else f"failed: {last}"), last


def _start_warming(place: Place, until: float) -> list[subprocess.Popen[bytes]]:
    return [
        python(
            *("warm", "--part", str(part), "--parts", str(WARM_WORKERS)),
            *("--out", str(place.folder), "--deadline", str(until), "--device", place.device),
            output=place.errors,
        )
        for part in range(WARM_WORKERS)
    ]


def warm_part(place: Place, part: int, parts: int) -> None:
    """Compiles, by calling, this part of what the first tiers call."""
    pairs = [
        (case, name)
        for case in place.cases()
        if case.tier in WARM_TIERS
        for name in case.providers
        if name in COMPILED_BY_CALLS
    ]
    warm(pairs[part::parts], torch.device(place.device), place.logger())


def sweep(place: Place) -> None:
    """Workers over the plan, rows for what they left, the table of targets."""
    log, writer, journal = place.logger(), place.writer(), Journal(place.journal)
    cases = place.cases()
    by_key = {case.key: case for case in cases}

    def lost(step: Step, reason: str) -> None:
        log.say(f"    lost at {step.job or 'start'}, {step.name}: {reason}")
        tail = _tail(place.errors)
        found = case_row(by_key.get(step.job)) | {"provider": step.name}
        writer.add(found | {"error": f"worker lost: {reason}" + (f" ({tail})" if tail else "")})

    def start(skipped: Sequence[Step]) -> subprocess.Popen[bytes]:
        return python("worker", *place.arguments(), output=place.errors, skipped=skipped)

    supervise(start, journal, lost, deadline=place.deadline - LAST_SECONDS, silence=SILENCE)
    ended = journal.ended()
    for case in cases:
        if case.key not in ended:
            writer.add(case_row(case) | {"skipped": "time was up, or lost"})
    found = targets.extrapolated(read(place.rows))
    if found:
        writer.add(found)
    measured = sum(case.key in ended for case in cases)
    log.say(f"{measured} of {len(cases)} cases measured; rows in {place.rows}")
    log.write(targets.table(targets.verdicts(read(place.rows))))


def tune(place: Place, arguments: Sequence[str]) -> int:
    """Tunes under supervision; rows of timings and a copy of the table in the folder."""
    from benchmarks.gpu.tune import TABLE  # needs Triton

    fresh(place)
    log, writer = place.logger(), place.writer()

    def lost(step: Step, reason: str) -> None:
        log.say(f"    lost at {step.job or 'start'}, {step.name}: {reason}")
        writer.add({"group": "tune", "job": step.job, "tile": step.name, "error": reason})

    def start(skipped: Sequence[Step]) -> subprocess.Popen[bytes]:
        own = ["tune-worker", *place.arguments(), *arguments]
        return python(*own, output=place.errors, skipped=skipped)

    journal = Journal(place.journal)
    supervise(start, journal, lost, deadline=place.deadline, silence=SILENCE)
    shutil.copyfile(TABLE, place.folder / TABLE.name)
    log.say(f"{len(journal.ended())} rows of {TABLE} tuned; timings in {place.rows}")
    return 0


def work(place: Place, skipped: Sequence[Step]) -> int:
    """A worker: rates once, then cases. 3 if the device was lost."""
    device = torch.device(place.device)
    journal, log = Journal(place.journal), place.logger()
    if log.left() < LAST_SECONDS:
        return 0
    try:
        watch = stopwatch(device)
        if RATES not in journal.ended() and not is_skipped(Step(RATES, RATES), skipped):
            journal.begin(Step(RATES, RATES))
            log.say("rates of the device")
            measure_rates(device, watch, place.writer(), log)
            journal.end(RATES)
        until = Log(log.path, place.deadline - LAST_SECONDS - WORKER_SECONDS)
        Worker(device, watch, place.writer(), journal, until, skipped).run(place.cases())
    except DeviceLostError as error:
        log.say(f"    device lost: {error}")
        return 3
    return 0


def tune_work(
    place: Place,
    skipped: Sequence[Step],
    kernels: Sequence[str],
    products: Sequence[str],
    sizes: Sequence[str],
) -> int:
    """A worker that tunes the rows asked for; none asked for: all."""
    from benchmarks.gpu.tune import TABLE, Target, Tuner  # needs Triton

    def wanted(row: Target) -> bool:
        return (
            (not kernels or row.kernel in kernels)
            and (not products or row.product in products)
            and (not sizes or str(row.limit or "any") in sizes)
        )

    device = torch.device(place.device)
    journal, log = Journal(place.journal), place.logger()
    try:
        tuner = Tuner(device, stopwatch(device), place.writer(), journal, log, TABLE, skipped)
        tuner.run(wanted)
    except DeviceLostError as error:
        log.say(f"    device lost: {error}")
        return 3
    return 0


def _tail(path: Path) -> str:
    if not path.exists():
        return ""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "")
