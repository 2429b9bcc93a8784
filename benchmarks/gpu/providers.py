"""What is timed at a shape, what each is checked against, and about how long it takes.

Truth is float64: of W2 the reference on the CPU for small problems, the eager backend in float64 on
the device for large ones; of another loss, the same function of the rows in float64. A provider
that is wrong is reported and not timed, except where its very error is what it is known for.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

import wssl_fast as wf
from benchmarks import peers
from benchmarks.gpu.compositions import composed_w2, muon_w2
from benchmarks.gpu.timing import time_limit
from benchmarks.peers import Loss
from wssl_fast import reference
from wssl_fast.backends import choice

OURS = "wssl_fast"
HIGHEST = "wssl_fast highest"
DOUBLE = "wssl_fast double"
CUDA = "wssl_fast cuda"
COMPOSED = "composition"
COMPILED = "composition (torch.compile)"
COMPOSED_FAST = "composition (TF32)"
MUON = "Muon polar factor"
EIGVALSH = "eigvalsh"
SVDVALS = "svdvals"
LITERAL = "paper's loss"
BARLOW = "Barlow Twins"
BARLOW_AUTOCAST = "Barlow Twins (bf16 autocast)"
VICREG = "VICReg"
VICREG_AUTOCAST = "VICReg (bf16 autocast)"
UNIFORMITY = "wssl_fast L_U"
PDIST = "pdist L_U"

COMPILE_SECONDS = 60.0
REFERENCE_ELEMENTS = 2**20  # beyond, a float64 SVD on the CPU takes longer than the measurement
REFERENCE_SIDE = 512
EIGH_SIDE = 1024  # beyond, float64 products are faster than a float64 eigensolver on a GPU
SCALE = 2.0**16  # of gradients in float16, whose entries would be subnormal: a gradient scaler's

# Rates for plans, of a current data-centre GPU (flops and bytes a second). Only what is attempted,
# and in which order, depends on them.
HALF, SINGLE, DOUBLE_RATE, BANDWIDTH = 3e14, 3e13, 3e13, 3e12


@dataclass(frozen=True)
class Truth:
    value: float
    gradient: Tensor
    """(n, m) float64."""


@dataclass(frozen=True)
class Provider:
    """A loss of raw rows z (n x m), with what to expect of it."""

    name: str
    make: Callable[[], Loss]
    seconds: Callable[[int, int, bool], float]
    """Forward and backward at (n, m), half precision or not: a guess, for plans."""
    own: Loss | None = None
    """The function whose float64 is its truth; None: W2's."""
    graph: bool = True
    forward: bool = True
    """Whether the forward alone is timed too."""
    exact: bool = False
    """Promised to more than one float32 pass can see."""
    timed_if_wrong: bool = False
    steep: bool = False
    """Its gradients need no scaling to live in float16."""
    note: str = ""

    def fits(self, n: int, m: int, half: bool, *, most_seconds: float = 5.0) -> bool:
        """Whether it is worth trying at all; past that, memory or minutes."""
        return self.seconds(n, m, half) <= most_seconds

    def scale(self, dtype: torch.dtype) -> float:
        """The upstream gradient: SCALE in float16, where it is needed, 1 otherwise."""
        return SCALE if dtype == torch.float16 and not self.steep else 1.0

    def limits(self, n: int, m: int, dtype: torch.dtype) -> tuple[float, float]:
        """Largest errors, of value and gradient, that are not called wrong: 1e-3 tells right from
        wrong on a healthy batch. The errors themselves are in the row."""
        # half-precision weights, then a half-precision gradient: half a unit each
        rounding = torch.finfo(dtype).eps if dtype.itemsize < 4 else 0.0
        if self.own is not None:
            return 5e-2, 5e-2  # m x m in bfloat16: 2^-8 an entry, up to 6e-3 seen
        if not self.exact and max(n, m) < 1.1 * min(n, m):
            # a square Gaussian batch has directions that one float32 Gram cannot see: 8e-2 seen
            return 1e-3, 0.15
        return 1e-3, 3e-3 + rounding


def truth_of(provider: Provider, z: Tensor) -> Truth:
    """Float64 value and gradient at the very numbers of z."""
    if provider.own is None:
        return w2_truth(z)
    with choice.use("eager"):
        value, gradient = peers.value_and_gradient(provider.own, z.double())
    return Truth(value.item(), gradient)


def w2_truth(z: Tensor) -> Truth:
    """W2 and its gradient in float64."""
    n, m = z.shape
    if min(n, m) <= REFERENCE_SIDE and n * m <= REFERENCE_ELEMENTS:
        value = reference.wasserstein_uniformity(z).item()
        return Truth(value, reference.wasserstein_uniformity_grad(z).to(z.device))
    solver = "eigh" if min(n, m) <= EIGH_SIDE else "newton_schulz"
    with choice.use("eager"):
        loss = partial(wf.wasserstein_uniformity, solver=solver)
        found, gradient = peers.value_and_gradient(loss, z.double())
    return Truth(found.item(), gradient)


@dataclass(frozen=True)
class Errors:
    value: float
    """Absolute for W2, relative for other losses."""
    gradient: float | None
    """Relative, Frobenius norm; None of a forward alone."""

    def __str__(self) -> str:
        gradient = "" if self.gradient is None else f", gradient by {self.gradient:.1e}"
        return f"value off by {self.value:.1e}{gradient}"


def errors(provider: Provider, truth: Truth, outputs: Sequence[Tensor], scale: float) -> Errors:
    """Of a value, and of a gradient that came scaled if there is one."""
    value = abs(outputs[0].double().item() - truth.value)
    if provider.own is not None:
        value /= abs(truth.value)
    if len(outputs) == 1:
        return Errors(value, None)
    away = outputs[1].double().div_(scale).sub_(truth.gradient).norm()
    return Errors(value, (away / truth.gradient.norm()).item())


def wrong(provider: Provider, found: Errors, z: Tensor) -> str | None:
    """What is wrong with the errors found, or None. NaN is wrong."""
    value_limit, gradient_limit = provider.limits(*z.shape, z.dtype)
    right = found.value <= value_limit
    if found.gradient is not None:
        right = right and found.gradient <= gradient_limit
    return None if right else str(found)


def value_and_gradient(loss: Loss, z: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Forward and backward with an upstream gradient of `scale`."""
    leaf = z.detach().requires_grad_()
    value = loss(leaf)
    (gradient,) = torch.autograd.grad(value, leaf, torch.full_like(value, scale))
    return value.detach(), gradient


def value_only(loss: Loss, z: Tensor) -> tuple[Tensor]:
    """Forward without a graph."""
    with torch.no_grad():
        return (loss(z),)


def healthy(n: int, m: int, dtype: torch.dtype, device: torch.device, seed: int) -> Tensor:
    """`benchmarks.batches.healthy`, drawn on the device: Gaussian, scales i^-0.25."""
    generator = torch.Generator(device).manual_seed(seed)
    z = torch.randn(n, m, generator=generator, device=device)
    return z.mul_(torch.arange(1, m + 1, device=device).pow(-0.25)).to(dtype)


def upcast(loss: Loss) -> Loss:
    """Of rows in float32: eigensolvers take nothing shorter."""
    return lambda z: loss(z.float())


def autocast(loss: Loss) -> Loss:
    """Under bfloat16 autocast."""

    def run(z: Tensor) -> Tensor:
        with torch.autocast(z.device.type, dtype=torch.bfloat16, cache_enabled=False):
            return loss(z)

    return run


def _compiled() -> Loss:
    """torch.compile of the composition. Compiles at the first call, within COMPILE_SECONDS."""
    function = torch.compile(composed_w2, dynamic=False, fullgraph=True)
    pending = [True]

    def run(z: Tensor) -> Tensor:
        if not pending:
            return function(z)
        with time_limit(COMPILE_SECONDS, "torch.compile"):
            value_and_gradient(function, z, 1.0)
            value_only(function, z)
        pending.clear()
        return function(z)

    torch._dynamo.reset()
    return run


def _ours(precision: str) -> Loss:
    return partial(wf.wasserstein_uniformity, precision=precision)


def _by_cuda(z: Tensor) -> Tensor:
    """As OURS, its k x k problem by csrc/cuda whatever the size."""
    with choice.use("cuda"):
        return wf.wasserstein_uniformity(z)


def root_flops(k: int) -> float:
    """The 25 products of the float32 Newton-Schulz, each in full."""
    return 25 * 2.0 * k**3


def _rows(n: int, m: int) -> float:
    """Flops of the products with z: Gram or covariance matrix, and the backward."""
    return 4.0 * n * m * min(n, m)


def _ours_seconds(n: int, m: int, half: bool) -> float:
    return 3e-4 + (3 * root_flops(min(n, m)) + (1 if half else 6) * _rows(n, m)) / HALF


def _double_seconds(n: int, m: int, half: bool) -> float:
    return 1e-3 + (57 / 25 * root_flops(min(n, m)) + _rows(n, m)) / DOUBLE_RATE


def _composed_seconds(n: int, m: int, half: bool) -> float:
    gram_in_half = half and n <= m
    return 2e-3 + root_flops(min(n, m)) / SINGLE + _rows(n, m) / (HALF if gram_in_half else SINGLE)


def _fast_seconds(n: int, m: int, half: bool) -> float:
    return 2e-3 + (root_flops(min(n, m)) + _rows(n, m)) / (HALF / 3)


def _eigen_seconds(n: int, m: int, half: bool) -> float:
    return 5e-3 + 3e-11 * m**3 + 4.0 * n * m**2 / SINGLE


def _svd_seconds(n: int, m: int, half: bool) -> float:
    return 1e-2 + 5e-10 * min(n, m) ** 2 * max(n, m)


def _square_seconds(n: int, m: int, half: bool) -> float:
    """Losses of the m x m correlation."""
    return 1e-3 + 6.0 * n * m**2 / (HALF if half else SINGLE) + 48.0 * m**2 / BANDWIDTH


def _pdist_seconds(n: int, m: int, half: bool) -> float:
    # its backward allocates n x n x m floats
    return math.inf if 4.0 * n * n * m > 4e10 else 1e-3 + 8.0 * n * n * m / BANDWIDTH


def _uniformity_seconds(n: int, m: int, half: bool) -> float:
    return 5e-4 + 6.0 * n * n * m / SINGLE


_barlow = peers.two_views(peers.barlow_twins)
_vicreg = peers.two_views(peers.vicreg)

PROVIDERS: Sequence[Provider] = (
    Provider(OURS, lambda: wf.wasserstein_uniformity, _ours_seconds, exact=True),
    Provider(HIGHEST, lambda: _ours("highest"), _ours_seconds),
    Provider(DOUBLE, lambda: _ours("double"), _double_seconds, exact=True),
    Provider(CUDA, lambda: _by_cuda, _ours_seconds, exact=True, note="k x k problem by csrc/cuda"),
    Provider(COMPOSED, lambda: composed_w2, _composed_seconds),
    Provider(
        COMPILED,
        _compiled,
        _composed_seconds,
        note=f"default mode, static shapes, at most {COMPILE_SECONDS:.0f} s to compile",
    ),
    Provider(
        COMPOSED_FAST,
        lambda: partial(composed_w2, fast=True),
        _fast_seconds,
        timed_if_wrong=True,
        note="float32 products in TF32: less accurate",
    ),
    Provider(
        MUON,
        lambda: muon_w2,
        _fast_seconds,
        timed_if_wrong=True,
        note="five bfloat16 steps: approximate by design",
    ),
    Provider(
        EIGVALSH,
        lambda: upcast(peers.eigvalsh_w2),
        _eigen_seconds,
        graph=False,
        timed_if_wrong=True,
        note="n <= m: null eigenvalues bring noise into its gradient",
    ),
    Provider(SVDVALS, lambda: upcast(peers.svdvals_w2), _svd_seconds, graph=False, forward=False),
    Provider(
        LITERAL,
        lambda: upcast(peers.literal_w2),
        _eigen_seconds,
        graph=False,
        forward=False,
        timed_if_wrong=True,
        note="n <= m: its gradient is noise or NaN",
    ),
    Provider(BARLOW, lambda: _barlow, _square_seconds, own=_barlow, steep=True),
    Provider(BARLOW_AUTOCAST, lambda: autocast(_barlow), _square_seconds, own=_barlow, steep=True),
    Provider(VICREG, lambda: _vicreg, _square_seconds, own=_vicreg, steep=True),
    Provider(VICREG_AUTOCAST, lambda: autocast(_vicreg), _square_seconds, own=_vicreg, steep=True),
    Provider(UNIFORMITY, lambda: wf.uniformity, _uniformity_seconds, own=wf.uniformity),
    Provider(
        PDIST,
        lambda: upcast(peers.pdist_uniformity),
        _pdist_seconds,
        own=wf.uniformity,
        forward=False,
    ),
)
BY_NAME = {provider.name: provider for provider in PROVIDERS}
