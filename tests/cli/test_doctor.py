"""`wssl-fast doctor`."""

import pytest
from typer.testing import CliRunner

from wssl_fast import cli
from wssl_fast.backends import choice, native

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
