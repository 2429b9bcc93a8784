"""What `pytest benchmarks` is made of: harness, floors, groups, exponents, tables from rows."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import floors, harness, report, scaling
from benchmarks.batches import healthy
from benchmarks.conftest import judge
from benchmarks.harness import Case, Timing, measure, too_slow
from benchmarks.peers import W2_FORMS
from benchmarks.records import latest
from benchmarks.suites import OURS, families, is_ours
from benchmarks.suites.targets import targets
from tests.bench_rows import every_row, group_rows, row, scaling_rows

ONE = [torch.zeros(1)]
FLOORS = (
    *(floors.W2_FORWARD, floors.W2_BACKWARD, floors.UNIFORMITY),
    *(floors.SOLVER, floors.PRODUCT, floors.FRECHET),
)


def raises(z: Tensor) -> None:
    raise torch.linalg.LinAlgError("did not converge\nat all")


def test_what_raises_is_wrong_and_does_not_stop_the_others() -> None:
    cases = [
        Case("raises", raises),
        Case("check raises", lambda z: None, check=lambda: raises(z=ONE[0])),
        Case("right", lambda z: None),
    ]
    timings = measure(cases, ONE, rounds=3, seconds_per_case=1.0)
    for name in ("raises", "check raises"):
        assert timings[name].wrong == "raised LinAlgError: did not converge"
        assert timings[name].samples == []
    assert len(timings["right"].samples) == 3


def test_skipped_is_neither_checked_nor_called() -> None:
    case = Case("slow", raises, check=lambda: "checked", skip=lambda: "too slow")
    timing = measure([case], ONE, rounds=3)["slow"]
    assert (timing.skipped, timing.wrong, timing.samples) == ("too slow", None, [])


def test_timed_if_wrong_keeps_both() -> None:
    case = Case("unstable", lambda z: None, check=lambda: "NaN", timed_if_wrong=True)
    timing = measure([case], ONE, rounds=3, seconds_per_case=1.0)["unstable"]
    assert timing.wrong == "NaN"
    assert len(timing.samples) == 3


def test_equal_names_are_an_error() -> None:
    with pytest.raises(ValueError, match="same name"):
        measure([Case("a", lambda z: None)] * 2, ONE)


@pytest.mark.parametrize(("power", "skipped"), [(3, True), (1, False)])
def test_slow_is_foreseen(monkeypatch: pytest.MonkeyPatch, power: int, skipped: bool) -> None:
    """1e-9 size^3 is 550 s at 8192; 1e-9 size is nothing. Sizes run: a quarter at most."""
    called: list[int] = []

    def seconds(run, z: Tensor) -> float:
        called.append(len(z))
        return 1e-9 * len(z) ** power

    monkeypatch.setattr(harness, "seconds_of", seconds)
    reason = too_slow(lambda z: None, torch.zeros, 8192, limit=4.0)()
    assert (reason is not None) == skipped
    assert max(called) <= 8192 // 4
    if reason:
        assert reason == "foreseen to take 550 s a call, over 4 s"


def test_a_wrong_peer_is_expected_and_the_package_is_not() -> None:
    with pytest.raises(pytest.xfail.Exception, match="svdvals is wrong at G"):
        judge("G", Timing("svdvals", wrong="off"))
    for ours in (OURS, f"{OURS}, eigh"):
        with pytest.raises(pytest.fail.Exception, match="off"):
            judge("G", Timing(ours, wrong="off"))
    with pytest.raises(pytest.skip.Exception, match="foreseen"):
        judge("G", Timing("svdvals", skipped="foreseen"))
    judge("G", Timing(OURS, [1.0]))


@pytest.mark.parametrize("floor", FLOORS, ids=lambda floor: floor.formula)
@pytest.mark.parametrize("shape", [(16, 16), (8, 24), (24, 8)])
def test_floor_parts_run_and_add_up(floor: floors.Floor, shape: tuple[int, int]) -> None:
    if floor is floors.SOLVER and shape[0] != shape[1]:
        shape = (8, 8)
    z = healthy(*shape)
    timings = measure(floor.cases(z), [z], rounds=2, seconds_per_case=0.01)
    assert all(timing.part and timing.wrong is None for timing in timings.values())
    fixed = {name: Timing(name, [1.0]) for name in floor.parts}
    assert floor.seconds(fixed) == sum(weight for weight, _ in floor.parts.values())


@pytest.mark.parametrize("quick", [False, True])
def test_families(quick: bool) -> None:
    found = families(quick)
    assert list(found) == ["W2", "solver", "products", "L_U", "Frechet"]
    groups = [group for family in found.values() for group in family]
    assert len({group.name for group in groups}) == len(groups)
    for group in groups:
        assert any(is_ours(name) for name in group.providers)
        assert len(set(group.providers)) == len(group.providers) > 1
    assert {group.mode for group in found["W2"]} == {"forward", "forward+backward"}


def test_a_target_names_a_group_and_providers_that_exist() -> None:
    groups = {
        (group.family, group.shape): group.providers
        for family in families(quick=False).values()
        for group in family
        if group.mode == "forward+backward"
    }
    for target in targets():
        names = (target.slower,) if isinstance(target.slower, str) else target.slower or ()
        assert set(names) <= set(groups[target.family, target.shape])


def test_a_quick_group_is_timed_whole() -> None:
    (group,) = families(quick=True)["L_U"]
    found = group.run(torch.device("cpu")).rows()
    names = {row["provider"]: row for row in found}
    assert names[OURS]["time_over_floor"] == pytest.approx(
        names[OURS]["p50_ms"] / names[OURS]["floor_ms"], rel=1e-2
    )
    assert names["GEMM"]["mode"] == "part"
    assert {row["group"] for row in found} == {"L_U"}


def test_fit() -> None:
    sizes = [2**i for i in range(8)]
    exact = scaling.fit(sizes, [3e-3 * size**1.7 for size in sizes])
    assert exact is not None
    assert exact.exponent == pytest.approx(1.7)
    assert exact.error == pytest.approx(0, abs=1e-12)
    assert exact.points == 4
    # logs (0, 1, 2), (0, 1 + d, 2): slope 1, residuals d/3 (-1, 2, -1), error sqrt(6 d^2 / 9 / 2)
    d = 0.3
    bent = scaling.fit([math.exp(i) for i in range(3)], [1, math.exp(1 + d), math.exp(2)])
    assert bent is not None
    assert bent.exponent == pytest.approx(1)
    assert bent.error == pytest.approx(d / math.sqrt(3))
    assert scaling.fit([1, 2], [1, 2]) is None


def test_only_the_upper_half_is_fitted() -> None:
    sizes = [2**i for i in range(8)]
    bent = scaling.fit(sizes, [max(16.0, size**1.0) for size in sizes])
    assert bent is not None
    assert bent.exponent == pytest.approx(1)


def test_latest_takes_the_last_commit_of_a_group_and_the_last_row_of_a_case() -> None:
    old, twice, new = row(commit="a"), row(commit="b", p50_ms=1.0), row(commit="b", p50_ms=2.0)
    other = row(group="L_U", commit="a")
    assert latest([old, twice, other, new]) == [other, new]


def test_targets_from_rows() -> None:
    table = report.targets_table(every_row())
    assert table is not None
    found = {(line[0], line[1]): line[2:] for line in table.rows}
    assert found["W2 512 x 8192", "over the floor"] == ["1.10", "<= 1.15", "hit"]
    exponent = found["W2 n = 512, m grows", "exponent of time in m"]
    assert exponent == ["0.80 ± 0.00", "<= 1.05", "hit"]
    assert found["memory 512 x 32768", "peak above input and gradient, in n^2 floats"][0] == "5.0"
    fastest = found["W2 512 x 8192", "time of fastest right form of W2 over ours"]
    assert fastest == ["1.60", ">= 1", "hit"]


def test_the_fastest_with_a_finite_gradient_counts_wherever_n_is_at_most_m() -> None:
    def fastest(*rows: dict[str, object]) -> list[str]:
        table = report.targets_table([row(), *rows])
        assert table is not None
        return next(line for line in table.rows if line[1].startswith("fastest form"))

    slower = row(provider="svdvals", p50_ms=12.0)
    assert fastest(slower)[2:] == ["1.20 (svdvals, 512 x 8192)", ">= 1", "hit"]
    # one wrong in its value is faster; one without a gradient, and one with n > m, do not count
    wrong = row(provider="Muon", p50_ms=8.0, wrong="value off by 1e-2")
    nan = row(provider="eigvalsh", p50_ms=1.0, wrong="gradient not finite")
    tall = [row(shape=[4096, 1024]), row(shape=[4096, 1024], provider="eigvalsh", p50_ms=1.0)]
    found = fastest(slower, wrong, nan, *tall)
    assert found[0] == "0 of 1 rows with n <= m, m >= 1024"
    assert found[2:] == ["0.80 (Muon, 512 x 8192)", ">= 1", "**missed**"]


def test_a_missing_ratio_says_why() -> None:
    (target,) = [t for t in targets() if t.slower == "svdvals"]
    slow = row(provider="svdvals", p50_ms=None, skipped="foreseen to take 9 s")
    assert target.verdict([row(), slow]) == "no ratio: svdvals was not run"
    wrong = row(provider=OURS, p50_ms=None, wrong="off by 1")
    assert target.verdict([wrong, slow]) == "no ratio: wssl_fast is wrong"
    assert target.verdict([row(), row(provider="svdvals", p50_ms=30.0)]) == "**missed**"


def test_group_tables_keep_wrong_and_skipped_rows() -> None:
    table = report.group_tables(group_rows())[0]
    cells = {line[0]: line[1] for line in table.rows}
    names = list(W2_FORMS)
    assert cells[names[1]] == "wrong"
    assert cells[names[2]] == "not run"
    assert f"{names[1]} at 512 x 8192: off by 1" in table.note


def test_scaling_table_names_the_wrong() -> None:
    table = report.scaling_table(scaling_rows())
    assert table is not None
    assert next(line for line in table.rows if line[0] == OURS)[1] == "0.80 ± 0.00"
    assert "paper's eigh (gradient not finite)" in table.note


def test_docs_have_every_marker() -> None:
    page = report.PAGE.read_text(encoding="utf-8")
    for name in ("targets", "groups", "scaling", "accuracy", "steps"):
        assert page.index(f"<!-- {name}: begin -->") < page.index(f"<!-- {name}: end -->")


def test_paste() -> None:
    page = "a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb\n"
    written = report.paste("x", "new\n", page)
    assert written == "a\n<!-- x: begin -->\nnew\n<!-- x: end -->\nb\n"
    assert report.paste("x", "new", written) == written
    with pytest.raises(ValueError, match="y: begin"):
        report.paste("y", "new", page)


def test_rows_are_recorded_where_they_were_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WSSL_BENCH_MACHINE", "here")
    found = harness.rows("G", (2, 3), {"p": Timing("p", [0.5])}, mode="forward", floor=0.25)
    assert harness.record(found, tmp_path) == tmp_path / "here" / "bench.jsonl"
    (written,) = report.read_machine(tmp_path / "here")
    assert written["time_over_floor"] == 2
    assert {"hardware", "versions", "commit", "when", "device", "skipped"} <= written.keys()
