"""The stages of `make gpu`, each within its time: build, tests and a sanitizer side by side, the
k x k problem alone, sweep, table of targets."""

import dataclasses
import os
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import torch

from benchmarks.gpu import providers as p
from benchmarks.gpu import sanitizer, targets, testing
from benchmarks.gpu.place import Place
from benchmarks.gpu.plan import CSRC, ROOT_SIZES, TRITON, root_job
from benchmarks.gpu.rows import Log, Row, read, root_row, row
from benchmarks.gpu.supervise import (
    EVERY_JOB,
    POLL_SECONDS,
    ROOT,
    TOGETHER,
    Journal,
    Step,
    python,
    stop,
    supervise,
)
from benchmarks.gpu.sweep import case_row
from benchmarks.gpu.timing import describe as describe_error

Result = TypeVar("Result")

SECONDS = 535.0  # of 600 that a machine may give to one command
STAGES = ("build", "tests", "sanitizer", "root", "sweep")
LAST_SECONDS = 6.0  # for the table
BUILD_SECONDS = 90.0
BUILD = ("setup.py", "--quiet", "build_ext", "--inplace")
PROOF_SHARE = 0.38  # of the time, where something is measured afterwards
ROOT_SECONDS, ROOT_SHARE = 80.0, 0.3  # at most either, where a sweep follows
SILENCE = 90.0  # of a worker that is given up: more than any one kernel, or step, takes
ROOT_SILENCE = 40.0  # nothing but Triton compiles there, which is a sign of life
WARM_WORKERS = 6


def describe() -> str:
    """The stages before the sweep, as text."""
    lots = "; ".join(" ".join(lot.selection) for lot in (testing.triton_lot(), testing.cuda_lot()))
    tools = " and ".join(sanitizer.TOOLS)
    sizes = ", ".join(str(k) for k in ROOT_SIZES)
    until = PROOF_SHARE * SECONDS
    return "\n".join(
        [
            f"build      at most {BUILD_SECONDS:.0f} s, beside the tests of Triton's kernels",
            f"tests      until {until:.0f} s at most: {lots}",
            f"sanitizer  behind the build, beside the tests: {tools} of {CSRC}, at once, "
            f"{sanitizer.SECONDS:.0f} s at most",
            f"root       at most {ROOT_SECONDS:.0f} s, k = {sizes}: "
            f"{TRITON}, {CSRC} on every tile, {p.COMPOSED}",
            "sweep      until the end:",
        ]
    )


def everything(place: Place, tests: Sequence[str] | None, wanted: Sequence[str] = STAGES) -> int:
    """The stages wanted. 0 if no test failed and no sanitizer found anything. `tests`: instead of
    the usual ones."""
    fresh(place)
    broken: list[str] = []
    right = _whatever_comes(place, "proof", lambda: proof(place, tests, wanted), broken)
    lost: list[Step] | None = []
    if "root" in wanted:
        share = ROOT_SHARE if "sweep" in wanted else 1.0
        seconds = min(ROOT_SECONDS, share * place.logger().left())
        lost = _whatever_comes(place, "root", lambda: roots(place, seconds), broken)
    suspects = (CSRC, TOGETHER)
    without = lost is None or any(step.name.startswith(suspects) for step in lost)
    if "sweep" in wanted:
        _whatever_comes(place, "sweep", lambda: sweep(place, without_cuda=without), broken)
    conclude(place)
    return 0 if right and not broken else 1


def _whatever_comes(
    place: Place, stage: str, call: Callable[[], Result], broken: list[str]
) -> Result | None:
    """What a stage returns. An error of ours, not of what it runs, ends the stage and not the run:
    a row, a line, its traceback in errors.txt, and None."""
    try:
        return call()
    except Exception as error:
        broken.append(stage)
        place.writer().add(row(group=stage, error=describe_error(error)))
        place.logger().say(f"{stage} broke off, going on: {describe_error(error)}")
        with place.errors.open("a", encoding="utf-8") as file:
            traceback.print_exc(file=file)
        return None


def fresh(place: Place) -> None:
    """Nothing of an earlier run."""
    place.folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(place.scratch, ignore_errors=True)
    place.scratch.mkdir(parents=True)
    reports = [testing.triton_lot().report, testing.cuda_lot().report, *sanitizer.TOOLS]
    ours = (place.rows, place.errors, place.logger().path)
    for old in (*ours, *map(place.report, reports)):
        old.unlink(missing_ok=True)


def build(place: Place, log: Log) -> None:
    """The compiled parts, where the package lies; without them everything else works. csrc/cuda
    for the architecture at hand, unless WSSL_FAST_CUDA_ARCHS says otherwise."""
    command = [sys.executable, *BUILD]
    environment = dict(os.environ)
    if place.device == "cuda":
        found = architecture(torch.cuda.get_device_capability())
        environment.setdefault("WSSL_FAST_CUDA_ARCHS", found)
    with place.errors.open("ab") as errors:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=errors, stderr=errors, env=environment, start_new_session=True
        )
        try:
            code = process.wait(timeout=BUILD_SECONDS)
        except subprocess.TimeoutExpired:
            log.say(f"build: not done in {BUILD_SECONDS:.0f} s, going on without it")
            return
        finally:
            stop(process)
    if not code:
        log.say("build: done")
    else:
        log.say(f"build: exit code {code} ({place.errors.name}), going on without it")


def architecture(capability: tuple[int, int]) -> str:
    """As WSSL_FAST_CUDA_ARCHS names it.

    >>> architecture((9, 0)), architecture((8, 6)), architecture((10, 0))
    ('90a', '86', '100')
    """
    name = f"{capability[0]}{capability[1]}"
    return f"{name}a" if name == "90" else name


def proof(place: Place, tests: Sequence[str] | None, wanted: Sequence[str] = STAGES) -> bool:
    """Build, tests and sanitizer side by side, within their share of the time, and beside them
    compilation of what will be measured, until all are done. False if anything is wrong."""
    log = place.logger()
    measuring = "root" in wanted or "sweep" in wanted
    share = PROOF_SHARE if measuring else 1.0
    until = time.time() + share * (log.left() - LAST_SECONDS)
    warming = _start_warming(place, until) if measuring else []
    selection = testing.TRITON if tests is None else tuple(tests)
    try:
        with ThreadPoolExecutor(1) as pool:
            csrc = pool.submit(_prove_csrc, place, tests is None, wanted, log, until)
            failed = []
            if "tests" in wanted and selection:
                failed = testing.run(place, testing.triton_lot(selection), log, until)
            right = csrc.result() and not failed
        while time.time() < until and any(one.poll() is None for one in warming):
            time.sleep(POLL_SECONDS)
    finally:
        stop(*warming)
    return right


def _prove_csrc(place: Place, usual: bool, wanted: Sequence[str], log: Log, until: float) -> bool:
    """Builds; then what csrc/cuda's tests and the sanitizer say. False if anything is wrong."""
    if "build" in wanted:
        log.say("building in place")
        build(place, log)
    tested = "tests" in wanted and usual
    why_not = testing.why_no_cuda(place.device) if tested or "sanitizer" in wanted else ""
    with ThreadPoolExecutor(1) as pool:
        watched = None
        if "sanitizer" in wanted:
            watched = pool.submit(sanitizer.run, place, why_not, log, until=until)
        failed = []
        if tested and why_not:
            testing.not_selected(place, why_not, log)
        elif tested:
            failed = testing.run(place, testing.cuda_lot(), log, until)
        return (watched is None or watched.result()) and not failed


def _start_warming(place: Place, until: float) -> list[subprocess.Popen[bytes]]:
    inside = dataclasses.replace(place, deadline=until).arguments()
    count = max(1, min(WARM_WORKERS, (os.cpu_count() or 1) // 2))
    return [
        python(*("warm", "--part", str(part), "--parts", str(count), *inside), output=place.errors)
        for part in range(count)
    ]


def roots(place: Place, seconds: float = ROOT_SECONDS) -> list[Step]:
    """Workers over the k x k problem alone, rows for what they left. What was lost."""
    until = min(time.time() + seconds, place.deadline - LAST_SECONDS)
    journal, sizes = Journal(place.root_journal), place.roots()
    jobs = {root_job(k): k for k in sizes}
    lost = _supervised(
        dataclasses.replace(place, deadline=until),
        "root-worker",
        journal,
        lambda name: root_row(jobs.get(name)),
        silence=ROOT_SILENCE,
    )
    ended = journal.ended()
    for name, k in jobs.items():
        if name not in ended:
            place.writer().add(root_row(k) | {"skipped": "time was up, or lost"})
    measured = sum(name in ended for name in jobs)
    place.logger().say(f"{measured} of {len(sizes)} sizes of the root measured")
    return lost


def sweep(place: Place, *, without_cuda: bool = False) -> None:
    """Workers over the plan, rows for what they left. `without_cuda`: csrc/cuda may have cost a
    worker before, and would cost as much again."""
    writer, journal = place.writer(), Journal(place.journal)
    cases = place.cases()
    by_key = {case.key: case for case in cases}
    skipped = [Step(EVERY_JOB, p.CUDA)] if without_cuda else []
    for case in cases if without_cuda else ():
        if p.CUDA in case.providers:
            why = f"{CSRC} may have cost a worker at the k x k problem alone"
            writer.add(case_row(case) | {"provider": p.CUDA, "skipped": why})
    _supervised(
        dataclasses.replace(place, deadline=place.deadline - LAST_SECONDS),
        "worker",
        journal,
        lambda name: case_row(by_key.get(name)),
        silence=SILENCE,
        skipped=skipped,
    )
    ended = journal.ended()
    for case in cases:
        if case.key not in ended:
            writer.add(case_row(case) | {"skipped": "time was up, or lost"})
    measured = sum(case.key in ended for case in cases)
    place.logger().say(f"{measured} of {len(cases)} cases measured; rows in {place.rows}")


def conclude(place: Place) -> None:
    """The table of targets, and for which sizes csrc/cuda should be preferred."""
    paper = targets.extrapolated(read(place.rows))
    if paper:
        place.writer().add(paper)
    rows, log = read(place.rows), place.logger()
    found = targets.verdicts(rows)
    log.write(targets.table(found))
    for line in targets.doubts(rows, found):
        log.write(line)
    log.write(targets.suggestion(rows))


def _supervised(
    place: Place,
    command: str,
    journal: Journal,
    row_of: Callable[[str], Row],
    *,
    silence: float,
    skipped: Sequence[Step] = (),
) -> list[Step]:
    """Workers until `place.deadline`, a row for each step that was lost: those steps."""
    log, writer = place.logger(), place.writer()
    given_up: list[Step] = []

    def lost(step: Step, reason: str) -> None:
        given_up.append(step)
        log.say(f"    lost at {step.job or 'start'}, {step.name}: {reason}")
        tail = _tail(place.errors)
        error = f"worker lost: {reason}" + (f" ({tail})" if tail else "")
        writer.add(row_of(step.job) | {"provider": step.name, "error": error})

    def start(skipped: Sequence[Step]) -> subprocess.Popen[bytes]:
        return python(command, *place.arguments(), output=place.errors, skipped=skipped)

    supervise(start, journal, lost, deadline=place.deadline, silence=silence, skipped=skipped)
    return given_up


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


def _tail(path: Path) -> str:
    if not path.exists():
        return ""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "")
