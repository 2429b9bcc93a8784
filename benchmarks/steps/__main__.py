"""`python -m benchmarks.steps`: what W2 adds to a training step, method by dimension by batch."""

import argparse
import time
from collections.abc import Iterable, Sequence

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import harness, machine
from benchmarks.records import RESULTS, Row, read_machine
from benchmarks.report import PAGE, paste
from benchmarks.steps import plan, report
from benchmarks.steps.arms import Forecast
from benchmarks.steps.measure import Cell, Settings, measure, rows
from benchmarks.steps.methods import METHODS
from benchmarks.steps.step import ENCODERS

WIDTH = 120


def run(cells: Sequence[Cell], settings: Settings, device: str, console: Console) -> Iterable[Row]:
    """The rows of each cell as it ends, under a progress bar."""
    forecast = Forecast(device)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        all_cells = progress.add_task("cells", total=len(cells))
        rounds = progress.add_task("", total=None)
        for cell in cells:
            progress.reset(rounds, total=None, description=cell.name)
            measured = measure(
                cell,
                settings,
                forecast,
                on_round=lambda done, total: progress.update(rounds, completed=done, total=total),
            )
            progress.advance(all_cells)
            yield from rows(measured)


def show(found: Sequence[Row], console: Console) -> None:
    """Tables and verdicts."""
    for table in report.tables(found):
        console.print(table.rich())
    for line in report.verdicts(found):
        console.print(line, markup=False)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steps", description=__doc__)
    cuda = torch.cuda.is_available()
    parser.add_argument("--quick", action="store_true", help="seconds; no figures to quote")
    parser.add_argument("--subset", action="store_true", help="what `pytest benchmarks` measures")
    parser.add_argument("--device", default="cuda" if cuda else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--encoder", choices=ENCODERS, help="small on a CPU, resnet18 on CUDA")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=tuple(METHODS))
    parser.add_argument("--dims", nargs="+", type=int, default=plan.DIMS)
    parser.add_argument("--batches", nargs="+", type=int, default=plan.BATCHES)
    parser.add_argument("--limit", type=float, default=Settings.limit_seconds, help="s a step")
    parser.add_argument("--record", action="store_true", help="append rows to benchmarks/results")
    parser.add_argument("--from-rows", action="store_true", help="measure nothing: recorded rows")
    parser.add_argument("--write-docs", action="store_true", help=f"paste into {PAGE.name}")
    given = parser.parse_args(arguments)
    if given.quick and (given.record or given.write_docs):
        parser.error("--quick measures nothing worth a row: not with --record or --write-docs")
    console = Console()
    console = console if console.width >= WIDTH else Console(width=WIDTH)

    started = time.perf_counter()
    if given.from_rows:
        folder = RESULTS / machine.machine_name(given.device)
        found = report.recorded(read_machine(folder))
        if not found:
            parser.exit(2, f"no rows of training steps in {folder}\n")
    else:
        settings = plan.QUICK if given.quick else Settings(limit_seconds=given.limit)
        if given.quick:
            cells = plan.quick(given.device, given.encoder)
        elif given.subset:
            cells, settings = plan.subset(given.device), plan.SUBSET
        else:
            asked = (given.methods, given.dims, given.batches)
            cells = plan.every_cell(given.device, given.encoder, *asked)
        found = []
        for row in run(cells, settings, given.device, console):
            found.append(row)
            if given.record:  # at once: a run that is stopped keeps what it measured
                harness.record([row], RESULTS, device=given.device)
    show(found, console)
    if given.write_docs:
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(paste(report.SECTION, report.markdown(found), page), encoding="utf-8")
        console.print(f"{PAGE}: {report.SECTION} written")
    console.print(f"{time.perf_counter() - started:.0f} s in all")


if __name__ == "__main__":
    main()
