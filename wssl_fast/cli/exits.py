"""Exit codes of `wssl-fast`, and the exceptions that lead to them.

0 all went well; 1 a `--fail-if` held; 2 wrong usage; 3 input that cannot be used; 4 a result that
cannot be written; 70 an error of this program; 130 interrupted.
"""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape

from wssl_fast.cli.output import OutputError, tell
from wssl_fast.cli.readers import InputError

GATE_FAILED, BAD_USAGE, BAD_INPUT, BAD_OUTPUT = 1, 2, 3, 4
BROKEN, INTERRUPTED = 70, 130  # EX_SOFTWARE of sysexits.h; 128 + SIGINT

HELP = (
    "Exit codes: 0, 1 when a --fail-if holds, 2 wrong usage, 3 unusable input, 4 a result that "
    "cannot be written, 70 an error of this program, 130 interrupted."
)


@contextmanager
def exit_codes(console: Console) -> Iterator[None]:
    """Turns what a command meets into a line on `console` and an exit code.

    Nothing but a gate ends in 1, with which Python ends where an exception is not caught.
    """
    try:
        yield
    except (typer.Exit, typer.BadParameter):
        raise
    except (InputError, OutputError) as error:
        tell(console, f"[bold red]error[/] {escape(str(error))}")
        raise typer.Exit(BAD_INPUT if isinstance(error, InputError) else BAD_OUTPUT) from error
    except KeyboardInterrupt:
        tell(console, "[bold]interrupted[/]: nothing was written")
        raise typer.Exit(INTERRUPTED) from None
    except Exception as error:
        if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):  # PyTorch's
            tell(console, f"[bold red]error[/] too wide for this memory: {escape(str(error))}")
            raise typer.Exit(BAD_INPUT) from error
        tell(console, escape(traceback.format_exc()))
        tell(console, "[bold red]error[/] of wssl-fast itself: please report the lines above")
        raise typer.Exit(BROKEN) from error
