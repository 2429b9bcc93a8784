"""k x k matrices in the slots of a workspace, and the product of one with a symmetric one.

float32-grade matrices are pairs of float16 planes, x = hi + lo/2048 to 22 bits (tiles.py, fp16x3),
so that a product loads what the tensor cores multiply and nothing is cut up in the inner loop;
float64 matrices are one plane. Padding up to kp, a multiple of every tile and block, is zero, or a
diagonal that nothing else sees: inner loops have no masks. Loads go to the L2 cache (.cg): other
multiprocessors wrote the data.
"""

import triton
import triton.language as tl

from wssl_fast.backends.triton.tiles import LO, accumulate, dot, split_fp16


@triton.jit
def load_matrix(planes, slot, offset, kp, mask, WIDE: tl.constexpr):
    """Entries at `offset` of a slot, undefined where masked, float64 if WIDE else float32."""
    area = tl.cast(kp, tl.int64) * kp
    if WIDE:
        x = tl.load(planes + slot * area + offset, mask=mask, cache_modifier=".cg")
    else:
        at = planes + 2 * slot * area + offset
        hi = tl.load(at, mask=mask, cache_modifier=".cg")
        lo = tl.load(at + area, mask=mask, cache_modifier=".cg")
        x = hi.to(tl.float32) + lo.to(tl.float32) / LO
    return x


@triton.jit
def store_matrix(planes, slot, offset, x, kp, mask, WIDE: tl.constexpr):
    """Rounds float32 to 22 bits: the planes' own precision."""
    area = tl.cast(kp, tl.int64) * kp
    if WIDE:
        tl.store(planes + slot * area + offset, x, mask=mask)
    else:
        hi, lo = split_fp16(x)
        at = planes + 2 * slot * area + offset
        tl.store(at, hi, mask=mask)
        tl.store(at + area, lo, mask=mask)


@triton.jit
def store_tile(planes, slot, i, j, x, kp, mirror, TILE: tl.constexpr, WIDE: tl.constexpr):
    """Tile (i, j), x [TILE, TILE], and its mirror image if `mirror`."""
    lane = tl.arange(0, TILE)
    row, column = (i * TILE + lane).to(tl.int64), (j * TILE + lane).to(tl.int64)
    store_matrix(planes, slot, row[:, None] * kp + column[None, :], x, kp, None, WIDE)
    if mirror & (i != j):
        store_matrix(planes, slot, column[:, None] * kp + row[None, :], tl.trans(x), kp, None, WIDE)


@triton.jit
def multiply(
    planes, left, right, i, j, kp, one,
    TILE: tl.constexpr, BLOCK: tl.constexpr, MODE: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Tile (i, j) of left right: rows i of the one by rows j of the other, which is symmetric."""
    area = tl.cast(kp, tl.int64) * kp
    lane, depth = tl.arange(0, TILE), tl.arange(0, BLOCK)
    x_at = (i * TILE + lane).to(tl.int64)[:, None] * kp + depth[None, :]
    y_at = (j * TILE + lane).to(tl.int64)[:, None] * kp + depth[None, :]
    if WIDE:
        acc = tl.zeros((TILE, TILE), tl.float64)
        x_ptr, y_ptr = planes + left * area + x_at, planes + right * area + y_at
        for _ in range(0, kp, BLOCK):
            x = tl.load(x_ptr, cache_modifier=".cg")
            y = tl.load(y_ptr, cache_modifier=".cg")
            acc, _low = accumulate(x, tl.trans(y), acc, acc, one, MODE)
            x_ptr += BLOCK
            y_ptr += BLOCK
    else:
        acc = tl.zeros((TILE, TILE), tl.float32)
        low = tl.zeros((TILE, TILE), tl.float32)
        zero = tl.zeros((TILE, TILE), tl.float32)
        x_ptr, y_ptr = planes + 2 * left * area + x_at, planes + 2 * right * area + y_at
        for _ in range(0, kp, BLOCK):
            x_hi = tl.load(x_ptr, cache_modifier=".cg")
            y_hi = tl.trans(tl.load(y_ptr, cache_modifier=".cg"))
            x_lo = tl.load(x_ptr + area, cache_modifier=".cg")
            y_lo = tl.trans(tl.load(y_ptr + area, cache_modifier=".cg"))
            low = dot(x_lo, y_hi, dot(x_hi, y_lo, low))
            acc = tl.fma(dot(x_hi, y_hi, zero), one, acc)
            x_ptr += BLOCK
            y_ptr += BLOCK
        acc = tl.fma(low, 1.0 / LO, acc)
    return acc


@triton.jit
def add_polynomial(
    x, planes, slot, i, j, kp, alpha, beta, gamma, mirror, TILE: tl.constexpr, WIDE: tl.constexpr
):
    """alpha x + beta E + gamma I for tile (i, j), E in a slot; symmetric on the diagonal if
    `mirror`."""
    lane = tl.arange(0, TILE)
    none = tl.zeros((), x.dtype)
    x *= none + alpha
    if beta != 0.0:
        row, column = (i * TILE + lane).to(tl.int64), (j * TILE + lane).to(tl.int64)
        offset = row[:, None] * kp + column[None, :]
        x += (none + beta) * load_matrix(planes, slot, offset, kp, None, WIDE)
    if i == j:
        x += tl.where(lane[:, None] == lane[None, :], none + gamma, 0.0)
        if mirror:
            x = 0.5 * (x + tl.trans(x))
    return x
