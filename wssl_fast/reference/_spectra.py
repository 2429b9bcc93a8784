"""Diagnostics read off the spectrum of the rows: effective rank, RankMe, covariance spectrum."""

import torch
from torch import Tensor

from wssl_fast.reference._linear import (
    CentredRows,
    as_float64,
    centred_rows,
    finite_or_zero,
    live_directions,
    nan_unless,
)

RANKME_EPS = 1e-7
"""The constant of Garrido et al. added to every normalised singular value."""


def _push(u: Tensor, slope: Tensor, vh: Tensor) -> Tensor:
    return (u * slope.unsqueeze(-2)) @ vh


def _shares(values: Tensor) -> Tensor:
    total = values.sum(dim=-1, keepdim=True)
    return torch.where(total > 0, values / torch.where(total > 0, total, 1.0), 0.0)


def _live_squares(rows: CentredRows) -> Tensor:
    return torch.where(rows.live, rows.s, torch.zeros_like(rows.s)).square()


def effective_rank(z: Tensor) -> Tensor:
    """`exp(-sum p_i log p_i)`, `p_i = lambda_i / sum_j lambda_j`, of the covariance of the rows.

    `z` (..., n, m) is taken as given, not normalised; returns (...) float64 in [1, min(n, m)], and
    0 where the covariance is 0 (one row, constant rows). Source: Roy & Vetterli, EUSIPCO
    2007, of the covariance matrix, whose singular values are its eigenvalues. Example:

        >>> round(effective_rank(torch.cat([torch.eye(3), -torch.eye(3)])).item(), 12)
        3.0
    """
    rows = centred_rows(z, normalize=False)
    p = _shares(_live_squares(rows))
    rank = torch.exp(torch.special.entr(p).sum(dim=-1))
    return nan_unless(rows.good, torch.where(rows.live.any(dim=-1), rank, 0.0))


def effective_rank_grad(z: Tensor) -> Tensor:
    """Gradient of `effective_rank` in z, (..., n, m) float64; 0 in null directions.

    `d log erank / d lambda_i = -(log p_i + H) / sum_j lambda_j`, H the entropy.
    """
    rows = centred_rows(z, normalize=False)
    p = _shares(_live_squares(rows))
    entropy = torch.special.entr(p).sum(dim=-1, keepdim=True)
    total = _live_squares(rows).sum(dim=-1, keepdim=True)
    by_square = -(torch.log(torch.where(rows.live, p, 1.0)) + entropy) / total
    slope = torch.where(rows.live, torch.exp(entropy) * by_square * 2 * rows.s, 0.0)
    return nan_unless(rows.good, _push(rows.u, slope, rows.vh))


def rankme(z: Tensor) -> Tensor:
    """`exp(-sum p_k log p_k)`, `p_k = sigma_k(z) / |sigma(z)|_1 + 1e-7`, z neither centred nor
    normalised.

    (..., n, m) -> (...) float64. Zero rows alone count as sigma/|sigma| = 0. Source: Garrido et
    al., ICML 2023 (arXiv 2210.02885). Example:

        >>> round(rankme(torch.eye(4)).item(), 5)
        4.0
    """
    good, z64 = finite_or_zero(as_float64(z.detach(), "z"))
    p = _shares(torch.linalg.svdvals(z64)) + RANKME_EPS
    return nan_unless(good, torch.exp(torch.special.entr(p).sum(dim=-1)))


def rankme_grad(z: Tensor) -> Tensor:
    """Gradient of `rankme` in z, (..., n, m) float64; 0 in null directions.

    `d log rankme / d sigma_k = (-log p_k + sum_j q_j log p_j) / |sigma|_1`, q = sigma/|sigma|_1.
    """
    good, z64 = finite_or_zero(as_float64(z.detach(), "z"))
    u, s, vh = torch.linalg.svd(z64, full_matrices=False)
    live = live_directions(s, max(z64.shape[-2:]))
    q = _shares(s)
    p = q + RANKME_EPS
    total = torch.where(live.any(dim=-1, keepdim=True), s.sum(dim=-1, keepdim=True), 1.0)
    rank = torch.exp(torch.special.entr(p).sum(dim=-1, keepdim=True))
    mean_log = (q * torch.log(p)).sum(dim=-1, keepdim=True)
    slope = torch.where(live, rank * (mean_log - torch.log(p)) / total, 0.0)
    return nan_unless(good, _push(u, slope, vh))


def covariance_spectrum(z: Tensor) -> Tensor:
    """The min(n, m) leading eigenvalues of the covariance of the rows, descending.

    `lambda_k = sigma_k(Zc)^2 / n`; the remaining m - min(n, m) are 0 and left out. `z` (..., n, m)
    is taken as given. Returns (..., min(n, m)) float64. Example:

        >>> covariance_spectrum(torch.tensor([[2.0, 0.0], [-2.0, 0.0]])).round(decimals=12).tolist()
        [4.0, 0.0]
    """
    rows = centred_rows(z, normalize=False)
    return nan_unless(rows.good, rows.s.square() / rows.x.shape[-2])


def covariance_spectrum_grad(z: Tensor, upstream: Tensor) -> Tensor:
    """Gradient in z of `<upstream, covariance_spectrum(z)>`, upstream (..., min(n, m)).

    `d lambda_k / dz = (2 sigma_k / n) u_k v_k^T`, unique where eigenvalues are distinct or share
    one upstream.
    """
    rows = centred_rows(z, normalize=False)
    slope = 2 / rows.x.shape[-2] * rows.s * as_float64(upstream.detach(), "upstream", ndim=1)
    return nan_unless(rows.good, _push(rows.u, slope, rows.vh))
