"""Spectra of embeddings and the ranks read off them, float64 inside.

The spectrum comes from the smaller of the Gram (n x n) and covariance (m x m) matrices, accumulated
in float64: singular values are resolved to about 1e-7 of the largest. A function of it with slopes
g_k = d f / d lambda_k has the gradient

    dz = (2/n) U diag(g) U^T Zc   (Gram)      dz = (2/n) Zc V diag(g) V^T   (covariance)

that is one small matrix times the (centred) rows, with no division by gaps.
"""

import math

import torch
from torch import Tensor

from wssl_fast.backends.eager import products
from wssl_fast.backends.eager.eigen import eigh
from wssl_fast.backends.eager.numerics import ROW_UNIT, noise_level, soft_step

RANKME_EPS = 1e-7  # added to every normalised singular value, Garrido et al. 2023


def decompose(z: Tensor, centred: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Eigenvalues of Zc^T Zc / n, descending (k,), their directions (k, k), the noise level ().

    k = min(n, m). Directions live in row space (n <= m) or in column space. Rows out of range are
    scaled by a power of two; rows that are not finite give NaN.
    """
    n, m = z.shape
    gram = n <= m
    unit = range_factor(z)
    mean = z.double().mean(0) if centred else torch.zeros(m, dtype=torch.float64, device=z.device)
    scale = torch.full((n,), unit, dtype=torch.float64, device=z.device)
    c = products.symmetric_product(
        z, torch.float64, covariance=not gram, scale=scale, mean=mean * unit if centred else None
    ).div_(n)
    finite = c.isfinite().all()
    noise = noise_level(torch.where(finite, c, 0.0), torch.float64)
    if centred:  # rows that are their mean to rounding
        noise = torch.maximum(noise, (ROW_UNIT * unit) ** 2 * (mean * mean).sum().nan_to_num())
    eigenvalues, vectors = eigh(torch.where(finite, c, 0.0))
    eigenvalues = torch.where(finite, eigenvalues.clamp_min(0).flip(0), torch.nan)
    vectors = torch.where(finite, vectors.flip(1), torch.nan)
    return eigenvalues / unit**2, vectors, noise / unit**2


def range_factor(z: Tensor) -> float:
    """1, or a power of two that brings the largest entry where float64 can square it."""
    largest = float(z.abs().amax())
    if largest == 0 or not math.isfinite(largest) or 1e-100 < largest < 1e100:
        return 1.0
    return 2.0 ** -round(math.log2(largest))


def spectral_matrix(vectors: Tensor, slopes: Tensor, n: int) -> Tensor:
    """(2/n) B diag(g) B^T, the matrix of the gradient. (k, k)"""
    return (vectors * (slopes * (2 / n))) @ vectors.mT


def apply_matrix(z: Tensor, matrix: Tensor, centred: bool, grad: Tensor) -> Tensor:
    """grad * matrix Zc (Gram) or grad * Zc matrix (covariance), in the dtype of z. grad ()."""
    n, m = z.shape
    dz = torch.empty(n, m, dtype=z.dtype, device=z.device)
    step = products.CHUNK
    if n <= m:
        for start in range(0, m, step):
            x = z[:, start : start + step].double()
            x = x - x.mean(0) if centred else x
            dz[:, start : start + step] = (matrix @ x * grad).to(z.dtype)
        return dz
    mean = z.double().mean(0) if centred else 0.0
    for start in range(0, n, step):
        x = z[start : start + step].double() - mean
        dz[start : start + step] = (x @ matrix * grad).to(z.dtype)
    return dz


def effective_rank(z: Tensor, with_grad: bool) -> tuple[Tensor, Tensor]:
    """exp(entropy of lambda / sum lambda) of the covariance, and the gradient's matrix."""
    lam, vectors, noise = decompose(z, centred=True)
    lam = lam * soft_step(lam, noise)
    total = lam.sum()
    p = torch.where(total > 0, lam / total, lam)  # NaN stays NaN
    entropy = torch.special.entr(p).sum()
    rank = torch.where(total == 0, 0.0, entropy.exp())
    if not with_grad:
        return rank, vectors[:0, :0]
    live = lam > 0
    slopes = torch.where(live, -rank / total * (p.where(live, 1.0).log() + entropy), 0.0)
    slopes = torch.where(total.isnan(), torch.nan, slopes)
    return rank, spectral_matrix(vectors, slopes, z.shape[0])


def rankme(z: Tensor, with_grad: bool) -> tuple[Tensor, Tensor]:
    """exp(entropy of sigma / |sigma|_1 + 1e-7) of the rows as given, and the gradient's matrix."""
    lam, vectors, noise = decompose(z, centred=False)
    sigma = (lam * soft_step(lam, noise)).sqrt()
    total = sigma.sum()
    q = torch.where(total > 0, sigma / total, sigma)
    p = q + RANKME_EPS
    rank = torch.special.entr(p).sum().exp()
    if not with_grad:
        return rank, vectors[:0, :0]
    live = sigma > 0
    by_sigma = rank * ((q * p.log()).sum() - p.log()) / total
    slopes = torch.where(live, by_sigma / (2 * sigma.where(live, 1.0)), 0.0)
    slopes = torch.where(total.isnan(), torch.nan, slopes)
    return rank, spectral_matrix(vectors, slopes, z.shape[0])
