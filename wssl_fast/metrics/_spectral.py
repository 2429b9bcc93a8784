"""What is read off the eigenvalues of streamed moments. All float64."""

import math

import torch
from torch import Tensor

from wssl_fast.backends.eager.eigen import eigvalsh
from wssl_fast.backends.eager.numerics import ROW_UNIT, noise_level, soft_step
from wssl_fast.backends.eager.spectrum import RANKME_EPS


def eigenvalues(c: Tensor, dtype: torch.dtype, mean: Tensor | None = None) -> Tensor:
    """Descending eigenvalues (m,) of c (m, m), accumulated in `dtype`; rounding noise as 0.

    mean (m,) is what was subtracted from the rows, whose own rounding is noise too. NaN where c
    holds a NaN or an infinity.
    """
    if not bool(c.isfinite().all()):
        return torch.full_like(c[0], torch.nan)
    noise = noise_level(c, dtype)
    if mean is not None:
        noise = torch.maximum(noise, ROW_UNIT**2 * (mean * mean).sum())
    found = eigvalsh(c).flip(0).clamp_min(0)
    return found * soft_step(found, noise)


def w2_squared(eigenvalues: Tensor, mean: Tensor) -> Tensor:
    """|mu|^2 + sum_i (sqrt(lambda_i) - 1/sqrt m)^2. ()"""
    target = 1 / math.sqrt(len(mean))
    return (mean * mean).sum() + ((eigenvalues.sqrt() - target) ** 2).sum()


def effective_rank(eigenvalues: Tensor) -> Tensor:
    """exp(entropy of lambda / sum lambda), 0 where every eigenvalue is 0. ()"""
    total = eigenvalues.sum()
    rank = torch.special.entr(_shares(eigenvalues, total)).sum().exp()
    return torch.where(total == 0, 0.0, rank)


def rankme(eigenvalues: Tensor) -> Tensor:
    """exp(entropy of sigma / |sigma|_1 + 1e-7), from the min(n, m) leading eigenvalues of the
    second moment about 0. ()"""
    sigma = eigenvalues.sqrt()
    rank: Tensor = torch.special.entr(_shares(sigma, sigma.sum()) + RANKME_EPS).sum().exp()
    return rank


def _shares(values: Tensor, total: Tensor) -> Tensor:
    return torch.where(total == 0, values, values / total)  # NaN stays NaN
