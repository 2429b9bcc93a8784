"""The products of newton_schulz: which phase multiplies what, and one program's share of a phase.

R R, P R P and Q Q are symmetric whatever rounding does: their lower tiles are computed and
mirrored. T = P R, Q P, Q B and Y = Q R_0 are so in exact arithmetic alone, and mirroring them would
cost the value a digit or two (docs/split_products.md): they are computed in full.

Slots: R_0 stays in 0; R is in 1 from the first step on, T in 2; P is in 3, but in 4 at step 1,
where Q = P_0 still lies in 3; Q then moves between 5 (odd steps) and 4. After the chain B is in 1,
the corrected Q in 2, its symmetric part in 3.
"""

import triton
import triton.language as tl

from wssl_fast.backends.triton.matrices import add_polynomial, multiply, store_tile
from wssl_fast.backends.triton.tiles import lower_tile
from wssl_fast.backends.triton.w2_phases import (
    DISTANCE,
    FIELDS,
    INVERSE,
    Q_SQUARE,
    SHIFT,
    TARGET,
    VECTORS,
    Y_DIAGONAL,
    Y_SQUARE,
)

SYMMETRIC_Q = tl.constexpr(3)


@triton.jit
def _product(p, full, shift, SCHEDULE: tl.constexpr, STEPS: tl.constexpr):
    """What product phase p computes, alpha left right + beta addend + gamma I into slot `out`; of
    two products, the one that is computed in full if `full`. shift (): what R_0 lacks on its
    diagonal."""
    CHAIN: tl.constexpr = 3 * (STEPS - 1) + 2
    Q_SLOT: tl.constexpr = 4 if STEPS % 2 == 1 else 5  # after the last step
    left, right, addend, out = 0, 0, 0, -1
    alpha, beta, gamma = 1.0, 0.0, 0.0
    step, kind = p // 3, p % 3
    if p < CHAIN:
        r = tl.where(step == 0, 0, 1)
        polynomial = tl.where(step == 1, 4, 3)
        shift = tl.where(step == 0, shift, 0.0)
        if kind == 0:  # P of R + shift I
            for s in tl.static_range(STEPS):
                gamma = tl.where(step == s, SCHEDULE[3 * s], gamma)
                beta = tl.where(step == s, SCHEDULE[3 * s + 1], beta)
                alpha = tl.where(step == s, SCHEDULE[3 * s + 2], alpha)
            gamma += (beta + alpha * shift) * shift
            beta += 2.0 * alpha * shift
            left, right, addend, out = r, r, r, polynomial
        elif (step == STEPS - 1) | (full & (kind == 2)):  # Q <- Q P
            left, right = tl.where(step == 1, 3, tl.where(step % 2 == 0, 5, 4)), polynomial
            out = tl.where(step % 2 == 0, 4, 5)
        elif kind == 1:  # T = P (R + shift I)
            left, right, addend, out = polynomial, r, polynomial, 2
            beta = shift
        else:  # R <- T P
            left, right, out = 2, polynomial, 1
    elif p == CHAIN:  # B = I + shift Q Q / 2
        left, right, out = Q_SLOT, Q_SLOT, 1
        alpha, gamma = 0.5 * shift, 1.0
    elif p == CHAIN + 1:  # Q <- Q B
        left, right, out = Q_SLOT, 1, 2
    else:  # Y = Q R_0, of which the phase keeps sums alone
        left = 3
    return left, right, addend, out, alpha, beta, gamma


@triton.jit
def reduce_tile(x, sums, scalars, mirror, i, j, t, k, tiles, vectors, kp, TILE: tl.constexpr):
    """What later phases need of a tile of Y, or (mirror) of Q Q: sums of squares, in which a tile
    off the diagonal counts for its mirror image too, and the diagonal of Y."""
    lane = tl.arange(0, TILE)
    row, column = i * TILE + lane, j * TILE + lane
    real = (row < k)[:, None] & (column < k)[None, :]
    own = (row[:, None] == column[None, :]) & real
    x = tl.where(real, x, 0.0)
    if mirror:
        times = tl.where(i == j, 1.0, 2.0).to(tl.float64)
        tl.store(sums + Q_SQUARE * tiles + t, times * tl.sum(x * x))
    else:
        inverse = tl.load(scalars + INVERSE, cache_modifier=".cg")
        target = tl.load(scalars + TARGET, cache_modifier=".cg")
        x *= tl.where(inverse == 0.0, 0.0, 1.0 / tl.sqrt(inverse)).to(x.dtype)
        away = x - tl.where(own, target.to(x.dtype), 0.0)
        tl.store(sums + DISTANCE * tiles + t, tl.sum(away * away).to(tl.float64))
        tl.store(sums + Y_SQUARE * tiles + t, tl.sum(x * x).to(tl.float64))
        if i == j:
            diagonal = tl.sum(tl.where(own, x, 0.0), axis=1)
            tl.store(vectors + Y_DIAGONAL * kp + row, diagonal.to(tl.float64))


@triton.jit
def product_phase(
    p, planes, numbers, deep, pid, programs, batch, k, kp, apart, length, one,
    SCHEDULE: tl.constexpr, STEPS: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
    MODE: tl.constexpr, WIDE: tl.constexpr, FLAGGED: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    """This program's tiles of product phase p, over all problems, whose planes are `apart` elements
    from each other and whose numbers `length`. Without SUMS, phases that nothing is summed in."""
    CHAIN: tl.constexpr = 3 * (STEPS - 1) + 2
    edge = kp // TILE
    tiles, lower = edge * edge, edge * (edge + 1) // 2
    half, full = lower, 0  # tiles of the products that are symmetric, and of those that are not
    if ((p >= CHAIN - 1) & (p != CHAIN)) | ((p < CHAIN) & (p % 3 == 1)):
        half, full = 0, tiles
    elif (p > 3) & (p < CHAIN) & (p % 3 == 2):
        full = tiles
    for item in range(pid, batch * (half + full), programs):
        t = item % (half + full)
        b = tl.cast(item // (half + full), tl.int64)
        mirror = t < half
        i, j = lower_tile(t)
        if not mirror:
            t -= half
            i, j = t // edge, t % edge
        if not FLAGGED or tl.load(deep + b) != 0:
            own_planes = planes + b * apart
            own = numbers + b * length
            shift = tl.load(own + SHIFT, cache_modifier=".cg").to(tl.float32)
            left, right, addend, out, alpha, beta, gamma = _product(
                p, not mirror, shift, SCHEDULE, STEPS
            )
            x = multiply(
                own_planes,
                tl.cast(left, tl.int64),
                tl.cast(right, tl.int64),
                i,
                j,
                kp,
                one,
                TILE,
                BLOCK,
                MODE,
                WIDE,
            )
            if SUMS and ((p == CHAIN) | (p == CHAIN + 3)):
                sums = own + FIELDS + VECTORS * kp
                reduce_tile(x, sums, own, mirror, i, j, t, k, tiles, own + FIELDS, kp, TILE)
            if out >= 0:
                x = add_polynomial(
                    x,
                    own_planes,
                    tl.cast(addend, tl.int64),
                    i,
                    j,
                    kp,
                    alpha,
                    beta,
                    gamma,
                    mirror,
                    TILE,
                    WIDE,
                )
                store_tile(own_planes, tl.cast(out, tl.int64), i, j, x, kp, mirror, TILE, WIDE)
