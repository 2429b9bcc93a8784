"""Accuracy of W2, benchmarked like speed.

python -m benchmarks.accuracy                 errors, resolution and time of every solver,
                                              precision and peer, in one table
python -m benchmarks.accuracy --quick         four spectra at k = 64
python -m benchmarks.accuracy --record        rows to benchmarks/results/<machine>/accuracy.jsonl
python -m benchmarks.accuracy --write-docs    the table into docs/benchmarks.md
"""

import argparse

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks.accuracy import report
from benchmarks.accuracy.measure import FULL, QUICK, run, steps


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="four spectra at k = 64")
    parser.add_argument("--record", action="store_true", help="append the rows to the results")
    parser.add_argument("--write-docs", action="store_true", help="the table into the page")
    options = parser.parse_args(arguments)
    if options.quick and (options.record or options.write_docs):
        parser.error("--quick is a rehearsal: it is neither recorded nor written into the page")
    scale = QUICK if options.quick else FULL
    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as progress:
        task = progress.add_task("", total=steps(scale))
        rows = report.located(
            list(run(scale, lambda what: progress.update(task, advance=1, description=what)))
        )
    table = Table(*report.HEADER, box=box.SIMPLE)
    for line in report.cells(rows):
        table.add_row(*line)
    console.print(table)
    console.print(report.caption(rows))
    if options.record:
        console.print(f"rows appended to {report.record(rows)}")
    if options.write_docs:
        report.write_docs(rows)
        console.print(f"table written into {report.PAGE.name}")


if __name__ == "__main__":
    main()
