"""`wssl-fast compare`: the Frechet distance between two sets of embeddings, and both spectra."""

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

import wssl_fast
from wssl_fast.cli import options, summary
from wssl_fast.cli.exits import GATE_FAILED, HELP, exit_codes
from wssl_fast.cli.options import Nan, Precision
from wssl_fast.cli.output import show
from wssl_fast.cli.readers import InputError, open_sources
from wssl_fast.cli.scan import Scan, scan

NAMES = (
    "frechet_distance",
    "mean_distance",
    *(f"{side}.{name}" for side in "ab" for name in summary.NAMES),
)
Side = Annotated[Path, typer.Argument(help="A file as for inspect, or a folder of shards.")]


def compare(
    a: Side,
    b: Side,
    key: options.Key = None,
    normalize: options.Normalize = True,
    sample: options.Sample = 8192,
    seed: options.Seed = 0,
    precision: options.PrecisionOption = Precision.double,
    nan: options.NanOption = Nan.fail,
    fail_if: options.FailIf = None,
    json_path: options.Json = None,
    plot: options.Plot = None,
) -> None:
    """Frechet distance (W2 squared) between the Gaussians of two sets of rows, and both reports.

    Rows are scaled to unit length first; --raw gives the distance of the rows as they are, as in
    FID. --fail-if knows frechet_distance, mean_distance, and the names of inspect after a. and b.
    """
    messages = Console(stderr=True)
    with exit_codes(messages):
        gates = options.gates_of(fail_if, NAMES)
        options.check_backend()
        options.check_outputs(json_path, plot)
        sides = [open_sources([path], key) for path in (a, b)]
        widths = [sources[0].width for sources in sides]
        if widths[0] != widths[1]:
            raise InputError(
                sides[1][0].name,
                f"has rows of {widths[1]} columns, {sides[0][0].name} of {widths[0]}",
            )
        scans = [
            scan(
                sources,
                normalize=normalize,
                precision=precision.value,
                skip=nan is Nan.skip,
                sample=sample,
                seed=seed,
                console=messages,
            )
            for sources in sides
        ]
        both = [summary.values(found) for found in scans]
        values = distances(*scans)
        for side, found in zip("ab", both, strict=True):
            values |= {f"{side}.{name}": value for name, value in found.items()}
        png = b""
        if plot is not None:
            from wssl_fast.cli import picture

            png = picture.of_two(scans, both, values)
        records = [summary.record(*pair) for pair in zip(scans, both, strict=True)]
        report = {
            "wssl_fast": wssl_fast.__version__,
            "frechet_distance": values["frechet_distance"],
            "mean_distance": values["mean_distance"],
            "a": records[0],
            "b": records[1],
            "failed": [gate.text for gate in gates if gate.failed(values)],
        }
        options.write(report, json_path, plot, png)
        if json_path != options.STDOUT:
            show(_table(scans, both, values))
        if options.judge(gates, values, messages):
            raise typer.Exit(GATE_FAILED)


compare.__doc__ = f"{compare.__doc__}\n\n    {HELP}"


def distances(a: Scan, b: Scan) -> summary.Values:
    """The Frechet distance, and the distance of the means, whose square is its first term."""
    gap = torch.linalg.vector_norm(a.moments.mean - b.moments.mean)
    return {
        "frechet_distance": float(a.moments.frechet_distance(b.moments)),
        "mean_distance": float(gap),
    }


def _table(scans: list[Scan], both: list[summary.Values], values: summary.Values) -> Table:
    table = Table(title="wssl-fast compare", title_justify="left")
    table.add_column()
    table.add_column("a", overflow="fold")
    table.add_column("b", overflow="fold")
    encoding = Console().encoding
    sides = [summary.lines(*pair, encoding) for pair in zip(scans, both, strict=True)]
    for (name, left), (_, right) in zip(*sides, strict=True):
        table.add_row(f"[bold]{name}[/]", left, right)
    table.add_section()
    table.add_row("[bold]Frechet distance[/]", f"[bold]{values['frechet_distance']:.6g}[/]", "")
    table.add_row("[bold]|mean a - mean b|[/]", f"{values['mean_distance']:.6g}", "")
    return table
