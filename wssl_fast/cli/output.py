"""Where a command's words go: standard output, and messages beside it."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

import typer
from rich.console import Console
from rich.table import Table


class OutputError(Exception):
    """A result that has no place: names the place and what is wrong with it."""

    def __init__(self, name: object, error: OSError) -> None:
        super().__init__(f"{name}: cannot be written ({error.strerror or error})")


def show(table: Table) -> None:
    """On the standard output; characters that its encoding does not hold as escapes."""
    console = Console()
    with _to_stdout(), console.capture() as printed:
        console.print(table)
    say(printed.get().encode(console.encoding, "backslashreplace").decode(console.encoding))


def say(text: str) -> None:
    """On the standard output."""
    with _to_stdout():
        typer.echo(text, nl=False, color=True)  # True: what rich has coloured stays so


@contextmanager
def _to_stdout() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        _give_up(sys.stdout)
        raise OutputError("standard output", error) from error


def _give_up(stream: TextIO) -> None:
    """Python flushes once more when it ends, and would leave with a code of its own: 120."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def settle() -> None:
    """Nothing is left to be written that cannot be, a library's warning for one."""
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None where one was closed before
        try:
            stream.flush()
        except OSError:
            _give_up(stream)


def tell(console: Console, message: str) -> None:
    """A line for a person; where nobody reads it, the exit code says enough."""
    with suppress(OSError, SystemExit):  # the latter is rich's answer to a closed pipe
        console.print(message, soft_wrap=True)
