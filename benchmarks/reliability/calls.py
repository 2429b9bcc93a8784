"""Every kind of call a training run may make, forward and backward, at shapes drawn anew each time.

A call is one of `KINDS` on a batch whose rows, columns and dtype come from a generator, n < m or
n > m as the kind asks. Shapes are small (a call takes about a millisecond) and never settle, so
that memory kept by shape shows as well as memory kept by call.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

import wssl_fast as wf

PRECISIONS = ("auto", "double", "highest", "high", "medium")
SOLVERS = ("eigh", "newton_schulz")
DTYPES = (torch.float32, torch.float32, torch.float64, torch.bfloat16, torch.float16)
FEW, MANY = (8, 20), (24, 48)  # the smaller and the larger of n and m


@dataclass(frozen=True)
class Kind:
    """A kind of call.

    Attributes:
        name: for tables and test ids.
        run: draws leaves, makes the call and goes back through it; returns the value and the
            gradients.
    """

    name: str
    run: Callable[["Draw"], list[Tensor]]


class Draw:
    """Shapes and leaves for one call."""

    def __init__(self, generator: random.Random) -> None:
        few, many = generator.randint(*FEW), generator.randint(*MANY)
        self.dtype = generator.choice(DTYPES)
        self.few, self.many = few, many
        self._torch = torch.Generator().manual_seed(generator.getrandbits(31))

    def leaf(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        z = torch.randn(shape, generator=self._torch).to(dtype or self.dtype)
        return z.requires_grad_()

    def rows(self, wide: bool, *batch: int) -> Tensor:
        """n < m if `wide`, n > m otherwise."""
        shape = (self.few, self.many) if wide else (self.many, self.few)
        return self.leaf(*batch, *shape)


def _back(value: Tensor, *leaves: Tensor) -> list[Tensor]:
    value.sum().backward()
    return [value, *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def _of_rows(call: Callable[..., Tensor], wide: bool, *batch: int, count: int = 1) -> Kind:
    """Of `count` batches of rows; `batch` problems at once."""

    def run(draw: Draw) -> list[Tensor]:
        leaves = [draw.rows(wide, *batch) for _ in range(count)]
        return _back(call(*leaves), *leaves)

    function = call.func if isinstance(call, partial) else call
    settings = call.keywords if isinstance(call, partial) else {}
    words = [
        getattr(function, "__name__", type(function).__name__),
        *(f"{size} problems" for size in batch),
        "n < m" if wide else "n > m",
        *(f"{name}={value}" for name, value in settings.items()),
    ]
    return Kind(", ".join(words), run)


def _collapsed(wide: bool) -> Kind:
    """A batch on which `auto` repeats itself in float64."""

    def run(draw: Draw) -> list[Tensor]:
        z = draw.rows(wide)
        low = z.detach()[..., :2] @ torch.ones(2, z.shape[-1], dtype=z.dtype) + 1e-4 * z.detach()
        leaf = low.requires_grad_()
        return _back(wf.wasserstein_uniformity(leaf), leaf)

    return Kind(f"wasserstein_uniformity, collapsed, {'n < m' if wide else 'n > m'}", run)


def _of_matrix(call: Callable[..., Tensor], solver: str) -> Kind:
    def run(draw: Draw) -> list[Tensor]:
        x = draw.leaf(draw.many, draw.few, dtype=torch.float32)
        return _back(call(x.mT @ x / draw.many, solver=solver), x)

    return Kind(f"{call.__name__}, solver={solver}", run)


def _moments(draw: Draw) -> list[Tensor]:
    leaf = draw.rows(False)
    return _back(wf.gaussian_w2(*wf.batch_covariance(leaf)), leaf)


def _stream(draw: Draw) -> list[Tensor]:
    moments = wf.metrics.Moments()
    for _ in range(2):
        moments.update(draw.rows(False).detach())
    return [torch.tensor(float(moments.wasserstein_uniformity()))]


def _autocast(draw: Draw) -> list[Tensor]:
    leaf = draw.rows(True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = wf.wasserstein_uniformity(leaf)
    return _back(value, leaf)


def _without_gradient(draw: Draw) -> list[Tensor]:
    with torch.no_grad():
        return [wf.wasserstein_uniformity(draw.rows(False)), wf.uniformity(draw.rows(True))]


def _not_finite(draw: Draw) -> list[Tensor]:
    leaf = draw.rows(True)
    with torch.no_grad():
        leaf[0, 0] = float("nan")
    return _back(wf.wasserstein_uniformity(leaf), leaf)


def _refused(draw: Draw) -> list[Tensor]:
    """An error is a way out too."""
    for wrong in (lambda: wf.wasserstein_uniformity(draw.rows(True), solver="no such"),
                  lambda: wf.alignment(draw.rows(True), draw.rows(False))):  # fmt: skip
        try:
            wrong()
        except ValueError:
            continue
        raise AssertionError("wrong input was taken")
    return []


def kinds() -> list[Kind]:
    """All of them; a run takes them in turn."""
    found = [
        _of_rows(partial(wf.wasserstein_uniformity, solver=solver, precision=precision), wide)
        for wide in (True, False)
        for solver in SOLVERS
        for precision in PRECISIONS
    ]
    for wide in (True, False):
        found += [
            _collapsed(wide),
            _of_rows(partial(wf.wasserstein_uniformity, squared=True), wide, 3),
            _of_rows(partial(wf.wasserstein_uniformity, normalize=False), wide),
            _of_rows(partial(wf.wasserstein_uniformity, eps=1e-3), wide),
            _of_rows(wf.uniformity, wide),
            _of_rows(partial(wf.uniformity, normalize=False), wide),
            _of_rows(wf.alignment, wide, count=2),
            *(_of_rows(partial(wf.frechet_distance, solver=s), wide, count=2) for s in SOLVERS),
            _of_rows(wf.effective_rank, wide),
            _of_rows(wf.rankme, wide),
            _of_rows(wf.covariance_spectrum, wide),
            _of_rows(wf.nn.WassersteinUniformityLoss(0.2), wide, count=2),
            _of_rows(wf.nn.UniformityLoss(), wide, count=2),
            _of_rows(wf.nn.AlignmentLoss(), wide, count=2),
            _of_rows(wf.nn.FrechetLoss(), wide, count=2),
        ]
    found += [_of_matrix(f, s) for f in (wf.matrix_sqrt, wf.matrix_inv_sqrt) for s in SOLVERS]
    return [
        *found,
        Kind("gaussian_w2 of batch_covariance", _moments),
        Kind("metrics.Moments", _stream),
        Kind("under autocast", _autocast),
        Kind("without gradient", _without_gradient),
        Kind("NaN in the input", _not_finite),
        Kind("wrong input", _refused),
    ]


class Caller:
    """Makes the kinds of call in turn, at shapes from one seed."""

    def __init__(self, seed: int = 0) -> None:
        self.kinds = kinds()
        self._random = random.Random(seed)
        self._next = 0

    def __call__(self) -> list[Tensor]:
        """One call; what it returned, and the gradients."""
        kind = self.kinds[self._next % len(self.kinds)]
        self._next += 1
        return kind.run(Draw(self._random))
