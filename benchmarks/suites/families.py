"""The families and their shapes, whole and quick.

The truth of a W2 form, L_U, a root, a product and a Frechet distance is float64 at the shape that
is timed. A loss of self-supervised learning is held to its own float64 at 64 x 128: at the shape
itself that would take longer than the measurement. What is foreseen to take more than LIMIT seconds
a call is skipped and named.
"""

from collections.abc import Callable, Mapping
from functools import cache, partial

import torch
from torch import Tensor

import wssl_fast as wf
from benchmarks import floors, peers
from benchmarks.batches import healthy, rotated
from benchmarks.harness import Case, Reason, against_truth, no_reason, too_slow
from benchmarks.peers import Loss, value_and_gradient
from benchmarks.suites.core import OURS, Group, is_ours, merged
from wssl_fast import reference
from wssl_fast.backends.eager import products

LIMIT = 4.0  # seconds a call
TARGET_SECONDS = 15.0  # share of a provider that a target names: ten rounds of a second and a half
SVDVALS, EIGVALSH, BARLOW, PDIST = "svdvals", "eigvalsh", "Barlow Twins", "L_U, pdist"
BARLOW_TWO_BATCHES = "Barlow Twins (n rows a view)"
IN_TARGETS = (OURS, SVDVALS, EIGVALSH, BARLOW, BARLOW_TWO_BATCHES, PDIST)
SMALL = (64, 128)
TOLERANCE = 1e-3  # tells right from wrong on a healthy batch

W2_SHAPES = ((512, 8192), (256, 32768), (4096, 1024))
SOLVER_SIZES = (256, 512, 1024)
PRODUCT_SHAPES = ((512, 8192), (4096, 1024))
UNIFORMITY_SHAPES = ((4096, 1024),)
FRECHET_SHAPES = ((2048, 512), (256, 2048))
QUICK = {
    "W2": ((64, 512), (256, 64)),
    "solver": (64,),
    "products": ((64, 512), (256, 64)),
    "L_U": ((128, 64),),
    "Frechet": ((128, 64), (32, 128)),
}
QUICK_ROUNDS, QUICK_SECONDS = 3, 0.02

Shape = tuple[int, ...]


@cache
def families(quick: bool) -> dict[str, list[Group]]:
    """Family -> its groups, at the shapes that are published or at tiny ones."""
    sizes = (
        QUICK
        if quick
        else {
            "W2": W2_SHAPES,
            "solver": SOLVER_SIZES,
            "products": PRODUCT_SHAPES,
            "L_U": UNIFORMITY_SHAPES,
            "Frechet": FRECHET_SHAPES,
        }
    )
    pace = {"rounds": QUICK_ROUNDS, "seconds": QUICK_SECONDS} if quick else {}
    return {
        "W2": [_w2(shape, mode, pace) for mode in _MODES for shape in sizes["W2"]],
        "solver": [_solver(k, pace) for k in sizes["solver"]],
        "products": [
            _products(shape, dtype, pace)
            for shape in sizes["products"]
            for dtype in ("float32", "float64")
        ],
        "L_U": [_uniformity(shape, pace) for shape in sizes["L_U"]],
        "Frechet": [_frechet(shape, pace) for shape in sizes["Frechet"]],
    }


_MODES = ("forward+backward", "forward")


def w2_losses() -> dict[str, Loss]:
    """The package's loss and every form of it."""
    return {OURS: wf.wasserstein_uniformity, **peers.W2_FORMS}


def ssl_losses() -> dict[str, Loss]:
    """What the loss stands beside in training."""
    return dict(peers.SSL_LOSSES)


def call_of(loss: Loss, mode: str) -> Callable[[Tensor], object]:
    """Forward and backward, or the forward alone as a metric is called: without autograd."""
    if mode == "forward":
        return torch.no_grad()(loss)
    return lambda z: value_and_gradient(loss, z)


@cache
def w2_truth(shape: Shape) -> tuple[Tensor, Tensor]:
    """Float64 value and gradient at the first healthy batch."""
    z = healthy(*shape)
    return reference.wasserstein_uniformity(z), reference.wasserstein_uniformity_grad(z)


def in_float64(loss: Loss, device: torch.device) -> Reason:
    """A check of a loss against itself in float64 at SMALL, relative."""

    def check() -> str | None:
        z = healthy(*SMALL).to(device)
        value, gradient = value_and_gradient(loss, z.double())
        found, found_gradient = value_and_gradient(loss, z)
        errors = [
            ((a.double() - b).norm() / b.norm()).item()
            for a, b in ((found, value), (found_gradient, gradient))
        ]
        if all(error <= TOLERANCE for error in errors):
            return None
        return f"value off by {errors[0]:.1e} of its float64, gradient by {errors[1]:.1e}"

    return check


def _w2(shape: Shape, mode: str, pace: Mapping[str, object]) -> Group:
    n, m = shape
    aimed_at = mode == "forward+backward" and not pace
    extra = (BARLOW_TWO_BATCHES,) if mode == "forward+backward" and n < m else ()

    def cases(shape: Shape, device: torch.device) -> list[Case]:
        z = healthy(n, m).to(device)
        both = healthy(2 * n, m).to(device) if extra else z

        def case(name: str, loss: Loss, check: Reason) -> Case:
            run = call_of(loss, mode)
            skip = too_slow(run, lambda size: healthy(n, size).to(device), m, LIMIT)
            share = TARGET_SECONDS if aimed_at and name in IN_TARGETS else None
            if name == BARLOW_TWO_BATCHES:
                return Case(name, lambda z: run(both), check, seconds=share)
            return Case(name, run, check, no_reason if is_ours(name) else skip, seconds=share)

        def check(loss: Loss) -> Reason:  # the truth is made when the first check asks for it
            if mode == "forward":
                value = lambda: w2_truth(shape)[0].to(device)  # noqa: E731
                return lambda: _close(lambda: torch.no_grad()(loss)(z), value())()
            return lambda: against_truth(loss, z, *w2_truth(shape))()

        found = [case(name, loss, check(loss)) for name, loss in w2_losses().items()]
        for name, loss in ssl_losses().items():
            found.append(case(name, loss, in_float64(loss, device)))
        if extra:
            barlow = peers.SSL_LOSSES[BARLOW]
            found.append(case(BARLOW_TWO_BATCHES, barlow, in_float64(barlow, device)))
        return found

    floor = floors.W2_FORWARD if mode == "forward" else floors.W2_BACKWARD
    names = merged(w2_losses(), ssl_losses(), extra)
    return Group("W2", shape, mode, names, cases, lambda s: rotated(*s), floor, **pace)


def _solver(k: int, pace: Mapping[str, object]) -> Group:
    ours = {
        f"{OURS}, {solver}": partial(wf.matrix_inv_sqrt, solver=solver)
        for solver in ("eigh", "newton_schulz")
    }
    roots = {**ours, **peers.ROOTS}

    def cases(shape: Shape, device: torch.device) -> list[Case]:
        a = _second_moment(k).to(device)
        truth = reference.matrix_inv_sqrt(a).to(device)

        def of(name: str, root: Callable[[Tensor], Tensor]) -> Case:
            run = torch.no_grad()(root)
            skip = too_slow(run, lambda size: _second_moment(size).to(device), k, LIMIT)
            check = _close(lambda: run(a), truth)
            return Case(name, run, check, no_reason if is_ours(name) else skip)

        return [of(name, root) for name, root in roots.items()]

    def inputs(shape: Shape) -> list[Tensor]:
        return [_second_moment(k, seed) for seed in range(4)]

    return Group("solver", (k, k), "forward", tuple(roots), cases, inputs, floors.SOLVER, **pace)


def _second_moment(k: int, seed: int = 0) -> Tensor:
    """(k, k), of 2 k healthy rows: condition number about 1e2."""
    z = healthy(2 * k, k, seed)
    return z.T @ z / len(z)


def _products(shape: Shape, dtype: str, pace: Mapping[str, object]) -> Group:
    """Gram matrix for n <= m, second moment above: float32 rows, accumulated in `dtype`."""
    n, m = shape
    tall, to = n > m, getattr(torch, dtype)
    # Gram entries are sums of max(n, m) products, rounded in random directions; ten of that
    tolerance = 10 * torch.finfo(to).eps * max(n, m) ** 0.5

    def symmetric(z: Tensor) -> Tensor:
        return products.symmetric_product(z, to, covariance=tall)

    def full(z: Tensor) -> Tensor:
        y = z.to(to)
        return torch.mm(y.T, y) if tall else torch.mm(y, y.T)

    providers = {OURS: symmetric, "torch.mm": full}

    def cases(shape: Shape, device: torch.device) -> list[Case]:
        z = healthy(n, m).to(device)
        y = z.double()
        truth = y.T @ y if tall else y @ y.T
        return [
            Case(name, run, _close(partial(run, z), truth, tolerance))
            for name, run in providers.items()
        ]

    inputs = lambda s: rotated(*s)  # noqa: E731
    family = "covariance" if tall else "Gram"
    return Group(
        family, shape, "forward", tuple(providers), cases, inputs, floors.PRODUCT, dtype, **pace
    )


def _uniformity(shape: Shape, pace: Mapping[str, object]) -> Group:
    losses = {OURS: wf.uniformity, PDIST: peers.SSL_LOSSES[PDIST]}

    def cases(shape: Shape, device: torch.device) -> list[Case]:
        z = healthy(*shape).to(device)
        truth = reference.uniformity(z), reference.uniformity_grad(z)
        return [
            Case(
                name,
                call_of(loss, "forward+backward"),
                against_truth(loss, z, *truth),
                seconds=None if pace else 2 * TARGET_SECONDS,
            )
            for name, loss in losses.items()
        ]

    return Group(
        *("L_U", shape, "forward+backward", tuple(losses), cases),
        *(lambda s: rotated(*s), floors.UNIFORMITY),
        **pace,
    )


def _frechet(shape: Shape, pace: Mapping[str, object]) -> Group:
    n, m = shape
    distances = {OURS: wf.frechet_distance, **peers.FRECHET}

    def cases(shape: Shape, device: torch.device) -> list[Case]:
        z = _two_batches(n, m).to(device)
        truth = reference.frechet_distance(*z.chunk(2)).to(device)

        def of(name: str, distance: Callable[[Tensor, Tensor], Tensor]) -> Case:
            def run(z: Tensor) -> Tensor:
                with torch.no_grad():
                    return distance(*z.chunk(2))

            skip = too_slow(run, lambda size: _two_batches(n, size).to(device), m, LIMIT)
            check = _close(lambda: run(z), truth)
            return Case(name, run, check, no_reason if is_ours(name) else skip)

        return [of(name, distance) for name, distance in distances.items()]

    def inputs(shape: Shape) -> list[Tensor]:
        return [_two_batches(n, m, seed) for seed in range(4)]

    return Group(
        "Frechet", shape, "forward", tuple(distances), cases, inputs, floors.FRECHET, **pace
    )


def _two_batches(n: int, m: int, seed: int = 0) -> Tensor:
    """(2 n, m): two batches of unlike scale and mean, whose distance is not a rounding error."""
    return torch.cat([healthy(n, m, seed), 1.5 * healthy(n, m, seed + 100) + 0.1])


def _close(run: Callable[[], Tensor], truth: Tensor, tolerance: float = TOLERANCE) -> Reason:
    def check() -> str | None:
        found = run()
        error = ((found.double() - truth).norm() / truth.norm()).item()
        return None if error <= tolerance else f"off by {error:.1e}, relative"

    return check
