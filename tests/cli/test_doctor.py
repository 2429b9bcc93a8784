"""`wssl-fast doctor`."""

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from tests.cli import files
from wssl_fast import cli
from wssl_fast.backends import choice, native
from wssl_fast.cli import installation
from wssl_fast.cli.exits import BAD_USAGE, BROKEN

run = CliRunner().invoke


def test_doctor_says_what_is_installed_and_used() -> None:
    result = run(cli.app, ["doctor", "--n", "512", "--m", "8192"], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    for expected in ("torch", "threads", "compiled CPU part", "Gram formulation"):
        assert expected in result.output


@pytest.mark.parametrize(("n", "m", "word"), [(4, 4, "Gram"), (5, 4, "covariance")])
def test_report_explains_the_formulation(n: int, m: int, word: str) -> None:
    assert word in dict(cli.report(n, m))[f"auto at {n} x {m}"]


def test_report_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_module", None)
    monkeypatch.setattr(native, "_import_error", "No module named 'wssl_fast._cpu'")
    text = dict(cli.report(8, 8))["compiled CPU part"]
    assert "compiler" in text
    assert "full GEMM" in text


def test_wrong_shape_is_refused() -> None:
    assert run(cli.app, ["doctor", "--n", "0"]).exit_code == 2


def test_report_says_what_triton_would_do(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = dict(cli.report(8, 8))
    assert rows["backend"].startswith("auto asked for: ")
    monkeypatch.setattr(choice, "why_no_triton", lambda: "Triton is not installed (pip install x)")
    assert "pip install" in dict(cli.report(8, 8))["Triton"]


def test_extras_are_shown_in_their_brackets(monkeypatch: pytest.MonkeyPatch) -> None:
    advice = "pip install 'wssl-fast[gpu]'"
    monkeypatch.setattr(choice, "why_no_triton", lambda: advice)
    assert advice in run(cli.app, ["doctor"], env={"COLUMNS": "200"}).output


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ("foo", "WSSL_FAST_BACKEND: 'foo' given, one of auto, eager, triton, cuda expected"),
        ("triton", "backend triton was asked for by name: its kernels take CUDA tensors"),
    ],
)
def test_a_backend_that_cannot_run(
    asked: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "_requested", [asked])
    monkeypatch.setattr(choice, "why_no_triton", lambda: "")
    monkeypatch.setattr(choice, "_interpreting", lambda: False)
    monkeypatch.setattr(installation, "_triton", lambda on_gpu: "not asked here")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = run(cli.app, ["doctor"], env={"COLUMNS": "250"})
    assert result.exit_code == BAD_USAGE == 2
    assert why in result.output
    assert "auto at 512 x 8192" in result.output  # the rest is there all the same
    path = str(files.npy(tmp_path / "a.npy", files.rows()))
    for arguments in (["inspect", path], ["compare", path, path]):
        result = run(cli.app, arguments, env={"COLUMNS": "250"})
        assert result.exit_code == BAD_USAGE
        assert why in result.output


def test_an_error_of_doctor_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "why_no_triton", lambda: 1 / 0)
    result = run(cli.app, ["doctor"])
    assert result.exit_code == BROKEN
    assert "ZeroDivisionError" in result.output
