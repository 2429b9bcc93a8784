"""W2^2 between the Gaussians of two batches, x (p x m) and y (q x m), as packages compute it.

Their packages are imported on the first call: they take longer to import than this one to run.
"""

import torch
from torch import Tensor


def pot_frechet(x: Tensor, y: Tensor) -> Tensor:
    """POT's `empirical_bures_wasserstein_distance`, its ridge of 1e-6 included, squared."""
    from ot.gaussian import empirical_bures_wasserstein_distance

    return empirical_bures_wasserstein_distance(x, y).square()


def torchmetrics_frechet(x: Tensor, y: Tensor) -> Tensor:
    """What torchmetrics' `FrechetInceptionDistance` computes from its moments, in its float64.

    The square roots of the eigenvalues of Sx Sy, which is not symmetric. Moments are population
    moments (1/n) here, where its class divides by n - 1.
    """
    from torchmetrics.image.fid import _compute_fid

    moments = (*_moments(x.double()), *_moments(y.double()))
    return _compute_fid(*moments).to(x.dtype)


def eigh_frechet(x: Tensor, y: Tensor) -> Tensor:
    """Dowson & Landau 1982, eq. 4, literally: tr (Sx^(1/2) Sy Sx^(1/2))^(1/2), roots by eigh."""
    mean_x, cov_x = _moments(x)
    mean_y, cov_y = _moments(y)
    root_x = _root(cov_x)
    cross = _root(root_x @ cov_y @ root_x)
    return (mean_x - mean_y).square().sum() + (cov_x + cov_y - 2 * cross).trace()


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    mean = x.mean(0)
    centred = x - mean
    return mean, centred.T @ centred / len(x)


def _root(a: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(a)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T
