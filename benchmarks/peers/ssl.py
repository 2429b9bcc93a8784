"""Losses of self-supervised learning that W2 stands beside in a training step."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


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


def simclr(z_a: Tensor, z_b: Tensor, *, temperature: float = 0.5) -> Tensor:
    """NT-Xent, the InfoNCE of SimCLR (Chen et al. 2020, eq. 1), mean over the 2n anchors.

    l_ij = -log exp(s_ij / tau) / sum_{k != i} exp(s_ik / tau), s cosines, j the other view of i.
    tau = 0.5, the value of its training from scratch on CIFAR-10 (appendix B.9).
    """
    n, _ = z_a.shape
    x = F.normalize(torch.cat([z_a, z_b]), dim=1)
    similarity = x @ x.T / temperature  # (2n, 2n)
    similarity = similarity.masked_fill(
        torch.eye(2 * n, dtype=torch.bool, device=x.device), -math.inf
    )
    partner = torch.arange(2 * n, device=x.device).roll(n)
    return F.cross_entropy(similarity, partner)


def sigreg(z: Tensor, *, slices: int = 256, knots: int = 17, edge: float = 5.0) -> Tensor:
    """SIGReg of LeJEPA (Balestriero & LeCun 2025, arXiv 2511.08544, Algorithm 1), mean over slices.

    n int |phi_n(t) - exp(-t^2/2)|^2 exp(-t^2/2) dt, Epps and Pulley's statistic of z a with phi_n
    its empirical characteristic function, for random unit directions a, by the trapezoidal rule on
    17 knots of [-5, 5]. The integrand is even: nine knots of [0, 5] give the same sum. Directions
    are drawn anew in every call, as the source does in every step, here from one seed.
    """
    n, m = z.shape
    generator = torch.Generator(z.device).manual_seed(0)
    # drawn in float32 for every dtype: the same directions
    a = torch.randn(m, slices, generator=generator, device=z.device).to(z.dtype)
    projected = z @ (a / a.norm(dim=0))  # (n, slices)
    t = torch.linspace(0, edge, knots // 2 + 1, dtype=z.dtype, device=z.device)
    normal = torch.exp(-t.square() / 2)
    phase = projected.unsqueeze(-1) * t  # (n, slices, knots)
    error = (phase.cos().mean(0) - normal).square() + phase.sin().mean(0).square()
    return 2 * n * torch.trapezoid(error * normal, t, dim=-1).mean()


def coding_rate(z: Tensor, *, squared_error: float = 0.5) -> Tensor:
    """-R, the coding rate of MCR2 (Yu et al. 2020, section 2.1) on unit rows, to be minimised.

    R = 1/2 log det(I + m/(n eps^2) X^T X), equal to that of X X^T, so the determinant is of
    min(n, m) rows. eps^2 = 0.5, the source's.
    """
    x = F.normalize(z, dim=1)
    n, m = x.shape
    product = x @ x.T if n <= m else x.T @ x
    identity = torch.eye(min(n, m), dtype=x.dtype, device=x.device)
    factor = torch.linalg.cholesky(identity + m / (n * squared_error) * product)
    return -factor.diagonal().log().sum()
