"""Losses over pairs of rows: uniformity L_U and alignment (Wang & Isola, ICML 2020)."""

import math

import torch
from torch import Tensor

from wssl_fast.reference._linear import (
    as_float64,
    finite_or_zero,
    nan_unless,
    through_normalization,
    unit_rows,
)


def _rows(z: Tensor, name: str, normalize: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Which problems are finite (...), the rows (..., n, m) and the diagonal of D (..., n, 1)."""
    good, z64 = finite_or_zero(as_float64(z, name))
    x, d = unit_rows(z64) if normalize else (z64, torch.ones_like(z64[..., :1]))
    return good, x, d


def _log_kernel(x: Tensor, t: float) -> Tensor:
    # direct differences: |x_i|^2 + |x_j|^2 - 2 <x_i, x_j> would cancel for near rows
    distance = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")  # (..., n, n)
    return -t * distance.square()


def _check_uniformity(z: Tensor, t: float) -> None:
    if not t > 0:
        raise ValueError(f"t: expected a temperature > 0, got {t!r}")
    if z.shape[-2] < 2:
        raise ValueError(
            f"z: expected at least 2 rows (L_U averages over pairs), got shape {tuple(z.shape)}"
        )


def uniformity(z: Tensor, *, t: float = 2.0, normalize: bool = True) -> Tensor:
    """`L_U = log( 2/(n(n-1)) sum_{j<i} exp(-t |x_i - x_j|^2) )`, (..., n, m) -> (...) float64.

    Source: Wang & Isola, arXiv 2005.10242, section 4.1, as restricted to the pairs j < i in
    arXiv 2403.00642. Example:

        >>> round(uniformity(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), t=2.0).item(), 12)
        -8.0
    """
    good, x, _ = _rows(z, "z", normalize)
    _check_uniformity(x, t)
    n = x.shape[-2]
    i, j = torch.tril_indices(n, n, -1)
    total = torch.logsumexp(_log_kernel(x, t)[..., i, j], dim=-1)
    return nan_unless(good, total - math.log(n * (n - 1) / 2))


def uniformity_grad(z: Tensor, *, t: float = 2.0, normalize: bool = True) -> Tensor:
    """Gradient of `uniformity` in z: `-2t sum_j p_ij (x_i - x_j)`, p the softmax over pairs."""
    good, x, d = _rows(z.detach(), "z", normalize)
    _check_uniformity(x, t)
    n = x.shape[-2]
    i, j = torch.tril_indices(n, n, -1)
    log_kernel = _log_kernel(x, t)
    total = torch.logsumexp(log_kernel[..., i, j], dim=-1)
    # exp(0 - total) on the diagonal may be huge, and would cancel in the difference below
    log_kernel.diagonal(dim1=-2, dim2=-1).fill_(-torch.inf)
    p = torch.exp(log_kernel - total[..., None, None])  # (..., n, n)
    if not normalize:
        x = x - x.mean(dim=-2, keepdim=True)  # no difference sees it, and its rounding would show
    grad = -2 * t * (p.sum(dim=-1, keepdim=True) * x - p @ x)
    return nan_unless(good, through_normalization(grad, x, d) if normalize else grad)


def alignment(x: Tensor, y: Tensor, *, alpha: float = 2.0, normalize: bool = True) -> Tensor:
    """`mean_i |x_i - y_i|^alpha`, (..., n, m) twice -> (...) float64, alpha > 0.

    Source: Wang & Isola, arXiv 2005.10242, section 4.1. Example:

        >>> round(alignment(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 3.0]])).item(), 12)
        2.0
    """
    if not alpha > 0:
        raise ValueError(f"alpha: expected an exponent > 0, got {alpha!r}")
    good_x, u, _ = _rows(x, "x", normalize)
    good_y, v, _ = _rows(y, "y", normalize)
    length: Tensor = torch.linalg.vector_norm(u - v, dim=-1)
    return nan_unless(good_x & good_y, length.pow(alpha).mean(dim=-1))


def alignment_grad(
    x: Tensor, y: Tensor, *, alpha: float = 2.0, normalize: bool = True
) -> tuple[Tensor, Tensor]:
    """Gradients of `alignment` in x and y: `+-(alpha/n) |d_i|^(alpha-2) d_i`, 0 where d_i = 0."""
    good_x, u, du = _rows(x.detach(), "x", normalize)
    good_y, v, dv = _rows(y.detach(), "y", normalize)
    gap = u - v
    length = torch.linalg.vector_norm(gap, dim=-1, keepdim=True)
    apart = length > 0
    power = torch.where(apart, torch.where(apart, length, 1.0).pow(alpha - 2), 0.0)
    grad = nan_unless(good_x & good_y, (alpha / gap.shape[-2]) * power * gap)
    if not normalize:
        return grad, -grad
    return through_normalization(grad, u, du), through_normalization(-grad, v, dv)
