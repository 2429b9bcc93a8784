"""Wasserstein uniformity (Fang et al., ICLR 2024, arXiv 2403.00642), its gradient and the polar
factor that the gradient is made of."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from wssl_fast.reference._linear import (
    EPS64,
    as_float64,
    centred_rows,
    finite_or_zero,
    nan_unless,
    through_normalization,
    unit_rows,
)

Weights = Tensor | Callable[[Tensor], Tensor]

OPTIMUM = 64 * EPS64
"""W2 below this is the rounding of 0, where the unsquared distance is given the gradient 0."""


def _check_eps(eps: float) -> None:
    if not eps >= 0:
        raise ValueError(f"eps: expected a ridge >= 0, got {eps!r}")


def wasserstein_uniformity(
    z: Tensor, *, normalize: bool = True, squared: bool = False, eps: float = 0.0
) -> Tensor:
    """2-Wasserstein distance from the Gaussian of the rows to N(0, I/m).

    `W2^2 = |mu|^2 + tr S + 1 - (2/sqrt m) tr S^(1/2)` with S the population covariance plus
    `eps I`, evaluated without cancellation as

        |mu|^2 + sum_i (sqrt(lambda_i + eps) - 1/sqrt m)^2

    over the m eigenvalues of the covariance, those of index above min(n, m) being 0.

    Args:
        z: (..., n, m) rows of any floating dtype; every step is taken in float64 on the CPU.
        normalize: divide each row by its Euclidean norm first; zero rows stay zero.
        squared: return W2^2.
        eps: ridge added to the covariance.

    Returns:
        (...) float64; NaN where z holds NaN or inf.

    Source: arXiv 2403.00642, section 4 (the metric is -W2). Example:

        >>> wasserstein_uniformity(torch.cat([torch.eye(4), -torch.eye(4)])).item() < 1e-15
        True
    """
    _check_eps(eps)
    good, z64 = finite_or_zero(as_float64(z, "z"))
    n, m = z64.shape[-2:]
    x = unit_rows(z64)[0] if normalize else z64
    mean = x.mean(dim=-2)
    s = torch.linalg.svdvals(x - mean.unsqueeze(-2))  # (..., k)
    roots = torch.sqrt(s.square() / n + eps) if eps > 0 else s / math.sqrt(n)
    target = 1 / math.sqrt(m)
    value = mean.square().sum(dim=-1) + (roots - target).square().sum(dim=-1)
    value = value + (m - s.shape[-1]) * (math.sqrt(eps) - target) ** 2
    return nan_unless(good, value if squared else torch.sqrt(value))


def wasserstein_uniformity_grad(
    z: Tensor,
    *,
    normalize: bool = True,
    squared: bool = False,
    eps: float = 0.0,
    weights: Weights | None = None,
) -> Tensor:
    """Gradient of `wasserstein_uniformity` in z, explicit in the polar factor.

        d W2^2 / dX = (2/n) X - 2/(n sqrt m) P,    P = Xc S^(-1/2) = sqrt(n) U diag(w) V^T

    with w_k = 1 (or sqrt(lambda_k / (lambda_k + eps)) with a ridge) on every live direction and 0
    on the exactly null ones, which have no unique gradient; then through the normalisation. The
    unsquared distance divides by 2 W2, and has gradient 0 at W2 = 0.

    Args:
        weights: replaces w: a tensor (..., k), or a function of sigma/sigma_max (..., k) that
            returns one. A gradient seen at a limited resolution is
            `weights=lambda relative: (relative >= resolution).double()`.

    Returns:
        (..., n, m) float64; NaN where z holds NaN or inf.

    Example:

        >>> z = torch.cat([torch.eye(3), -torch.eye(3)])  # the optimum
        >>> wasserstein_uniformity_grad(z).abs().max().item()
        0.0
    """
    _check_eps(eps)
    rows = centred_rows(z, normalize)
    n, m = rows.x.shape[-2:]
    if weights is None:
        spectrum = rows.s.square() / n
        w = torch.ones_like(rows.s) if eps == 0 else torch.sqrt(spectrum / (spectrum + eps))
    else:
        w = weights(relative_spectrum(z, normalize=normalize)) if callable(weights) else weights
    w = torch.where(rows.live, w.to(rows.s), torch.zeros_like(rows.s))
    polar = math.sqrt(n) * (rows.u * w.unsqueeze(-2)) @ rows.vh
    grad = (2 / n) * rows.x - 2 / (n * math.sqrt(m)) * polar
    grad = through_normalization(grad, rows.x, rows.d) if normalize else grad
    if not squared:
        value = wasserstein_uniformity(z.detach(), normalize=normalize, eps=eps)
        value = value[..., None, None]
        apart = value > OPTIMUM
        grad = torch.where(apart, grad / (2 * torch.where(apart, value, 1.0)), 0.0)
    return nan_unless(rows.good, grad)


def relative_spectrum(z: Tensor, *, normalize: bool = True) -> Tensor:
    """`sigma_k / sigma_max` of the centred rows, (..., k) descending; all 0 where sigma_max is."""
    rows = centred_rows(z, normalize)
    top = torch.where(rows.live[..., :1], rows.s[..., :1], torch.ones_like(rows.s[..., :1]))
    return nan_unless(rows.good, torch.where(rows.live, rows.s / top, torch.zeros_like(rows.s)))


def polar_factor(z: Tensor, *, normalize: bool = True, resolution: float = 0.0) -> Tensor:
    """`P = Xc S^(-1/2) = sqrt(n) U V^T` (..., n, m) over the live directions.

    Directions below `resolution * sigma_max` are left out. On k live directions |P|_F = sqrt(n k).
    """
    rows = centred_rows(z, normalize)
    kept = rows.live & (rows.s >= resolution * rows.s[..., :1])
    polar = math.sqrt(rows.x.shape[-2]) * (rows.u * kept.unsqueeze(-2)) @ rows.vh
    return nan_unless(rows.good, polar)


def polar_weights(z: Tensor, p: Tensor, *, normalize: bool = True) -> tuple[Tensor, Tensor]:
    """The resolution curve of an approximate polar factor.

        w_k = u_k^T p v_k / sqrt(n)

    against `sigma_k / sigma_max`, with Xc = U diag(sigma) V^T. The exact p (`polar_factor`, norm
    sqrt(n k)) has w = 1 in every live direction; w near 0 is a direction its gradient no longer
    pushes. Null directions have no weight and come back as NaN.

    Returns:
        relative (..., k) descending, and w (..., k).
    """
    rows = centred_rows(z, normalize)
    approx = as_float64(p.detach(), "p")
    w = ((rows.u.mT @ approx) * rows.vh).sum(dim=-1) / math.sqrt(rows.x.shape[-2])
    relative = relative_spectrum(z, normalize=normalize)
    return relative, torch.where(rows.live, w, torch.full_like(w, float("nan")))
