"""Tests of this folder where kernels refuse tensors of the CPU, as they do on CUDA."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
SOME = "not_finite or alone or expanded_upstream or flagged or strides or zero_rows or unsquared"
"""Of each file what reaches its kernels, for half a minute."""


@pytest.mark.skipif(torch.cuda.is_available(), reason="a real one is there")
def test_tests_bring_their_tensors_to_the_device() -> None:
    files = [HERE / f"test_{name}.py" for name in ("statistics", "covariance", "gram", "w2")]
    files += [HERE / f"test_{name}.py" for name in ("w2_backward", "uniformity")]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "tests.triton.second_device"]
    done = subprocess.run(
        [*command, "-k", f"{SOME} or (test_layouts and sliced)", *map(str, files)],
        cwd=HERE.parents[1],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
