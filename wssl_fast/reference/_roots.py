"""Square root and inverse square root of symmetric positive semi-definite matrices.

Both are spectral functions `f(A) = V diag(f(lambda)) V^T`; their gradients divide differences of f
in the eigenbasis (the Daleckii-Krein formula), which for the root solves the Lyapunov equation
`X R + R X = sym(G)`, R = A^(1/2).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from wssl_fast.reference._linear import as_float64, finite_or_zero, nan_unless


class _Eigen(NamedTuple):
    good: Tensor  # (...)
    root: Tensor  # (..., k), sqrt(lambda), 0 in null directions
    vectors: Tensor  # (..., k, k)
    live: Tensor  # (..., k)


def _eigen(a: Tensor, rtol: float | None) -> _Eigen:
    good, a64 = finite_or_zero(as_float64(a.detach(), "a"))
    k = a64.shape[-1]
    if a64.shape[-2] != k:
        raise ValueError(f"a: expected square matrices, got shape {tuple(a.shape)}")
    if rtol is None:
        rtol = k * torch.finfo(a.dtype).eps
    values, vectors = torch.linalg.eigh((a64 + a64.mT) / 2)
    live = values > (rtol * values.amax(dim=-1, keepdim=True)).clamp_min(0)
    root = torch.sqrt(torch.where(live, values, torch.zeros_like(values)))
    return _Eigen(good, root, vectors, live)


def _spectral(eigen: _Eigen, values: Tensor) -> Tensor:
    result = (eigen.vectors * values.unsqueeze(-2)) @ eigen.vectors.mT
    return nan_unless(eigen.good, result)


def _inverse(root: Tensor, live: Tensor) -> Tensor:
    return torch.where(live, 1 / torch.where(live, root, torch.ones_like(root)), 0.0)


def _pull_back(eigen: _Eigen, upstream: Tensor, differences: Tensor) -> Tensor:
    g = as_float64(upstream.detach(), "upstream")
    g = eigen.vectors.mT @ ((g + g.mT) / 2) @ eigen.vectors
    return nan_unless(eigen.good, eigen.vectors @ (differences * g) @ eigen.vectors.mT)


def matrix_sqrt(a: Tensor, *, rtol: float | None = None) -> Tensor:
    """`A^(1/2)` (..., k, k) in float64: the symmetric part of `a`, negative eigenvalues as 0.

    Eigenvalues up to `rtol * lambda_max` count as null; rtol is k times the rounding unit of the
    dtype `a` came in, below which its own entries say nothing. Example:

        >>> matrix_sqrt(torch.tensor([[4.0, 0.0], [0.0, 9.0]])).diagonal().tolist()
        [2.0, 3.0]
    """
    eigen = _eigen(a, rtol)
    return _spectral(eigen, eigen.root)


def matrix_inv_sqrt(a: Tensor, *, rtol: float | None = None) -> Tensor:
    """`A^(-1/2)` (..., k, k) in float64, 0 in null directions (see `matrix_sqrt`). Example:

    >>> matrix_inv_sqrt(torch.tensor([[4.0, 0.0], [0.0, 0.0]])).diagonal().tolist()
    [0.5, 0.0]
    """
    eigen = _eigen(a, rtol)
    return _spectral(eigen, _inverse(eigen.root, eigen.live))


def matrix_sqrt_grad(a: Tensor, upstream: Tensor, *, rtol: float | None = None) -> Tensor:
    """Gradient in `a` of `<upstream, matrix_sqrt(a)>`, symmetric, (..., k, k) float64.

    In the eigenbasis `g_ij / (r_i + r_j)`, r = sqrt(lambda); 0 between two null directions.
    """
    eigen = _eigen(a, rtol)
    sums = eigen.root.unsqueeze(-1) + eigen.root.unsqueeze(-2)
    return _pull_back(eigen, upstream, _inverse(sums, sums > 0))


def matrix_inv_sqrt_grad(a: Tensor, upstream: Tensor, *, rtol: float | None = None) -> Tensor:
    """Gradient in `a` of `<upstream, matrix_inv_sqrt(a)>`, symmetric, (..., k, k) float64.

    In the eigenbasis `-g_ij / (r_i r_j (r_i + r_j))` between live directions, `g_ij / r_i^3` from a
    live i to a null j (the derivative along changes that keep the rank), 0 between null ones.
    """
    eigen = _eigen(a, rtol)
    inverse = _inverse(eigen.root, eigen.live)
    sums = eigen.root.unsqueeze(-1) + eigen.root.unsqueeze(-2)
    both = -inverse.unsqueeze(-1) * inverse.unsqueeze(-2) * _inverse(sums, sums > 0)
    cubes = inverse.pow(3)
    dead = (~eigen.live).to(cubes)
    mixed = cubes.unsqueeze(-1) * dead.unsqueeze(-2) + dead.unsqueeze(-1) * cubes.unsqueeze(-2)
    return _pull_back(eigen, upstream, both + mixed)
