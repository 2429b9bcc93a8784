"""`wssl-fast inspect`: how the rows of some files are spread over the sphere."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

import wssl_fast
from wssl_fast.cli import options, summary
from wssl_fast.cli.exits import GATE_FAILED, HELP, exit_codes
from wssl_fast.cli.options import Nan, Precision
from wssl_fast.cli.output import show
from wssl_fast.cli.readers import open_sources
from wssl_fast.cli.scan import scan


def inspect(
    files: Annotated[
        list[Path],
        typer.Argument(help="Shards of one set: npy, npz, safetensors, parquet; or their folder."),
    ],
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
    """W2, L_U, effective rank, RankMe, norms and spectrum of saved embeddings, in one pass.

    The files are shards of one set of rows, which never is in memory as a whole.
    """
    messages = Console(stderr=True)
    with exit_codes(messages):
        gates = options.gates_of(fail_if, summary.NAMES)
        options.check_backend()
        options.check_outputs(json_path, plot)
        found = scan(
            open_sources(files, key),
            normalize=normalize,
            precision=precision.value,
            skip=nan is Nan.skip,
            sample=sample,
            seed=seed,
            console=messages,
        )
        values = summary.values(found)
        png = b""
        if plot is not None:
            from wssl_fast.cli import picture

            png = picture.of_one(found, values)
        report = {"wssl_fast": wssl_fast.__version__, **summary.record(found, values)}
        report["failed"] = [gate.text for gate in gates if gate.failed(values)]
        options.write(report, json_path, plot, png)
        if json_path != options.STDOUT:
            table = Table(title="wssl-fast inspect", show_header=False, title_justify="left")
            table.add_column(style="bold")
            table.add_column(overflow="fold")
            for line in summary.lines(found, values, Console().encoding):
                table.add_row(*line)
            show(table)
        if options.judge(gates, values, messages):
            raise typer.Exit(GATE_FAILED)


inspect.__doc__ = f"{inspect.__doc__}\n\n    {HELP}"
