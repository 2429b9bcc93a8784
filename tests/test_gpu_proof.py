"""benchmarks.gpu: which tests a run selects and what they said, a sanitizer's verdict, stages."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import plan, sanitizer, stages, testing
from benchmarks.gpu import providers as p
from benchmarks.gpu.place import Place
from benchmarks.gpu.rows import Row, read
from benchmarks.gpu.supervise import TOGETHER, Step
from tests.test_gpu_turns import a_lot, a_place
from wssl_fast.backends import cuda

CPU = torch.device("cpu")


# tests


def test_what_is_tested_and_in_which_order() -> None:
    triton, csrc = testing.triton_lot(), testing.cuda_lot()
    assert csrc.selection == ("tests/cuda/test_w2.py",)
    assert triton.report != csrc.report
    assert triton.selection[:3] == tuple(
        f"tests/triton/test_{x}.py" for x in ("tiles", "gram", "w2")
    )
    files = {f"tests/triton/{path.name}" for path in (stages.ROOT / "tests/triton").glob("test_*")}
    without = {f"tests/triton/test_{x}.py" for x in ("compiled", "second_device")}  # need no device
    assert files - set(triton.selection) == without
    assert set(triton.selection) < files
    assert len(triton.selection) == len(set(triton.selection))


def test_why_csrc_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "not on cpu" in testing.why_no_cuda("cpu")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert "the device has 7.5" in testing.why_no_cuda("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    assert testing.why_no_cuda("cuda") == cuda.why_missing()  # asks a new process
    monkeypatch.setattr(testing.sys, "executable", "/bin/false")
    assert testing.why_no_cuda("cuda").startswith("it cannot be imported")


def test_a_test_that_fails_is_no_proof(tmp_path: Path) -> None:
    place = a_place(tmp_path)
    lot = a_lot(tmp_path, "def test_one():\n    assert False\n")
    assert not stages.proof(place, lot.selection, ("tests", "sanitizer"))
    groups = [(r["group"], bool(r["wrong"]), bool(r["skipped"])) for r in read(place.rows)]
    assert sorted(groups) == [("sanitizer", False, True)] * 2 + [("tests", True, False)]


def test_tests_of_csrc_left_out_are_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place, ran = a_place(tmp_path), []
    monkeypatch.setattr(testing, "run", lambda place, lot, log, until: ran.append(lot) or [])
    monkeypatch.setattr(sanitizer, "run", lambda *_, **__: True)
    monkeypatch.setattr(testing, "why_no_cuda", lambda device: "nvcc was not found")
    assert stages.proof(place, None, ("tests", "sanitizer"))
    assert [lot.report for lot in ran] == ["tests"]
    (found,) = read(place.rows)
    assert (found["provider"], found["skipped"]) == (testing.CUDA[0], "nvcc was not found")
    assert "tests/cuda left out: nvcc was not found" in capsys.readouterr().out


@pytest.mark.parametrize("slow", ["tests", "sanitizer", "warming"])
def test_warming_goes_on_until_all_else_is_done(
    slow: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(a_place(tmp_path).folder, time.time() + 100)
    seconds = {name: 2.0 if name == slow else 0.2 for name in ("tests", "sanitizer", "warming")}
    command = [sys.executable, "-c", f"import time; time.sleep({seconds['warming']})"]
    warming = subprocess.Popen(command, start_new_session=True)
    ends: list[float] = []

    def some(name: str, said: object) -> object:
        time.sleep(seconds[name])
        ends.append(time.time())
        return said

    monkeypatch.setattr(stages, "_start_warming", lambda *_: [warming])
    monkeypatch.setattr(testing, "why_no_cuda", lambda _: "")
    monkeypatch.setattr(testing, "run", lambda *_: some("tests", []))
    monkeypatch.setattr(sanitizer, "run", lambda *_, **__: some("sanitizer", True))
    started = time.time()
    assert stages.proof(place, None, ("tests", "sanitizer", "sweep"))
    assert 2.0 <= time.time() - started < 10
    assert warming.returncode == 0  # not stopped


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
    monkeypatch.setattr(stages, "proof", lambda *_: done.append("proof") or right)
    monkeypatch.setattr(stages, "roots", lambda *_: done.append("roots") or lost)
    monkeypatch.setattr(stages, "sweep", lambda _, without_cuda: done.append(without_cuda))
    monkeypatch.setattr(stages, "conclude", lambda _: done.append("conclude"))
    assert stages.everything(a_place(tmp_path), None) == (0 if right else 1)
    assert done == ["proof", "roots", without, "conclude"]
    done.clear()
    stages.everything(a_place(tmp_path), None, ("build", "tests"))
    assert done == ["proof", "conclude"]


def test_a_stage_that_breaks_off_costs_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> bool:
        raise OSError("no such file")

    done: list[object] = []
    for name in ("proof", "roots"):
        monkeypatch.setattr(stages, name, broken)
    monkeypatch.setattr(stages, "sweep", lambda _, without_cuda: done.append(without_cuda))
    place = a_place(tmp_path)
    assert stages.everything(place, None) == 1
    assert done == [True]  # nobody knows what the root would have said
    rows = [(one["group"], one["error"]) for one in read(place.rows)]
    assert rows == [("proof", "OSError: no such file"), ("root", "OSError: no such file")]
    assert "proof broke off, going on: OSError: no such file" in capsys.readouterr().out
    assert "Traceback" in place.errors.read_text()


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
