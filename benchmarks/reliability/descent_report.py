"""The study of descent as a command: rows, table, pictures."""

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from matplotlib import pyplot as plt
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import machine, records
from benchmarks.demo.tables import Table
from benchmarks.plots.style import DPI, STYLE
from benchmarks.reliability import descent, descent_pictures
from benchmarks.reliability.starts import BY_NAME, STARTS, Start, full, optimum
from benchmarks.report import paste

SHAPES = ((64, 48), (48, 64))
LARGE = ((128, 256),)
AT_LARGE = ("rank 12 + noise 1e-5", "near-constant, noise 1e-4", "rank k/8", "every row twice")
SEEDS = (0, 1, 2)
QUICK_SHAPES = ((24, 16), (16, 24))
SEEN = ("rank 12 + noise 1e-5", "rank k/8", "every row twice")
SEEN_STEPS = 120

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"

Case = tuple[str, Start, int, int]


def run(
    quick: bool, draw_only: bool, write_page: bool, seed: int, out: Path, console: Console
) -> int:
    """0, since the result is in the rows; 2 if there are none to draw."""
    files = [out / "descent.jsonl", out / "descent_curves.jsonl"]
    missing = [str(path) for path in files if not path.exists()]
    if draw_only and missing:
        console.print(f"nothing to draw: no {' and no '.join(missing)}", soft_wrap=True)
        console.print("python -m benchmarks.reliability descent makes them (--out, --record)")
        return 2
    torch.set_num_threads(1)  # at these sizes a second one only waits
    if not draw_only:
        started = time.perf_counter()
        commit = machine.commit()
        _write(files[0], measured(quick, seed, console))
        shape = QUICK_SHAPES[0] if quick else SHAPES[0]
        seen = descent.curves([BY_NAME[name] for name in SEEN], *shape, descent.MODES[0],
                              list(descent_pictures.SHOWN), SEEN_STEPS)  # fmt: skip
        _write(files[1], seen)
        note = {
            "seconds": round(time.perf_counter() - started, 1),
            "hardware": machine.hardware(),
            "versions": machine.versions(),
            "commit": commit,
        }
        (out / "descent_run.json").write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")
    rows = records.read(files[0])
    with plt.rc_context(STYLE):
        for name, figure in (
            ("descent", descent_pictures.steps(rows)),
            ("descent_curves", descent_pictures.curves(records.read(files[1]))),
        ):
            figure.savefig(out / f"{name}.png", dpi=DPI, facecolor="white")
            plt.close(figure)
    for mode, n, m in dict.fromkeys((row["mode"], row["n"], row["m"]) for row in rows):
        console.print(table(rows, mode, n, m).rich())
    if write_page:
        write_docs(rows)
    console.print(f"{files[0]}, {out / 'descent.png'}, {out / 'descent_curves.png'}")
    return 0


def measured(quick: bool, seed: int, console: Console) -> Iterator[dict[str, Any]]:
    """Every case, under a progress bar. Rows and SGD at three seeds, the others at one; Adam at one
    shape, the large shape from some starts."""
    columns = (TextColumn("{task.description:<42}"), BarColumn(), MofNCompleteColumn(),
               TimeElapsedColumn())  # fmt: skip
    with Progress(*columns, console=console) as progress:

        def track(cases: Sequence[Case]) -> Iterator[Case]:
            task = progress.add_task("", total=len(cases))
            for mode, start, n, m in cases:
                progress.update(task, description=f"{mode}: {start.name}, {n} x {m}")
                yield mode, start, n, m
                progress.advance(task)

        steps = descent.STEPS
        seeds = [seed] if quick else [seed + each for each in SEEDS]
        shapes = QUICK_SHAPES if quick else SHAPES
        yield from descent.study(STARTS, shapes, descent.MODES[:1], seeds, steps, track)
        yield from descent.study(STARTS, shapes, descent.MODES[1:2], [seed], steps, track)
        yield from descent.study(STARTS, shapes[:1], descent.MODES[2:], [seed], steps, track)
        if not quick:
            some = [BY_NAME[name] for name in AT_LARGE]
            yield from descent.study(some, LARGE, descent.MODES[:1], [seed], steps, track)


def table(rows: Sequence[dict[str, Any]], mode: str, n: int, m: int) -> Table:
    """Median steps by loss and start, under what each start can reach."""
    chosen = records.pick(rows, mode=mode, n=n, m=m)
    starts = list(dict.fromkeys(row["start"] for row in chosen))
    losses = list(dict.fromkeys(row["loss"] for row in chosen))
    reach = [f"{records.pick(chosen, start=s)[0]['reachable']:.3f}" for s in starts]
    return Table(
        f"Steps to 1 % of the excess over the optimum {optimum(full(n, m), m):.3f}: "
        f"{n} x {m}, {mode}",
        ["", *starts],
        [
            ["W2 squared in reach of exact descent", *reach],
            *([loss, *(_cell(records.pick(chosen, start=s, loss=loss)[0]) for s in starts)]
              for loss in losses),
        ],
        f"Medians over seeds. In brackets: not in {descent.STEPS} steps, W2 squared after them. "
        "NaN: in that step, for most of the seeds.",
    )  # fmt: skip


def write_docs(rows: Sequence[dict[str, Any]], page: Path = PAGE) -> None:
    """The tables of docs/reliability.md, from recorded rows."""
    tables = "\n".join(table(rows, descent.MODES[0], n, m).markdown() for n, m in SHAPES)
    page.write_text(paste("descent", tables, page.read_text(encoding="utf-8")), encoding="utf-8")


def _cell(row: dict[str, Any]) -> str:
    kind, value = descent_pictures.outcome(row)
    if kind == "steps":
        return f"{value:.0f}"
    if kind == "NaN":
        return f"NaN, {value:.0f}"
    return f"({median(row['last']):.3f})"


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """A line as each row comes."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            print(json.dumps(row), file=file, flush=True)
