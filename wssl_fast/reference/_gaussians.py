"""W2 between two Gaussians, given by batches of rows or by their moments.

A Gaussian is held as a factor F (..., p, m) with `S = F^T F`. For factors A and B,
`tr (Sa^(1/2) Sb Sa^(1/2))^(1/2) = |A B^T|_*`, and with `A B^T = U diag(s) V^T`, O = U V^T,

    W2^2 - |mu_a - mu_b|^2 = |A - O B|_F^2,

the orthogonal Procrustes form: it does not cancel, and squares nothing.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from wssl_fast.reference._linear import (
    as_float64,
    finite_or_zero,
    live_directions,
    nan_unless,
    unit_rows,
)

OPTIMUM = 1e-7
"""An unsquared distance below OPTIMUM times its own scale is given the gradient 0: rows that are
equal reach |A - O B| of about EPS64 * |A|, and a product's null space can raise it to its root."""


class Procrustes(NamedTuple):
    """Alignment of two factors; every quantity of the distance and its gradients."""

    squared: Tensor  # (...), |A - O B|_F^2
    u: Tensor  # (..., p, p)
    s: Tensor  # (..., p), descending
    vh: Tensor  # (..., p, p)
    live: Tensor  # (..., p)


def _procrustes(a: Tensor, b: Tensor, scale: Tensor) -> Procrustes:
    """`a` (..., p, m) and `b` (..., q, m), padded to the same number of rows."""
    p = max(a.shape[-2], b.shape[-2])
    a, b = (pad(f, (0, 0, 0, p - f.shape[-2])) for f in (a, b))
    u, s, vh = torch.linalg.svd(a @ b.mT)
    squared = (a - (u @ vh) @ b).square().sum(dim=(-2, -1))
    return Procrustes(squared, u, s, vh, live_directions(s, p, scale))


def _finish(squared_distance: Tensor, good: Tensor, squared: bool) -> Tensor:
    return nan_unless(good, squared_distance if squared else torch.sqrt(squared_distance))


def _slope(squared_distance: Tensor, scale: Tensor, squared: bool) -> Tensor:
    """Factor from the gradient of W2^2 to the one asked for, (...): 1, or 1/(2 W2), 0 at 0."""
    if squared:
        return torch.ones_like(squared_distance)
    distance = torch.sqrt(squared_distance)
    apart = distance > OPTIMUM * scale
    return torch.where(apart, 0.5 / torch.where(apart, distance, 1.0), 0.0)


class _Batch(NamedTuple):
    rows: int
    mean: Tensor  # (..., m)
    q: Tensor  # (..., p, r)
    r: Tensor  # (..., r, m), S = R^T R
    scale: Tensor  # (...), root mean square norm of the rows before centring


def _factor(z: Tensor, eps: float) -> _Batch:
    n, m = z.shape[-2:]
    mean = z.mean(dim=-2)
    rows = (z - mean.unsqueeze(-2)) / n**0.5
    if eps > 0:
        ridge = eps**0.5 * torch.eye(m, dtype=z.dtype)
        rows = torch.cat([rows, ridge.expand(*z.shape[:-2], m, m)], dim=-2)
    q, r = torch.linalg.qr(rows)
    scale = torch.sqrt(z.square().mean(dim=-2).sum(dim=-1) + m * eps)
    return _Batch(n, mean, q, r, scale)


def _frechet(x: Tensor, y: Tensor, eps: float) -> tuple[Tensor, _Batch, _Batch, Procrustes, Tensor]:
    if not eps >= 0:
        raise ValueError(f"eps: expected a ridge >= 0, got {eps!r}")
    good, x64, y64 = finite_or_zero(as_float64(x.detach(), "x"), as_float64(y.detach(), "y"))
    if x64.shape[-1] != y64.shape[-1]:
        raise ValueError(
            f"y: expected rows of {x64.shape[-1]} entries as in x, got shape {tuple(y.shape)}"
        )
    a, b = _factor(x64, eps), _factor(y64, eps)
    match = _procrustes(a.r, b.r, a.scale * b.scale)
    value = (a.mean - b.mean).square().sum(dim=-1) + match.squared
    return good, a, b, match, value


def frechet_distance(x: Tensor, y: Tensor, *, squared: bool = True, eps: float = 0.0) -> Tensor:
    """W2 (squared by default) between the Gaussians of two batches of rows.

    `W2^2 = |mu_x - mu_y|^2 + tr Sx + tr Sy - 2 |Xc Yc^T|_* / sqrt(n_x n_y)`, S + eps I for both
    with a ridge. `x` is (..., n_x, m), `y` (..., n_y, m); returns (...) float64. Source:
    Dowson & Landau 1982; with the nuclear norm, arXiv 2009.14075. Example:

        >>> x = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
        >>> round(frechet_distance(x, x + 2).item(), 12)
        8.0
    """
    good, _, _, _, value = _frechet(x, y, eps)
    return _finish(value, good, squared)


def frechet_distance_grad(
    x: Tensor, y: Tensor, *, squared: bool = True, eps: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Gradients of `frechet_distance` in x and y.

    `d W2^2 / dA = 2 (A - U V^T B)` for the factors (the centred rows over sqrt n), U V^T over the
    live singular directions of A B^T alone, plus `2 (mu_x - mu_y)/n_x` on every row.
    """
    good, a, b, match, value = _frechet(x, y, eps)
    gap = a.mean - b.mean
    slope = _slope(value, a.scale + b.scale, squared)[..., None, None]

    def one(own: _Batch, other: _Batch, turn: Tensor, sign: float) -> Tensor:
        p, q = own.r.shape[-2], other.r.shape[-2]
        pushed = own.q @ (own.r - turn[..., :p, :q] @ other.r)  # (..., rows [+ m], m)
        n = own.rows
        # the mean of the pushed rows is 0 but for the ridge's part: centre it explicitly
        rows = pushed[..., :n, :] - pushed[..., :n, :].mean(dim=-2, keepdim=True)
        grad = 2 / n**0.5 * rows + sign * (2 / n) * gap.unsqueeze(-2)
        return nan_unless(good, slope * grad)

    u = match.u * match.live.unsqueeze(-2)
    turn = u @ match.vh
    return one(a, b, turn, 1.0), one(b, a, turn.mT, -1.0)


class _Moments(NamedTuple):
    good: Tensor
    gap: Tensor  # (..., m)
    a: Tensor  # (..., m, m), cov_x = A^T A
    b: Tensor
    match: Procrustes
    scale: Tensor


def _root(cov: Tensor) -> Tensor:
    """F (..., m, m) with `F^T F = cov`, from the eigenvalues of its symmetric part clamped at 0."""
    values, vectors = torch.linalg.eigh((cov + cov.mT) / 2)
    root: Tensor = torch.sqrt(values.clamp_min(0)).unsqueeze(-1) * vectors.mT
    return root


def _moments(
    mean_x: Tensor, cov_x: Tensor, mean_y: Tensor | None, cov_y: Tensor | None
) -> _Moments:
    mean_good, mx = finite_or_zero(as_float64(mean_x.detach(), "mean_x", ndim=1), ndim=1)
    cov_good, cx = finite_or_zero(as_float64(cov_x.detach(), "cov_x"))
    m = mx.shape[-1]
    if cx.shape[-2:] != (m, m):
        raise ValueError(f"cov_x: expected (..., {m}, {m}), got shape {tuple(cx.shape)}")
    good = mean_good & cov_good
    my, b = torch.zeros(m, dtype=mx.dtype), torch.eye(m, dtype=mx.dtype) / m**0.5
    if mean_y is not None:
        flag, my = finite_or_zero(as_float64(mean_y.detach(), "mean_y", ndim=1), ndim=1)
        good = good & flag
    if cov_y is not None:
        flag, cy = finite_or_zero(as_float64(cov_y.detach(), "cov_y"))
        good, b = good & flag, _root(cy)
    a = _root(cx)
    norm_a, norm_b = torch.linalg.matrix_norm(a), torch.linalg.matrix_norm(b)
    match = _procrustes(a, b, norm_a * norm_b)
    return _Moments(good, mx - my, a, b, match, norm_a + norm_b)


def gaussian_w2(
    mean_x: Tensor,
    cov_x: Tensor,
    mean_y: Tensor | None = None,
    cov_y: Tensor | None = None,
    *,
    squared: bool = False,
) -> Tensor:
    """W2 between N(mean_x, cov_x) and N(mean_y, cov_y); the second is N(0, I/m) by default.

    `W2^2 = |mean_x - mean_y|^2 + tr Cx + tr Cy - 2 tr (Cx^(1/2) Cy Cx^(1/2))^(1/2)`. Means are
    (..., m), covariances (..., m, m), symmetric and positive semi-definite (the symmetric part is
    read, negative eigenvalues count as 0). Returns (...) float64. Example:

        >>> round(gaussian_w2(torch.tensor([3.0, 4.0]), torch.eye(2) / 2).item(), 12)
        5.0
    """
    given = _moments(mean_x, cov_x, mean_y, cov_y)
    value = given.gap.square().sum(dim=-1) + given.match.squared
    return _finish(value, given.good, squared)


def gaussian_w2_grad(
    mean_x: Tensor,
    cov_x: Tensor,
    mean_y: Tensor | None = None,
    cov_y: Tensor | None = None,
    *,
    squared: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of `gaussian_w2` in mean_x, cov_x, mean_y, cov_y (the default second included).

    `d W2^2 / dCx = I - B^T V diag(1/s) V^T B`, one minus the optimal transport map, symmetric;
    singular directions of A B^T that are exactly null have weight 0.
    """
    given = _moments(mean_x, cov_x, mean_y, cov_y)
    match = given.match
    value = given.gap.square().sum(dim=-1) + match.squared
    slope = _slope(value, given.scale, squared)
    inverse = torch.where(match.live, 1 / torch.where(match.live, match.s, 1.0), 0.0)
    eye = torch.eye(given.gap.shape[-1], dtype=torch.float64)
    seen_y, seen_x = match.vh @ given.b, match.u.mT @ given.a  # (..., m, m)
    grad_cx = eye - seen_y.mT @ (inverse.unsqueeze(-1) * seen_y)
    grad_cy = eye - seen_x.mT @ (inverse.unsqueeze(-1) * seen_x)
    grad_mean = nan_unless(given.good, 2 * slope[..., None] * given.gap)
    grad_cx = nan_unless(given.good, slope[..., None, None] * grad_cx)
    grad_cy = nan_unless(given.good, slope[..., None, None] * grad_cy)
    return grad_mean, grad_cx, -grad_mean, grad_cy


def batch_covariance(z: Tensor, *, normalize: bool = False) -> tuple[Tensor, Tensor]:
    """Mean (..., m) and population covariance (..., m, m) of the rows (..., n, m), float64.

    `S = Xc^T Xc / n`, rows centred before the product. Differentiable by autograd. Example:

        >>> mean, cov = batch_covariance(torch.tensor([[1.0], [3.0]]))
        >>> mean.item(), cov.item()
        (2.0, 1.0)
    """
    x = as_float64(z, "z")
    x = unit_rows(x)[0] if normalize else x
    mean = x.mean(dim=-2)
    centred = x - mean.unsqueeze(-2)
    return mean, centred.mT @ centred / x.shape[-2]
