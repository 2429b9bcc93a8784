"""Exit codes of `wssl-fast`, and the exceptions that lead to them.

0 all went well; 1 a `--fail-if` held; 2 wrong usage; 3 input that cannot be used; 130 interrupted.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape

from wssl_fast.cli.readers import InputError

GATE_FAILED, BAD_INPUT, INTERRUPTED = 1, 3, 130

HELP = "Exit codes: 0, 1 when a --fail-if holds, 2 wrong usage, 3 unusable input, 130 interrupted."


@contextmanager
def exit_codes(console: Console) -> Iterator[None]:
    """Turns what a command meets into a line on `console` and an exit code."""
    try:
        yield
    except InputError as error:
        console.print(f"[bold red]error[/] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(BAD_INPUT) from error
    except KeyboardInterrupt:
        console.print("[bold]interrupted[/]: nothing was written")
        raise typer.Exit(INTERRUPTED) from None
