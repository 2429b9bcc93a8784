"""benchmarks.gpu, all stages one behind the other at sizes of seconds, without a GPU: that they fit
together, which files they leave, and that they end by themselves."""

import json
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import plan, sanitizer, stages, testing, turns
from benchmarks.gpu import providers as p
from benchmarks.gpu.rows import FIELDS, Row, read
from benchmarks.gpu.supervise import Journal
from benchmarks.gpu.sweep import BOTH

SHAPE = "24x40 float32"
SAYS_CLEAN = """#!/bin/sh
echo "{done}"
case $2 in
memcheck) echo "========= ERROR SUMMARY: 0 errors";;
racecheck) echo "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)";;
esac
"""
MOST_FILES = 8  # that a run may leave where it is read
LATE = 25.0  # seconds on a busy machine: what is ended has to end, imports are not ours

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="`make gpu` is the real one")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run's folder, where everything that needs a device is small or says that all is well."""
    for name in ("TRITON", "CUDA"):
        path = tmp_path / f"test_{name.lower()}.py"
        path.write_text("def test_one():\n    pass\n")
        monkeypatch.setattr(testing, name, (str(path),))
    program = tmp_path / "compute-sanitizer"
    program.write_text(SAYS_CLEAN.format(done=sanitizer.DONE))
    program.chmod(0o755)
    monkeypatch.setattr(sanitizer, "find", lambda _: str(program))
    monkeypatch.setattr(stages, "BUILD", ("-c", "import sys; print('built', file=sys.stderr)"))
    monkeypatch.setattr(testing, "why_no_cuda", lambda _: "")
    monkeypatch.setattr(testing, "WORKERS", 1)
    monkeypatch.setattr(testing, "CUDA_WORKERS", 1)
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    return tmp_path / "out"


def run(folder: Path, seconds: float, *more: str) -> tuple[int, list[Row]]:
    scratch = ["--scratch", str(folder.parent / "scratch")]
    arguments = ["run", "--device", "cpu", "--shape", SHAPE, "--seconds", str(seconds)]
    code = command.main([*arguments, *scratch, *more])
    files = sorted(path.name for path in folder.iterdir())
    assert len(files) <= MOST_FILES
    assert all((folder / name).is_file() for name in files)
    return code, read(folder / "gpu.jsonl")


def test_every_stage_behind_the_other(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, rows = run(folder, 300.0)
    assert code == 0
    assert {path.name for path in folder.iterdir()} == {
        *("gpu.jsonl", "log.txt", "errors.txt", "tests.txt", "tests_cuda.txt"),
        *("memcheck.txt", "racecheck.txt"),
    }
    groups = {row["group"] for row in rows}
    assert groups == {"tests", "sanitizer", "root", "rates", "sweep"}
    assert all(row.keys() >= {*FIELDS, "hardware", "versions", "commit"} for row in rows)
    notes = sorted(str(row["note"]) for row in rows if row["group"] in ("tests", "sanitizer"))
    assert notes[:2] == ["1 passed, 0 skipped of 1"] * 2
    assert [note.split(",")[0] for note in notes[2:]] == ["clean", "clean"]
    root = {row["provider"]: row for row in rows if row["group"] == "root"}
    assert root[plan.TRITON]["p50_ms"]
    assert root[plan.CSRC]["error"]  # no device: a row, not an end
    timed = {row["provider"] for row in rows if row["mode"] == BOTH and row["p50_ms"]}
    assert {p.OURS, p.HIGHEST, p.DOUBLE, p.COMPOSED, p.BARLOW, p.UNIFORMITY} <= timed
    scratch = folder.parent / "scratch"
    assert Journal(scratch / "journal.txt").ended() == {"rates", SHAPE}
    assert Journal(scratch / "journal_root.txt").ended() == {"root 24"}
    out = capsys.readouterr().out
    assert "built" in (folder / "errors.txt").read_text()
    for said in ("building in place", "memcheck: clean", "1 of 1 sizes of the root measured"):
        assert said in out
    assert "1 of 1 cases measured" in out
    assert out.splitlines()[-1].startswith("csrc/cuda for PREFERRED")
    assert (folder / "log.txt").read_text().splitlines()[-1] == out.splitlines()[-1]
    assert all(json.loads(line) for line in (folder / "gpu.jsonl").read_text().splitlines())


def test_a_run_ends_by_itself_whatever_hangs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(testing.TRITON[0]).write_text(
        "import time\ndef test_bad():\n    assert 0\ndef test_slow():\n    time.sleep(600)\n"
    )
    Path(sanitizer.find({})).write_text("#!/bin/sh\nsleep 600\n")  # type: ignore[arg-type]
    monkeypatch.setattr(stages, "BUILD", ("-c", "import time; time.sleep(600)"))
    monkeypatch.setattr(stages, "BUILD_SECONDS", 3.0)
    started, seconds = time.time(), 40.0
    code, rows = run(folder, seconds)
    assert time.time() - started < seconds + LATE
    assert code == 1
    (failed,) = [row for row in rows if row["group"] == "tests" and row["wrong"]]
    assert failed["wrong"] == "1 failed, first test_bad: assert 0"
    assert str(failed["note"]).startswith(testing.CUT_OFF)
    assert {row["error"] is None for row in rows if row["group"] == "sanitizer"} == {False}
    assert any(row["group"] in ("root", "sweep") for row in rows)
    out = capsys.readouterr().out
    assert "FAILED test_bad: assert 0" in out
    assert "build: not done in 3 s, going on without it" in out
    assert out.splitlines()[-1].startswith("csrc/cuda for PREFERRED: no size")


def test_some_of_the_stages(folder: Path) -> None:
    code, rows = run(folder, 100.0, "--stages", "build", "tests")
    assert code == 0
    assert [row["group"] for row in rows] == ["tests", "tests"]
    assert not (folder / "memcheck.txt").exists()
    assert turns.SECONDS < 100
