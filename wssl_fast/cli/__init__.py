"""The command `wssl-fast`: doctor, inspect, compare."""

import typer

from wssl_fast.cli.comparison import compare
from wssl_fast.cli.inspection import inspect
from wssl_fast.cli.installation import doctor, report
from wssl_fast.cli.output import settle

__all__ = ["app", "main", "report"]

app = typer.Typer(add_completion=False, no_args_is_help=True)
app.command()(doctor)
app.command()(inspect)
app.command()(compare)


@app.callback()
def _commands() -> None:
    """Gaussian 2-Wasserstein uniformity: what is installed, and how embeddings are spread."""


def main() -> None:
    try:
        app()
    finally:
        settle()
