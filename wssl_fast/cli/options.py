"""Options that `inspect` and `compare` share, their checks, and how both write."""

import json
import math
import os
from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.markup import escape

from wssl_fast._files import replacing
from wssl_fast.cli.gates import Gate, parse
from wssl_fast.cli.installation import why_no_backend
from wssl_fast.cli.output import OutputError, say, tell


class Precision(StrEnum):
    """Of the products: see `wssl_fast.metrics.Moments`."""

    double = "double"
    highest = "highest"


class Nan(StrEnum):
    """What to do with a row that holds a NaN or an infinity."""

    fail = "fail"
    skip = "skip"


Key = Annotated[
    str | None,
    typer.Option(help="Array of an npz, tensor of a safetensors, column of a parquet file."),
]
Normalize = Annotated[
    bool,
    typer.Option("--normalize/--raw", help="Scale rows to unit length, or take them as given."),
]
Sample = Annotated[
    int, typer.Option(help="Rows that L_U is measured on: all, or a uniform sample.", min=2)
]
Seed = Annotated[int, typer.Option(help="Of the sample.")]
PrecisionOption = Annotated[
    Precision,
    typer.Option("--precision", help="Products in float64, or in float32: half the time."),
]
NanOption = Annotated[
    Nan, typer.Option("--nan", help="Rows that are not finite: an error, or left out and named.")
]
FailIf = Annotated[
    list[str] | None,
    typer.Option(help="Exit with 1 if this holds, as in 'effective_rank<100'. Repeatable."),
]
Json = Annotated[
    Path | None, typer.Option("--json", help="Write the report here; - is the standard output.")
]
Plot = Annotated[Path | None, typer.Option(help="Draw the spectrum to this PNG file.")]

STDOUT = Path("-")


def gates_of(texts: Sequence[str] | None, names: Collection[str]) -> list[Gate]:
    try:
        return [parse(text, names) for text in texts or ()]
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--fail-if") from error


def check_backend() -> None:
    """Before a long pass: that what comes after it can run. Rows of files are on the CPU."""
    why = why_no_backend(torch.device("cpu"))
    if why:
        raise typer.BadParameter(why)


def check_outputs(json_path: Path | None, plot: Path | None) -> None:
    """Before a long pass: that its results will have a place, and that something can draw."""
    for option, path in (("--json", json_path), ("--plot", plot)):
        if path is None or (option == "--json" and path == STDOUT):
            continue
        try:
            folder, writable = path.is_dir(), path.parent.is_dir()
        except OSError as error:  # a name too long, a parent that is locked
            reason = f"cannot write to {path} ({error.strerror})"
            raise typer.BadParameter(reason, param_hint=option) from error
        if folder:
            raise typer.BadParameter(f"{path} is a folder", param_hint=option)
        if not writable or not os.access(path.parent, os.W_OK):
            raise typer.BadParameter(f"cannot write to {path.parent}", param_hint=option)
    if plot is not None:
        if plot.suffix != ".png":
            raise typer.BadParameter(f"{plot} must end in .png", param_hint="--plot")
        try:
            import matplotlib  # noqa: F401
        except ModuleNotFoundError as error:
            raise typer.BadParameter(
                "drawing needs matplotlib: pip install 'wssl-fast[inspect]'", param_hint="--plot"
            ) from error


def write(report: Mapping[str, Any], json_path: Path | None, plot: Path | None, png: bytes) -> None:
    """Both files, each whole or not at all; JSON on the standard output."""
    text = "" if json_path is None else json.dumps(_plain(report), indent=2, allow_nan=False) + "\n"
    to_stdout = json_path == STDOUT
    for path, data in ((None if to_stdout else json_path, text.encode()), (plot, png)):
        if path is not None:
            try:
                with replacing(path) as part:
                    part.write_bytes(data)
            except OSError as error:
                raise OutputError(path, error) from error
    if to_stdout:
        say(text)


def _plain(value: Any) -> Any:
    """JSON knows no NaN and no infinity: null stands for both."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list) else value


def judge(gates: Sequence[Gate], found: Mapping[str, float | None], console: Console) -> bool:
    """Says which conditions held; whether any did."""
    failed = [gate for gate in gates if gate.failed(found)]
    for gate in failed:
        value = found[gate.name]
        shown = "not a number" if value is None else f"{value:.6g}"
        tell(console, f"[bold red]failed[/] {escape(gate.text)}: {gate.name} is {shown}")
    return bool(failed)
