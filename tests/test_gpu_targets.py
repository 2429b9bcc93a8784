"""benchmarks.gpu: targets from rows of a run, what the tests of a run said, and the command."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import plan, stages, sweep, targets
from benchmarks.gpu import providers as p
from benchmarks.gpu.rows import Row, read, row


def timed(shape: tuple[int, int], name: str, call: str, ms: float, **fields: object) -> Row:
    defaults = {"dtype": "bfloat16", "mode": sweep.BOTH, "rounds": 20}
    return row(
        group="sweep", shape=list(shape), provider=name, call=call, p50_ms=ms, **defaults | fields
    )


def good_rows() -> list[Row]:
    rows = [row(group="tests", provider="pytest", note="9 passed")]
    rows.append({"provider": targets.DENSE, "dtype": "bfloat16", "rate": 700.0})
    for shape in plan.TARGET_SHAPES:
        rows += [
            timed(shape, p.OURS, sweep.GRAPH, 0.2),
            timed(shape, p.OURS, sweep.PLAIN, 0.5),
            timed(shape, p.HIGHEST, sweep.GRAPH, 0.195),
            timed(shape, p.COMPOSED, sweep.GRAPH, 0.9),
            timed(shape, p.COMPILED, sweep.GRAPH, 0.5),
            timed(shape, p.COMPOSED_FAST, sweep.GRAPH, 0.21),  # less accurate: does not count
            timed(shape, p.BARLOW, sweep.GRAPH, 2.0),
            timed(shape, p.BARLOW_AUTOCAST, sweep.GRAPH, 1.2),
        ]
    for (n, m), ms in zip(plan.LITERAL_SHAPES, (200.0, 1600.0), strict=True):
        rows.append(timed((n, m), p.LITERAL, sweep.PLAIN, ms, wrong="gradient is NaN"))
    for n, m in plan.LARGE_SHAPES:
        ms = targets.counted_flops(n, m) / (0.7 * 700e12) * 1e3
        rows.append(timed((n, m), p.OURS, sweep.GRAPH, ms))
    n, m = plan.MEMORY_SHAPE
    for dtype, size in (("bfloat16", 2), ("float32", 4)):
        peak = n * m * size + 6 * 4 * n * n
        rows.append(
            timed((n, m), p.OURS, sweep.PLAIN, 1.0, dtype=dtype, peak_bytes=peak, mode=sweep.BOTH)
        )
    return rows


def by_ratio(rows: Sequence[Row]) -> dict[tuple[str, str], targets.Verdict]:
    return {(v.case, v.what.split(",")[0]): v for v in targets.verdicts(rows)}


def test_targets_hit() -> None:
    found = targets.verdicts(good_rows())
    assert [v.verdict for v in found] == ["hit"] * 12
    measured = {v.what.split(",")[0]: v.measured for v in found}
    assert measured["faster than the best PyTorch composition"] == "2.5x"
    assert measured["cheaper than the cheapest Barlow Twins on the same rows"] == "6x"
    assert measured["auto over highest on a healthy batch"] == "1.03x"
    # 200 ms at 2048 and 1600 at 4096: exponent 3, 12,800 at 8192, over 0.5
    assert measured["faster than the paper's loss extrapolated from 4096"] == "2.56e+04x"
    assert measured["of the measured dense rate"] == "0.7"
    assert measured["peak memory beyond input and gradient"] == "6"
    assert targets.table(found).splitlines()[-1] == "12 hit, 0 missed, 0 without a verdict"


def test_targets_missed_and_not_measured() -> None:
    rows = [r for r in good_rows() if r.get("provider") not in (p.HIGHEST, p.LITERAL)]
    for r in rows:
        if r.get("provider") == p.COMPILED:
            r["p50_ms"] = 0.3
    rows.append(row(shape=[512, 8192], dtype="bfloat16", provider=p.HIGHEST, error="OutOfMemory"))
    found = by_ratio(rows)
    case = "512 x 8192 bfloat16"
    verdict = found[case, "faster than the best PyTorch composition"]
    assert (verdict.measured, verdict.aim, verdict.verdict) == ("1.5x", ">= 2x", "missed")
    verdict = found[case, "auto over highest on a healthy batch"]
    assert verdict.verdict == "not measured: wssl_fast highest at 512 x 8192 (graph): OutOfMemory"
    assert "no row of paper's loss" in found[case, "faster than the paper's loss extrapolated from "
                                             "4096"].verdict  # fmt: skip
    assert "missed" in targets.table(list(found.values()))
    assert all(v.verdict.startswith("not measured") for v in targets.verdicts([]))


def test_no_ratio_counts_where_tests_failed() -> None:
    rows = [row(group="tests", provider="pytest", wrong="failed: 2 failed"), *good_rows()[1:]]
    verdicts = {v.verdict for v in targets.verdicts(rows)}
    assert verdicts == {"withheld: tests failed: 2 failed"}


def test_extrapolation_is_a_row_that_says_so() -> None:
    found = targets.extrapolated(good_rows())
    assert found is not None
    assert found["p50_ms"] == pytest.approx(12800)
    assert found["extrapolated"]
    assert found["note"] == "extrapolated from m = 2048 and 4096, time ~ m^3.00"
    assert targets.extrapolated([]) is None
    again = targets.verdicts([*good_rows(), found])  # is not taken for a measurement
    assert all(v.verdict == "hit" for v in again)


# stages and command


def test_outcome_of_tests() -> None:
    assert stages.outcome(["...", "=== 9 passed in 3s ==="], 0) == (None, "9 passed in 3s")
    failed, _ = stages.outcome(["FAILED a", "1 failed, 8 passed in 3s"], 1)
    assert failed == "failed: 1 failed, 8 passed in 3s"
    assert stages.outcome(["....... [ 50%]"], None)[0] is None
    assert stages.outcome(["..F.... [ 50%]"], None)[0] == "failed before they were cut off"


@pytest.mark.parametrize("broken", [False, True])
def test_tests_are_run_and_reported(tmp_path: Path, broken: bool) -> None:
    (tmp_path / "test_one.py").write_text(f"def test_one():\n    assert not {broken}\n")
    place = stages.Place(tmp_path / "out", time.time() + 100, "cpu")
    stages.fresh(place)
    failed = stages.run_tests(place, [str(tmp_path / "test_one.py")], place.logger())
    assert bool(failed) == broken
    (found,) = read(place.rows)
    assert (found["group"], found["wrong"]) == ("tests", failed)
    assert bool(targets.tests_failed(read(place.rows))) == broken


def test_dry_run_prints_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["run", "--dry"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].split()[2:5] == ["target", "512x8192", "bfloat16"]
    assert "168 cases" in out


def test_without_a_gpu_nothing_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert command.main(["run", "--out", str(tmp_path)]) == 2
    assert "no CUDA device" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_targets_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, good_rows())))
    assert command.main(["targets", str(path)]) == 0
    assert "12 hit" in capsys.readouterr().out
