"""benchmarks.gpu: processes that share tests and compilation, and tell what failed."""

import importlib
import inspect
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.gpu import stages, testing, turns
from benchmarks.gpu.place import Place
from benchmarks.gpu.rows import read


def a_place(folder: Path) -> Place:
    place = Place(folder / "out", time.time() + 100, "cpu")
    stages.fresh(place)
    return place


TESTS = """
import os, signal, time
import pytest

@pytest.mark.parametrize("case", range(3))
@pytest.mark.parametrize("x", [1, 2])
def test_good(case, x):
    with open(os.environ["SEEN"], "a") as file:
        print(x, case, os.getpid(), file=file)

def test_bad():
    assert 1 == 2, "one is not two"

def test_dies():
    os.kill(os.getpid(), signal.SIGKILL)

def test_hangs():
    time.sleep(60)

@pytest.mark.skip(reason="not here")
def test_skipped():
    pass

@pytest.fixture
def broken():
    raise RuntimeError("no fixture")

def test_of_a_fixture(broken):
    pass

def test_last():
    pass
"""


def a_lot(folder: Path, text: str, workers: int = 2) -> testing.Lot:
    path = folder / "test_some.py"
    path.write_text(text)
    return testing.Lot("tests", (str(path),), workers)


def test_processes_share_the_tests_and_outlive_what_kills_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(turns, "SECONDS", 2.0)
    monkeypatch.setenv("SEEN", str(tmp_path / "seen"))
    place, lot = a_place(tmp_path), a_lot(tmp_path, TESTS)
    until = time.time() + 100
    (failed,) = testing.run(place, lot, place.logger(), until)
    assert time.time() < until
    (one,) = testing.tally(lot.folder(place)).values()
    found = {name.split("::")[-1]: why for name, why in one.failed.items()}
    assert found == {
        "test_bad": "AssertionError: one is not two",
        "test_dies": "signal SIGKILL, and its process with it",
        "test_hangs": "not done in 2 s, and its process with it",
        "test_of_a_fixture": "setup: RuntimeError: no fixture",
    }
    seen = [line.split() for line in (tmp_path / "seen").read_text().splitlines()]
    assert sorted((x, case) for x, case, _ in seen) == [(x, c) for x in "12" for c in "012"]
    assert len({(x, pid) for x, _, pid in seen}) == 2  # cases of one kernel in one process
    (row,) = read(place.rows)
    assert row["wrong"] == failed
    assert failed.startswith("4 failed, first test_")
    assert row["note"] == "7 passed, 1 skipped of 12"
    assert "FAILED test_bad: AssertionError: one is not two" in capsys.readouterr().out
    said = place.report("tests").read_text()
    assert "E   AssertionError: one is not two" in said  # in full
    assert "in test_hangs" in said  # where it hung


def test_what_was_cut_off_has_told_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "import time\ndef test_bad():\n    assert 0\ndef test_slow():\n    time.sleep(600)\n"
    place = a_place(tmp_path)
    lot = a_lot(tmp_path, text + "def test_never():\n    pass\n", workers=1)

    def clock() -> float:  # time is up when the slow one has begun, however long that takes
        begun = turns.begun_in(lot.folder(place))
        return 1.0 if any(name.endswith("test_slow") for name in begun) else 0.0

    monkeypatch.setattr(testing, "time", SimpleNamespace(time=clock, sleep=time.sleep))
    testing.run(place, lot, place.logger(), 0.5)
    (row,) = read(place.rows)
    assert str(row["wrong"]).startswith("1 failed, first test_bad: assert 0")
    assert row["note"] == "cut off: 0 passed, 0 skipped of 3, at test_slow"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import nothing_of_this_name\n", "No module named 'nothing_of_this_name'"),
        ("import os\nos._exit(7)\n", "exit code 7"),
    ],
)
def test_tests_that_cannot_be_collected_are_no_proof(text: str, said: str, tmp_path: Path) -> None:
    place = a_place(tmp_path)
    (failed,) = testing.run(place, a_lot(tmp_path, text), place.logger(), time.time() + 60)
    assert said in failed


def test_failures_that_no_target_depends_on() -> None:
    def mode(*names: str) -> str | None:
        return testing.Tally(failed=dict.fromkeys(names, "no")).mode()

    assert mode() is None
    assert mode("tests/triton/test_uniformity.py::test_zoo[a]") == testing.ASIDE
    beside = "tests/triton/test_w2.py::test_zoo[auto-n>m-flat]"
    assert mode(beside, "tests/triton/test_w2_backward.py::test_x[covariance]") == testing.ASIDE
    assert mode(beside, "tests/triton/test_w2.py::test_zoo[auto-n<m-flat]") is None


def test_a_kernel_is_compiled_by_one_process_at_a_time(tmp_path: Path) -> None:
    inside, most, around = [], [], []
    both = threading.Barrier(2, timeout=60)

    def compile(src: str, target: object, options: object, **more: object) -> str:
        inside.append(src)
        most.append(len(inside))
        if together:  # two that do not wait for one another meet here
            both.wait()
        else:
            time.sleep(0.2)
        inside.remove(src)
        return f"{src} {options} {more}"

    @contextmanager
    def unwatched() -> Iterator[None]:
        around.append("in")
        yield

    together = False
    shared = turns.one_at_a_time(compile, tmp_path / "compiling", unwatched)
    with ThreadPoolExecutor(3) as pool:
        same = list(pool.map(lambda _: shared("a", options=1, more=2), range(3)))
    assert same == ["a 1 {'more': 2}"] * 3
    assert max(most) == 1
    most.clear()
    together = True
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(shared, "ab"))
    assert max(most) == 2
    assert len(around) == 5


def test_triton_compiles_by_way_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = pytest.importorskip("triton.compiler")
    monkeypatch.setattr(compiler, "compile", compiler.compile)  # put back afterwards
    whole = compiler.compile
    turns.share_compilation(tmp_path, nullcontext)
    assert compiler.compile is not whole
    source = inspect.getsource(importlib.import_module("triton.runtime.jit"))
    assert "self.compile(src, target=target, options=" in source  # what it stands in for
    assert re.search(r"from \.\.compiler import .*\bcompile\b", source)
