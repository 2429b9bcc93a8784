"""CUDA graphs of what a training step calls, replayed on new rows; on a CUDA machine alone."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import wssl_fast as wf
from tests import kernels

SHAPES = [(512, 2048), (2048, 512)]
CRITERION = wf.nn.WassersteinUniformityLoss(0.2)


def half(z: Tensor) -> Tensor:
    """Rows as a projector under autocast makes them, and the factor of a GradScaler."""
    with torch.autocast("cuda", dtype=torch.float16):
        return 2.0**10 * CRITERION(z.half())


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "uniformity": wf.uniformity,
    "uniformity of raw rows": lambda z: wf.uniformity(z, normalize=False, t=1e-3),
    "alignment": lambda z: wf.alignment(*z.chunk(2)),
    "alignment of raw rows": lambda z: wf.alignment(*z.chunk(2), normalize=False),
    "both views": lambda z: CRITERION(*z.chunk(2)),
    "float16": half,
    "squared": lambda z: wf.wasserstein_uniformity(z, squared=True, normalize=False),
}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a CUDA device")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_graph_replays(name: str, shape: tuple[int, int]) -> None:
    """(W2 itself: test_w2.py.)"""
    kernels.a_graph_replays(shape, FUNCTIONS[name])
