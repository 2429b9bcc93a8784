"""The k x k problem of W2 for small k: what newton_schulz.py computes, one program a problem.

The same phases in the same order, without a grid barrier and in one launch: grid (b,). Where k fits
one tile (RESIDENT) the products

    P = c0 + c1 R + c2 R^2;   T = P R;   R <- T P and Q <- Q P;   B = I + shift Q Q/2;   Q <- Q B

never leave the multiprocessor: R, P, T and Q are [TILE, TILE] in registers, in float32 as pairs of
float16, x = hi + lo/2048, rounded wherever newton_schulz.py stores them. R R, P R P and Q Q^T are
averaged with their transposes; T, Q and Y are left as they come (docs/split_products.md). Larger
problems keep their matrices in slots, which the L2 cache holds, and go through them tile by tile:
three matrices of 128, or of 64 in float64, spill registers.
Memory: workspace.py; a resident problem uses slot 0 for R_0, slot 3 for Q and the last one for C.
"""

import torch
import triton
import triton.language as tl

from wssl_fast.backends.eager.newton_schulz import SCHEDULES
from wssl_fast.backends.eager.numerics import ACCEPTED_ERROR, NOISE, ROW_UNIT
from wssl_fast.backends.triton import dispatch
from wssl_fast.backends.triton.chain import SYMMETRIC_Q, product_phase, reduce_tile
from wssl_fast.backends.triton.launch import launch
from wssl_fast.backends.triton.matrices import load_matrix, store_matrix
from wssl_fast.backends.triton.newton_schulz import NOISE_UNITS, SHIFT_UNITS
from wssl_fast.backends.triton.tiles import LO, accumulate, dot, split_fp16
from wssl_fast.backends.triton.w2_phases import (
    FIELDS,
    INVERSE,
    Q_MEANS,
    SHIFT,
    SIZE,
    VECTORS,
    average_phase,
    rows_phase,
    scalars_phase,
    start_phase,
    value_phase,
    weights_phase,
)
from wssl_fast.backends.triton.workspace import Task, Workspace

UP_TO = {"fp16x3": 128, "float64": 64, "float64_fma": 32}
"""Largest k by product. Above, a product should take one multiprocessor longer than a barrier takes
a grid: an estimate, nothing is measured."""
ELEMENTS = 1024
"""Of a block of the row-wise phases, which spans a row of the matrix."""


@triton.jit
def _pack(x, WIDE: tl.constexpr):
    """What a slot would keep of x: a pair of float16, or (WIDE) x itself and nothing."""
    if WIDE:
        hi, lo = x, tl.zeros((), tl.float16)
    else:
        hi, lo = split_fp16(x)
    return hi, lo


@triton.jit
def _unpack(hi, lo, WIDE: tl.constexpr):
    return hi if WIDE else hi.to(tl.float32) + lo.to(tl.float32) / LO


@triton.jit
def _multiply(a_hi, a_lo, b_hi, b_lo, MODE: tl.constexpr, WIDE: tl.constexpr):
    """a b of packed a, b [TILE, TILE]; one block, so that nothing has to be promoted."""
    zero = tl.zeros(a_hi.shape, tl.float64 if WIDE else tl.float32)
    if WIDE:
        x, _low = accumulate(a_hi, b_hi, zero, zero, 1.0, MODE)
    else:
        low = dot(a_lo, b_hi, dot(a_hi, b_lo, zero))
        x = tl.fma(low, 1.0 / LO, dot(a_hi, b_hi, zero))
    return x


@triton.jit
def _multiply_transposed(a_hi, a_lo, b_hi, b_lo, MODE: tl.constexpr, WIDE: tl.constexpr):
    """a b^T."""
    b_hi = tl.trans(b_hi)
    if not WIDE:
        b_lo = tl.trans(b_lo)
    return _multiply(a_hi, a_lo, b_hi, b_lo, MODE, WIDE)


@triton.jit
def _symmetric(x):
    return 0.5 * (x + tl.trans(x))


@triton.jit
def _coefficients(step, shift, SCHEDULE: tl.constexpr, STEPS: tl.constexpr):
    """(c2, c1, c0) of this step's quintic, of R + shift I as a polynomial of R."""
    alpha, beta, gamma = 1.0, 0.0, 0.0
    for s in tl.static_range(STEPS):
        gamma = tl.where(step == s, SCHEDULE[3 * s], gamma)
        beta = tl.where(step == s, SCHEDULE[3 * s + 1], beta)
        alpha = tl.where(step == s, SCHEDULE[3 * s + 2], alpha)
    gamma += (beta + alpha * shift) * shift
    beta += 2.0 * alpha * shift
    return alpha, beta, gamma


@triton.jit
def _resident_chain(
    planes, own, k, kp,
    SCHEDULE: tl.constexpr, STEPS: tl.constexpr, TILE: tl.constexpr, MODE: tl.constexpr,
    WIDE: tl.constexpr,
):  # fmt: skip
    """From R_0 in slot 0 to the symmetric Q in its slot, with its means and what weights and value
    need of Q Q and Y = Q R_0."""
    lane = tl.arange(0, TILE)
    offset = lane.to(tl.int64)[:, None] * kp + lane[None, :]
    eye = lane[:, None] == lane[None, :]
    vectors, sums = own + FIELDS, own + FIELDS + VECTORS * kp
    first = tl.load(own + SHIFT, cache_modifier=".cg").to(tl.float32)
    start = tl.zeros((), tl.int64)
    r = load_matrix(planes, start, offset, kp, None, WIDE)
    none = tl.zeros((), r.dtype)
    r_hi, r_lo = _pack(r, WIDE)
    q_hi, q_lo = _pack(tl.where(eye, none + 1.0, 0.0), WIDE)
    step = tl.zeros((), tl.int32)
    # No `for`: the compiler would carry every matrix once for each layout that a product wants. P
    # and R equal their transposes; which form a product takes keeps operands from outliving it.
    while step < STEPS:
        shift = tl.where(step == 0, first, 0.0)  # what R lacks on its diagonal
        alpha, beta, gamma = _coefficients(step, shift, SCHEDULE, STEPS)
        x = (none + alpha) * _multiply_transposed(r_hi, r_lo, r_hi, r_lo, MODE, WIDE)
        x += (none + beta) * _unpack(r_hi, r_lo, WIDE)
        x += tl.where(eye, none + gamma, 0.0)
        p_hi, p_lo = _pack(_symmetric(x), WIDE)
        # at the first step Q = I, and P comes out bit by bit
        q_hi, q_lo = _pack(_multiply_transposed(q_hi, q_lo, p_hi, p_lo, MODE, WIDE), WIDE)
        if step + 1 < STEPS:
            x = _multiply(p_hi, p_lo, r_hi, r_lo, MODE, WIDE)
            x += (none + shift) * _unpack(p_hi, p_lo, WIDE)
            t_hi, t_lo = _pack(x, WIDE)
            x = _multiply(t_hi, t_lo, p_hi, p_lo, MODE, WIDE)
            r_hi, r_lo = _pack(_symmetric(x), WIDE)
        step += 1
    x = _multiply_transposed(q_hi, q_lo, q_hi, q_lo, MODE, WIDE)
    reduce_tile(x, sums, own, True, 0, 0, 0, k, 1, vectors, kp, TILE)
    x = (none + 0.5 * first) * x + tl.where(eye, none + 1.0, 0.0)
    b_hi, b_lo = _pack(_symmetric(x), WIDE)
    q_hi, q_lo = _pack(_multiply(q_hi, q_lo, b_hi, b_lo, MODE, WIDE), WIDE)
    q = _symmetric(_unpack(q_hi, q_lo, WIDE))
    store_matrix(planes, tl.cast(SYMMETRIC_Q, tl.int64), offset, q, kp, None, WIDE)
    real = (lane < k)[:, None] & (lane < k)[None, :]
    means = tl.sum(tl.where(real, q, 0.0), axis=1).to(tl.float64)
    means *= tl.sqrt(tl.load(own + INVERSE, cache_modifier=".cg"))
    means /= tl.load(own + SIZE, cache_modifier=".cg")
    tl.store(vectors + Q_MEANS * kp + lane, means)
    q_hi, q_lo = _pack(q, WIDE)
    r_hi, r_lo = _pack(load_matrix(planes, start, offset, kp, None, WIDE), WIDE)
    y = _multiply(q_hi, q_lo, r_hi, r_lo, MODE, WIDE)
    reduce_tile(y, sums, own, False, 0, 0, 0, k, 1, vectors, kp, TILE)


@triton.jit
def _stored_chain(
    planes, own, deep, k, kp, one,
    SCHEDULE: tl.constexpr, STEPS: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, MODE: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """The same, phase by phase of chain.py."""
    PHASES: tl.constexpr = 3 * (STEPS - 1) + 2 + 4
    for p in range(PHASES):
        if p == PHASES - 2:
            for row0 in range(0, kp, ROWS):
                average_phase(
                    planes, 2, SYMMETRIC_Q, own + FIELDS, own, row0, k, kp, ROWS, COLUMNS, WIDE
                )
        else:
            product_phase(
                p, planes, own, deep, 0, 1, 1, k, kp, 0, 0, one,
                SCHEDULE, STEPS, TILE, BLOCK, MODE, WIDE, False, True,
            )  # fmt: skip
        tl.debug_barrier()


@triton.jit
def newton_schulz_small_kernel(
    slots,  # (b, count, kp, kp): parts, then C
    planes,  # the same memory as matrices
    diagonal,  # (b, splits, kp) float64
    numbers,  # (b, length) float64: scalars, vectors, sums
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
    length,
    eps_hi,
    eps_lo,
    SCHEDULE: tl.constexpr,
    STEPS: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    MODE: tl.constexpr,
    RESIDENT: tl.constexpr,
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
    FROM_DIAGONAL: tl.constexpr = NORMALIZE and not COVARIANCE and not SCALED
    WRITE_SCALE: tl.constexpr = not COVARIANCE and not SCALED
    b = tl.program_id(0).to(tl.int64)
    if FLAGGED and tl.load(deep + b) == 0:
        return
    apart = tl.cast(kp, tl.int64) * kp * count
    slots += b * apart
    planes += b * (apart if WIDE else 2 * apart)
    diagonal += b * splits * kp
    scale += b * n
    own = numbers + b * length
    vectors = own + FIELDS
    edge = 1 if RESIDENT else kp // TILE
    rows = TILE if RESIDENT else kp
    factor = tl.full((), 1.0, tl.float64)
    if COVARIANCE:
        factor /= n
    for row0 in range(0, rows, ROWS):
        rows_phase(
            slots, count - 1, diagonal, vectors, own, scale, row0, k, kp, splits, factor,
            ROWS, COLUMNS, FROM_DIAGONAL, WRITE_SCALE,
        )  # fmt: skip
    tl.debug_barrier()
    scalars_phase(
        vectors, own, scale, mean + b * m, m, k, kp, eps_hi, eps_lo, COLUMNS, COVARIANCE,
        NORMALIZE, FROM_DIAGONAL, EPS, NOISE_UNITS, SHIFT_UNITS, ROW_UNIT,
    )  # fmt: skip
    tl.debug_barrier()
    for row0 in range(0, rows, ROWS):
        start_phase(
            slots, planes, count - 1, vectors, own, row0, k, kp, ROWS, COLUMNS, COVARIANCE, WIDE
        )
    tl.debug_barrier()
    if RESIDENT:
        _resident_chain(planes, own, k, kp, SCHEDULE, STEPS, TILE, MODE, WIDE)
        tl.debug_barrier()
    else:
        _stored_chain(
            planes, own, deep, k, kp, one,
            SCHEDULE, STEPS, TILE, BLOCK, ROWS, COLUMNS, MODE, WIDE,
        )  # fmt: skip
    if WITH_GRAD:
        for row0 in range(0, k, ROWS):
            weights_phase(
                planes, SYMMETRIC_Q, vectors, own, weights + b * k * k, row0, k, kp,
                ROWS, COLUMNS, COVARIANCE, NORMALIZE, WIDE,
            )  # fmt: skip
    value_phase(
        vectors + VECTORS * kp, own, value + b, deep + b, m, k, edge * edge,
        edge * (edge + 1) // 2, COLUMNS, COVARIANCE, SQUARED, DECIDES, AUTO, ACCEPTED_ERROR,
    )  # fmt: skip


def fits(k: int, product: str, target: dispatch.Target) -> bool:
    """Whether problems of this size are for this kernel rather than newton_schulz.py's."""
    return k <= UP_TO[product] and not target.name.startswith("gfx")  # not compiled there


def newton_schulz_small(work: Workspace, task: Task) -> None:
    """What newton_schulz.newton_schulz does, with `work.tile` from this kernel's rows of the table.

    A tile whose block holds all of k keeps the iteration in registers.
    """
    dtype = torch.float64 if task.wide else torch.float32
    schedule = SCHEDULES[dtype]
    tile = work.tile
    resident = work.k <= min(tile.size, tile.block)
    columns = tile.size if resident else triton.next_power_of_2(work.kp)
    eps_hi = float(torch.tensor(task.eps, dtype=torch.float32))
    launch(
        newton_schulz_small_kernel,
        (work.slots.shape[0],),
        work.slots,
        work.planes,
        work.diagonal,
        work.numbers,
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
        work.numbers.shape[1],
        eps_hi,
        task.eps - eps_hi,
        SCHEDULE=tuple(c for step in schedule for c in step),
        STEPS=len(schedule),
        TILE=tile.size,
        BLOCK=tile.block,
        ROWS=min(tile.size, max(1, ELEMENTS // columns)),
        COLUMNS=columns,
        MODE=task.product,
        RESIDENT=resident,
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
        warps=tile.warps,
        stages=tile.stages,
    )
