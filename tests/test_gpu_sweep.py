"""benchmarks.gpu without a GPU: everything of `make gpu` but the CUDA timing itself."""

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.gpu import plan, supervise, sweep, timing
from benchmarks.gpu import providers as p
from benchmarks.gpu.compositions import composed_w2
from benchmarks.gpu.plan import Case
from benchmarks.gpu.rows import FIELDS, Log, Row, Rows, read, row, times
from benchmarks.gpu.supervise import EVERY_JOB, TOGETHER, Journal, Step, is_skipped
from benchmarks.gpu.timing import Entry, HostStopwatch, measure
from benchmarks.harness import Timing
from benchmarks.peers import Loss, eigvalsh_w2

CPU = torch.device("cpu")
SHAPES = [(48, 80), (37, 129), (96, 40)]  # Gram, odd, covariance


# plan


def test_plan_has_the_whole_grid_once_and_targets_first() -> None:
    cases = plan.plan()
    assert [case.key for case in cases[:2]] == ["512x8192 bfloat16", "1024x8192 bfloat16"]
    keys = [case.key for case in cases]
    assert len(keys) == len(set(keys))
    grid = {(n, m, d) for n in plan.ROWS for m in plan.COLUMNS for d in plan.DTYPES}
    assert {(case.n, case.m, case.dtype) for case in cases} == grid
    assert len(grid) == 7 * 8 * 3
    for needed in (*plan.LARGE_SHAPES, plan.MEMORY_SHAPE, *plan.LITERAL_SHAPES):
        assert keys.index(f"{needed[0]}x{needed[1]} bfloat16") < 9
    with_cuda = {case.key for case in cases if p.CUDA in case.providers}
    shapes = ("512x8192", "1024x8192", "256x2048")
    assert with_cuda == {f"{shape} {d}" for shape in shapes for d in ("bfloat16", "float32")}
    assert max(keys.index(key) for key in with_cuda) < 13
    tiers = [case.tier for case in cases]
    assert tiers.index("coarse") < tiers.index("fill")
    assert tiers == sorted(tiers, key=list(dict.fromkeys(tiers)).index)


def test_plan_times_every_provider_somewhere() -> None:
    tried = {
        name
        for case in plan.plan()
        for name in case.providers
        if p.BY_NAME[name].fits(case.n, case.m, case.half)
    }
    assert tried == set(p.BY_NAME)


def test_the_grid_begins_at_the_centre_and_ends_with_what_is_expensive() -> None:
    cases = plan.by_interest("fill", plan.ROWS, plan.COLUMNS, "float32")
    assert (cases[0].n, cases[0].m) == plan.CENTRE
    expensive = [case.seconds() > plan.EXPENSIVE for case in cases]
    assert expensive == sorted(expensive)
    assert any(expensive)


def test_a_case_is_begun_only_if_it_fits() -> None:
    case = Case("fill", 512, 8192, "bfloat16", plan.GRID)
    assert plan.affordable(case, case.seconds() * 1.1, 1.0)
    assert not plan.affordable(case, case.seconds() * 1.1, 2.0)


# timing


class Clock:
    """A stopwatch that believes what the call returns."""

    def __init__(self) -> None:
        self.order: list[object] = []

    def seconds(self, call: timing.Call, *, queued: bool) -> float:
        who, taken = call()
        self.order.append(who)
        return taken

    def peak_bytes(self, call: timing.Call) -> int | None:
        call()
        return 1234


def entry(name: str, taken: float, sets: int = 3) -> Entry:
    runs = [lambda i=i: ((name, i), taken) for i in range(sets)]
    return Entry(name, sweep.BOTH, sweep.PLAIN, runs, queued=False)


def test_rounds_are_interleaved_over_rotated_inputs() -> None:
    entries, clock = [entry("a", 1e-3), entry("b", 1e-3)], Clock()
    measure(entries, clock, rounds=4)
    timed = clock.order[4:]  # after two to warm up each
    assert [name for name, _ in timed] == ["a", "b", "b", "a", "a", "b", "b", "a"]
    for one, other in itertools.pairwise(timed):
        assert one[1] != other[1] or one[0] == other[0]
    assert [len(e.timing.samples) for e in entries] == [4, 4]


def test_a_slow_call_gets_fewer_rounds_and_a_failing_one_none() -> None:
    def broken() -> object:
        raise MemoryError("not enough")

    slow, quick = entry("slow", 2.0), entry("quick", 1e-3)
    failing = Entry("failing", sweep.BOTH, sweep.PLAIN, [broken], queued=False)
    measure([slow, failing, quick], Clock(), rounds=20, seconds=1.5)
    assert len(slow.timing.samples) == timing.FEWEST
    assert len(quick.timing.samples) == 20
    assert failing.timing.wrong == "MemoryError: not enough"
    assert not failing.timing.samples


def test_what_a_call_destroys_is_restored_before_it_and_not_timed() -> None:
    clock, restored = Clock(), []
    one = entry("a", 1e-3)
    one.before = [lambda i=i: restored.append((len(clock.order), i)) for i in range(3)]
    measure([one], clock, rounds=2)
    assert restored == [(0, 0), (1, 2), (2, 0), (3, 1)]
    assert [i for _, i in clock.order] == [0, 2, 0, 1]  # the same memory


def test_rounds_stop_at_the_deadline() -> None:
    entries = [entry("a", 1e-3), entry("b", 1e-3)]
    measure(entries, Clock(), rounds=20, deadline=time.time() - 1)
    assert [len(e.timing.samples) for e in entries] == [timing.FEWEST] * 2


def test_time_limit() -> None:
    with pytest.raises(TimeoutError, match="compiling"), timing.time_limit(0.05, "compiling"):
        time.sleep(5)
    with timing.time_limit(5, "quick"):
        pass


def test_host_stopwatch_counts_time() -> None:
    assert HostStopwatch().seconds(lambda: time.sleep(0.01), queued=True) >= 0.01
    assert timing.input_sets(1, CPU) == 2


# rows


def test_rows_survive_a_torn_line(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "rows.jsonl", CPU)
    rows.add(row(provider="a"))
    with rows.path.open("a") as file:
        file.write('{"provider": "to')
    rows.add(row(provider="b"))
    found = read(rows.path)
    assert [r["provider"] for r in found] == ["a", "b"]
    assert found[0].keys() >= {*FIELDS, "hardware", "versions", "commit", "when"}
    assert read(tmp_path / "none.jsonl") == []
    with pytest.raises(TypeError, match="colour"):
        row(colour="red")


def test_times_of_a_timing() -> None:
    found = times(Timing("a", [1e-3, 2e-3, 3e-3]))
    assert (found["rounds"], found["p50_ms"], found["min_ms"]) == (3, 2.0, 1.0)
    assert times(Timing("b", wrong="NaN"))["p50_ms"] is None


# cases on the CPU


def provider(name: str, loss: Loss, **keywords: object) -> p.Provider:
    return p.Provider(name, lambda: loss, lambda n, m, half: 1e-3, **keywords)  # type: ignore[arg-type]


def broken_loss(z: Tensor) -> Tensor:
    raise torch.OutOfMemoryError("no memory")


FAKES = {
    one.name: one
    for one in (
        provider("right", composed_w2),
        provider("wrong", lambda z: 2 * composed_w2(z)),
        provider("known", lambda z: 2 * composed_w2(z), timed_if_wrong=True, forward=False),
        provider("broken", broken_loss),
        p.Provider("huge", lambda: composed_w2, lambda n, m, half: 1e9),
        provider("other", eigvalsh_w2, own=eigvalsh_w2),
    )
}


def run_worker(folder: Path, monkeypatch: pytest.MonkeyPatch, **keywords: object) -> list[Row]:
    monkeypatch.setattr(p, "BY_NAME", FAKES)
    rows, journal = Rows(folder / "rows.jsonl", CPU), Journal(folder / "journal.txt")
    log = Log(folder / "log.txt", time.time() + 100)
    worker = sweep.Worker(CPU, HostStopwatch(), rows, journal, log, **keywords)  # type: ignore[arg-type]
    worker.run([Case("target", 24, 40, "float32", tuple(FAKES))])
    return read(rows.path)


def test_a_case_leaves_a_row_for_whatever_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = run_worker(tmp_path, monkeypatch)
    found = {(r["provider"], r["mode"]): r for r in rows}
    right = found["right", sweep.BOTH]
    assert right["rounds"] == timing.ROUNDS
    assert right["gradient_error"] < 1e-4  # type: ignore[operator]
    assert right["p20_ms"] <= right["p50_ms"] <= right["p80_ms"]  # type: ignore[operator]
    assert right["time_over_floor"] == pytest.approx(
        right["p50_ms"] / right["floor_ms"],  # type: ignore[operator]
        rel=1e-2,
    )
    assert found["right", sweep.FORWARD]["rounds"] == timing.ROUNDS
    assert found["wrong", sweep.BOTH]["p50_ms"] is None
    assert "value off by" in str(found["wrong", sweep.BOTH]["wrong"])
    assert found["known", sweep.BOTH]["rounds"] == timing.ROUNDS
    assert "gradient by" in str(found["known", sweep.BOTH]["wrong"])
    assert ("known", sweep.FORWARD) not in found
    assert found["broken", None]["error"] == "OutOfMemoryError: no memory"
    assert found["huge", None]["skipped"] == "too slow or too large"
    assert found["other", sweep.BOTH]["floor_ms"] is None
    assert found[sweep.FULL_PRODUCT, sweep.PART]["rounds"] == timing.ROUNDS
    assert Journal(tmp_path / "journal.txt").ended() == {"24x40 float32"}
    assert "1/1 target 24x40 float32" in capsys.readouterr().out
    assert run_worker(tmp_path, monkeypatch) == rows  # ended cases are not repeated


def test_skipped_steps_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    skipped = [Step("24x40 float32", "right"), Step(EVERY_JOB, "broken")]
    rows = run_worker(tmp_path, monkeypatch, skipped=skipped)
    assert not {"right", "broken"} & {r["provider"] for r in rows}
    rows = run_worker(tmp_path / "b", monkeypatch, skipped=[Step("24x40 float32", TOGETHER)])
    assert rows == []


# workers that crash and hang

WORKER = """
import os, sys, time
from pathlib import Path
from benchmarks.gpu.supervise import Journal, Step, is_skipped, parse_steps
journal, skipped = Journal(Path(sys.argv[1])), parse_steps(sys.argv[2])
for job in ("one", "two", "three"):
    if job in journal.ended():
        continue
    for name in ("good", "bad"):
        if is_skipped(Step(job, name), skipped):
            continue
        journal.begin(Step(job, name))
        if name == "bad":
            time.sleep(60) if job == "one" else os.abort()
    journal.end(job)
"""


def start_worker(journal: Path, program: str = WORKER):  # type: ignore[no-untyped-def]
    def start(skipped: Sequence[Step]) -> subprocess.Popen[bytes]:
        arguments = [sys.executable, "-c", program, str(journal), json.dumps(skipped)]
        return subprocess.Popen(
            arguments, cwd=supervise.ROOT, start_new_session=True, stderr=subprocess.DEVNULL
        )

    return start


def test_a_run_goes_on_past_hangs_and_crashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervise, "COMPILED", tmp_path / "no cache")
    journal, lost = Journal(tmp_path / "journal.txt"), []
    supervise.supervise(
        start_worker(journal.path),
        journal,
        lambda step, reason: lost.append((*step, reason)),
        deadline=time.time() + 120,
        silence=4,
    )
    assert [one[:2] for one in lost] == [("one", "bad"), ("two", "bad")]  # then left out everywhere
    assert "no progress" in lost[0][2]
    assert "SIGABRT" in lost[1][2]
    assert journal.ended() == {"one", "two", "three"}


def test_a_worker_that_cannot_start_is_not_started_for_ever(tmp_path: Path) -> None:
    journal, lost = Journal(tmp_path / "journal.txt"), []
    supervise.supervise(
        start_worker(journal.path, "raise SystemExit(5)"),
        journal,
        lambda step, reason: lost.append((step.name, reason)),
        deadline=time.time() + 60,
        silence=30,
    )
    assert lost == [("worker", "exit code 5")]


def test_a_worker_is_stopped_at_the_deadline(tmp_path: Path) -> None:
    journal, lost = Journal(tmp_path / "journal.txt"), []
    started = time.time()
    supervise.supervise(
        start_worker(journal.path, "import time; time.sleep(60)"),
        journal,
        lambda step, reason: lost.append(reason),
        deadline=started + 1,
        silence=30,
    )
    assert time.time() - started < 20
    assert lost == []


def test_steps_may_be_left_out_from_the_beginning(tmp_path: Path) -> None:
    journal, seen = Journal(tmp_path / "journal.txt"), []

    def start(skipped: Sequence[Step]) -> subprocess.Popen[bytes]:
        seen.append(list(skipped))
        return subprocess.Popen([sys.executable, "-c", ""], start_new_session=True)

    given = [Step(EVERY_JOB, "x")]
    supervise.supervise(
        start, journal, lambda *_: None, deadline=time.time() + 60, silence=30, skipped=given
    )
    assert seen == [given]


def test_skips() -> None:
    assert is_skipped(Step("a", "x"), [Step(EVERY_JOB, "x")])
    assert not is_skipped(Step("a", "x"), [Step("b", "x")])
    assert supervise.parse_steps(json.dumps([Step("a", "x")])) == [Step("a", "x")]
