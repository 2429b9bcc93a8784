"""The command called in this process."""

import json
from inspect import signature
from typing import Any

from typer.testing import CliRunner

from wssl_fast import cli


def run(*arguments: object) -> Any:
    # click 8.1 mixes both streams unless told not to; later ones know no such word
    apart = {"mix_stderr": False} if "mix_stderr" in signature(CliRunner).parameters else {}
    runner = CliRunner(**apart)
    return runner.invoke(cli.app, [str(a) for a in arguments], env={"COLUMNS": "200"})


def report(*arguments: object) -> dict[str, Any]:
    result = run(*arguments, "--json", "-")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found
