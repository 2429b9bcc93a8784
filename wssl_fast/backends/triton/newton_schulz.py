"""The k x k problem of W2: root by newton_schulz, value and weights, in one persistent launch.

From the parts of C = X X^T (Gram formulation) or S (covariance formulation), phase by phase:

    rows      C from its parts, unit diagonal, row means                        w2_phases.py
    scalars   |mu|^2, noise, lift, shift, |A|_F                                 w2_phases.py
    start     R_0 = A / |A|_F                                                   w2_phases.py
    chain     P = c0 + c1 R + c2 R^2;   T = P R;   R <- T P and Q <- Q P        quintics
    correct   B = I + shift Q Q/2;   Q <- Q B;   Q <- (Q + Q^T)/2
    root      Y = Q R_0
    weights   W2 from |Y - I/sqrt m|_F, the weights of the gradient, and whether float64
              must look again                                                   w2_phases.py

A barrier over the grid parts the phases: a cooperative launch of at most one program a
multiprocessor. Where k is large a phase is a launch of its own, with a program for every tile.
Products: chain.py, matrices.py. Iteration: backends/eager/newton_schulz.py, arXiv 2505.16932. The
shift keeps eigenvalues positive that rounding made negative; B takes it back to first order.
Memory: workspace.py; 6 k^2 floats, 12 in float64.
"""

import torch
import triton
import triton.language as tl

from wssl_fast.backends.eager.newton_schulz import SCHEDULES
from wssl_fast.backends.eager.numerics import ACCEPTED_ERROR, NOISE, ROW_UNIT
from wssl_fast.backends.triton import dispatch
from wssl_fast.backends.triton.chain import SYMMETRIC_Q, product_phase
from wssl_fast.backends.triton.launch import launch
from wssl_fast.backends.triton.tiles import grid_barrier
from wssl_fast.backends.triton.w2_phases import (
    FIELDS,
    VECTORS,
    average_phase,
    rows_phase,
    scalars_phase,
    start_phase,
    value_phase,
    weights_phase,
)
from wssl_fast.backends.triton.workspace import Task, Workspace

PERSISTENT_UP_TO = {"sm_90": 1024}
"""Largest k whose phases share one launch, 2048 where nothing is said: above, a phase is long
beside a launch. With float16 planes on sm_90 a phase of k = 2048 waits for the L2 cache in tiles of
64, which is all that the persistent kernel has registers for; tiles of 128, a launch a phase, are
twice as fast in the model, which rests on an assumed rate of that cache (docs/gpu_model.md)."""
ROWS, COLUMNS = 4, 256
"""Block of the row-wise phases."""
WARPS = {"rows": 2, "scalars": 1, "start": 8, "average": 4, "weights": 4}
"""Of the row-wise phases as launches of their own: without spills."""
ROWS_INTERPRETED = 64
"""Fewer, larger steps where every operation is a call of NumPy."""
SHIFT_UNITS = {
    (False, False): 2.0,
    (False, True): 10.0,
    (True, False): 0.0,
    (True, True): 10.0,
}
"""By (float64, covariance formulation): the shift at least, in units of rounding of |A|_F. Products
of clones round alike, by up to 10 units; in a Gram matrix they are equal entries."""
NOISE_UNITS = {"bf16x4": 2.0}
"""Uncertainty of the eigenvalues of C, in units of rounding of |C|_F, where it is not NOISE of the
eager backend (docs/split_products.md)."""


@triton.jit
def _average(
    planes, numbers, deep, pid, programs, batch, k, kp, apart, length,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDE: tl.constexpr, FLAGGED: tl.constexpr,
):  # fmt: skip
    """This program's rows of the symmetric part of Q, over all problems."""
    blocks = (kp + ROWS - 1) // ROWS
    for item in range(pid, batch * blocks, programs):
        b = tl.cast(item // blocks, tl.int64)
        if not FLAGGED or tl.load(deep + b) != 0:
            average_phase(
                planes + b * apart, 2, SYMMETRIC_Q, numbers + b * length + FIELDS,
                numbers + b * length, item % blocks * ROWS, k, kp, ROWS, COLUMNS, WIDE,
            )  # fmt: skip


@triton.jit(do_not_specialize=["n", "m", "k", "splits", "count", "batch", "length", "phase"])
def newton_schulz_kernel(
    slots,  # (b, count, kp, kp): parts, then C
    planes,  # the same memory as matrices
    diagonal,  # (b, splits, kp) float64
    numbers,  # (b, FIELDS + VECTORS kp + PARTIALS tiles) float64: scalars, vectors, partial sums
    counter,  # int32
    scale,  # (b, n) float64: written in the Gram formulation unless SCALED
    mean,  # (b, m) float64, covariance formulation
    value,  # (b,)
    weights,  # (b, k, k)
    deep,  # (b,) int8
    one,
    n,
    m,
    k,
    kp,
    splits,
    count,
    batch,
    length,  # of the numbers of a problem
    phase,  # of PART "products" or "sums"
    eps_hi,
    eps_lo,
    PART: tl.constexpr,  # "all", or the phase that is a launch of its own
    SCHEDULE: tl.constexpr,
    STEPS: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    MODE: tl.constexpr,
    COVARIANCE: tl.constexpr,
    NORMALIZE: tl.constexpr,
    SCALED: tl.constexpr,
    SQUARED: tl.constexpr,
    WITH_GRAD: tl.constexpr,
    AUTO: tl.constexpr,
    DECIDES: tl.constexpr,
    FLAGGED: tl.constexpr,
    EPS: tl.constexpr,
    NOISE_UNITS: tl.constexpr,
    SHIFT_UNITS: tl.constexpr,
    ROW_UNIT: tl.constexpr,
    ACCEPTED_ERROR: tl.constexpr,
):
    WIDE: tl.constexpr = MODE != "fp16x3"
    PHASES: tl.constexpr = 3 * (STEPS - 1) + 2 + 4  # of products, the average among them
    FROM_DIAGONAL: tl.constexpr = NORMALIZE and not COVARIANCE and not SCALED
    WRITE_SCALE: tl.constexpr = not COVARIANCE and not SCALED
    ALL: tl.constexpr = PART == "all"
    pid, programs = tl.program_id(0), tl.num_programs(0)
    if FLAGGED:
        wanted = 0
        for problem in range(batch):
            wanted += tl.load(deep + problem).to(tl.int32)
        if wanted == 0:
            return
    apart = tl.cast(kp, tl.int64) * kp * count  # from one problem's slots to the next
    planes_apart = apart if WIDE else 2 * apart
    blocks = (kp + ROWS - 1) // ROWS
    edge = kp // TILE
    if ALL or PART == "rows":
        for item in range(pid, batch * blocks, programs):
            b = tl.cast(item // blocks, tl.int64)
            if not FLAGGED or tl.load(deep + b) != 0:
                factor = tl.full((), 1.0, tl.float64)
                if COVARIANCE:
                    factor /= n
                rows_phase(
                    slots + b * apart, count - 1, diagonal + b * splits * kp,
                    numbers + b * length + FIELDS, numbers + b * length, scale + b * n,
                    item % blocks * ROWS, k, kp, splits, factor, ROWS, COLUMNS, FROM_DIAGONAL,
                    WRITE_SCALE,
                )  # fmt: skip
    if ALL:
        grid_barrier(counter, programs)
    if ALL or PART == "scalars":
        for problem in range(pid, batch, programs):
            b = tl.cast(problem, tl.int64)
            if not FLAGGED or tl.load(deep + b) != 0:
                scalars_phase(
                    numbers + b * length + FIELDS, numbers + b * length, scale + b * n,
                    mean + b * m, m, k, kp, eps_hi, eps_lo, COLUMNS, COVARIANCE, NORMALIZE,
                    FROM_DIAGONAL, EPS, NOISE_UNITS, SHIFT_UNITS, ROW_UNIT,
                )  # fmt: skip
    if ALL:
        grid_barrier(counter, programs)
    if ALL or PART == "start":
        for item in range(pid, batch * blocks, programs):
            b = tl.cast(item // blocks, tl.int64)
            if not FLAGGED or tl.load(deep + b) != 0:
                start_phase(
                    slots + b * apart, planes + b * planes_apart, count - 1,
                    numbers + b * length + FIELDS, numbers + b * length, item % blocks * ROWS, k,
                    kp, ROWS, COLUMNS, COVARIANCE, WIDE,
                )  # fmt: skip
    if ALL:
        grid_barrier(counter, programs)
        for p in range(PHASES):
            if p == PHASES - 2:
                _average(
                    planes, numbers, deep, pid, programs, batch, k, kp, planes_apart, length,
                    ROWS, COLUMNS, WIDE, FLAGGED,
                )  # fmt: skip
            else:
                product_phase(
                    p, planes, numbers, deep, pid, programs, batch, k, kp, planes_apart, length,
                    one, SCHEDULE, STEPS, TILE, BLOCK, MODE, WIDE, FLAGGED, True,
                )  # fmt: skip
            grid_barrier(counter, programs)
    elif PART == "products" or PART == "sums":
        product_phase(
            phase, planes, numbers, deep, pid, programs, batch, k, kp, planes_apart, length,
            one, SCHEDULE, STEPS, TILE, BLOCK, MODE, WIDE, FLAGGED, PART == "sums",
        )  # fmt: skip
    elif PART == "average":
        _average(
            planes, numbers, deep, pid, programs, batch, k, kp, planes_apart, length,
            ROWS, COLUMNS, WIDE, FLAGGED,
        )  # fmt: skip
    if ALL or PART == "weights":
        for item in range(pid, batch * blocks, programs):
            b = tl.cast(item // blocks, tl.int64)
            if not FLAGGED or tl.load(deep + b) != 0:
                own = numbers + b * length
                if WITH_GRAD:
                    weights_phase(
                        planes + b * planes_apart, SYMMETRIC_Q, own + FIELDS, own,
                        weights + b * k * k, item % blocks * ROWS, k, kp,
                        ROWS, COLUMNS, COVARIANCE, NORMALIZE, WIDE,
                    )  # fmt: skip
                if item % blocks == 0:
                    value_phase(
                        own + FIELDS + VECTORS * kp, own, value + b, deep + b, m, k, edge * edge,
                        edge * (edge + 1) // 2, COLUMNS, COVARIANCE, SQUARED, DECIDES, AUTO,
                        ACCEPTED_ERROR,
                    )  # fmt: skip


def persistent(k: int, target: dispatch.Target) -> bool:
    """Whether the phases of k x k problems share one launch."""
    return k <= PERSISTENT_UP_TO.get(target.name, 2048)


def product_phases(steps: int) -> int:
    """Phases from the first P to Y, the one between them that multiplies nothing among them.

    >>> product_phases(7), product_phases(15)
    (24, 48)
    """
    return 3 * (steps - 1) + 2 + 4


def barriers(steps: int) -> int:
    """Grid barriers of a persistent launch.

    >>> barriers(7), barriers(15)
    (27, 51)
    """
    return 3 + product_phases(steps)


def plan(work: Workspace, steps: int, resident: int, rows: int) -> list[tuple[str, int, int]]:
    """Launches of one call: (part, product phase, programs)."""
    batch, edge = work.slots.shape[0], work.kp // work.tile.size
    tiles, blocks = batch * (edge * (edge + 1) // 2 + edge * edge), batch * -(-work.kp // rows)
    if work.phase_tile is None:
        return [("all", 0, min(resident, max(tiles, blocks)))]
    last = product_phases(steps) - 1
    parts = [
        ("rows", 0),
        ("scalars", 0),
        ("start", 0),
        *(("products", phase) for phase in range(last - 3)),
        ("sums", last - 3),
        ("products", last - 2),
        ("average", 0),
        ("sums", last),
        ("weights", 0),
    ]
    # no more programs than run at once: a second pass that nobody asked for has few to start
    return [(part, phase, min(2 * resident, max(tiles, blocks))) for part, phase in parts]


def newton_schulz(work: Workspace, task: Task) -> None:
    """Value, weights and scale of the problems whose parts are in `work`, as the task says."""
    dtype = torch.float64 if task.wide else torch.float32
    schedule = SCHEDULES[dtype]
    target = dispatch.target_of(work.slots.device)
    batch = work.slots.shape[0]
    eps_hi = float(torch.tensor(task.eps, dtype=torch.float32))
    rows = ROWS_INTERPRETED if target == dispatch.INTERPRETER else ROWS
    for part, phase, programs in plan(work, len(schedule), target.programs, rows):
        tile = work.phase_tile if part == "products" and work.phase_tile else work.tile
        launch(
            newton_schulz_kernel,
            (programs,),
            work.slots,
            work.planes,
            work.diagonal,
            work.numbers,
            work.counter,
            task.scale,
            task.mean,
            task.value,
            task.weights,
            task.deep,
            1.0,
            task.n,
            task.m,
            work.k,
            work.kp,
            work.splits,
            work.slots.shape[1],
            batch,
            work.numbers.shape[1],
            phase,
            eps_hi,
            task.eps - eps_hi,
            PART=part,
            SCHEDULE=tuple(c for step in schedule for c in step),
            STEPS=len(schedule),
            TILE=tile.size,
            BLOCK=tile.block,
            ROWS=rows,
            COLUMNS=COLUMNS,
            MODE=task.product,
            COVARIANCE=task.covariance,
            NORMALIZE=task.normalize,
            SCALED=task.scaled,
            SQUARED=task.squared,
            WITH_GRAD=task.with_grad,
            AUTO=task.auto,
            DECIDES=task.decides,
            FLAGGED=task.flagged,
            EPS=torch.finfo(dtype).eps,
            NOISE_UNITS=NOISE_UNITS.get(task.rows_product, NOISE[dtype]),
            SHIFT_UNITS=SHIFT_UNITS[task.wide, task.covariance],
            ROW_UNIT=ROW_UNIT,
            ACCEPTED_ERROR=ACCEPTED_ERROR,
            warps=WARPS.get(part, tile.warps),
            stages=tile.stages,
            cooperative=part == "all" and programs > 1,
        )
