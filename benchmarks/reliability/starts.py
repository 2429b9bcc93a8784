"""Collapsed batches of unit rows to descend from, and how far descent can go from each.

W2^2 of n unit rows in m dimensions is at least 2 - 2 sqrt(min(n - 1, m) / m), with equality where
the mean is 0 and all min(n - 1, m) singular values of the rows are equal (docs/mathematics.md).
The gradient is what the normalisation leaves of the polar factor P of the centred rows, which has
weight 1 in every direction there is and, here, 0 in exactly null ones. So in exact arithmetic

* rank r: the rows of P lie in the span of the rows, and descent stays in these r dimensions. It can
  reach the optimum of r dimensions, 2 - 2 sqrt(min(n - 1, r) / m).
* rank 1: unit rows are b or -b, rows of P multiples of b, and nothing is left of them: stationary.
  With as many of either sign the optimum of 1 dimension is reached before the first step.
* copies: W2 sees the distribution alone, so copies of a row have one gradient and stay together:
  the optimum of d distinct rows, 2 - 2 sqrt(min(d - 1, m) / m).
* identical rows: P = 0, W2 = sqrt 2, stationary.
* noise in every direction, however small: weight 1 everywhere, and the optimum of n rows in reach.

float32 rows are not exact: each step rounds them, which puts about 1e-8 of the largest singular
value into every null direction, more after many steps. Whoever resolves that leaves the span.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

RANK = 12


@dataclass(frozen=True)
class Start:
    """A family of collapsed batches.

    Attributes:
        name: for tables, pictures and rows.
        build: (n, m, generator) -> float64 rows (n, m), normalised afterwards.
        directions: (n, m) -> how many equal singular values descent can reach in exact arithmetic.
    """

    name: str
    build: Callable[[int, int, torch.Generator], Tensor]
    directions: Callable[[int, int], int]

    def __call__(self, n: int, m: int, generator: torch.Generator) -> Tensor:
        """Unit rows, float64 (n, m)."""
        return normalize(self.build(n, m, generator), dim=1)

    def reachable(self, n: int, m: int) -> float:
        """W2^2 at the end of exact descent."""
        return optimum(self.directions(n, m), m)

    def can_escape(self, n: int, m: int) -> bool:
        """Whether that is the optimum of all batches of n rows."""
        return self.directions(n, m) == full(n, m)


def full(n: int, m: int) -> int:
    """Directions that n rows have around their mean."""
    return min(n - 1, m)


def optimum(k: int, m: int) -> float:
    """Least W2^2 of unit rows with k directions around their mean."""
    return 2 - 2 * (k / m) ** 0.5


def eighth(n: int, m: int) -> int:
    return max(2, min(n, m) // 8)


def low(n: int, m: int) -> int:
    """12, where that is no more than a quarter of the directions."""
    return min(RANK, min(n, m) // 4)


def _gaussian(n: int, m: int, generator: torch.Generator) -> Tensor:
    return torch.randn(n, m, dtype=torch.float64, generator=generator)


def _rank_one(n: int, m: int, generator: torch.Generator) -> Tensor:
    sign = torch.ones(n, 1, dtype=torch.float64)
    sign[torch.randperm(n, generator=generator)[: n // 2]] = -1
    return sign * _gaussian(1, m, generator)


def _rank_eighth(n: int, m: int, generator: torch.Generator) -> Tensor:
    rank = eighth(n, m)
    return _gaussian(n, rank, generator) @ _gaussian(rank, m, generator)


def _noise(level: float) -> Callable[[int, int, torch.Generator], Tensor]:
    """Equal singular values in `low` directions, `level` of that in the others."""

    def build(n: int, m: int, generator: torch.Generator) -> Tensor:
        k, rank = full(n, m), low(n, m)
        left = _gaussian(n, k, generator)
        left = torch.linalg.qr(left - left.mean(0)).Q  # orthogonal to the ones
        sigma = torch.full((k,), level, dtype=torch.float64)
        sigma[:rank] = 1
        return (left * sigma) @ torch.linalg.qr(_gaussian(m, k, generator)).Q.mT

    return build


def _near_constant(n: int, m: int, generator: torch.Generator) -> Tensor:
    return normalize(_gaussian(1, m, generator)) + 1e-4 * _gaussian(n, m, generator) / m**0.5


def _copies(n: int, m: int, generator: torch.Generator) -> Tensor:
    return _gaussian(n // 2, m, generator).repeat(2, 1)


def _identical(n: int, m: int, generator: torch.Generator) -> Tensor:
    return _gaussian(1, m, generator).repeat(n, 1)


STARTS = (
    Start("rank 12 + noise 1e-4", _noise(1e-4), full),
    Start("rank 12 + noise 1e-5", _noise(1e-5), full),
    Start("rank 12 + noise 1e-6", _noise(1e-6), full),
    Start("near-constant, noise 1e-4", _near_constant, full),
    Start("rank k/8", _rank_eighth, lambda n, m: min(n - 1, eighth(n, m))),
    Start("every row twice", _copies, lambda n, m: min(n // 2 - 1, m)),
    Start("rank 1", _rank_one, lambda n, m: 1),
    Start("identical rows", _identical, lambda n, m: 0),
)
BY_NAME = {start.name: start for start in STARTS}
