"""examples/torchrun_two_processes.py prints the same with two processes as with one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "torchrun_two_processes.py"
LINE = re.compile(r"step +(\d+)  alignment ([\d.]+)  W2 ([\d.]+)")


def printed(*command: str) -> list[list[float]]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment |= {"CUDA_VISIBLE_DEVICES": ""}  # two processes want two GPUs
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return [[float(number) for number in line] for line in LINE.findall(done.stdout)]


@pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()),
    reason="this build of PyTorch has no Gloo",
)
def test_two_processes_train_as_one() -> None:
    alone = printed(str(SCRIPT))
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    together = printed(*torchrun, str(SCRIPT))
    assert len(alone) == len(together) > 2
    assert alone[-1][2] < alone[0][2] - 0.1  # W2 went down
    for one, other in zip(alone, together, strict=True):
        # printed to 1e-4; 60 steps apart by the rounding of float32
        assert one == pytest.approx(other, abs=2e-4)
