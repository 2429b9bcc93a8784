"""Part (b): times at n rows and growing m beside the peers, and how right each gradient is."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

import wssl_fast as wf
from benchmarks import peers
from benchmarks.batches import COLLAPSED_NOISE, COLLAPSED_RANK, collapsed, healthy, rotated
from benchmarks.demo.tables import Table
from benchmarks.demo.truth import cosine
from benchmarks.harness import Timing, loss_case, measure
from benchmarks.peers import Loss, value_and_gradient
from wssl_fast import reference


@dataclass(frozen=True)
class Provider:
    """A loss of the rows, and its gradient in float64: the truth that its own is held against."""

    name: str
    loss: Loss
    true_gradient: Callable[[Tensor], Tensor]


def in_float64(loss: Loss) -> Callable[[Tensor], Tensor]:
    """The gradient of `loss` by autograd in float64: right where nothing in it divides by zero."""
    return lambda z: value_and_gradient(loss, z.double())[1]


OURS = "W2, wssl_fast"
BARLOW = peers.two_views(peers.barlow_twins)
PROVIDERS: Sequence[Provider] = (
    Provider(OURS, wf.wasserstein_uniformity, reference.wasserstein_uniformity_grad),
    Provider("W2, svdvals", peers.svdvals_w2, reference.wasserstein_uniformity_grad),
    Provider("W2, eigvalsh", peers.eigvalsh_w2, reference.wasserstein_uniformity_grad),
    Provider("W2, the paper's eigh", peers.literal_w2, reference.wasserstein_uniformity_grad),
    Provider("Barlow Twins' loss", BARLOW, in_float64(BARLOW)),
    Provider("L_U, pdist", peers.pdist_uniformity, in_float64(peers.pdist_uniformity)),
)


@dataclass(frozen=True)
class SpeedSettings:
    """Rows, the dimensions timed, and the time a single call may take."""

    n: int = 512
    dimensions: Sequence[int] = (256, 512, 1024, 2048, 4096, 8192)
    cosine_dimension: int = 1024
    limit_seconds: float = 10.0
    seconds_per_case: float = 1.0


@dataclass(frozen=True)
class Curve:
    """Medians of one provider by dimension, and where it was stopped."""

    name: str
    dimensions: list[int]
    timings: list[Timing]
    foreseen: dict[int, float]  # dimension -> seconds it would take, beyond the limit


def time_all(settings: SpeedSettings, on_dimension: Callable[[], None]) -> list[Curve]:
    """Time every provider up to the last m whose call is foreseen to end within the limit."""
    curves = [Curve(provider.name, [], [], {}) for provider in PROVIDERS]
    for m in settings.dimensions:
        running = []
        for provider, curve in zip(PROVIDERS, curves, strict=True):
            seconds = foresee(curve, m)
            if seconds > settings.limit_seconds:
                curve.foreseen[m] = seconds
            else:
                running.append((provider, curve))
        cases = [loss_case(provider.name, provider.loss) for provider, _ in running]
        timings = measure(cases, rotated(settings.n, m), seconds_per_case=settings.seconds_per_case)
        for provider, curve in running:
            curve.dimensions.append(m)
            curve.timings.append(timings[provider.name])
        on_dimension()
    return curves


def foresee(curve: Curve, m: int) -> float:
    """Seconds at m, if the last doubling's growth goes on (at least 2 and at most 8 a doubling)."""
    if len(curve.timings) < 2:
        return 0.0
    previous, last = (min(timing.samples) for timing in curve.timings[-2:])  # least noisy
    doublings = math.log2(m / curve.dimensions[-1])
    return last * min(max(last / previous, 2.0), 8.0) ** doublings


def gradient_cosines(settings: SpeedSettings, on_provider: Callable[[], None]) -> list[list[float]]:
    """For each provider, the cosine to its float64 gradient on a healthy and a collapsed batch."""
    n, m = settings.n, settings.cosine_dimension
    batches = [healthy(n, m), collapsed(n, m)]
    found = []
    for provider in PROVIDERS:
        found.append(
            [
                cosine(value_and_gradient(provider.loss, z)[1], provider.true_gradient(z))
                for z in batches
            ]
        )
        on_provider()
    return found


def table(settings: SpeedSettings, curves: list[Curve], cosines: list[list[float]]) -> Table:
    """One row a provider: times by m, then the two cosines."""
    rows = []
    for curve, (on_healthy, on_collapsed) in zip(curves, cosines, strict=True):
        cells = [_time_cell(curve, m) for m in settings.dimensions]
        rows.append([curve.name, *cells, _cosine_cell(on_healthy), _cosine_cell(on_collapsed)])
    return Table(
        title=f"Forward + backward at n = {settings.n}, milliseconds by m; cosine to float64",
        header=["", *(f"{m:,}" for m in settings.dimensions), "healthy", "collapsed"],
        rows=rows,
        note="Medians of interleaved rounds: 20, or as many as fit a second, at least 2. "
        f"> : not run, foreseen to take longer than {settings.limit_seconds:g} s. Barlow Twins "
        f"takes the rows as two views. Cosine of each gradient to its own float64 gradient at "
        f"{settings.n} x {settings.cosine_dimension}, on a healthy batch and on a collapsed one "
        f"(rank {COLLAPSED_RANK} + noise at {COLLAPSED_NOISE:g}).",
    )


def _time_cell(curve: Curve, m: int) -> str:
    if m in curve.foreseen:
        return f"> (~{curve.foreseen[m]:.0f} s)"
    milliseconds = curve.timings[curve.dimensions.index(m)].median * 1e3
    return f"{milliseconds:,.0f}" if milliseconds >= 10 else f"{milliseconds:.1f}"


def _cosine_cell(value: float) -> str:
    return "NaN" if math.isnan(value) else f"{value:.4f}"
