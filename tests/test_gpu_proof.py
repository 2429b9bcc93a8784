"""benchmarks.gpu: which tests a run selects and what they said, a sanitizer's verdict, stages."""

import os
import time
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import plan, sanitizer, stages, testing
from benchmarks.gpu import providers as p
from benchmarks.gpu.place import Place
from benchmarks.gpu.rows import Row, read
from benchmarks.gpu.supervise import TOGETHER, Step
from wssl_fast.backends import cuda

CPU = torch.device("cpu")


def a_place(folder: Path) -> Place:
    place = Place(folder / "out", time.time() + 100, "cpu")
    stages.fresh(place)
    return place


# tests


def test_csrc_is_tested_where_it_can_run() -> None:
    triton, csrc = testing.lots("")
    assert testing.lots("not built") == [triton]
    assert csrc.selection == ("tests/cuda/test_w2.py",)
    assert triton.report != csrc.report
    assert all((stages.ROOT / lot.selection[0]).exists() for lot in (triton, csrc))
    assert csrc.command()[1:4] == ["-m", "pytest", "tests/cuda/test_w2.py"]


def test_why_csrc_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "not on cpu" in testing.why_no_cuda("cpu")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert "the device has 7.5" in testing.why_no_cuda("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    assert testing.why_no_cuda("cuda") == cuda.why_missing()  # asks a new process
    monkeypatch.setattr(testing.sys, "executable", "/bin/false")
    assert testing.why_no_cuda("cuda").startswith("it cannot be imported")


def test_outcome_of_tests() -> None:
    assert testing.outcome(["...", "=== 9 passed in 3s ==="], 0) == (None, "9 passed in 3s")
    failed, _ = testing.outcome(["FAILED a", "1 failed, 8 passed in 3s"], 1)
    assert failed == "failed: 1 failed, 8 passed in 3s"
    assert testing.outcome(["....... [ 50%]"], None)[0] is None
    assert testing.outcome(["..F.... [ 50%]"], None)[0] == "failed before they were cut off"


def test_lots_are_run_and_reported_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(testing, "WORKERS", 1)
    texts = {
        "good": "def test_one():\n    pass\n",
        "bad": "def test_one():\n    assert False\n",
        "slow": "import time\ndef test_one():\n    time.sleep(60)\n",
    }
    for name, text in texts.items():
        (tmp_path / f"test_{name}.py").write_text(text)
    place, started = a_place(tmp_path), time.time()
    lots = [testing.Lot(name, (str(tmp_path / f"test_{name}.py"),), name) for name in texts]
    failed = testing.run(place, lots[:2], place.logger(), started + 60)
    assert testing.run(place, lots[2:], place.logger(), time.time() + 1) == []
    assert time.time() - started < 50
    good, bad, slow = read(place.rows)
    assert [one["provider"] for one in (good, bad, slow)] == list(texts)
    assert failed == [bad["wrong"]]
    assert "1 failed" in str(bad["wrong"])
    assert (good["wrong"], slow["wrong"]) == (None, None)
    assert str(slow["note"]).startswith("cut off")
    assert "FAILED" in capsys.readouterr().out


def test_a_test_that_fails_is_no_proof(tmp_path: Path) -> None:
    (tmp_path / "test_one.py").write_text("def test_one():\n    assert False\n")
    place = a_place(tmp_path)
    assert not stages.proof(place, [str(tmp_path / "test_one.py")], place.logger())
    groups = [(r["group"], bool(r["wrong"]), bool(r["skipped"])) for r in read(place.rows)]
    assert sorted(groups) == [("sanitizer", False, True)] * 2 + [("tests", True, False)]


def test_tests_of_csrc_left_out_are_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place, ran = a_place(tmp_path), []
    monkeypatch.setattr(testing, "run", lambda place, lots, log, until: ran.extend(lots) or [])
    monkeypatch.setattr(sanitizer, "run", lambda *_: True)
    monkeypatch.setattr(testing, "why_no_cuda", lambda device: "nvcc was not found")
    assert stages.proof(place, None, place.logger())
    assert [lot.provider for lot in ran] == [testing.PYTEST]
    (found,) = read(place.rows)
    assert (found["provider"], found["skipped"]) == (testing.PYTEST_CUDA, "nvcc was not found")
    assert "tests/cuda left out: nvcc was not found" in capsys.readouterr().out


# sanitizer

HEADER = "========= COMPUTE-SANITIZER"
CLEAN = {
    "memcheck": "========= ERROR SUMMARY: 0 errors",
    "racecheck": "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)",
}
DIRTY = {
    "memcheck": "========= ERROR SUMMARY: 12 errors",
    "racecheck": "========= RACECHECK SUMMARY: 3 hazards displayed (2 errors, 1 warning)",
}
INVALID = "========= Invalid __global__ write of size 4 bytes"


@pytest.mark.parametrize("tool", sanitizer.TOOLS)
def test_verdict_of_a_sanitizer(tool: str) -> None:
    def verdict(*lines: str, code: int | None = 0) -> Row:
        return sanitizer.verdict(tool, [HEADER, *lines], code, 3.0)

    assert verdict(sanitizer.DONE, CLEAN[tool]) == {"note": "clean, 0 warnings, 3 s"}
    wrong = verdict(INVALID, sanitizer.DONE, DIRTY[tool])["wrong"]
    errors = {"memcheck": 12, "racecheck": 2}[tool]
    assert wrong == f"{errors} errors found: Invalid __global__ write of size 4 bytes"
    assert verdict(CLEAN[tool]) == {"error": "exit code 0: it printed nothing"}
    failed = verdict("RuntimeError: no device", CLEAN[tool], code=1)
    assert failed == {"error": "exit code 1: RuntimeError: no device"}
    assert verdict("Unable to start", code=1) == {
        "error": "no summary, exit code 1: Unable to start"
    }
    assert verdict(code=None) == {"error": "timed out after 3 s"}
    assert "after Invalid __global__ write" in str(verdict(INVALID, code=None)["wrong"])


def a_sanitizer(folder: Path, body: str) -> str:
    program = folder / "compute-sanitizer"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    return str(program)


@pytest.mark.parametrize("kind", ["clean", "errors", "hangs", "missing"])
def test_a_sanitizer_is_run_and_reported(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    summaries = CLEAN if kind == "clean" else DIRTY
    cases = "".join(f"{tool}) echo '{line}';; " for tool, line in summaries.items())
    say = f"echo '{sanitizer.DONE}'; echo \"$@\"; echo $PYTORCH_NO_CUDA_MEMORY_CACHING; "
    body = "sleep 60 & wait" if kind == "hangs" else f"{say} case $2 in {cases} esac"
    monkeypatch.setattr(sanitizer, "SECONDS", 0.6 if kind == "hangs" else 30.0)
    program = a_sanitizer(tmp_path, body)
    monkeypatch.setattr(sanitizer, "find", lambda _: None if kind == "missing" else program)
    place, started = a_place(tmp_path), time.time()
    assert sanitizer.run(place, "", place.logger()) == (kind != "errors")
    assert time.time() - started < 30
    rows = read(place.rows)
    assert [(r["group"], r["provider"]) for r in rows] == [
        ("sanitizer", tool) for tool in sanitizer.TOOLS
    ]
    field, said = {
        "clean": ("note", "clean"),
        "errors": ("wrong", "errors found"),
        "hangs": ("error", "timed out after 1 s"),
        "missing": ("skipped", "compute-sanitizer: not in PATH"),
    }[kind]
    assert all(said in str(r[field]) for r in rows)
    assert f"racecheck: {rows[1][field]}" in capsys.readouterr().out
    if kind == "clean":
        lines = place.report("memcheck").read_text().splitlines()
        assert lines[1].startswith("--tool memcheck --report-api-errors no ")
        assert lines[1].endswith(f"-m {sanitizer.TARGET} cpu")
        assert lines[2] == "1"


def test_where_a_sanitizer_is_looked_for(tmp_path: Path) -> None:
    assert sanitizer.find({"PATH": str(tmp_path)}, str(tmp_path)) is None
    for name in ("home", "last"):
        (tmp_path / name / "bin").mkdir(parents=True)
    last = a_sanitizer(tmp_path / "last" / "bin", "")
    assert sanitizer.find({"PATH": str(tmp_path)}, str(tmp_path / "last")) == last
    home = a_sanitizer(tmp_path / "home" / "bin", "")
    given = {"PATH": str(tmp_path), "CUDA_HOME": str(tmp_path / "home")}
    assert sanitizer.find(given, str(tmp_path / "last")) == home
    on_path = a_sanitizer(tmp_path, "")
    assert sanitizer.find(given, str(tmp_path / "last")) == on_path


# build, and the order of things


def test_csrc_is_built_for_the_architecture_at_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(a_place(tmp_path).folder, time.time() + 100)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(stages.sys, "executable", a_sanitizer(tmp_path, "env >&2"))
    for given, wanted in ((None, "90a"), ("80,100", "80,100")):
        if given:
            monkeypatch.setenv("WSSL_FAST_CUDA_ARCHS", given)
        else:
            monkeypatch.delenv("WSSL_FAST_CUDA_ARCHS", raising=False)
        place.errors.unlink(missing_ok=True)
        stages.build(place, place.logger())
        assert f"WSSL_FAST_CUDA_ARCHS={wanted}" in place.errors.read_text().splitlines()
    assert [stages.architecture(c) for c in ((9, 0), (8, 9), (10, 0))] == ["90a", "89", "100"]


def test_a_build_that_takes_too_long_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place, alive = a_place(tmp_path), tmp_path / "alive"
    body = f"(sleep 1; touch {alive}) & wait"
    monkeypatch.setattr(stages.sys, "executable", a_sanitizer(tmp_path, body))
    monkeypatch.setattr(stages, "BUILD_SECONDS", 0.3)
    stages.build(place, place.logger())
    assert "going on without it" in capsys.readouterr().out
    time.sleep(1)
    assert not alive.exists()


@pytest.mark.parametrize(
    ("lost", "without"),
    [
        ([], False),
        ([Step("root 256", plan.TRITON)], False),
        ([Step("root 256", "csrc/cuda 64x32")], True),
        ([Step("root 256", TOGETHER)], True),
    ],
)
@pytest.mark.parametrize("right", [True, False])
def test_order_of_stages(
    lost: list[Step], without: bool, right: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[object] = []
    monkeypatch.setattr(stages, "build", lambda *_: done.append("build"))
    monkeypatch.setattr(stages, "proof", lambda *_: done.append("proof") or right)
    monkeypatch.setattr(stages, "roots", lambda _: done.append("roots") or lost)
    monkeypatch.setattr(stages, "sweep", lambda _, without_cuda: done.append(without_cuda))
    monkeypatch.setattr(stages, "conclude", lambda _: done.append("conclude"))
    assert stages.everything(a_place(tmp_path), None) == (0 if right else 1)
    assert done == ["build", "proof", "roots", without, "conclude"]


def test_the_sweep_leaves_out_what_was_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, given = a_place(tmp_path), []
    monkeypatch.setattr(stages, "supervise", lambda *_, skipped, **__: given.extend(skipped))
    stages.sweep(place, without_cuda=True)
    assert given == [Step("*", p.CUDA)]
    rows = [r for r in read(place.rows) if r["provider"] == p.CUDA]
    assert len(rows) == 6
    assert all("csrc/cuda may have cost a worker" in str(r["skipped"]) for r in rows)
    assert os.environ.get("WSSL_FAST_BACKEND", "auto") != "cuda"
