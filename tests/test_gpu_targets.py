"""benchmarks.gpu: targets from rows of a run, sizes to prefer csrc/cuda for, and the command."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import cuda_kernel, plan, sweep, targets, testing
from benchmarks.gpu import providers as p
from benchmarks.gpu.rows import Row, root_row, row
from wssl_fast.backends import cuda

CSRC_TESTS = testing.CUDA[0]
TESTS = (*testing.TRITON, CSRC_TESTS)
H200 = {"architecture": "sm_90", "gpu": "NVIDIA H200"}
H100 = {"architecture": "sm_90", "gpu": "NVIDIA H100 80GB HBM3"}
HEAD = "csrc/cuda for PREFERRED"


def timed(shape: tuple[int, int], name: str, call: str, ms: float, **fields: object) -> Row:
    defaults = {"dtype": "bfloat16", "mode": sweep.BOTH, "rounds": 20}
    return row(
        group="sweep", shape=list(shape), provider=name, call=call, p50_ms=ms, **defaults | fields
    )


def solved(k: int, name: str, us: float, **fields: object) -> Row:
    defaults = {"call": sweep.GRAPH, "rounds": 20, "hardware": H200}
    return root_row(k) | {"provider": name, "p50_ms": us / 1e3} | defaults | fields


def good_rows() -> list[Row]:
    rows = [row(group="tests", provider=name, note="9 passed") for name in TESTS]
    rows += [row(group="sanitizer", provider="memcheck", note="clean")]
    for k, us in plan.ROOT_TARGETS.items():
        rows += [
            solved(k, plan.CSRC, 0.9 * us),
            solved(k, plan.CSRC, 5 * us, call=sweep.PLAIN),
            solved(k, f"{plan.CSRC} 32x32", 0.1 * us),  # not the planned tile: does not count
            solved(k, plan.TRITON, 1.2 * us),
            solved(k, p.COMPOSED, 3 * us),
        ]
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
    assert [v.verdict for v in found] == ["hit"] * 21
    measured = {v.what.split(",")[0]: v.measured for v in found}
    assert measured["faster than the best PyTorch composition"] == "2.5x"
    assert measured["cheaper than the cheapest Barlow Twins on the same rows"] == "6x"
    assert measured["auto over highest on a healthy batch"] == "1.03x"
    # 200 ms at 2048 and 1600 at 4096: exponent 3, 12,800 at 8192, over 0.5
    assert measured["faster than the paper's loss extrapolated from 4096"] == "2.56e+04x"
    assert measured["of the measured dense rate"] == "0.7"
    assert measured["peak memory beyond input and gradient"] == "6"
    assert targets.table(found).splitlines()[-1] == "21 hit, 0 missed, 0 without a verdict"


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
    name, wrong = testing.TRITON[2], "2 failed, first test_zoo: AssertionError"
    rows = [row(group="tests", provider=name, wrong=wrong), *good_rows()]
    found = targets.verdicts(rows)
    verdicts = [v.verdict for v in found]
    withheld = f"withheld: {name}: {wrong}"
    assert verdicts == [withheld] * 12 + ["hit", withheld, "hit"] * 3  # csrc/cuda by itself stands
    assert targets.doubts(rows, found) == [f"{name} withholds 15 ratios: {wrong}"]
    assert "k = 256" in targets.suggestion(rows)


def test_what_no_target_measures_withholds_none() -> None:
    rows = [row(group="tests", provider="a", wrong="1 failed", mode=testing.ASIDE), *good_rows()]
    rows.append(row(group="tests", provider="b", note=f"{testing.CUT_OFF}: 3 passed of 9"))
    found = targets.verdicts(rows)
    assert {v.verdict for v in found} == {"hit"}
    assert targets.doubts(rows, found) == [
        "a withholds no ratio: 1 failed",
        "b not tested to its end: cut off: 3 passed of 9",
    ]


def test_aims_for_an_h200_are_longer_on_a_slower_gpu() -> None:
    def aims(hardware: dict[str, str], **rates: float) -> list[str]:
        rows = [r | {"hardware": hardware} for r in good_rows()]
        names = {"half": (targets.DENSE, "float16"), "copy": (targets.COPY, "float32")}
        for kind, rate in rates.items():
            provider, dtype = names[kind]
            rows.append({"provider": provider, "dtype": dtype, "rate": rate})
        found = [v for v in of_root(rows) if v.aim.startswith("<=") or "us" in v.aim]
        return [f"{v.measured} {v.aim}: {v.verdict}" for v in found][:1]

    assert aims(H200) == ["54 us <= 60 us: hit"]
    # 790 TFLOP/s and 4.3 TB/s on an H200: the worse ratio
    assert aims(H100, half=790.0, copy=2.15) == ["54 us <= 120 us (2.00 x 60 on an H200): hit"]
    assert aims(H100, half=395.0, copy=4.3) == ["54 us <= 120 us (2.00 x 60 on an H200): hit"]
    assert aims(H100, half=900.0, copy=9.9) == ["54 us <= 60 us (1.00 x 60 on an H200): hit"]
    (found,) = aims(H100, half=700.0)
    assert found == " <= 60 us: not measured: no row of the float32 device copy"


# csrc/cuda


def of_root(rows: Sequence[Row]) -> list[targets.Verdict]:
    return [v for v in targets.verdicts(rows) if v.case.endswith("root")]


def test_targets_of_the_root() -> None:
    assert plan.ROOT_TARGETS == cuda_kernel.TARGETS
    assert set(plan.ROOT_TARGETS) < set(plan.ROOT_SIZES)
    found = of_root(good_rows())
    assert [v.measured for v in found[:3]] == ["54 us", "1.33x", "3.33x"]
    assert [v.aim for v in found[::3]] == ["<= 60 us", "<= 120 us", "<= 350 us"]
    rows = [r for r in good_rows() if r.get("shape") != [512, 512]]
    rows += [
        solved(512, plan.CSRC, 130.0),
        solved(512, plan.TRITON, 120.0),
        root_row(512) | {"provider": p.COMPOSED, "error": "OutOfMemoryError: no memory"},
        # another problem of the same shape
        row(group="sweep", shape=[512, 512], dtype="float32", skipped="time was up, or lost"),
    ]
    assert [v.verdict for v in of_root(rows)[3:6]] == [
        "missed",
        "missed",
        "not measured: composition at 512 x 512 (graph): OutOfMemoryError: no memory",
    ]
    rows = [r for r in rows if r.get("shape") != [512, 512] or r.get("group") != "root"]
    assert "no row of csrc/cuda at 512 x 512 (graph)" in of_root(rows)[3].verdict


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"group": "tests", "provider": CSRC_TESTS, "wrong": "failed: 1 failed"}, CSRC_TESTS),
        ({"group": "sanitizer", "provider": "racecheck", "wrong": "2 errors found"}, "racecheck"),
    ],
)
def test_what_is_wrong_with_csrc_withholds_its_ratios_alone(
    bad: Row, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [*good_rows(), row(**bad)]
    verdicts = [v.verdict for v in targets.verdicts(rows)]
    assert verdicts == ["hit"] * 12 + [f"withheld: {said}: {bad['wrong']}"] * 9
    assert targets.suggestion(rows) == f"{HEAD}: no size ({said}: {bad['wrong']})"
    monkeypatch.setitem(cuda.PREFERRED, "sm_90", (1, 64))  # the package takes it: all count
    assert "hit" not in {v.verdict for v in targets.verdicts(rows)}


def test_sizes_to_prefer() -> None:
    rows = good_rows()
    said = "k = 256 (1.33x), 512 (1.33x), 1024 (1.33x)"
    assert targets.suggestion(rows) == f'{HEAD}: {said}: {{"sm_90": (256, 1024)}}'
    rows += [solved(768, plan.CSRC, 10.0, wrong="value off", p50_ms=None)]
    rows += [solved(768, plan.TRITON, 20.0), solved(2048, plan.TRITON, 20.0)]
    assert targets.suggestion(rows) == f"{HEAD}: {said}; no single range, not at [768]"
    slow = [r for r in good_rows() if r.get("group") != "root"]
    slow += [solved(256, plan.CSRC, 2.0), solved(256, plan.TRITON, 2.0)]
    assert targets.suggestion(slow) == f"{HEAD}: no size (faster at none of 1 that were measured)"
    for fields in ({"skipped": "not built"}, {"note": "cut off: ..."}):
        rows = [*good_rows(), row(group="tests", provider=CSRC_TESTS, **fields)]
        (why,) = fields.values()
        assert targets.suggestion(rows) == f"{HEAD}: no size ({CSRC_TESTS}: {why})"
    assert "no row of tests/cuda" in targets.suggestion([])


def test_extrapolation_is_a_row_that_says_so() -> None:
    found = targets.extrapolated(good_rows())
    assert found is not None
    assert found["p50_ms"] == pytest.approx(12800)
    assert found["extrapolated"]
    assert found["note"] == "extrapolated from m = 2048 and 4096, time ~ m^3.00"
    assert targets.extrapolated([]) is None
    again = targets.verdicts([*good_rows(), found])  # is not taken for a measurement
    assert all(v.verdict == "hit" for v in again)


# command


def test_dry_run_prints_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["run", "--dry"]) == 0
    out = capsys.readouterr().out
    stages, cases = out.split("sweep      until the end:\n")
    assert [line.split()[0] for line in stages.splitlines()] == [
        *("build", "tests", "sanitizer", "root")
    ]
    assert "tests/cuda/test_w2.py" in stages
    assert "k = 256, 512, 1024, 128, 768, 2048" in stages
    assert cases.splitlines()[0].split()[2:5] == ["target", "512x8192", "bfloat16"]
    assert "168 cases" in cases
    assert command.main(["sweep", "--dry"]) == 0
    assert capsys.readouterr().out == cases


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
    out = capsys.readouterr().out
    assert "21 hit" in out
    assert "csrc/cuda for PREFERRED" in out.splitlines()[-1]
