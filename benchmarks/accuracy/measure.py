"""Errors of every provider of W2 over the spectra, its resolution, and its time in one run.

A provider is called twice a batch. As a user calls it, W2 of normalised rows: the error of the
value, and whether the gradient is finite. Then W2^2 without normalising, on rows that have length 1
already: its gradient 2/n z - 2/(n sqrt m) P gives the polar factor P, all that a solver adds to the
gradient, and P falls apart by singular directions, which the normalised gradient does not.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch import Tensor

import wssl_fast as wf
from benchmarks.batches import collapsed, healthy
from benchmarks.harness import loss_case, measure
from benchmarks.peers import W2_FORMS, value_and_gradient
from benchmarks.studies.resolution import ladder, resolution
from benchmarks.studies.spectra import SPECTRA, Batch, from_rows, raw_rows
from wssl_fast import reference

OURS = "wssl_fast"
PRECISIONS = ("auto", "double", "highest", "high", "medium")
SOLVERS = ("eigh", "newton_schulz")
ABOVE = (1e-2, 3e-5)  # sigma/sigma_max: what one float32 pass promises, and what auto does
TWO_ROWS = "n = 2"  # has but one shape
DEAD, ONE_HOT = "dead features", "one-hot"  # beside the studies': eigenvalues exactly 0, or equal
TIMED = {"healthy": healthy, "collapsed": collapsed}

W2 = Callable[..., Tensor]  # z (n, m), keywords squared and normalize


@dataclass(frozen=True)
class Scale:
    """How much is measured: the small side k, the spectra, rounds of timing."""

    k: int = 256
    spectra: Sequence[str] = (*SPECTRA, DEAD, ONE_HOT)
    rounds: int = 20

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """n < m takes the Gram formulation, n > m the covariance formulation."""
        return {"n < m": (self.k, 2 * self.k), "n > m": (2 * self.k, self.k)}


FULL = Scale()
QUICK = Scale(k=64, spectra=("flat", "near-constant", "noise 1e-4", DEAD), rounds=5)


@dataclass(frozen=True)
class Errors:
    """What one provider got wrong on one batch.

    Attributes:
        value: |W2 - W2_64|.
        gradient: relative error of P, by the least sigma/sigma_max counted ("0.01", "3e-05").
        cosine: of P to the truth, on directions above 3e-5 sigma_max.
        failure: what was not finite, or what was raised; the others are None then.
    """

    value: float | None
    gradient: dict[str, float] | None
    cosine: float | None
    failure: str | None = None


def providers() -> dict[str, W2]:
    """The package at its defaults, at every precision and solver, and the peers."""
    ours = {
        f"{OURS}, {precision}, {solver}": partial(
            wf.wasserstein_uniformity, precision=precision, solver=solver
        )
        for solver in SOLVERS
        for precision in PRECISIONS
    }
    return {OURS: wf.wasserstein_uniformity, **ours, **W2_FORMS}


def errors(w2: W2, data: Batch) -> Errors:
    """One provider on one batch of unit rows."""
    z = data.rows
    try:
        value, grad = value_and_gradient(w2, z)
        _, plain = value_and_gradient(partial(w2, squared=True, normalize=False), z)
    except torch.linalg.LinAlgError as error:
        return Errors(None, None, None, f"LinAlgError: {str(error).splitlines()[0]}")
    for name, found in (("value", value), ("gradient", grad), ("gradient of W2^2", plain)):
        if not bool(found.isfinite().all()):
            return Errors(None, None, None, f"{name} is not finite")
    along = data.u.mT @ polar_of(plain, z) / math.sqrt(len(z))  # (k, m), vh by the truth
    live = data.relative > torch.finfo(z.dtype).eps  # below lies the rounding of the rows
    gradient = {}
    for above in ABOVE:
        seen = live & (data.relative >= above)
        got, want = along[seen], data.vh[seen]
        gradient[f"{above:g}"] = ((got - want).norm() / want.norm()).item()
    return Errors(
        value=abs(value.item() - reference.wasserstein_uniformity(z).item()),
        gradient=gradient,
        cosine=(torch.sum(got * want) / (got.norm() * want.norm())).item(),
    )


def polar_of(gradient: Tensor, z: Tensor) -> Tensor:
    """P (n, m) in float64 from the gradient of W2^2 in rows that are not normalised."""
    n, m = z.shape
    return math.sqrt(m) * (z.double() - n / 2 * gradient.double())


def resolved(w2: W2, n: int, m: int) -> float | None:
    """Smallest sigma/sigma_max that is pushed with weight 1 to within 0.1; None if not finite."""
    z = ladder(n, m)
    try:
        _, gradient = value_and_gradient(partial(w2, squared=True, normalize=False), z)
    except torch.linalg.LinAlgError:
        return None
    if not bool(gradient.isfinite().all()):
        return None
    return resolution(*reference.polar_weights(z, polar_of(gradient, z), normalize=False))


def zoo(scale: Scale, shape: tuple[int, int]) -> Iterator[tuple[str, Batch]]:
    """Unit rows in float32 by spectrum, with the SVD of those very numbers."""
    n, m = shape
    for spectrum in _spectra(scale, shape):
        rows = _rows(spectrum, n, m)
        yield spectrum, from_rows(rows / rows.norm(dim=1, keepdim=True), torch.float32)


def _rows(spectrum: str, n: int, m: int) -> Tensor:
    if spectrum == ONE_HOT:
        return torch.eye(m, dtype=torch.float64)[torch.arange(n) % m]
    if spectrum == DEAD:
        return raw_rows("flat", n, m) * (torch.arange(m) % 2)
    return raw_rows(spectrum, n, m)


def times(
    w2s: Mapping[str, W2], shape: tuple[int, int], rounds: int
) -> dict[str, dict[str, float]]:
    """Median milliseconds of forward and backward by batch and provider, interleaved.

    Wrong providers are timed too: their errors stand in the same row. NaN where a call raised.
    """
    cases = [loss_case(name, w2) for name, w2 in w2s.items()]
    found = {}
    for batch, build in TIMED.items():
        inputs = [build(*shape, seed) for seed in range(2)]
        timings = measure(cases, inputs, rounds=rounds, seconds_per_case=2.0)
        found[batch] = {name: 1e3 * timings[name].median for name in w2s}
    return found


def run(
    scale: Scale, on_step: Callable[[str], None] = lambda what: None
) -> Iterator[dict[str, object]]:
    """A row a provider and formulation; `on_step` is told what was just finished (`steps`)."""
    w2s = providers()
    for formulation, shape in scale.shapes.items():
        found: dict[str, dict[str, Errors]] = {name: {} for name in w2s}
        for spectrum, data in zoo(scale, shape):
            for name, w2 in w2s.items():
                found[name][spectrum] = errors(w2, data)
            on_step(f"{formulation}, {spectrum}")
        milliseconds = times(w2s, shape, scale.rounds)
        on_step(f"{formulation}, times")
        for name, w2 in w2s.items():
            row: dict[str, object] = {
                "group": "accuracy",
                "formulation": formulation,
                "shape": list(shape),
                "dtype": "float32",
                "provider": name,
                "spectra": {spectrum: asdict(e) for spectrum, e in found[name].items()},
                "resolution": resolved(w2, *shape),
            }
            for batch, of in milliseconds.items():
                row[f"{batch}_ms"] = _rounded(of[name], 4)
                row[f"{batch}_over_ours"] = _rounded(of[name] / of[OURS], 3)
            yield row


def steps(scale: Scale) -> int:
    """How often `run` calls `on_step`."""
    return sum(len(_spectra(scale, shape)) + 1 for shape in scale.shapes.values())


def _spectra(scale: Scale, shape: tuple[int, int]) -> list[str]:
    return [s for s in scale.spectra if s != TWO_ROWS or shape[0] < shape[1]]


def _rounded(value: float, digits: int) -> float | None:
    return None if math.isnan(value) else round(value, digits)
