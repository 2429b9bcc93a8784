"""What uniform points would show: the reference beside a W2 that is measured on finitely many rows.

n points drawn uniformly on the sphere of R^m have a covariance whose m eigenvalues spread out
around 1/m by the Marchenko-Pastur law with ratio g = m / n. With

    x(theta) = 1 + g + 2 sqrt(g) cos(theta),    0 <= theta <= pi,

an eigenvalue is x/m with density (2/pi) sin(theta)^2 / x(theta) in theta, and 0 with the rest,
max(0, 1 - 1/g). A smooth periodic integrand: equidistant nodes are exact to rounding, for g = 1 to
1e-7. Centring costs one row: g = m / (n - 1), and every eigenvalue
carries the factor (n - 1) / n.

Source: Marchenko & Pastur, Math. USSR Sbornik 1, 1967.
"""

import math

import torch
from torch import Tensor

from wssl_fast import _checks as checks

NODES = 4096


def w2_floor(n: int, m: int) -> float:
    r"""The least W2 that n unit rows of m columns can have: min(n - 1, m) equal directions.

    .. math:: \sqrt{2 - 2 \sqrt{\min(n - 1, m) / m}}

    Args:
        n: rows, at least 1.
        m: columns, at least 1.

    Example:
        >>> import wssl_fast as wf
        >>> round(wf.metrics.w2_floor(65, 256), 12), wf.metrics.w2_floor(10_000, 256)
        (1.0, 0.0)
    """
    n, m = _checked(n, m)
    return math.sqrt(2 - 2 * math.sqrt(min(n - 1, m) / m))


def w2_of_uniform(n: int, m: int) -> float:
    r"""W2 to expect of n points drawn uniformly on the sphere of R^m: no sample of n does better
    by chance, and embeddings at this level are as uniform as n rows can show.

    .. math:: \sqrt{2 - 2 \sqrt{1 - 1/n}\, \mathbb E \sqrt x}, \qquad
              \mathbb E \sqrt x = \frac 2\pi \int_0^\pi
              \frac{\sin^2\theta}{\sqrt{1 + g + 2 \sqrt g \cos\theta}}\, d\theta, \quad
              g = \frac m{n - 1}

    Args:
        n: rows, at least 1.
        m: columns, at least 1.

    Source: the Marchenko-Pastur law, a limit for large n and m: within a share of 1/m of the mean
    over drawn samples.

    Example:
        >>> import wssl_fast as wf
        >>> round(wf.metrics.w2_of_uniform(10_000, 256), 3)
        0.081
    """
    n, m = _checked(n, m)
    if n == 1:
        return math.sqrt(2)
    x, density = _law(n, m)
    mean_root = math.sqrt(1 - 1 / n) * float((density * x.sqrt()).sum())
    return math.sqrt(max(0.0, 2 - 2 * mean_root))


def uniform_spectrum(n: int, m: int) -> Tensor:
    """Covariance eigenvalues (m,), descending, float64, of n uniform points on the sphere of R^m:
    quantiles of the Marchenko-Pastur law. Arguments as in :func:`w2_of_uniform`.

    Example:
        >>> import wssl_fast as wf
        >>> round(float(wf.metrics.uniform_spectrum(50, 100).sum()), 1)     # trace 1, rank 49
        1.0
    """
    n, m = _checked(n, m)
    if n == 1:
        return torch.zeros(m, dtype=torch.float64)
    x, density = _law(n, m)  # descending in theta
    wanted = (torch.arange(m, dtype=torch.float64) + 0.5) / m
    place = torch.searchsorted(density.cumsum(0), wanted)
    found = x[place.clamp_max(NODES - 1)] * (1 - 1 / n) / m
    return torch.where(torch.arange(m) < n - 1, found, 0.0)


def _law(n: int, m: int) -> tuple[Tensor, Tensor]:
    """Nodes x (NODES,), descending, and their shares of all m eigenvalues."""
    g = m / (n - 1)
    theta = (torch.arange(NODES, dtype=torch.float64) + 0.5) * (math.pi / NODES)
    # 1 + g + 2 sqrt(g) cos(theta), without cancellation at g = 1
    x = (1 - math.sqrt(g)) ** 2 + 4 * math.sqrt(g) * (theta / 2).cos() ** 2
    return x, (2 / NODES) * theta.sin() ** 2 / x


def _checked(n: int, m: int) -> tuple[int, int]:
    return checks.integer("n", n, minimum=1), checks.integer("m", m, minimum=1)
