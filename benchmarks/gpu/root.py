"""The k x k problem of W2 alone: the parts of K = z z^T in, value and weights out.

    Triton             newton_schulz.py or newton_schulz_small.py, as the package would choose
    csrc/cuda          on the tile that its plan chooses
    csrc/cuda 64x32    on another one that fits
    composition        compositions.py: float32 products of PyTorch, eager

One problem of healthy unit rows in float32 grade, all from the same parts, which are as many as the
package would make of half-precision rows. The kernels write float64 weights, as `auto` has them;
the composition's are float32 and lack the factor of the gradient. A kernel puts its matrices where
the parts were: a call is preceded by `restore`, which is not timed. Truth is the eager backend's
float64, from the rows.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu import providers as p
from benchmarks.gpu.compositions import gram_root, gram_weights
from benchmarks.gpu.plan import CSRC, TRITON
from benchmarks.gpu.timing import Call
from wssl_fast.backends import cuda
from wssl_fast.backends.eager.newton_schulz import SCHEDULES
from wssl_fast.backends.eager.numerics import ACCEPTED_ERROR, NOISE, ROW_UNIT
from wssl_fast.backends.triton import dispatch, workspace
from wssl_fast.backends.triton.gram import splits_for
from wssl_fast.backends.triton.newton_schulz import SHIFT_UNITS, newton_schulz, persistent
from wssl_fast.backends.triton.newton_schulz_cuda import index_of
from wssl_fast.backends.triton.newton_schulz_small import fits, newton_schulz_small
from wssl_fast.backends.triton.workspace import Task, Workspace

COLUMNS = 8192  # m of the rows
MOST_PARTS = 5  # where k > 256, 32 else: as w2.py has it
ROWS_PRODUCT, PRODUCT = "exact", "fp16x3"
COEFFICIENTS = SCHEDULES[torch.float32]
VALUE_LIMIT, WEIGHTS_LIMIT = 1e-3, 3e-3  # right from wrong on a healthy batch: providers.py


@dataclass(frozen=True)
class Problem:
    """Parts of K, and what comes of them."""

    parts: Tensor
    """(splits, k, k) float32."""
    m: int
    value: float
    weights: Tensor
    """(k, k) float64."""

    @property
    def k(self) -> int:
        return self.parts.shape[-1]

    @property
    def splits(self) -> int:
        return self.parts.shape[0]

    @property
    def factor(self) -> float:
        """Of the gradient: -2/(k sqrt m)."""
        return -2.0 / (self.k * math.sqrt(self.m))


@dataclass(frozen=True)
class Prepared:
    """A call with memory of its own."""

    restore: Call
    run: Callable[[], Sequence[Tensor]]
    """Value () or (1,), weights (k, k) or (1, k, k)."""
    factor: float = 1.0
    """What its weights lack."""
    deep: Tensor | None = None
    """Whether the kernel asks for float64."""


@dataclass(frozen=True)
class Contender:
    """Who solves the problem; `make` raises where it cannot."""

    name: str
    make: Callable[[], Prepared]
    modelled: float = math.nan
    """Seconds, csrc/cuda's own model."""
    note: str | None = None


def problem(k: int, device: torch.device, *, m: int = COLUMNS, splits: int = 0) -> Problem:
    """`splits` 0: as many parts as the package would make."""
    z = p.healthy(k, m, torch.bfloat16, device, seed=k)
    if splits == 0:
        target = dispatch.target_of(device)
        most = MOST_PARTS if k > 256 else 32
        splits = splits_for(k, m, product_tile(k, device), target, most)
    parts = torch.stack([(x.double() @ x.double().mT).float() for x in z.chunk(splits, dim=1)])
    solver = "eigh" if k <= p.EIGH_SIDE else "newton_schulz"
    truth = torch.ops.wssl_fast.w2_gram(
        z[None].double(), True, False, 0.0, solver, "double", True, "eager"
    )
    return Problem(parts, m, truth[0].item(), truth[1][0])


def product_tile(k: int, device: torch.device) -> dispatch.Tile:
    """Of the kernel that would make the parts: kp is a multiple of its size."""
    return dispatch.tile("gram", ROWS_PRODUCT, k, dispatch.target_of(device))


def errors(given: Problem, found: Sequence[Tensor], factor: float) -> tuple[float, float]:
    """Of the value, absolute; of the weights, relative in the Frobenius norm."""
    value, weights = found
    away = weights.double().view_as(given.weights).mul(factor).sub_(given.weights).norm()
    return abs(value.item() - given.value), (away / given.weights.norm()).item()


def wrong(found: tuple[float, float]) -> str | None:
    """What is wrong with the errors found, or None. NaN is wrong."""
    value, weights = found
    if value <= VALUE_LIMIT and weights <= WEIGHTS_LIMIT:
        return None
    return f"value off by {value:.1e}, weights by {weights:.1e}"


def contenders(given: Problem) -> list[Contender]:
    """Everyone, csrc/cuda last: on the planned tile, then on the others."""
    others = [
        Contender(TRITON, partial(by_triton, given)),
        Contender(p.COMPOSED, partial(by_composition, given)),
    ]
    return [*others, *_cuda_contenders(given)]


def _cuda_contenders(given: Problem) -> list[Contender]:
    device = given.parts.device
    try:
        of = cuda.device(index_of(device))
        planned = plan_of(given, -1, of)
    except (RuntimeError, ValueError) as error:
        return [Contender(CSRC, partial(_raise, error))]
    every = range(len(cuda.tiles()))
    found = []
    for tile in (planned.tile, *(t for t in every if t != planned.tile)):
        rows, columns, *_ = cuda.tiles()[tile]
        name = CSRC if tile == planned.tile else f"{CSRC} {rows}x{columns}"
        try:
            plan = plan_of(given, tile, of)
            modelled = cuda.estimate(given.k, device=of, tile=tile)["seconds"]
        except ValueError as error:  # too little shared memory for it
            found.append(Contender(name, partial(_raise, error)))
            continue
        note = f"tile {rows}x{columns}, {plan.blocks} blocks, {plan.barriers} barriers"
        found.append(Contender(name, partial(by_cuda, given, tile, of), modelled, note))
    return found


def _raise(error: Exception) -> Prepared:
    raise error


def plan_of(given: Problem, tile: int, device: cuda.Device) -> cuda.Plan:
    """csrc/cuda's plan for these parts."""
    multiple = product_tile(given.k, given.parts.device).size
    return cuda.plan(given.k, splits=given.splits, multiple=multiple, device=device, tile=tile)


@dataclass(frozen=True)
class Memory:
    """What a kernel reads and writes, NaN where nothing was written yet."""

    slots: Tensor
    diagonal: Tensor
    numbers: Tensor
    counter: Tensor
    scale: Tensor
    mean: Tensor
    value: Tensor
    weights: Tensor
    deep: Tensor
    parts: Tensor
    """(splits, kp, kp), zero padded."""

    def restore(self) -> None:
        """The parts, and the barrier's counter as the product of the rows leaves it."""
        self.slots[0, : len(self.parts)].copy_(self.parts)
        self.counter.zero_()

    def to(self, device: torch.device) -> "Memory":
        """A copy there."""
        return Memory(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def memory(work: Workspace, given: Problem) -> Memory:
    """Puts the parts into a workspace."""
    device, k = given.parts.device, given.k
    pad = work.kp - k
    parts = torch.nn.functional.pad(given.parts, (0, pad, 0, pad))
    work.slots.fill_(math.nan)
    work.numbers.fill_(math.nan)
    work.diagonal[0].copy_(parts.diagonal(dim1=1, dim2=2))
    work.counter.zero_()
    work.slots[0, : given.splits].copy_(parts)
    nan = partial(torch.full, fill_value=math.nan, device=device)
    return Memory(
        slots=work.slots,
        diagonal=work.diagonal,
        numbers=work.numbers,
        counter=work.counter,
        scale=nan((1, k), dtype=torch.float64),
        mean=nan((1, 0), dtype=torch.float64),
        value=nan((1,), dtype=torch.float32),
        weights=nan((1, k, k), dtype=torch.float64),
        deep=torch.zeros(1, dtype=torch.int8, device=device),
        parts=parts,
    )


def by_triton(given: Problem) -> Prepared:
    """Triton's kernel for this size."""
    k, device = given.k, given.parts.device
    target = dispatch.target_of(device)
    small = fits(k, PRODUCT, target)
    phases = None if persistent(k, target) else "newton_schulz_phases"
    work = workspace.allocate(
        1,
        k,
        splits=given.splits,
        wide=False,
        product_tile=product_tile(k, device),
        tile=dispatch.tile("newton_schulz_small" if small else "newton_schulz", PRODUCT, k, target),
        phase_tile=dispatch.tile(phases, PRODUCT, k, target) if phases else None,
        device=device,
    )
    own = memory(work, given)
    task = Task(
        product=PRODUCT,
        rows_product=ROWS_PRODUCT,
        n=k,
        m=given.m,
        covariance=False,
        normalize=True,
        squared=False,
        eps=0.0,
        with_grad=True,
        auto=True,
        decides=True,
        flagged=False,
        scaled=False,
        scale=own.scale,
        mean=own.mean,
        value=own.value,
        weights=own.weights,
        deep=own.deep,
    )

    def run() -> Sequence[Tensor]:
        (newton_schulz_small if small else newton_schulz)(work, task)
        return own.value, own.weights

    return Prepared(own.restore, run, deep=own.deep)


def by_cuda(
    given: Problem, tile: int, device: cuda.Device, *, where: torch.device | None = None
) -> Prepared:
    """csrc/cuda on one of its tiles, straight through backends/cuda.py. `where`: its memory, if
    not where the parts are."""
    here, k = given.parts.device, given.k
    rows = product_tile(k, here)
    plan = plan_of(given, tile, device)
    work = workspace.of_plan(1, k, plan, splits=given.splits, product_tile=rows, device=here)
    own = memory(work, given).to(where or here)
    run = partial(call_cuda, own, given, rows.size, tile, device)
    return Prepared(own.restore, run, deep=own.deep)


def call_cuda(
    own: Memory, given: Problem, multiple: int, tile: int, device: cuda.Device
) -> Sequence[Tensor]:
    """One launch: value and weights."""
    cuda.newton_schulz(
        slots=own.slots,
        diagonal=own.diagonal,
        numbers=own.numbers,
        counter=own.counter,
        scale=own.scale,
        mean=own.mean,
        value=own.value,
        weights=own.weights,
        deep=own.deep,
        n=given.k,
        m=given.m,
        splits=given.splits,
        multiple=multiple,
        covariance=False,
        normalize=True,
        squared=False,
        with_grad=True,
        auto=True,
        eps=0.0,
        unit=torch.finfo(torch.float32).eps,
        noise_units=NOISE[torch.float32],
        shift_units=SHIFT_UNITS[False, False],
        row_unit=ROW_UNIT,
        accepted_error=ACCEPTED_ERROR,
        coefficients=COEFFICIENTS,
        device=device,
        tile=tile,
    )
    return own.value, own.weights


def by_composition(given: Problem) -> Prepared:
    """PyTorch calls, from the same parts; they leave the parts as they are."""
    parts = given.parts.clone()

    def run() -> Sequence[Tensor]:
        value, _, q, c = gram_root(parts.sum(0) if len(parts) > 1 else parts[0], given.m)
        return value, gram_weights(q, c)

    return Prepared(lambda: None, run, given.factor)
