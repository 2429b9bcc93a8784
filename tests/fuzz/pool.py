"""Cases in processes of their own: one that kills its process or hangs is a failure like others."""

import multiprocessing
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

SECONDS = 300.0
"""What a case may take before it counts as hung."""


@dataclass(frozen=True)
class Outcome:
    line: str
    failures: tuple[str, ...]
    ratios: dict[str, float]
    seconds: float


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    line: str = ""
    since: float = 0.0

    def give(self, line: str) -> None:
        self.line, self.since = line, time.monotonic()
        self.connection.send(line)


def run(
    lines: Iterator[str], *, workers: int = 1, check: str = "tests.fuzz.check:by_line",
    seconds: float = SECONDS,
) -> Iterator[Outcome]:  # fmt: skip
    """Outcomes in the order in which they come. `check`, module:function, turns a line into
    failures and ratios; it is named and not given so that a process can be started anew."""
    team = [_start(check) for _ in range(workers)]
    idle = list(team)
    try:
        while True:
            for worker, line in zip(idle, islice(lines, len(idle)), strict=False):
                worker.give(line)
            busy = [w for w in team if w.line]
            if not busy:
                return
            ready = wait([w.connection for w in busy], timeout=1.0)
            idle = []
            for worker in busy:
                taken = time.monotonic() - worker.since
                if worker.connection in ready:
                    outcome, alive = _receive(worker, taken)
                elif taken > seconds:
                    outcome, alive = _died(worker, f"hung: over {seconds:.0f} s", taken), False
                else:
                    continue
                if not alive:
                    team.remove(worker)
                    worker = _start(check)
                    team.append(worker)
                worker.line = ""
                idle.append(worker)
                yield outcome
    finally:
        for worker in team:
            worker.process.kill()
            worker.process.join()


def _start(check: str) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, check), daemon=True)
    process.start()
    theirs.close()
    ours.recv()  # it has imported what it needs: not a case's time
    return _Worker(process, ours)


def _receive(worker: _Worker, seconds: float) -> tuple[Outcome, bool]:
    try:
        failures, ratios = worker.connection.recv()
    except (EOFError, ConnectionResetError):
        worker.process.join()
        code = worker.process.exitcode or 0
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return _died(worker, f"the process died: {how}", seconds), False
    return Outcome(worker.line, tuple(failures), ratios, seconds), True


def _died(worker: _Worker, how: str, seconds: float) -> Outcome:
    worker.process.kill()
    worker.process.join()
    return Outcome(worker.line, (how,), {}, seconds)


def _work(connection: Connection, name: str) -> None:
    module, _, function = name.partition(":")
    check: Callable[[str], tuple[list[str], dict[str, float]]]
    check = getattr(import_module(module), function)
    connection.send(None)
    while True:
        try:
            line = connection.recv()
        except EOFError:
            return
        try:
            found = check(line)
        except Exception:
            found = [f"raised {traceback.format_exc(limit=-3)}"], {}
        connection.send(found)
