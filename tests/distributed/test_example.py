"""examples/torchrun_two_processes.py prints the same with two processes as with one."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "torchrun_two_processes.py"
LINE = re.compile(r"step +(\d+)  alignment ([\d.]+)  W2 ([\d.]+)")


def numbers(text: str) -> list[list[float]]:
    return [[float(number) for number in line] for line in LINE.findall(text)]


@pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()),
    reason="this build of PyTorch has no Gloo",
)
def test_two_processes_train_as_one(capsys: pytest.CaptureFixture[str]) -> None:
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment |= {"CUDA_VISIBLE_DEVICES": ""}  # two processes want two GPUs
    done = subprocess.run(
        [sys.executable, *torchrun, str(SCRIPT)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    runpy.run_path(str(SCRIPT))["main"]([])
    together, alone = numbers(done.stdout), numbers(capsys.readouterr().out)
    assert len(alone) == len(together) > 2
    assert alone[-1][2] < alone[0][2] - 0.1  # W2 went down
    for one, other in zip(alone, together, strict=True):
        # printed to 1e-4; float32 rounds otherwise, and 60 steps make 1e-6 of that
        assert one == pytest.approx(other, abs=1.5e-4)
