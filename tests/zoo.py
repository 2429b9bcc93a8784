"""The spectra zoo: batches of rows whose covariance makes a solver or a formulation fail.

Each case builds raw rows z (n x m) from a seed of its own, in float64, and rounds them to the dtype
asked for; what it rounds to is the input, and the reference starts from there. A prescribed
spectrum is that of the *raw* centred rows: normalising the rows, and rounding them, moves it. So
`smallest` is nominal (the order of the last singular value meant as signal, over the largest);
tests read the actual one with `wssl_fast.reference.relative_spectrum`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

SHAPES = {
    "n<m": (48, 80),
    "n=m-1": (63, 64),
    "n=m": (64, 64),
    "n=m+1": (65, 64),
    "n>m": (96, 40),
    "odd": (37, 129),
}
"""Both formulations (Gram for n <= m, covariance above), off by one and off every tile size."""

Builder = Callable[[int, int, torch.Generator], Tensor]


@dataclass(frozen=True)
class Case:
    """A named family of batches.

    Attributes:
        name: identifier in test ids.
        smallest: nominal sigma/sigma_max of the last meaningful direction, at the shapes above.
        path: the code path it is there for.
        build: (n, m, generator) -> float64 rows.
    """

    name: str
    smallest: float
    path: str
    build: Builder

    def __call__(self, n: int, m: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return _built(self, n, m).to(dtype, copy=True)


@cache
def _built(case: Case, n: int, m: int) -> Tensor:
    seed = sum(ord(letter) * 131**place for place, letter in enumerate(case.name))
    return case.build(n, m, torch.Generator().manual_seed(seed % 2**31))


def _gaussian(n: int, m: int, generator: torch.Generator) -> Tensor:
    return torch.randn(n, m, dtype=torch.float64, generator=generator)


def _orthonormal(n: int, k: int, generator: torch.Generator) -> Tensor:
    return torch.linalg.qr(_gaussian(n, k, generator)).Q


def _with_spectrum(n: int, m: int, sigma: Tensor, generator: torch.Generator) -> Tensor:
    """Centred rows with singular values sqrt(n) sigma, sigma of min(n - 1, m) entries."""
    k = sigma.numel()
    left = _gaussian(n, k, generator)
    left = torch.linalg.qr(left - left.mean(dim=0)).Q  # orthogonal to the ones
    return n**0.5 * (left * sigma) @ _orthonormal(m, k, generator).T


def _rank(n: int, m: int) -> int:
    return min(n - 1, m)


def _log_spaced(n: int, m: int, last: float) -> Tensor:
    k = _rank(n, m)
    return last ** torch.linspace(0, 1, k, dtype=torch.float64)


def _low(n: int, m: int) -> int:
    return min(12, max(1, _rank(n, m) // 3))


def _flat(n: int, m: int, generator: torch.Generator) -> Tensor:
    # alternate between equal singular values and unit rows: a unit-norm tight frame with mean 0
    # (the simplex for n <= m + 1), where W2 sits on its rank floor
    x = _gaussian(n, m, generator)
    k = _rank(n, m)
    for _ in range(200):
        u, s, vh = torch.linalg.svd(x - x.mean(dim=0), full_matrices=False)
        if s[0] - s[k - 1] < 1e-12 * s[0]:
            break
        x = u[:, :k] @ vh[:k]
        x = x / x.norm(dim=1, keepdim=True)
    return x


def _power_law(n: int, m: int, generator: torch.Generator) -> Tensor:
    k = _rank(n, m)
    return _with_spectrum(n, m, torch.arange(1, k + 1, dtype=torch.float64).rsqrt(), generator)


def _inverse_square(n: int, m: int, generator: torch.Generator) -> Tensor:
    k = _rank(n, m)
    sigma = torch.arange(1, k + 1, dtype=torch.float64).pow(-2)
    return _with_spectrum(n, m, sigma, generator)


def _soft_collapse(n: int, m: int, generator: torch.Generator) -> Tensor:
    return _with_spectrum(n, m, _log_spaced(n, m, 1e-3), generator)


def _exact_rank(n: int, m: int, generator: torch.Generator) -> Tensor:
    # integers below 2^24: exactly of rank k/4 in float32 too
    rank = max(1, min(n, m) // 4)
    left = torch.randint(-3, 4, (n, rank), generator=generator)
    right = torch.randint(-3, 4, (rank, m), generator=generator)
    left[left.abs().sum(dim=1) == 0, 0] = 1  # no zero row by accident
    return (left @ right).double()


def _large_mean(n: int, m: int, generator: torch.Generator) -> Tensor:
    direction = _orthonormal(m, 1, generator)[:, 0]
    return _gaussian(n, m, generator) / m**0.5 + 1.5 * direction


def _near_constant(n: int, m: int, generator: torch.Generator) -> Tensor:
    direction = _orthonormal(m, 1, generator)[:, 0]
    return 0.03 * _gaussian(n, m, generator) / m**0.5 + direction


def _noise(level: float) -> Builder:
    def build(n: int, m: int, generator: torch.Generator) -> Tensor:
        low, k = _low(n, m), _rank(n, m)
        # unit rows raise sigma_max by 1.2 to 1.5: start above, so that the level is reached
        sigma = torch.full((k,), 1.6 * level, dtype=torch.float64)
        sigma[:low] = 1
        return _with_spectrum(n, m, sigma, generator)

    return build


def _clusters(n: int, m: int, generator: torch.Generator) -> Tensor:
    centres = _gaussian(min(10, n), m, generator)
    label = torch.randint(0, centres.shape[0], (n,), generator=generator)
    return centres[label] + 0.01 * _gaussian(n, m, generator)


def _duplicated_rows(n: int, m: int, generator: torch.Generator) -> Tensor:
    half = _gaussian((n + 1) // 2, m, generator)
    return half.repeat(2, 1)[:n]


def _dead_features(n: int, m: int, generator: torch.Generator) -> Tensor:
    z = _gaussian(n, m, generator)
    z[:, torch.randperm(m, generator=generator)[: m // 2]] = 0
    return z


def _cloned_features(n: int, m: int, generator: torch.Generator) -> Tensor:
    half = _gaussian(n, (m + 1) // 2, generator)
    return half.repeat(1, 2)[:, :m]


def _one_hot(n: int, m: int, generator: torch.Generator) -> Tensor:
    # classes of equal or nearly equal size, one point each: neural collapse
    return torch.eye(m, dtype=torch.float64)[torch.arange(n) % m]


def _constant(n: int, m: int, generator: torch.Generator) -> Tensor:
    return _gaussian(1, m, generator).repeat(n, 1)


def _parallel(n: int, m: int, generator: torch.Generator) -> Tensor:
    lengths = torch.rand(n, 1, dtype=torch.float64, generator=generator) + 0.1
    return lengths * _gaussian(1, m, generator)


def _zeros(n: int, m: int, generator: torch.Generator) -> Tensor:
    return torch.zeros(n, m, dtype=torch.float64)


def _two_rows(n: int, m: int, generator: torch.Generator) -> Tensor:
    return _gaussian(2, m, generator)


def _zero_rows(n: int, m: int, generator: torch.Generator) -> Tensor:
    z = _gaussian(n, m, generator)
    z[:: max(2, n // 5)] = 0
    return z


def _scaled(factor: float) -> Builder:
    def build(n: int, m: int, generator: torch.Generator) -> Tensor:
        x = _gaussian(n, m, generator)
        return factor * x / x.norm(dim=1, keepdim=True)

    return build


def _mixed_norms(n: int, m: int, generator: torch.Generator) -> Tensor:
    x = _gaussian(n, m, generator)
    factors = torch.tensor([1e-20, 1.0, 1e15], dtype=torch.float64)
    return factors[torch.arange(n) % 3].unsqueeze(1) * x / x.norm(dim=1, keepdim=True)


def _gaussian_case(n: int, m: int, generator: torch.Generator) -> Tensor:
    return _gaussian(n, m, generator)


ZOO = (
    Case("gaussian", 1e-2, "a healthy batch", _gaussian_case),
    Case("flat", 1.0, "repeated eigenvalues; tangential gradient 0; W2 = 0 for n > m", _flat),
    Case("power_law", 1e-1, "sigma ~ i^(-1/2)", _power_law),
    Case("soft_collapse", 1e-3, "sigma log-spaced down to 1e-3", _soft_collapse),
    Case("inverse_square", 2e-4, "sigma ~ i^-2: a tail with no gap to cut at", _inverse_square),
    Case("exact_rank", 1e-2, "k/4 live directions, the rest exactly null", _exact_rank),
    Case("large_mean", 1e-2, "|mu|^2 about 0.7: centring cancels in Gram space", _large_mean),
    Case("near_constant", 1e-2, "|mu|^2 > 0.99: centring cancels most", _near_constant),
    Case("noise_1e-3", 1e-3, "rank 12 + noise where a float32 Gram ends", _noise(1e-3)),
    Case("noise_1e-4", 1e-4, "rank 12 + noise under a float32 Gram's rounding", _noise(1e-4)),
    Case("noise_3e-5", 3e-5, "rank 12 + noise at the resolution of auto", _noise(3e-5)),
    Case("noise_1e-5", 1e-5, "rank 12 + noise under the resolution of auto", _noise(1e-5)),
    Case("noise_1e-6", 1e-6, "rank 12 + noise at the resolution of double", _noise(1e-6)),
    Case("clusters", 1e-3, "10 clusters: a gap at 9, noise at 1e-2 of the centres", _clusters),
    Case("duplicated_rows", 1e-2, "n/2 exactly null directions", _duplicated_rows),
    Case("dead_features", 1e-2, "m/2 exactly zero columns", _dead_features),
    Case("cloned_features", 1e-2, "m/2 exactly equal columns", _cloned_features),
    Case("one_hot", 1.0, "equal eigenvalues beside an exactly null one, n > m too", _one_hot),
    Case("two_rows", 1.0, "n = 2 whatever n is asked: one live direction", _two_rows),
    Case("zero_rows", 1e-2, "rows without a direction: x = 0, gradient 0", _zero_rows),
    Case("tiny_norms", 1e-2, "rows of norm 1e-20: squares underflow in float32", _scaled(1e-20)),
    Case("huge_norms", 1e-2, "rows of norm 1e15: products near overflow", _scaled(1e15)),
    Case("mixed_norms", 1e-2, "rows of norm 1e-20, 1 and 1e15 in one batch", _mixed_norms),
)

COLLAPSED = (
    Case("constant", 1.0, "no direction: W2 = sqrt 2, stationary", _constant),
    Case("parallel", 1.0, "constant on the sphere but for the rounding of the input", _parallel),
    Case("zeros", 1.0, "no row has a direction: W2 = 1", _zeros),
)
"""Batches with nothing to resolve: the value is known, the gradient only bounded."""

BY_NAME = {case.name: case for case in (*ZOO, *COLLAPSED)}

RAW_SCALE = ("tiny_norms", "huge_norms", "mixed_norms")
"""Cases that only mean something with `normalize=True`."""
