"""Gradient descent on W2^2 from collapsed batches: how many steps each loss needs to the optimum.

Everyone descends at one rate. Rows of P have length sqrt k <= sqrt m (rms), so the rate n/40 moves
them by (n/40) (2/(n sqrt m)) sqrt k <= 1/20: rows turn by a twentieth of a radian a step at most,
and a direction that was nothing has the optimum's singular value after 20 steps. That is a fortieth
of the rate n up to which the optimum is stable: no second derivative exceeds 2/n there. Through
z = x A the same rate is divided by the largest eigenvalue of x x^T. Adam moves entries, by
1/(20 sqrt m) each: a twentieth for a row. Parameters are float32; W2 is judged in float64.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch import Tensor

import wssl_fast as wf
from benchmarks.peers import eigvalsh_w2, literal_w2, svdvals_w2, value_and_gradient
from benchmarks.reliability.starts import Start, full, optimum
from wssl_fast import reference

TURN = 1 / 20
ESCAPED = 0.01
"""Of the excess over the optimum that the start had, what may be left."""
JUDGED = 1e-6
"""Rounding of the judgement: k eigenvalues that are 0 add sqrt(eps) each to the trace of a root."""

STEPS = 150
FEATURES = 16
"""x has FEATURES n columns: of full row rank, so that every z is x A for some A, and eigenvalues of
x x^T within a factor of 3."""

Gradient = Callable[[Tensor], Tensor]


def _by_autograd(loss: Callable[..., Tensor], **settings: object) -> Gradient:
    def gradient(z: Tensor) -> Tensor:
        return value_and_gradient(partial(loss, squared=True, **settings), z)[1]

    return gradient


def _exact(z: Tensor) -> Tensor:
    return reference.wasserstein_uniformity_grad(z, squared=True).to(z.dtype)


def ours(precision: str, solver: str) -> Gradient:
    """The package's gradient of W2^2."""
    return _by_autograd(wf.wasserstein_uniformity, precision=precision, solver=solver)


LOSSES: dict[str, Gradient] = {
    "auto, eigh": ours("auto", "eigh"),
    "auto, newton_schulz": ours("auto", "newton_schulz"),
    "double, eigh": ours("double", "eigh"),
    "double, newton_schulz": ours("double", "newton_schulz"),
    "highest, eigh": ours("highest", "eigh"),
    "highest, newton_schulz": ours("highest", "newton_schulz"),
    "float64 truth": _exact,
    "svdvals": _by_autograd(svdvals_w2),
    "eigvalsh": _by_autograd(eigvalsh_w2),
    "paper's eigh": _by_autograd(literal_w2),
}
"""`high` and `medium` are `highest`, bit for bit, on a CPU (tests/test_descent.py)."""

MODES = ("rows, SGD", "linear map, SGD", "rows, Adam")


@dataclass(frozen=True)
class Run:
    """One descent.

    Attributes:
        steps: until ESCAPED of the starting excess over the optimum was left; None if never.
        steps_reachable: the same, of the optimum that exact descent can reach.
        failed: the step whose gradient was not finite, or that LAPACK refused; None if none did.
        first, least, last: W2^2.
        gradient: |dW2^2/dz|_F at the start, over the 2 sqrt(k / (n m)) that no unit rows exceed.
    """

    steps: int | None
    steps_reachable: int | None
    failed: int | None
    first: float
    least: float
    last: float
    gradient: float


class Parameters:
    """What is descended on: rows z, or the map A of z = x A."""

    def __init__(self, z: Tensor, mode: str, generator: torch.Generator) -> None:
        n, m = z.shape
        self.x: Tensor | None = None
        rate = TURN / 2 * n
        at = z
        if mode.startswith("linear"):
            x = torch.randn(n, FEATURES * n, dtype=torch.float64, generator=generator)
            x /= math.sqrt(FEATURES * n)
            rate /= float(torch.linalg.matrix_norm(x, 2)) ** 2
            at, self.x = torch.linalg.lstsq(x, z).solution, x.float()
        self.at = at.float().requires_grad_()
        optimiser = torch.optim.Adam if mode.endswith("Adam") else torch.optim.SGD
        if optimiser is torch.optim.Adam:
            rate = TURN / math.sqrt(m)
        self._optimiser = optimiser([self.at], lr=rate)

    def rows(self) -> Tensor:
        """z, float32 (n, m)."""
        at = self.at.detach()
        return at if self.x is None else self.x @ at

    def step(self, dz: Tensor) -> bool:
        """Whether anything may change from here on: descent without a memory that moves nothing in
        float32 never will."""
        before = self.at.detach().clone()
        self.at.grad = dz if self.x is None else self.x.mT @ dz
        self._optimiser.step()
        remembers = isinstance(self._optimiser, torch.optim.Adam)
        return remembers or not torch.equal(before, self.at)


def w2_squared(z: Tensor) -> float:
    """In float64, by the smaller of Gram and covariance; NaN where z is not finite."""
    x = torch.nn.functional.normalize(z.double(), dim=1)
    n, m = x.shape
    centred = x - x.mean(0)
    small = centred @ centred.mT if n <= m else centred.mT @ centred
    if not bool(small.isfinite().all()):
        return math.nan
    trace = torch.linalg.eigvalsh(small).clamp_min(0).sqrt().sum().item() / math.sqrt(n)
    return 2 - 2 * trace / math.sqrt(m)


def descend(
    gradient: Gradient,
    start: Start,
    n: int,
    m: int,
    mode: str,
    seed: int,
    *,
    steps: int = STEPS,
    stop: bool = True,
    watch: Callable[[float], None] = lambda value: None,
) -> Run:
    """From `start` until the optimum is reached (if `stop`), the gradient fails or `steps` are
    over; `watch` sees W2^2 before each step and after the last."""
    generator = torch.Generator().manual_seed(seed)
    parameters = Parameters(start(n, m, generator), mode, generator)
    first = least = value = w2_squared(parameters.rows())
    best = optimum(full(n, m), m)
    goals = {"steps": best, "reachable": start.reachable(n, m)}
    reached: dict[str, int | None] = dict.fromkeys(goals)
    failed = None
    size = math.nan
    for step in range(steps + 1):
        watch(value)
        for name, goal in goals.items():
            if reached[name] is None and value - goal <= ESCAPED * (first - goal) + JUDGED:
                reached[name] = step
        if step == steps or (stop and reached["steps"] is not None):
            break
        z = parameters.rows()
        try:
            dz = gradient(z)
        except torch.linalg.LinAlgError:
            failed = step
            break
        if not step:
            size = float(dz.double().norm()) / (2 * math.sqrt(full(n, m) / (n * m)))
        if not bool(dz.isfinite().all()):
            failed = step
            break
        if not parameters.step(dz):
            break
        value = w2_squared(parameters.rows())
        least = min(least, value)
    return Run(reached["steps"], reached["reachable"], failed, first, least, value, size)


def study(
    starts: Sequence[Start],
    shapes: Sequence[tuple[int, int]],
    modes: Sequence[str],
    seeds: Sequence[int],
    steps: int,
    track: Callable[[Sequence[tuple[str, Start, int, int]]], Iterator[tuple[str, Start, int, int]]],
) -> Iterator[dict[str, object]]:
    """A row for every mode, start, shape and loss, each a list over the seeds."""
    cases = [(mode, start, n, m) for mode in modes for start in starts for n, m in shapes]
    for mode, start, n, m in track(cases):
        for name, gradient in LOSSES.items():
            runs = [
                asdict(descend(gradient, start, n, m, mode, seed, steps=steps)) for seed in seeds
            ]
            yield {
                "mode": mode,
                "start": start.name,
                "n": n,
                "m": m,
                "loss": name,
                "optimum": round(optimum(full(n, m), m), 6),
                "reachable": round(start.reachable(n, m), 6),
                **{key: [_short(run[key]) for run in runs] for key in runs[0]},
            }


def _short(value: float | int | None) -> float | int | None:
    if isinstance(value, float):
        return None if math.isnan(value) else float(f"{value:.6g}")
    return value


def curves(
    starts: Sequence[Start], n: int, m: int, mode: str, losses: Sequence[str], steps: int
) -> Iterator[dict[str, object]]:
    """W2^2 step by step, from the first seed, the optimum's neighbourhood included."""
    for start in starts:
        for name in losses:
            seen: list[float] = []
            run = descend(
                LOSSES[name], start, n, m, mode, 0, steps=steps, stop=False, watch=seen.append
            )
            yield {
                "mode": mode,
                "start": start.name,
                "n": n,
                "m": m,
                "loss": name,
                "optimum": round(optimum(full(n, m), m), 6),
                "reachable": round(start.reachable(n, m), 6),
                "failed": run.failed,
                "W2 squared": [float(f"{value:.5g}") for value in seen],
            }
