"""Rows, centring and the singular value decomposition that every other module here stands on."""

from typing import NamedTuple

import torch
from torch import Tensor

EPS64 = torch.finfo(torch.float64).eps
NULL_RELATIVE = 1e-13
"""A singular value below `NULL_RELATIVE * max(n, m) * sigma_max` is the rounding of a zero."""


def as_float64(z: Tensor, name: str, ndim: int = 2) -> Tensor:
    """`z` in float64 on the CPU, whatever it came as; differentiable."""
    if not isinstance(z, Tensor) or not z.is_floating_point():
        kind = z.dtype if isinstance(z, Tensor) else type(z).__name__
        raise TypeError(f"{name}: expected a floating-point tensor, got {kind}")
    if z.ndim < ndim or 0 in z.shape[-ndim:]:
        raise ValueError(
            f"{name}: expected at least {ndim} dimensions, the last {ndim} not empty, "
            f"got shape {tuple(z.shape)}"
        )
    return z.to(device="cpu", dtype=torch.float64)


def finite_or_zero(*tensors: Tensor, ndim: int = 2) -> tuple[Tensor, ...]:
    """A flag per problem (True: every entry is finite), then the tensors with the others zeroed.

    LAPACK raises on NaN; a problem that is not finite is solved as zeros and its result replaced.
    """
    dims = tuple(range(-ndim, 0))
    flags = [torch.isfinite(t).all(dim=dims) for t in tensors]
    good = flags[0]
    for flag in flags[1:]:
        good = good & flag
    clean = []
    for t, flag in zip(tensors, flags, strict=True):
        keep = flag.reshape(flag.shape + (1,) * ndim)
        clean.append(torch.where(keep, t, torch.zeros_like(t)))
    return (good, *clean)


def nan_unless(good: Tensor, result: Tensor) -> Tensor:
    """`result` (..., *rest) with every problem that is not `good` (...) set to NaN."""
    keep = good.reshape(good.shape + (1,) * (result.ndim - good.ndim))
    return torch.where(keep, result, torch.full_like(result, float("nan")))


def row_norms(z: Tensor) -> Tensor:
    """Euclidean norms (..., n, 1), scaled so that no square leaves the range of float64."""
    scale = z.detach().abs().amax(dim=-1, keepdim=True)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    scaled = z / scale
    # vector_norm has a zero gradient at a zero row; x / 0 is never formed
    norms: Tensor = torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)
    return norms * scale


def unit_rows(z: Tensor) -> tuple[Tensor, Tensor]:
    """`X = D z` and the diagonal of D (..., n, 1): 1/r, and 0 for a zero row, which stays zero."""
    r = row_norms(z)
    alive = r > 0
    d = torch.where(alive, 1 / torch.where(alive, r, torch.ones_like(r)), torch.zeros_like(r))
    return z / torch.where(alive, r, torch.ones_like(r)), d


def through_normalization(grad_x: Tensor, x: Tensor, d: Tensor) -> Tensor:
    """Gradient in z from the gradient in X: `D (grad - diag(<grad_i, x_i>) X)`."""
    radial = (grad_x * x).sum(dim=-1, keepdim=True)  # (..., n, 1)
    return d * (grad_x - radial * x)


class CentredRows(NamedTuple):
    """Rows, their mean, and the thin SVD `Xc = U diag(s) V^T` with k = min(n, m)."""

    good: Tensor  # (...), False where z holds NaN or inf
    x: Tensor  # (..., n, m), D z
    d: Tensor  # (..., n, 1), diagonal of D
    mean: Tensor  # (..., m)
    u: Tensor  # (..., n, k)
    s: Tensor  # (..., k), descending
    vh: Tensor  # (..., k, m)
    live: Tensor  # (..., k), False for a direction that is exactly null up to rounding


def live_directions(s: Tensor, size: int, scale: Tensor | None = None) -> Tensor:
    """True for singular values that are more than the rounding of a zero.

    `scale` (...) is the Frobenius norm of what was subtracted from: centring constant rows leaves
    a few EPS64 of it, however small sigma_max is.
    """
    top = s.amax(dim=-1, keepdim=True)
    floor = NULL_RELATIVE * size * top
    if scale is not None:
        floor = torch.maximum(floor, 8 * EPS64 * scale.unsqueeze(-1))
    return s > floor


def centred_rows(z: Tensor, normalize: bool, name: str = "z") -> CentredRows:
    """Normalise if asked, subtract the mean, decompose. `z` is (..., n, m) of any dtype."""
    good, z64 = finite_or_zero(as_float64(z.detach() if isinstance(z, Tensor) else z, name))
    n, m = z64.shape[-2:]
    if normalize:
        x, d = unit_rows(z64)
    else:
        x, d = z64, torch.ones_like(z64[..., :1])
    mean = x.mean(dim=-2)
    u, s, vh = torch.linalg.svd(x - mean.unsqueeze(-2), full_matrices=False)
    live = live_directions(s, max(n, m), torch.linalg.matrix_norm(x))
    return CentredRows(good, x, d, mean, u, s, vh, live)
