"""LAPACK's symmetric eigendecomposition, of matrices on which it fails as well.

In float32 its iteration does not always come to an end: on one in ten low-rank matrices of a few
distinct entries with exact zeros, as dead features and cloned rows make them, it raises "failed to
converge" or returns NaN (with MKL, benchmarks/studies/eigensolver.py), and so it may where entries
are subnormal. The same matrix in float64, without what is under eps^2 of its largest
entry, was never seen to fail; should it, its spectrum is moved off zero.
"""

from collections.abc import Callable

import torch
from torch import Tensor

LinAlgError = torch.linalg.LinAlgError  # type: ignore[attr-defined]

Solve = Callable[[Tensor], tuple[Tensor, ...]]


def eigh(a: Tensor) -> tuple[Tensor, Tensor]:
    """Ascending eigenvalues (..., k) and vectors (..., k, k) of finite symmetric a (..., k, k)."""
    eigenvalues, vectors = _insisting(torch.linalg.eigh, a)
    return eigenvalues, vectors


def eigvalsh(a: Tensor) -> Tensor:
    """Eigenvalues of finite symmetric a (..., k, k), ascending. (..., k)"""
    return _insisting(lambda a: (torch.linalg.eigvalsh(a),), a)[0]


def _insisting(solve: Solve, a: Tensor) -> tuple[Tensor, ...]:
    found = _attempt(solve, a)
    if found is not None:
        return found
    size = a.abs().amax((-2, -1), keepdim=True).double()
    wide = torch.where(a.abs() < size * torch.finfo(a.dtype).eps ** 2, 0.0, a.double())
    found = _attempt(solve, wide)
    if found is None:
        wide.diagonal(dim1=-2, dim2=-1).add_(size[..., 0])
        eigenvalues, *vectors = solve(wide)
        found = (eigenvalues - size[..., 0], *vectors)
    return tuple(t.to(a.dtype) for t in found)


def _attempt(solve: Solve, a: Tensor) -> tuple[Tensor, ...] | None:
    try:
        found = solve(a)
    except LinAlgError:
        return None
    return None if bool(found[0].isnan().any()) else found
