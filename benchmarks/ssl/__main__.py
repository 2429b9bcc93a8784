"""`python -m benchmarks.ssl`: train, table, compare, search. docs/ssl.md shows how."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.data import NAMES, DataFileError
from benchmarks.ssl import parallel, record, search, table
from benchmarks.ssl.checkpoint import CheckpointError
from benchmarks.ssl.compare import compare
from benchmarks.ssl.config import KINDS, Config, ConfigError, load, parse_setting, preset_names
from benchmarks.ssl.figures import draw_grid
from benchmarks.ssl.grid import failures, finished, run_cells
from benchmarks.ssl.methods import METHODS
from benchmarks.ssl.progress import Reporter
from benchmarks.ssl.runs import RunError, RunFolder
from benchmarks.ssl.signals import Interrupted
from benchmarks.ssl.train import run
from benchmarks.ssl.watch import LossError

OUT = Path("build/ssl")
WIDTH = 160
AGAIN = "\0"  # --resume without a path

SETTINGS = {  # options that set one value of the configuration
    "dataset": ("data.dataset", {"choices": NAMES}),
    "backbone": ("network.backbone", {"choices": ("resnet18", "resnet-small")}),
    "dim": ("network.dim", {"type": int}),
    "batch": ("batch", {"type": int, "help": "images a step, over all processes"}),
    "epochs": ("epochs", {"type": int}),
    "precision": ("precision", {"choices": ("float32", "bfloat16", "float16")}),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0, 1 for a run that failed, 2 for bad input, 128 + n after signal n."""
    given = _parser().parse_args(arguments)
    main_process = os.environ.get("RANK", "0") == "0"
    console = Console()
    console = console if console.width >= WIDTH else Console(width=WIDTH)  # tables stay whole
    try:
        return given.run(given, console)
    except (ConfigError, DataFileError, CheckpointError, RunError) as error:
        problem, code = str(error), 2
    except LossError as error:
        problem, code = str(error), 1
    except Interrupted as error:
        problem, code = str(error), error.exit_code
    finally:
        parallel.leave()
    if main_process:
        print(problem, file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ssl", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")

    one = commands.add_parser("train", help="one run")
    one.add_argument("--method", required=True, choices=METHODS)
    one.add_argument("--uniformity", choices=KINDS)
    one.add_argument("--seed", type=int)
    _shared(one)
    one.add_argument("--config", action="store_true", help="print the configuration and stop")
    one.add_argument("--out", type=Path, help=f"the run's folder; {OUT}/<dataset>/<run> by default")
    one.add_argument(
        "--resume", nargs="?", const=AGAIN, metavar="CHECKPOINT",
        help="go on from the folder's checkpoint, or from the one named",
    )  # fmt: skip
    one.set_defaults(run=_train)

    grid = commands.add_parser("table", help="a grid of runs, or what is left of it, as a table")
    grid.add_argument(
        "--methods", nargs="+", choices=METHODS, default=("mocov2", "byol", "barlow", "zerocl")
    )
    grid.add_argument("--uniformities", nargs="+", choices=KINDS, default=KINDS)
    grid.add_argument("--seeds", nargs="+", type=int, default=(0,))
    _shared(grid)
    grid.add_argument("--out", type=Path, default=OUT / "table", help="folder of the runs' folders")
    grid.add_argument(
        "--no-runs", action="store_true", help="tabulate what is finished, run nothing"
    )
    grid.add_argument("--record", metavar="NAME", help="into benchmarks/results/ssl/NAME")
    grid.add_argument("--write-docs", action="store_true", help=f"into {record.PAGE.name}")
    grid.set_defaults(run=_table)

    beside = commands.add_parser("compare", help="curves and spectra of runs in one picture")
    beside.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    beside.add_argument("--out", type=Path, default=OUT / "compare")
    beside.set_defaults(run=_compare)

    tried = commands.add_parser("search", help="weights of L_U and W2, on held-out training images")
    tried.add_argument(
        "--methods", nargs="+", choices=METHODS, default=("mocov2", "byol", "barlow", "zerocl")
    )
    tried.add_argument("--factors", nargs="+", type=float, default=search.FACTORS)
    tried.add_argument("--holdout", type=int, default=search.HOLDOUT)
    tried.add_argument("--seed", type=int, default=100, help="none of the table's")
    _shared(tried)
    tried.add_argument("--out", type=Path, default=OUT / "search")
    tried.add_argument("--write", action="store_true", help="the choice into the preset's weights")
    tried.add_argument("--record", metavar="NAME", help="into benchmarks/results/ssl/NAME")
    tried.add_argument("--write-docs", action="store_true", help=f"into {record.PAGE.name}")
    tried.set_defaults(run=_search)
    return parser


def _shared(parser: argparse.ArgumentParser) -> None:
    for option, (name, keywords) in SETTINGS.items():
        said = {"help": name} | keywords
        parser.add_argument(f"--{option}", **said)  # type: ignore[arg-type]
    parser.add_argument("--data", metavar="FOLDER", help="where the images' files are")
    parser.add_argument(
        "--preset", nargs="+", default=(), metavar="NAME", help=f"of {', '.join(preset_names())}"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any setting, as optimizer.lr=0.1",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")


def _overrides(given: argparse.Namespace) -> dict[str, Any]:
    values: dict[str, Any] = {
        name: getattr(given, option)
        for option, (name, _) in SETTINGS.items()
        if getattr(given, option) is not None
    }
    return values | dict(map(parse_setting, given.set))


def _device(given: argparse.Namespace) -> str:
    if given.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: PyTorch finds no CUDA device here; --device cpu works")
    if given.device != "auto":
        return str(given.device)
    return "cuda" if torch.cuda.is_available() else "cpu"


def _train(given: argparse.Namespace, console: Console) -> int:
    overrides = _overrides(given)
    if given.uniformity is not None:
        overrides["uniformity.kind"] = given.uniformity
    if given.seed is not None:
        overrides["seed"] = given.seed
    config: Config = load(given.method, given.preset, overrides)
    if given.config:
        print(config.to_json(), end="")
        return 0
    device = _device(given)
    folder = RunFolder(given.out or OUT / config.data.dataset / config.name())
    resume = None
    if given.resume:
        resume = folder.checkpoint if given.resume == AGAIN else Path(given.resume)
    world = parallel.join(device)
    run(
        config,
        folder,
        data=given.data,
        device=device,
        resume=resume,
        world=world,
        reporter=Reporter(console),
    )
    return 0


def _table(given: argparse.Namespace, console: Console) -> int:
    overrides = _overrides(given)
    cells = table.cells(given.methods, given.uniformities, given.seeds, given.preset, overrides)
    given.out.mkdir(parents=True, exist_ok=True)

    def write() -> None:
        runs = finished(given.out)
        if runs:
            record.write_tables(given.out, runs, failures(given.out))

    failed = _run(given, cells, console, write)
    runs, broken = finished(given.out), failures(given.out)
    if not runs:
        raise RunError(f"{given.out}: no finished runs to tabulate")
    recipes = {rows[-1]["recipe"] for rows in runs.values()}
    if len(recipes) > 1:
        raise RunError(f"{given.out}: runs of {len(recipes)} recipes, a table has one")
    made, text = record.write_tables(given.out, runs, broken)
    draw_grid(given.out / "grid.png", runs)
    for one in made:
        console.print(one.rich())
    console.print(f"{given.out}: table.md, table.csv and grid.png written", markup=False)
    if given.record:
        place = record.record(given.record, given.out, runs, broken)
        console.print(f"{place}: rows, configurations, table and figure written", markup=False)
    if given.write_docs:
        record.into_page(text)
    return 1 if failed else 0


def _search(given: argparse.Namespace, console: Console) -> int:
    overrides = {"seed": given.seed, **_overrides(given)}
    cells = search.cells(given.methods, given.factors, given.preset, overrides, given.holdout)
    failed = _run(given, cells, console)
    runs = finished(given.out)
    found = [runs[cell.name][-1] for cell in cells if cell.name in runs]
    if not found:
        raise RunError(f"{given.out}: no finished runs to choose from")
    made = search.table(found)
    console.print(made.rich())
    if given.write:
        if not given.preset:
            raise ConfigError("--write: the choice is a preset's; --preset names it")
        path = search.write_choice(given.preset[-1], search.choose(found))
        console.print(f"{path}: the choice written", markup=False)
    if given.record:
        place = record.record_search(given.record, given.out, runs, made)
        console.print(f"{place}: rows, configurations and table written", markup=False)
    if given.write_docs:
        record.into_page(made.markdown(), section="ssl-search")
    return 1 if failed else 0


def _run(
    given: argparse.Namespace, cells: Sequence[table.Cell], console: Console, after_each: Any = None
) -> list[str]:
    if getattr(given, "no_runs", False):
        return []
    return run_cells(
        cells,
        given.out,
        data=given.data,
        device=_device(given),
        reporter=Reporter(console),
        after_each=after_each or (lambda: None),
    )


def _compare(given: argparse.Namespace, console: Console) -> int:
    console.print(compare(given.runs, given.out).rich())
    console.print(f"{given.out}: curves.png and spectra.png written", markup=False)
    return 0


if __name__ == "__main__":
    parallel.finish(main())
