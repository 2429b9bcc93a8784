"""benchmarks.gpu: the k x k problem alone, measured without a GPU: Triton's interpreter, the
emulator of csrc/cuda, the wall clock."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from benchmarks.gpu import plan, root, root_sweep, sanitize_target, sanitizer, stages, supervise
from benchmarks.gpu import providers as p
from benchmarks.gpu.place import Place
from benchmarks.gpu.root import Contender, Prepared, Problem
from benchmarks.gpu.rows import Log, Row, Rows, read
from benchmarks.gpu.supervise import TOGETHER, Journal, Step
from benchmarks.gpu.sweep import GRAPH, PLAIN, Worker
from benchmarks.gpu.timing import HostStopwatch
from tests.cuda import emulated
from wssl_fast.backends import cuda

CPU = torch.device("cpu")
EMULATED = pytest.mark.skipif(bool(emulated.why_not()), reason=emulated.why_not())


def a_worker(folder: Path, *, left: float = 100.0, skipped: Sequence[Step] = ()) -> Worker:
    rows, journal = Rows(folder / "rows.jsonl", CPU), Journal(folder / "journal.txt")
    log = Log(folder / "log.txt", time.time() + left)
    return Worker(CPU, HostStopwatch(), rows, journal, log, skipped)


def by_provider(rows: Sequence[Row]) -> dict[object, Row]:
    return {one["provider"]: one for one in rows}


@EMULATED
@pytest.mark.skipif(torch.cuda.is_available(), reason="Triton would not interpret")
def test_everyone_is_right_and_timed_on_an_emulated_device(tmp_path: Path) -> None:
    worker = a_worker(tmp_path)
    with emulated.device(blocks=2, shared_bytes=125 * 1024) as device:  # two tiles fit
        root_sweep.run(worker, [64])
        modelled = cuda.estimate(64, device=device)["seconds"]
    found = by_provider(read(worker.rows.path))
    timed = [plan.TRITON, p.COMPOSED, plan.CSRC, "csrc/cuda 64x32"]
    assert set(found) == {*timed, "csrc/cuda 128x64", "csrc/cuda 32x32"}
    for name in timed:
        one = found[name]
        assert (one["group"], one["shape"], one["call"]) == ("root", [64, 64], PLAIN)
        assert one["rounds"] >= 3  # type: ignore[operator]
        assert one["weights_error"] < 1e-5  # type: ignore[operator]
        assert one["value_error"] < 1e-6  # type: ignore[operator]
        assert "1 parts" in str(one["note"])
    mine = found[plan.CSRC]
    assert mine["modelled_ms"] == pytest.approx(modelled * 1e3, rel=1e-3)
    ratio = mine["p50_ms"] / mine["modelled_ms"]  # type: ignore[operator]
    assert mine["time_over_modelled"] == pytest.approx(ratio, rel=1e-2)
    assert "tile 64x64, 2 blocks, 26 barriers" in str(mine["note"])
    assert found[p.COMPOSED]["modelled_ms"] is None
    assert "shared memory of a block" in str(found["csrc/cuda 128x64"]["error"])
    assert Journal(tmp_path / "journal.txt").ended() == {"root 64"}


@EMULATED
def test_parts_are_put_back_and_may_be_several() -> None:
    with emulated.device(blocks=2) as device:
        given = root.problem(24, CPU, m=96, splits=3)
        assert given.splits == 3
        prepared = root.by_cuda(given, -1, device)
        first = [one.clone() for one in prepared.run()]
        prepared.restore()
        again = prepared.run()
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert root.wrong(root.errors(given, first, prepared.factor)) is None
    composed = root.by_composition(given)
    assert root.wrong(root.errors(given, composed.run(), composed.factor)) is None
    assert root.wrong(root.errors(given, composed.run(), 1.0)) is not None
    nan = [torch.full_like(one, torch.nan) for one in first]
    assert "nan" in str(root.wrong(root.errors(given, nan, 1.0)))


def test_without_a_device_csrc_is_one_contender_that_says_why() -> None:
    given = root.problem(16, CPU, m=64, splits=1)
    if torch.cuda.is_available() and cuda.available():
        pytest.skip("csrc/cuda has a device here")
    *others, last = root.contenders(given)
    assert [one.name for one in others] == [plan.TRITON, p.COMPOSED]
    assert last.name == plan.CSRC
    with pytest.raises(RuntimeError, match=r"nvcc|cuda"):
        last.make()


# whatever happens is a row


def fakes(given: Problem) -> list[Contender]:
    composed = root.by_composition(given)

    def twice() -> Prepared:
        return Prepared(composed.restore, composed.run, 2 * composed.factor)

    def deep() -> Prepared:
        return Prepared(composed.restore, composed.run, composed.factor, torch.ones(1))

    def broken() -> Prepared:
        raise torch.OutOfMemoryError("no memory")

    return [
        Contender("right", lambda: composed, 1e-6, "a tile"),
        Contender("wrong", twice, 1e-6),
        Contender("deep", deep),
        Contender("broken", broken),
    ]


@pytest.fixture
def _faked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(root, "contenders", fakes)


@pytest.mark.usefixtures("_faked")
def test_a_size_leaves_a_row_for_whatever_happened(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    worker = a_worker(tmp_path)
    root_sweep.run(worker, [16])
    rows = read(worker.rows.path)
    found = by_provider(rows)
    assert found["right"]["rounds"] == 20
    assert found["right"]["modelled_ms"] == 1e-3
    assert found["right"]["note"] == "a tile; 1 parts"
    assert found["wrong"]["p50_ms"] is None
    assert "weights by 1.0e+00" in str(found["wrong"]["wrong"])
    assert "asks for float64" in str(found["deep"]["note"])
    assert found["broken"]["error"] == "OutOfMemoryError: no memory"
    out = capsys.readouterr().out
    assert "1/1 root 16 x 16" in out
    assert "wrong, plain: value off by" in out
    root_sweep.run(a_worker(tmp_path), [16])
    assert read(worker.rows.path) == rows  # ended sizes are not repeated


@pytest.mark.usefixtures("_faked")
def test_what_was_given_up_or_comes_too_late_is_left_out(tmp_path: Path) -> None:
    worker = a_worker(tmp_path, skipped=[Step("root 16", "right"), Step("root 8", TOGETHER)])
    root_sweep.run(worker, [16, 8])
    found = read(worker.rows.path)
    assert {(one["shape"][0], one["provider"]) for one in found} == {  # type: ignore[index]
        (16, "wrong"), (16, "deep"), (16, "broken")
    }  # fmt: skip
    root_sweep.run(a_worker(tmp_path / "late", left=-1), [16])
    assert read(tmp_path / "late" / "rows.jsonl") == []


def test_a_graph_is_what_the_log_shows() -> None:
    assert root_sweep.summary([]) == ""
    entries = [
        root_sweep.Entry("a", "root", call, [lambda: None], queued=False) for call in (PLAIN, GRAPH)
    ]
    entries[0].timing.samples, entries[1].timing.samples = [2e-4], [1e-4]
    assert root_sweep.summary(entries) == "a (graph) 100.0 us"
    assert root_sweep.summary(entries[:1]) == "a 200.0 us"


# in processes


@pytest.mark.skipif(torch.cuda.is_available(), reason="Triton would not interpret")
def test_the_stage_in_a_process_of_its_own(tmp_path: Path) -> None:
    place = Place(tmp_path, time.time() + 100, "cpu", ("16x64 float32", "64x16 float32"))
    stages.fresh(place)
    assert place.roots() == [16]
    assert stages.roots(place) == []
    found = by_provider(read(place.rows))
    assert set(found) == {plan.TRITON, p.COMPOSED, plan.CSRC}
    assert found[plan.TRITON]["rounds"]
    assert "RuntimeError" in str(found[plan.CSRC]["error"])
    assert not place.journal.exists()


def test_a_hang_of_csrc_costs_a_row_and_its_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = """
import sys, time
from pathlib import Path
from benchmarks.gpu.supervise import Journal, Step
journal = Journal(Path(sys.argv[1]))
if "csrc" in sys.argv[2]:
    journal.end("root 16")
else:
    journal.begin(Step("root 16", "csrc/cuda"))
    time.sleep(60)
"""

    def start(
        *arguments: str, output: Path, skipped: Sequence[Step] = ()
    ) -> subprocess.Popen[bytes]:
        assert arguments[0] == "root-worker"
        journal = output.parent / "scratch" / "journal_root.txt"
        command = [sys.executable, "-c", program, str(journal)]
        return subprocess.Popen(
            [*command, str(skipped)], cwd=supervise.ROOT, start_new_session=True
        )

    monkeypatch.setattr(supervise, "COMPILED", tmp_path / "no cache")
    monkeypatch.setattr(stages, "python", start)
    monkeypatch.setattr(stages, "ROOT_SILENCE", 3.0)
    place = Place(tmp_path, time.time() + 100, "cpu", ("16x64 float32", "32x64 float32"))
    stages.fresh(place)
    assert stages.roots(place) == [Step("root 16", plan.CSRC)]
    lost, late = read(place.rows)
    assert (lost["group"], lost["shape"], lost["provider"]) == ("root", [16, 16], plan.CSRC)
    assert "worker lost: no progress" in str(lost["error"])
    assert (late["shape"], late["skipped"]) == ([32, 32], "time was up, or lost")


# what a sanitizer watches


@EMULATED
def test_the_sanitizers_target(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with emulated.device(blocks=2):
        assert sanitize_target.main(CPU, [20]) == 0
        assert capsys.readouterr().out.splitlines() == [sanitizer.DONE]
        monkeypatch.setattr(root, "WEIGHTS_LIMIT", 0.0)
        assert sanitize_target.main(CPU, [20]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        f"k = 20, tile {rows}x{columns}" for rows, columns, *_ in emulated.module().tiles()
    ]
    assert os.environ.get("PYTORCH_NO_CUDA_MEMORY_CACHING") is None
