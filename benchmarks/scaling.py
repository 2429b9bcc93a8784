"""How times grow: with m at fixed n, with n at fixed m; exponents fitted to the upper half.

Forward and backward, float32. A peer that is foreseen to take more than LIMIT seconds a call ends
its curve, named. Each point is checked: the forms of W2 for their value and a finite gradient, the
other losses as everywhere. A wrong one is timed all the same, because its cost is the question
here; its row says what is wrong.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from benchmarks import floors
from benchmarks.batches import healthy, rotated
from benchmarks.harness import Case, Reason, Timing, against_truth, extrapolated, measure, rows
from benchmarks.suites.core import is_ours, merged
from benchmarks.suites.families import call_of, in_float64, ssl_losses, w2_losses
from wssl_fast import reference

LIMIT = 3.0  # seconds a call
SECONDS = 0.4  # share of a provider at one point; two rounds at least
ROUNDS = 10


@dataclass(frozen=True)
class Axis:
    """One of n and m grows over `sizes`, the other stays at `fixed`."""

    grows: str
    fixed: int
    sizes: Sequence[int]

    @property
    def name(self) -> str:
        """As a row calls it."""
        return f"scaling {self.grows}"

    def shape(self, size: int) -> tuple[int, int]:
        """(n, m)."""
        return (self.fixed, size) if self.grows == "m" else (size, self.fixed)


AXES = (
    Axis("m", 512, tuple(2**i for i in range(8, 15))),
    Axis("n", 2048, tuple(2**i for i in range(6, 13))),
)
QUICK_AXES = (Axis("m", 32, (16, 32, 64)), Axis("n", 32, (16, 32, 64)))


@dataclass(frozen=True)
class Point:
    """All providers at one size, and the floor there."""

    shape: tuple[int, int]
    timings: Mapping[str, Timing]
    floor: float


@dataclass(frozen=True)
class Curves:
    """The points of one axis, and the seconds that they took."""

    axis: Axis
    points: Sequence[Point]
    device: str
    wall: float

    def rows(self) -> list[dict[str, object]]:
        """One row a provider and size."""
        return [
            row
            for point in self.points
            for row in rows(
                self.axis.name, point.shape, point.timings, device=self.device, floor=point.floor
            )
        ]


@dataclass(frozen=True)
class Fit:
    """time ~ size^exponent over `points` sizes, with the slope's standard error."""

    exponent: float
    error: float
    points: int

    def __str__(self) -> str:
        return f"{self.exponent:.2f} ± {self.error:.2f}"


def fit(sizes: Sequence[float], seconds: Sequence[float]) -> Fit | None:
    """Least squares of log time on log size over the upper half; None with fewer than three points.

    The upper half of p ascending sizes is the last (p + 1) // 2 of them, at least three.

    With r the residuals of p points and x = log size less its mean: the squared standard error is
    sum r^2 / (p - 2) / sum x^2.
    """
    count = max((len(sizes) + 1) // 2, 3)
    both = list(zip(sizes, seconds, strict=True))[-count:]
    kept = [(math.log(size), math.log(time)) for size, time in both]
    if len(kept) < 3:
        return None
    x, y = (torch.tensor(column, dtype=torch.float64) for column in zip(*kept, strict=True))
    x = x - x.mean()
    spread = x.square().sum()
    slope = (x @ y / spread).item()
    residual = y - y.mean() - slope * x
    error = (residual.square().sum() / (len(kept) - 2) / spread).sqrt().item()
    return Fit(slope, error, len(kept))


def run(axis: Axis, device: torch.device, *, quick: bool = False) -> Curves:
    """Time every provider at every size, up to the last that is foreseen to end within LIMIT."""
    started = time.perf_counter()
    seen: dict[str, list[float]] = {}
    points = []
    for size in axis.sizes:
        shape = axis.shape(size)
        inputs = [z.to(device) for z in rotated(*shape)]
        cases = _cases(shape, device, seen) + floors.W2_BACKWARD.cases(inputs[0])
        pace = (2, 0.01) if quick else (ROUNDS, SECONDS)
        timings = measure(cases, inputs, rounds=pace[0], seconds_per_case=pace[1])
        for name, timing in timings.items():
            if timing.samples:
                seen.setdefault(name, []).append(min(timing.samples))  # least noisy
        points.append(Point(shape, timings, floors.W2_BACKWARD.seconds(timings)))
    return Curves(axis, points, device.type, time.perf_counter() - started)


def _cases(
    shape: tuple[int, int], device: torch.device, seen: Mapping[str, Sequence[float]]
) -> list[Case]:
    z = healthy(*shape).to(device)
    value = reference.wasserstein_uniformity(z)
    found = []
    for name, loss in {**w2_losses(), **ssl_losses()}.items():
        of_w2 = name in w2_losses()
        check = against_truth(loss, z, value, None) if of_w2 else in_float64(loss, device)
        found.append(
            Case(
                name,
                call_of(loss, "forward+backward"),
                check,
                _ended(() if is_ours(name) else seen.get(name, ())),
                timed_if_wrong=not is_ours(name),
            )
        )
    return found


def _ended(seconds: Sequence[float]) -> Reason:
    def skip() -> str | None:
        if len(seconds) < 2 or (foreseen := extrapolated(seconds, 1)) <= LIMIT:
            return None
        return f"foreseen to take over {foreseen:.0f} s a call, more than {LIMIT:g} s"

    return skip


def fits(table: Sequence[Mapping[str, object]], axis: Axis) -> dict[str, Fit | None]:
    """Provider -> exponent, from recorded rows of this axis; None where too few points are left."""
    place = 1 if axis.grows == "m" else 0
    names = merged([str(row["provider"]) for row in table if row["mode"] != "part"])
    found = {}
    for name in names:
        points = [
            (row["shape"][place], row["p50_ms"])  # type: ignore[index]
            for row in table
            if row["provider"] == name and row["p50_ms"]
        ]
        sizes, times = zip(*points, strict=True) if points else ((), ())
        found[name] = fit(sizes, times)
    return found
