"""python -m tests.fuzz --cases 20000 --seed 0      runs cases of seeds 0 to 19,999
   python -m tests.fuzz --replay "seed=7 n=3"       runs one case, as a failure prints it

Exit code 1 if a case failed.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tests.fuzz import pool
from tests.fuzz.cases import Case, draw
from tests.fuzz.report import RECORD, Report


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--cases", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=0, help="of the first case; the rest count up")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after these")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--record", action="store_true", help=f"write {RECORD.name}")
    parser.add_argument("--replay", metavar="CASE", help="a case as one line")
    given = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the workers': a process a core
    console = Console(width=None if sys.stdout.isatty() else 160)
    if given.replay is not None:
        return _replay(console, given.replay)
    report, started = Report(), time.monotonic()

    def lines() -> Iterator[str]:
        for seed in range(given.seed, given.seed + given.cases):
            if time.monotonic() - started > 60 * given.minutes:
                return
            yield str(draw(seed))

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task("cases", total=given.cases)
        for outcome in pool.run(lines(), workers=given.workers):
            report.add(outcome)
            progress.advance(task)
            if outcome.failures:
                progress.update(task, description=f"[red]{len(report.failures)} failed[/]")
    report.show(console)
    if given.record:
        report.record(given.seed, time.monotonic() - started)
        console.print(f"written: {RECORD}")
    return 1 if report.failures else 0


def _replay(console: Console, line: str) -> int:
    try:
        case = Case.parse(line)
    except ValueError as error:
        console.print(escape(str(error)))
        return 2
    (outcome,) = pool.run(iter([str(case)]))
    for kind, ratio in outcome.ratios.items():
        console.print(f"{ratio:8.2g} of what is allowed: {kind}")
    for what in outcome.failures:
        console.print(f"[bold red]failed[/] {escape(what)}", soft_wrap=True)
    console.print("failed" if outcome.failures else "passed")
    return 1 if outcome.failures else 0


if __name__ == "__main__":
    sys.exit(main())
