"""Batches by spectrum, their float64 truth, and how far a solver is from it."""

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from benchmarks.studies.solvers import Candidate

SPECTRA = (
    "flat",
    "power law",
    "soft collapse",
    "rank k/4",
    "large mean",
    "near-constant",
    "noise 1e-3",
    "noise 1e-4",
    "noise 1e-5",
    "noise 1e-6",
    "inverse square",
    "clusters",
    "duplicated rows",
    "n = 2",
)
RANK = 12
WEIGHT = 0.9  # a direction below this weight, or above 2 - WEIGHT, is not resolved


@dataclass(frozen=True)
class Batch:
    """Centred unit rows in a working dtype, and the SVD of the very same numbers in float64."""

    rows: Tensor  # (n, m)
    centred: Tensor  # (n, m)
    u: Tensor  # (n, k)
    sigma: Tensor  # (k,)
    vh: Tensor  # (k, m)

    @property
    def relative(self) -> Tensor:
        """sigma/sigma_max. (k,)"""
        return self.sigma / self.sigma[0]


@dataclass(frozen=True)
class Errors:
    """What a candidate got wrong on a batch.

    Attributes:
        gradient: relative error of the polar factor on directions above `above` sigma_max.
        live: the same on every direction above the rounding of the rows.
        leak: the polar factor's part outside every live direction, relative to its norm.
        value: |W2 - W2_64|.
        resolution: smallest sigma/sigma_max down to which every weight is in [0.9, 1.1].
        weights: of each direction, sigma descending.
    """

    gradient: float
    live: float
    leak: float
    value: float
    resolution: float
    weights: list[float]


def deepest(dtype: torch.dtype) -> float:
    """sigma/sigma_max down to which one pass answers: what squaring leaves of the digits."""
    return 1e-3 if dtype == torch.float32 else 1e-6


@cache
def batch(spectrum: str, n: int, dtype: torch.dtype) -> Batch:
    """n unit rows of 2 n features (`n = 2`: two rows of 128)."""
    rows = raw_rows(spectrum, n)
    return from_rows(rows / rows.norm(dim=1, keepdim=True), dtype)


@cache
def ladder(n: int, dtype: torch.dtype) -> Batch:
    """sigma log-spaced over twice the digits of `deepest`: what a resolution is read from."""
    sigma = deepest(dtype) ** torch.linspace(0, 2, n - 1, dtype=torch.float64)
    return from_rows(_with_spectrum(n, 2 * n, sigma, _generator("ladder")), dtype)


def from_rows(rows: Tensor, dtype: torch.dtype) -> Batch:
    rounded = rows.to(dtype)
    exact = rounded.double()
    u, sigma, vh = torch.linalg.svd(exact - exact.mean(dim=0), full_matrices=False)
    return Batch(rounded, rounded - rounded.mean(dim=0), u, sigma, vh)


def raw_rows(spectrum: str, n: int, m: int | None = None) -> Tensor:
    """float64 rows (n, m) before normalisation, m = 2 n if not given."""
    g, m = _generator(spectrum), m or 2 * n
    k = min(n - 1, m)  # centring costs a direction
    i = torch.arange(1, k + 1, dtype=torch.float64)
    if spectrum == "n = 2":
        return _gaussian(2, 128, g)
    if spectrum == "flat":
        return _gaussian(n, m, g)
    if spectrum == "power law":
        return _with_spectrum(n, m, 1 / i, g)
    if spectrum == "inverse square":
        return _with_spectrum(n, m, i**-2, g)
    if spectrum == "soft collapse":
        return _with_spectrum(n, m, 1e-3 ** ((i - 1) / (k - 1)), g)
    if spectrum == "rank k/4":
        return _gaussian(n, min(n, m) // 4, g) @ _gaussian(min(n, m) // 4, m, g)
    if spectrum == "large mean":
        return _gaussian(n, m, g) + 1.5 * _gaussian(1, m, g)
    if spectrum == "near-constant":
        return 0.05 * _gaussian(n, m, g) + _gaussian(1, m, g)
    if spectrum == "clusters":
        return _gaussian(8, m, g)[torch.arange(n) % 8] + 0.05 * _gaussian(n, m, g)
    if spectrum == "duplicated rows":
        return _gaussian(n // 2, m, g).repeat(2, 1)
    level = float(spectrum.removeprefix("noise "))
    return _with_spectrum(n, m, torch.where(i <= RANK, 1.0, level), g)


def evaluate(candidate: Candidate, data: Batch) -> Errors:
    """Polar factor and value by the candidate, from the rows, against the SVD."""
    n = len(data.rows)
    dtype = candidate.gram or data.rows.dtype
    rows = data.centred.to(dtype)
    g = rows @ rows.mT / n
    lifted = _lift(g)
    if candidate.first is None:
        q = candidate.solve(lifted)
        polar = q @ rows
        trace = torch.sum(q.double() * g.double())
    else:
        first = candidate.first(lifted) @ rows
        first = first - first.mean(dim=0)  # (n, m)
        polar = candidate.solve(_lift(first @ first.mT / n)) @ first
        polar = polar / math.sqrt(n)  # the second Gram is that of orthonormal rows over n
        trace = torch.sum(polar.double() * rows.double()) / math.sqrt(n)
        polar = polar * math.sqrt(n)
    return _errors(polar.double() / math.sqrt(n), trace.item(), data)


def _errors(polar: Tensor, trace: float, data: Batch) -> Errors:
    n, m = data.rows.shape
    if not bool(polar.isfinite().all()):
        nan = math.nan
        return Errors(nan, nan, nan, nan, 1.0, [nan] * len(data.sigma))
    polar = polar - polar.mean(dim=0)
    relative = data.relative
    live = relative > torch.finfo(data.rows.dtype).eps
    upper = live & (relative >= deepest(data.rows.dtype))
    along = data.u.mT @ polar  # (k, m)
    off = along - data.vh
    weights = torch.sum(along * data.vh, dim=1)
    norm = math.sqrt(int(live.sum()))
    mean = data.rows.double().mean(dim=0)
    moments = torch.sum(mean**2) + torch.sum(data.sigma**2) / n + 1

    def distance(t: float) -> float:
        return max(0.0, moments.item() - 2 * t / math.sqrt(m)) ** 0.5

    unresolved = torch.nonzero(live & ((weights - 1).abs() > 1 - WEIGHT))
    last = int(unresolved[0]) if len(unresolved) else int(live.sum())
    return Errors(
        gradient=(off[upper].norm() / math.sqrt(int(upper.sum()))).item(),
        live=(off[live].norm() / norm).item(),
        leak=((polar - data.u[:, live] @ along[live]).norm() / norm).item(),
        value=abs(distance(trace) - distance(data.sigma.sum().item() / math.sqrt(n))),
        resolution=relative[last - 1].item() if last else 1.0,
        weights=weights.tolist(),
    )


def _lift(g: Tensor) -> Tensor:
    """The known null vector 1/sqrt n raised to the mean eigenvalue."""
    return g + g.diagonal().mean() / len(g)


def _generator(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(sum(ord(c) * 31**i for i, c in enumerate(name)) % 2**31)


def _gaussian(n: int, m: int, generator: torch.Generator) -> Tensor:
    return torch.randn(n, m, dtype=torch.float64, generator=generator)


def _with_spectrum(n: int, m: int, sigma: Tensor, generator: torch.Generator) -> Tensor:
    """Centred rows with singular values sqrt(n) sigma, (k,) of them."""
    k = len(sigma)
    left = _gaussian(n, k, generator)
    left = torch.linalg.qr(left - left.mean(dim=0)).Q
    right = torch.linalg.qr(_gaussian(m, k, generator)).Q
    return n**0.5 * (left * sigma) @ right.mT
