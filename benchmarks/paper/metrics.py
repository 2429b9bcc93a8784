"""The metrics of uniformity a user may choose from, each as "higher is more uniform"."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

import wssl_fast as wf
from benchmarks import peers

Metric = Callable[[Tensor], Tensor]


def covariance_term(z: Tensor) -> Tensor:
    """VICReg's covariance term (Bardes et al. 2022, eq. 3) on unit rows: squared off-diagonal
    entries of the (n - 1) covariance over m."""
    x = normalize(z, dim=1)
    n, m = x.shape
    x = x - x.mean(0)
    s = x.T @ x / (n - 1)
    return (s.square().sum() - s.diagonal().square().sum()) / m


def frobenius_distance(z: Tensor) -> Tensor:
    """|S - I/m|_F^2 of unit rows: distance from the isotropic covariance, without roots."""
    x = normalize(z, dim=1)
    n, m = x.shape
    x = x - x.mean(0)
    s = x.T @ x / n
    return (s - torch.eye(m, dtype=z.dtype, device=z.device) / m).square().sum()


METRICS: dict[str, Metric] = {
    "-W2": lambda z: -wf.wasserstein_uniformity(z),
    "-L_U": lambda z: -wf.uniformity(z),
    "effective rank": lambda z: wf.effective_rank(normalize(z, dim=1)),
    "RankMe": lambda z: wf.rankme(normalize(z, dim=1)),
    "coding rate": lambda z: -peers.coding_rate(z),
    "-VICReg's covariance": lambda z: -covariance_term(z),
    "-|S - I/m|^2": lambda z: -frobenius_distance(z),
}
"""Of rows (n, m), normalised inside."""
