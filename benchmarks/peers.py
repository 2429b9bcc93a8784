"""The losses wssl_fast is measured against, each written as its source writes it.

Every W2 form takes raw rows z (n x m), normalises them itself and returns a scalar, so that all
of them, and the package's own loss, are called alike and differentiated alike:

    W2^2 = |mu|^2 + 1 + tr S - 2 tr(S^(1/2)) / sqrt(m),    S the unit rows' population covariance.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Loss = Callable[[Tensor], Tensor]


def literal_w2(z: Tensor, *, squared: bool = False, eps: float = 0.0) -> Tensor:
    """The paper's own loss: S^(1/2) = Q diag(sqrt|s|) Q^T in full, then its trace.

    Source: statsle/WassersteinSSL, code/BarlowTwins/module.py, `calc_wasserstein_loss`, with its
    `torch.eig` (gone from PyTorch) replaced as its authors advise, by `torch.linalg.eigh`. Autograd
    through the eigenvectors divides by differences of eigenvalues and through sqrt by zero
    eigenvalues: NaN for n <= m as soon as an eigenvalue is exactly 0 or two are equal.
    `eps` is the ridge of the source (0 for BYOL, 1e-12 for Barlow Twins, 1e-4 for MoCo).
    """
    x = F.normalize(z, dim=1)
    n, m = x.shape
    mean = x.mean(0)
    centred = x - mean
    covariance = centred.T @ centred / n + eps * torch.eye(m, dtype=x.dtype, device=x.device)
    s, q = torch.linalg.eigh(covariance)
    root = q @ torch.sqrt(torch.diag(s.abs())) @ q.T
    squared_distance = mean.square().sum() + 1 + torch.trace(covariance - 2 / math.sqrt(m) * root)
    return squared_distance if squared else squared_distance.sqrt()


def eigvalsh_w2(z: Tensor, *, squared: bool = False) -> Tensor:
    """The eigenvalues of S alone, clamped: `eigvalsh`'s gradient needs no eigenvalue differences.

    Only tr S^(1/2) enters W2, so the square root itself is never formed. The clamp at the dtype's
    smallest normal number keeps sqrt'(0) out of the backward.
    """
    x = F.normalize(z, dim=1)
    n, m = x.shape
    mean = x.mean(0)
    centred = x - mean
    covariance = centred.T @ centred / n
    eigenvalues = torch.linalg.eigvalsh(covariance).clamp(min=torch.finfo(x.dtype).tiny)
    trace_root = eigenvalues.sqrt().sum()
    squared_distance = mean.square().sum() + 1 + covariance.trace() - 2 / math.sqrt(m) * trace_root
    return squared_distance if squared else squared_distance.clamp(min=0).sqrt()


def svdvals_w2(z: Tensor, *, squared: bool = False) -> Tensor:
    """The honest opponent: tr S^(1/2) = |Xc|_* / sqrt(n), a nuclear norm of the centred rows.

    No matrix is squared, so the value and the polar-factor gradient are exact to float32 on every
    spectrum; the price is a singular value decomposition of n x m.
    """
    x = F.normalize(z, dim=1)
    n, m = x.shape
    mean = x.mean(0)
    centred = x - mean
    nuclear = torch.linalg.svdvals(centred).sum()
    squared_distance = (
        mean.square().sum() + 1 + centred.square().sum() / n - 2 / math.sqrt(n * m) * nuclear
    )
    return squared_distance if squared else squared_distance.clamp(min=0).sqrt()


def barlow_twins(z_a: Tensor, z_b: Tensor, *, off_diagonal_weight: float = 0.0051) -> Tensor:
    """Barlow Twins (Zbontar et al. 2021, eq. 1; code: facebookresearch/barlowtwins, main.py).

    sum_i (1 - C_ii)^2 + lambda sum_{i != j} C_ij^2, C (m x m) the cross-correlation of the two
    views' batch-normalised columns. The source copies the off-diagonal entries before it sums their
    squares; here they are all squares less the diagonal's, which spares it that copy.
    """
    n, _ = z_a.shape
    a = F.batch_norm(z_a, None, None, training=True)
    b = F.batch_norm(z_b, None, None, training=True)
    correlation = a.T @ b / n
    diagonal = correlation.diagonal()
    off_diagonal = correlation.square().sum() - diagonal.square().sum()
    return (diagonal - 1).square().sum() + off_diagonal_weight * off_diagonal


def vicreg(
    z_a: Tensor,
    z_b: Tensor,
    *,
    invariance_weight: float = 25.0,
    variance_weight: float = 25.0,
    covariance_weight: float = 1.0,
) -> Tensor:
    """VICReg (Bardes et al. 2022, eqs. 1 to 6; code: facebookresearch/vicreg, main_vicreg.py).

    Invariance is the mean squared difference, variance a hinge at standard deviation 1, covariance
    the squared off-diagonal entries of each view's (n - 1) covariance over m.
    """
    variance = z_a.new_zeros(())
    covariance = z_a.new_zeros(())
    for z in (z_a, z_b):
        n, m = z.shape
        centred = z - z.mean(0)
        deviation = torch.sqrt(z.var(0) + 1e-4)
        variance = variance + F.relu(1 - deviation).mean() / 2
        second_moment = centred.T @ centred / (n - 1)
        off_diagonal = second_moment.square().sum() - second_moment.diagonal().square().sum()
        covariance = covariance + off_diagonal / m
    return (
        invariance_weight * F.mse_loss(z_a, z_b)
        + variance_weight * variance
        + covariance_weight * covariance
    )


def pdist_uniformity(z: Tensor, *, t: float = 2.0) -> Tensor:
    """L_U = log mean_{i<j} exp(-t |x_i - x_j|^2) on unit rows (Wang & Isola 2020).

    Source: SsnL/align_uniform, `uniform_loss`, through `torch.pdist`.
    """
    x = F.normalize(z, dim=1)
    return torch.pdist(x).square().mul(-t).exp().mean().log()


def two_views(loss: Callable[[Tensor, Tensor], Tensor]) -> Loss:
    """A loss of two views as a loss of their concatenation: the rows' halves are the views."""

    def of_halves(z: Tensor) -> Tensor:
        z_a, z_b = z.chunk(2)
        return loss(z_a, z_b)

    return of_halves


def value_and_gradient(loss: Loss, z: Tensor) -> tuple[Tensor, Tensor]:
    """Forward and backward of `loss` at z: the scalar and dloss/dz (n x m)."""
    leaf = z.detach().requires_grad_()
    value = loss(leaf)
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.detach(), gradient
