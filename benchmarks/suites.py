"""What `make bench` measures: groups of providers at one shape, and the ratios aimed at."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import wssl_fast as wf
from benchmarks import peers
from benchmarks.batches import healthy, rotated
from benchmarks.harness import (
    Case,
    Timing,
    against_truth,
    floor_cases,
    floor_seconds,
    loss_case,
    measure,
)
from benchmarks.peers import Loss, value_and_gradient
from wssl_fast import reference

OURS = "wssl_fast"
SVDVALS = "svdvals"
EIGVALSH = "eigvalsh"
PDIST = "pdist"
BARLOW_SAME_ROWS = "Barlow Twins (same rows)"  # n rows are two views of n/2
BARLOW_TWO_BATCHES = "Barlow Twins (n rows a view)"
MEMORY_SHAPE = (512, 32768)


@dataclass(frozen=True)
class Group:
    """Providers timed side by side at one shape (n, m), forward and backward."""

    name: str
    shape: tuple[int, int]
    providers: tuple[str, ...]
    cases: Callable[[int, int], list[Case]]
    has_floor: bool

    def run(self) -> "Measured":
        """Measure the group, and its floor in the same rounds."""
        n, m = self.shape
        cases = self.cases(n, m) + (floor_cases(n, m) if self.has_floor else [])
        timings = measure(cases, rotated(n, m))
        return Measured(timings, floor_seconds(timings) if self.has_floor else None)


@dataclass(frozen=True)
class Measured:
    """A group's timings and the floor of the same run, in seconds."""

    timings: Mapping[str, Timing]
    floor: float | None


def _checked(
    losses: Mapping[str, Loss], n: int, m: int, value_of: Loss, gradient_of: Loss
) -> list[Case]:
    z = healthy(n, m)
    value, gradient = value_of(z), gradient_of(z)
    return [
        loss_case(provider, loss, against_truth(loss, z, value, gradient))
        for provider, loss in losses.items()
    ]


def _w2(losses: Mapping[str, Loss], n: int, m: int) -> list[Case]:
    truth = (reference.wasserstein_uniformity, reference.wasserstein_uniformity_grad)
    return _checked({OURS: wf.wasserstein_uniformity, **losses}, n, m, *truth)


def _w2_beside_barlow(n: int, m: int) -> list[Case]:
    barlow = peers.two_views(peers.barlow_twins)
    both = healthy(2 * n, m)
    return [
        *_w2({SVDVALS: peers.svdvals_w2}, n, m),
        loss_case(BARLOW_SAME_ROWS, barlow),
        Case(BARLOW_TWO_BATCHES, lambda z: value_and_gradient(barlow, both)),
    ]


def _w2_wide(n: int, m: int) -> list[Case]:
    return _w2({SVDVALS: peers.svdvals_w2}, n, m)


def _w2_tall(n: int, m: int) -> list[Case]:
    return _w2({EIGVALSH: peers.eigvalsh_w2, SVDVALS: peers.svdvals_w2}, n, m)


def _uniformity(n: int, m: int) -> list[Case]:
    truth = (reference.uniformity, reference.uniformity_grad)
    return _checked({OURS: wf.uniformity, PDIST: peers.pdist_uniformity}, n, m, *truth)


W2_MIDDLE = Group(
    "W2 512 x 8192",
    (512, 8192),
    (OURS, SVDVALS, BARLOW_SAME_ROWS, BARLOW_TWO_BATCHES),
    _w2_beside_barlow,
    has_floor=True,
)
W2_WIDE = Group("W2 256 x 32768", (256, 32768), (OURS, SVDVALS), _w2_wide, has_floor=True)
W2_TALL = Group("W2 4096 x 1024", (4096, 1024), (OURS, EIGVALSH, SVDVALS), _w2_tall, has_floor=True)
UNIFORMITY = Group("L_U 4096 x 1024", (4096, 1024), (OURS, PDIST), _uniformity, has_floor=False)


@dataclass(frozen=True)
class Target:
    """A ratio that is aimed at: at least, or at most, `limit`."""

    text: str
    group: Group
    slower: str | None  # time of this provider over ours; None: ours over the floor
    limit: float

    def ratio(self, measured: Measured) -> float:
        """NaN when a side was not timed."""
        ours = measured.timings[OURS].median
        if self.slower is None:
            return ours / measured.floor if measured.floor else float("nan")
        return measured.timings[self.slower].median / ours

    def verdict(self, measured: Measured) -> str:
        """hit, missed, or why there is no ratio."""
        for provider in (OURS, self.slower):
            wrong = measured.timings[provider].wrong if provider else None
            if wrong:
                return f"not timed: {provider} is wrong ({wrong})"
        ratio = self.ratio(measured)
        hit = ratio <= self.limit if self.slower is None else ratio >= self.limit
        return "hit" if hit else "missed"

    @property
    def aim(self) -> str:
        """The limit in words."""
        if self.slower is None:
            return f"<= {self.limit:g}x of the floor"
        return f">= {self.limit:g}x faster"


TARGETS: Sequence[Target] = (
    Target("than Barlow Twins, the same 512 rows", W2_MIDDLE, BARLOW_SAME_ROWS, 15),
    Target("than Barlow Twins, 512 rows a view", W2_MIDDLE, BARLOW_TWO_BATCHES, 15),
    Target("than svdvals autograd", W2_MIDDLE, SVDVALS, 10),
    Target("half-product Gram + eigh + GEMM", W2_MIDDLE, None, 1.15),
    Target("half-product Gram + eigh + GEMM", W2_WIDE, None, 1.3),
    Target("than eigvalsh autograd", W2_TALL, EIGVALSH, 1),
    Target("half-product covariance + eigh + GEMM", W2_TALL, None, 1.3),
    Target("than pdist", UNIFORMITY, PDIST, 25),
)
MEMORY_LIMIT = 8.0  # n^2 floats above the input and its gradient
