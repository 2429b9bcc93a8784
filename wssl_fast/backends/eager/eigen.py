"""LAPACK's symmetric eigendecomposition, of matrices that it gives up on as well.

Its iteration waits for small off-diagonal entries to vanish beside their neighbours. Subnormal
ones, which products of rows with norms of 1 and 1e-20 are in float32, may never do, and it raises
"failed to converge". Without entries under eps^2 of the largest, which are far under the rounding
of the others, it does; should it not, float64 does.
"""

from collections.abc import Callable

import torch
from torch import Tensor

LinAlgError = torch.linalg.LinAlgError  # type: ignore[attr-defined]


def eigh(a: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, ascending, and vectors of symmetric a (..., k, k): (..., k), (..., k, k)."""
    eigenvalues, vectors = _insisting(torch.linalg.eigh, a)
    return eigenvalues, vectors


def eigvalsh(a: Tensor) -> Tensor:
    """Eigenvalues of symmetric a (..., k, k), ascending. (..., k)"""
    return _insisting(lambda a: (torch.linalg.eigvalsh(a),), a)[0]


def _insisting(solve: Callable[[Tensor], tuple[Tensor, ...]], a: Tensor) -> tuple[Tensor, ...]:
    try:
        return solve(a)
    except LinAlgError:
        limit = a.abs().amax((-2, -1), keepdim=True) * torch.finfo(a.dtype).eps ** 2
        a = torch.where(a.abs() < limit, 0.0, a)
    try:
        return solve(a)
    except LinAlgError:
        return tuple(t.to(a.dtype) for t in solve(a.double()))
