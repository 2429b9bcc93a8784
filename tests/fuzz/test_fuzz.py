"""Some hundred cases of the fuzzer in every run of the tests, and the fuzzer's own parts."""

import io
import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from tests.fuzz import __main__ as command
from tests.fuzz import cases, inputs, pool
from tests.fuzz.cases import Case, draw, fitting
from tests.fuzz.check import check
from tests.fuzz.pool import Outcome
from tests.fuzz.report import Report

SEEDS = range(300)


@pytest.mark.parametrize("block", range(10))
def test_drawn_cases(block: int) -> None:
    failed = []
    for seed in SEEDS[block::10]:
        case = draw(seed)
        if max(case.n, case.m, case.other) > 100:  # the command has the larger ones
            continue
        verdict = check(case)
        if verdict.failures:
            failed.append((str(case), verdict.failures))
    assert not failed


def cases_of_any_kind() -> st.SearchStrategy[Case]:
    """The same cases, each word drawn by itself, so that what fails shrinks to what matters."""
    size = st.integers(1, 24)
    built = st.builds(
        Case,
        seed=st.integers(0, 9999),
        function=st.sampled_from(list(cases.FUNCTIONS)),
        n=size,
        m=size,
        other=size,
        batch=st.sampled_from(cases.BATCHES),
        dtype=st.sampled_from(list(cases.DTYPES)),
        layout=st.sampled_from(cases.LAYOUTS),
        spectrum=st.sampled_from(list(cases.SPECTRA)),
        depth=st.integers(0, 9),
        traits=st.lists(st.sampled_from(cases.TRAITS), max_size=2, unique=True).map(tuple),
        mean=st.integers(-1, 6),
        row_scales=st.integers(0, 3),
        scale=st.integers(-3, 3),
        backend=st.sampled_from(["compiled", "plain"]),
        normalize=st.booleans(),
        squared=st.booleans(),
        eps=st.sampled_from([0.0, 1e-9, 1e-4, 1.0]),
        solver=st.sampled_from(["auto", "eigh", "newton_schulz"]),
        precision=st.sampled_from(list(cases.PRECISIONS)),
        t=st.sampled_from([1e-3, 0.5, 2.0, 1e3]),
        alpha=st.sampled_from([0.5, 1.0, 2.0, 3.5]),
        bad=st.sampled_from(["", "nan", "inf"]),
    )
    return built.map(fitting)


@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(case=cases_of_any_kind())
def test_cases_of_any_kind(case: Case) -> None:
    verdict = check(case)
    assert not verdict.failures, str(case)


def test_a_case_is_its_line() -> None:
    for seed in range(2000):
        case = draw(seed)
        assert Case.parse(str(case)) == case
    for wrong in ("seed=1 size=3", "n=3", "seed=1 n"):
        with pytest.raises(ValueError, match="case"):
            Case.parse(wrong)


def test_a_seed_is_its_tensors() -> None:
    case = draw(17)
    assert torch.equal(inputs.batch_of_rows(case, 9, 0), inputs.batch_of_rows(case, 9, 0))
    assert not torch.equal(inputs.batch_of_rows(case, 9, 0), inputs.batch_of_rows(case, 9, 1))


@pytest.mark.parametrize("layout", cases.LAYOUTS)
def test_layouts_hold_the_rows_and_nan_around_them(layout: str) -> None:
    x = torch.randn(2, 3, 4)
    view, base = inputs.laid_out(x, layout)
    assert view.shape == x.shape
    if layout.startswith("same"):
        assert 0 in view.stride()
    else:
        assert torch.equal(view, x)
    assert torch.equal(base[~base.isnan()].sort().values, view.unique())


# the pool


def test_a_dying_process_costs_its_own_case_alone() -> None:
    lines = ["good", "dies", "good", "leaves", "hangs", "raises", "bad", "good"]
    found = list(pool.run(iter(lines), check="tests.fuzz.misbehave:check", seconds=5.0))
    by_line = {outcome.line: outcome.failures for outcome in found}
    assert sorted(outcome.line for outcome in found) == sorted(lines)
    assert by_line["good"] == ()
    assert by_line["bad"] == ("bad",)
    assert "SIGABRT" in by_line["dies"][0]
    assert "exit code 3" in by_line["leaves"][0]
    assert "hung" in by_line["hangs"][0]
    assert "on purpose" in by_line["raises"][0]


# the command


def test_report_counts_and_records(tmp_path: Path) -> None:
    report = Report()
    for seed in range(5):
        report.add(Outcome(str(draw(seed)), (), {"value": 0.1 * seed}, 0.01))
    report.add(Outcome(str(draw(5)), ("wrong",), {}, 0.01))
    report.record(0, 1.0, tmp_path / "a" / "fuzz.json")
    row = json.loads((tmp_path / "a" / "fuzz.json").read_text())
    assert row["cases"] == 6
    assert row["seeds"] == [0, 6]
    assert row["failed"] == [str(draw(5))]
    assert sum(row["counts"]["dtype"].values()) == 6
    out = io.StringIO()
    report.show(Console(width=120, file=out))
    assert "6 cases, 1 failed" in out.getvalue()


def test_exit_codes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def outcomes(lines, **how):  # type: ignore[no-untyped-def]
        for line in lines:
            yield Outcome(line, ("wrong",) if "seed=3" in line else (), {}, 0.01)

    monkeypatch.setattr(command.pool, "run", outcomes)
    assert command.main(["--cases", "3"]) == 0
    assert command.main(["--cases", "4"]) == 1
    assert "seed=3" in capsys.readouterr().out
    assert command.main(["--replay", "seed=3 n=2"]) == 1
    assert command.main(["--replay", "seed=4"]) == 0
    assert command.main(["--replay", "nonsense"]) == 2
    assert command.main(["--cases", "9", "--minutes", "0"]) == 0
