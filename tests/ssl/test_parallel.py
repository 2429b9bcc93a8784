"""Two processes (gloo) against one: gradients, updates, and whole runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ssl.parallel_worker import CELLS, one_process

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What each of two processes found; see tests/ssl/parallel_worker.py."""
    folder = tmp_path_factory.mktemp("two")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    command += ["-m", "tests.ssl.parallel_worker", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return one_process(tmp_path_factory.mktemp("one"))


@pytest.mark.parametrize("cell", CELLS)
def test_parameters_after_steps_are_those_of_one_process(
    cell: str, both: list[dict], one: dict
) -> None:
    """Two steps in float64, batch normalisation over both processes, averaged gradients.

    Sums are taken in another order: 1e-9 is float64 rounding times a condition number of 1e6.
    """
    for found in both:
        assert found["parameters"][cell] == pytest.approx(one["parameters"][cell], rel=1e-9)
        assert found["losses"][cell] == pytest.approx(one["losses"][cell], rel=1e-9)


def test_collectives_and_their_gradients(both: list[dict]) -> None:
    """Rank r gathers its row r + 1; its loss weighs the rows 1 and 2, and itself by r + 1."""
    assert [found["gathered"] for found in both] == [[1.0, 2.0]] * 2
    # d/dx_r of sum over ranks s of (s + 1) (1 x_0 + 2 x_1): 3 and 6
    assert [found["gradient"] for found in both] == [3.0, 6.0]
    assert [found["any"] for found in both] == [True, True]


def test_a_whole_run_of_two_processes(both: list[dict], one: dict) -> None:
    """Un-augmented views, so that both worlds see the same.

    Eight steps: 1e-6 is what float64 rounding can grow to there and far below any mistake.
    """
    ours, theirs = both[0]["rows"], one["rows"]
    assert [row["kind"] for row in ours] == [row["kind"] for row in theirs]
    for a, b in zip(ours, theirs, strict=True):
        for name in ("loss", "method_loss", "uniformity_loss", "w2", "alignment"):
            if name in b:
                assert a[name] == pytest.approx(b[name], rel=1e-6, abs=1e-9), name
    assert both[1]["rows"] == []  # the main process alone writes


@pytest.mark.parametrize(("size", "wound_up"), [("1", b"wound up"), ("2", b"")])
def test_how_a_program_ends(size: str, wound_up: bytes) -> None:
    """With its code and its words; of several processes none winds Python up."""
    code = (
        "import atexit; from benchmarks.ssl import parallel; atexit.register(print, 'wound up');"
        "print('done'); parallel.finish(3)"
    )
    environment = {**os.environ, "WORLD_SIZE": size, "PYTHONUNBUFFERED": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, check=False
    )
    assert done.returncode == 3
    assert done.stdout.split(b"\n") == [b"done", *filter(None, [wound_up]), b""]
