"""`python -m benchmarks.paper`: the paper's synthetic figures and properties, reproduced.

    python -m benchmarks.paper list                 what there is
    python -m benchmarks.paper all                  every study, with the paper's parameters
    python -m benchmarks.paper 3 5 properties       some of them
    python -m benchmarks.paper all --quick          sizes that take seconds
    python -m benchmarks.paper all --draw           pictures and tables again, from the CSVs
    python -m benchmarks.paper 7 15 --runs RUN...   figures of training, from run directories

Each study writes its plotted numbers as figure_<name>.csv and a picture beside them, and prints
every published number beside ours. `all --out benchmarks/results/paper` is how the committed files
were made; `--write-docs` puts their tables into docs/paper.md.
"""

import argparse
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from matplotlib import pyplot as plt
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import machine
from benchmarks.demo.tables import Table
from benchmarks.paper import beyond, cloning, collapse, marginals, properties, shapes, training
from benchmarks.paper.published import Comparison, Row, read_csv, write_csv
from benchmarks.paper.study import Context, Study
from benchmarks.plots.style import DPI, STYLE
from benchmarks.report import paste

STUDIES = {
    study.name: study
    for study in (
        shapes.FIGURE_1,
        marginals.FIGURE_2,
        collapse.FIGURE_3,
        collapse.FIGURE_4,
        cloning.FIGURE_5,
        cloning.FIGURE_6,
        marginals.FIGURE_8,
        marginals.FIGURE_9,
        shapes.FIGURE_10,
        cloning.FIGURE_11,
        shapes.FIGURE_12,
        shapes.FIGURE_13,
        shapes.FIGURE_14,
        properties.STUDY,
        beyond.SIZES,
        beyond.GRADIENTS,
    )
}
FROM_RUNS = {study.name: study for study in training.FIGURES}
EVERY = STUDIES | FROM_RUNS
PAGE = Path(__file__).parents[2] / "docs" / "paper.md"
RECORDED = Path(__file__).parents[1] / "results" / "paper"

WIDTH = 130

T = TypeVar("T")


def comparison_table(found: Sequence[Comparison]) -> Table:
    """Published numbers beside ours."""
    return Table(
        "Published numbers",
        ["figure", "quantity", "at", "published", "ours", "difference", "explained", "left",
         "tolerance", ""],
        [
            [c.figure, c.quantity, c.at, c.published, f"{c.ours:.5g}", f"{c.difference:+.1e}",
             f"{c.difference - c.unexplained:+.1e}", f"{c.unexplained:+.1e}", f"{c.tolerance:.1e}",
             "reproduced" if c.reproduced else "NOT reproduced"]
            for c in found
        ],
        "Explained: by the sample sizes of both, in closed form. Tolerance of what is left: half a "
        "unit of the last printed digit and four standard deviations of either sample.",
    )  # fmt: skip


def measured(study: Study, context: Context, console: Console) -> list[Row]:
    """The rows of a study, under a progress bar."""
    columns = (
        TextColumn("{task.description:<60}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:

        def track(cases: Sequence[T]) -> Iterable[T]:
            return progress.track(cases, description=f"{study.name}: {study.title}")

        return list(study.measure(replace(context, track=track)))


def picture(study: Study, rows: Sequence[Row], path: Path) -> None:
    with plt.rc_context(STYLE):
        figure = study.draw(rows)
        figure.savefig(path, dpi=DPI, facecolor="white")
        plt.close(figure)


def run(
    names: Sequence[str], context: Context, out: Path, console: Console, *, draw_only: bool = False
) -> list[Comparison]:
    """Measures (or reads) and draws the studies; returns what was published of them."""
    found: list[Comparison] = []
    for name in names:
        study = EVERY[name]
        table_path, picture_path = out / f"figure_{name}.csv", out / f"figure_{name}.png"
        if draw_only:
            rows = read_csv(table_path)
        else:
            started = time.perf_counter()
            rows = measured(study, context, console)
            write_csv(table_path, rows)
            _note(out / "runs.json", name, context, time.perf_counter() - started)
        picture(study, rows, picture_path)
        if name == properties.STUDY.name:
            console.print(properties.table(rows).rich())
        compared = study.compare(rows)
        if compared:
            console.print(comparison_table(compared).rich())
        found += compared
        console.print(f"{table_path}, {picture_path}")
    everything = comparisons(out)
    if everything:
        write_csv(out / "published.csv", [c.row() for c in everything])
    if found:
        missed = sum(not c.reproduced for c in found)
        console.print(f"{len(found) - missed} of {len(found)} published numbers reproduced")
    return found


def comparisons(out: Path) -> list[Comparison]:
    """What was published of every study whose CSV is in `out`."""
    there = [study for study in STUDIES.values() if (out / f"figure_{study.name}.csv").exists()]
    return [c for study in there for c in study.compare(_rows(study, out))]


def _note(path: Path, name: str, context: Context, seconds: float) -> None:
    """How a CSV was made, by name, in one JSON file."""
    notes = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    notes[name] = {
        "quick": context.quick,
        "seed": context.seed,
        "device": context.device,
        "seconds": round(seconds, 1),
        "hardware": machine.hardware(context.device),
        "versions": machine.versions(),
        "commit": machine.commit(),
    }
    path.write_text(json.dumps(notes, indent=1) + "\n", encoding="utf-8")


def write_docs(out: Path, page: Path = PAGE) -> None:
    """The tables of docs/paper.md, from the CSVs of `out`."""
    text = page.read_text(encoding="utf-8")
    text = paste("published", comparison_table(comparisons(out)).markdown(), text)
    table = properties.table(_rows(properties.STUDY, out))
    page.write_text(paste("properties", table.markdown(), text), encoding="utf-8")


def _rows(study: Study, out: Path) -> list[Row]:
    return read_csv(out / f"figure_{study.name}.csv")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    cuda = torch.cuda.is_available()
    parser.add_argument("names", nargs="+", metavar="NAME", help="list, all, or names of studies")
    parser.add_argument("--quick", action="store_true", help="seconds; no figures to quote")
    parser.add_argument("--draw", action="store_true", help="from the CSVs in --out")
    parser.add_argument("--device", default="cuda" if cuda else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("build/paper"), help="folder written to")
    parser.add_argument("--runs", type=Path, nargs="+", default=(), metavar="FOLDER",
                        help="training runs, for figures 7 and 15 to 17")  # fmt: skip
    parser.add_argument("--write-docs", action="store_true", help="tables of docs/paper.md")
    given = parser.parse_args(arguments)
    console = Console()
    if console.width < WIDTH:  # a file or a narrow terminal gets long lines
        console = Console(width=WIDTH)
    if given.names == ["list"]:
        for study in EVERY.values():
            console.print(f"{study.name:>10}  {study.title}", markup=False, highlight=False)
        return 0
    names = given.names
    if names == ["all"]:
        names = list(EVERY if given.runs else STUDIES)
    unknown = [name for name in names if name not in EVERY]
    if unknown:
        parser.error(f"no study {', '.join(unknown)}; there are: list, all, {', '.join(EVERY)}")
    without = [name for name in names if name in FROM_RUNS]
    if without and not given.runs and not given.draw:
        parser.error(f"figure {', '.join(without)} is drawn from training runs: --runs FOLDER...")
    given.out.mkdir(parents=True, exist_ok=True)
    context = Context(given.quick, given.device, given.seed, runs=given.runs)
    try:
        found = run(names, context, given.out, console, draw_only=given.draw)
    except FileNotFoundError as error:
        parser.error(f"--draw needs {error.filename}: run the study first")
    except training.RunsError as error:
        parser.error(str(error))
    if given.write_docs:
        write_docs(given.out)
    return 0 if all(c.reproduced for c in found) else 1


if __name__ == "__main__":
    raise SystemExit(main())
