"""W2 through the polar factor of the centred rows: |Xc|_* = <Q, Xc>, gradient Q.

Q comes from odd quintics of the rows, y <- y (a I + b y^T y + c (y^T y)^2), from y = Xc/|Xc|_F. The
rows are never squared as a whole: what is squared is what a step has already lifted.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.peers.roots import Step
from benchmarks.studies.quintics import composition

MUON = ((3.4445, -4.7750, 2.0315),) * 5
"""Keller Jordan, "Muon: An optimizer for hidden layers in neural networks", 2024: singular values
end within about [0.7, 1.2], which its optimiser can live with."""
LOWEST = 1e-6
"""Singular value over |Xc|_F that Polar Express takes to 1: float32 rows hold no less. Its default,
1e-3, needs 7 steps in place of 12 and sees nothing of a collapsed direction at 1e-4."""
LOWEST_OF_ROOTS = 1e-3
"""The same for the coupled iteration, whose A has squared them: from 1e-4 down a null direction
overflows there."""
CUSHION = 0.024  # the source's


@cache
def polar_express_steps(lowest: float = LOWEST) -> tuple[Step, ...]:
    """Quintics optimal for [lowest, 1], as many as take it to 1 within float32's rounding.

    Amsel et al., "The Polar Express", arXiv 2505.16932, theorem 3.1 and algorithm 1.
    """
    error = torch.finfo(torch.float32).eps
    return tuple(composition(lowest, error, cushion=CUSHION))


def polar_express_w2(z: Tensor, *, squared: bool = False, normalize: bool = True) -> Tensor:
    """W2 by Polar Express in the rows' dtype."""
    return _w2(z, polar_express_steps(), squared, normalize)


def muon_w2(z: Tensor, *, squared: bool = False, normalize: bool = True) -> Tensor:
    """W2 by Muon's five steps, in the rows' dtype (the source's bfloat16 would add 2^-8)."""
    return _w2(z, MUON, squared, normalize)


def polar_factor(x: Tensor, steps: Sequence[Step]) -> Tensor:
    """U V^T of x = U diag(s) V^T, (n, m), by odd quintics on the smaller side."""
    wide = x.shape[0] <= x.shape[1]
    y = x if wide else x.T
    y = y / (y.norm() + 1e-7)  # both sources' guard
    for first, second, third in steps:
        gram = y @ y.T
        y = torch.addmm(y, second * gram + third * (gram @ gram), y, beta=first)
    return y if wide else y.T


class _NuclearNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, steps: Sequence[Step]) -> Tensor:
        polar = polar_factor(x, steps)
        ctx.save_for_backward(polar)
        return torch.sum(polar * x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (polar,) = ctx.saved_tensors
        return grad * polar, None


def _w2(z: Tensor, steps: Sequence[Step], squared: bool, normalize: bool) -> Tensor:
    x = F.normalize(z, dim=1) if normalize else z
    n, m = x.shape
    mean = x.mean(0)
    centred = x - mean
    nuclear = _NuclearNorm.apply(centred, steps)
    squared_distance = (
        mean.square().sum() + 1 + centred.square().sum() / n - 2 / math.sqrt(n * m) * nuclear
    )
    return squared_distance if squared else squared_distance.clamp(min=0).sqrt()
