"""What `wssl-fast inspect` and `compare` leave behind, or do not: files, exit codes, encodings."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from tests.cli import files
from tests.cli.commands import report, run
from wssl_fast import cli
from wssl_fast.cli import summary
from wssl_fast.cli.exits import BAD_INPUT, BAD_OUTPUT, BROKEN, GATE_FAILED, INTERRUPTED


def test_outputs_are_checked_before_the_pass(path: Path, tmp_path: Path) -> None:
    for arguments, text in (
        (("--json", tmp_path), "is a folder"),
        (("--json", tmp_path / "absent" / "a.json"), "cannot write to"),
        (("--plot", tmp_path / "a.jpg"), "must end in .png"),
    ):
        result = run("inspect", path, *arguments)
        assert result.exit_code == 2
        assert text in result.stderr.replace("\n", " ")


def test_names_too_long_for_an_output(path: Path, tmp_path: Path) -> None:
    for name in ("x" * 300, "x" * 300 + "/a"):
        result = run("inspect", path, "--json", tmp_path / f"{name}.json")
        assert result.exit_code == 2
        assert "cannot write to" in result.stderr
    longest = tmp_path / f"{'x' * 250}.json"  # a file system takes 255 bytes
    assert run("inspect", path, "--json", longest).exit_code == 0
    assert list(tmp_path.glob("x*")) == [longest]


FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="the full device is Linux's")


@needs_full
def test_an_output_that_cannot_be_written(path: Path) -> None:
    result = run("inspect", path, "--json", FULL)
    assert result.exit_code == BAD_OUTPUT == 4
    assert "/dev/full: cannot be written (No space left on device)" in result.stderr


def command(*arguments: object, **how: Any) -> subprocess.Popen[bytes]:
    """In a process of its own, for what only a process has."""
    line = [sys.executable, "-m", "wssl_fast.cli", *map(str, arguments)]
    return subprocess.Popen(line, stderr=subprocess.PIPE, **how)


@needs_full
@pytest.mark.parametrize(("options", "unbuffered"), [((), "1"), (("--json", "-"), "")])
def test_a_standard_output_that_is_full(
    options: tuple[str, ...], unbuffered: str, path: Path
) -> None:
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    with FULL.open("w") as full:
        process = command("inspect", path, *options, stdout=full, env=environment)
    _, messages = process.communicate()
    assert process.returncode == BAD_OUTPUT, messages
    assert b"standard output: cannot be written" in messages
    assert b"Traceback" not in messages


BUFFERED = os.environ | {"PYTHONUNBUFFERED": ""}  # as where nobody has set it


def test_pipes_that_nobody_reads(path: Path, tmp_path: Path) -> None:
    for arguments, code in (
        ((path, "--json", tmp_path / "a.json"), BAD_OUTPUT),
        ((tmp_path / "absent.npy",), BAD_INPUT),
    ):
        process = command("inspect", *arguments, stdout=subprocess.PIPE, env=BUFFERED)
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()
        assert process.wait() == code
    assert json.loads((tmp_path / "a.json").read_text())["metrics"]["rows"] == 60


def test_a_warning_that_nobody_reads(path: Path) -> None:
    """Of a library, before the command's own words: Python would end with 120."""
    code = "import warnings; warnings.warn('!'); from wssl_fast.cli import main; main()"
    line = [sys.executable, "-c", code, "inspect", str(path)]
    process = subprocess.Popen(
        line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=BUFFERED
    )
    assert process.stderr is not None
    process.stderr.close()
    assert process.wait() == 0


def test_figures_beyond_float64_are_null(tmp_path: Path, z: Tensor) -> None:
    path = files.npy(tmp_path / "a.npy", z.double() * 1e160)
    shown = run("inspect", path, "--raw")
    assert shown.exit_code == 0
    assert "W2             │ nan" in shown.stdout
    found = report("inspect", path, "--raw")
    assert found["metrics"]["w2"] is found["metrics"]["norm_of_mean"] is None
    assert found["metrics"]["mean_norm"] > 1e159
    assert found["covariance_spectrum"] == [None] * 8
    assert run("compare", path, path, "--raw").exit_code == 0
    assert report("compare", path, path, "--raw")["frechet_distance"] is None
    assert run("inspect", path, "--raw", "--fail-if", "w2>9").exit_code == GATE_FAILED
    pytest.importorskip("matplotlib", reason="--plot needs matplotlib")
    assert run("inspect", path, "--raw", "--plot", tmp_path / "a.png").exit_code == 0


def test_rows_too_wide_for_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"  # its moments: 512 TB, more than a process can address
    np.lib.format.open_memmap(path, "w+", np.float16, (1, 8_000_000))[:] = 1
    result = run("inspect", path)
    assert result.exit_code == BAD_INPUT
    assert "too wide for this memory" in result.stderr


@pytest.mark.parametrize("name", ["inspect", "compare"])
def test_an_error_of_the_program_is_no_failed_gate(
    name: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(found: object) -> None:
        raise ZeroDivisionError("a [bold]bug[/]")

    monkeypatch.setattr(summary, "values", broken)
    result = run(name, *[path] * (2 if name == "compare" else 1))
    assert result.exit_code == BROKEN == 70
    for text in ("Traceback", "ZeroDivisionError: a [bold]bug[/]", "of wssl-fast itself"):
        assert text in result.stderr


INTERRUPTED_PASS = """
import os, signal, sys
from wssl_fast.cli import main
from wssl_fast.metrics import Moments
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job's children ignore it
add = Moments.update
def update(self, z):
    os.kill(os.getpid(), signal.SIGINT)        # as Ctrl-C does, in the middle of the pass
    return add(self, z)
Moments.update = update
main()
"""


def test_an_interrupt_leaves_what_was_there(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.json").write_text("before")
    options = ["--json", str(out / "a.json")]
    result = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_PASS, "inspect", str(path), *options],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == INTERRUPTED == 130, result.stderr
    assert "interrupted: nothing was written" in result.stderr
    assert [(p.name, p.read_text()) for p in out.iterdir()] == [("a.json", "before")]


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_outputs_of_every_encoding(encoding: str, z: Tensor, tmp_path: Path) -> None:
    z[3] = torch.nan
    path = files.npy(tmp_path / "dε.npy", z)  # named in the table
    runner = CliRunner(charset=encoding)
    for name, paths in (("inspect", [path]), ("compare", [path, path])):
        out = tmp_path / f"{name}.json"
        options = (name, *paths, "--nan", "skip", "--json", out)
        result = runner.invoke(cli.app, [str(o) for o in options], env={"COLUMNS": "300"})
        assert result.exit_code == 0, result.output
        text = result.output
        spectrum = next(line for line in text.splitlines() if "spectrum" in line)
        assert ("██" in spectrum) is (encoding == "utf-8")
        assert ("@@" in spectrum) is (encoding != "utf-8")
        assert ("dε.npy" in text) is (encoding == "utf-8")
        assert ("d\\u03b5.npy" in text) is (encoding != "utf-8")
        assert json.loads(out.read_text())["failed"] == []


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names there are Unicode")
def test_a_name_that_is_no_text(z: Tensor, tmp_path: Path) -> None:
    z[3] = torch.nan
    path = files.npy(tmp_path / os.fsdecode(b"bad\xff.npy"), z)
    shown = run("inspect", path, "--nan", "skip")
    assert shown.exit_code == 0, shown.output
    assert "bad\\udcff.npy" in shown.stdout
    assert report("inspect", path, "--nan", "skip")["files"] == [str(path)]
