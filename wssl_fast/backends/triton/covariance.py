"""Covariance of scaled and centred rows: sum_i y_i y_i^T in parts, y_i = scale_i z_i - mean.

    part_s = Y[chunk s]^T Y[chunk s]             (b, splits, kp, kp), both triangles, zero padded
    diag_s = its diagonal                        (b, splits, kp) float64

Grid: (lower tiles, splits over the rows, b). Y is formed while loading and never in memory: in
float32 with one rounding of the difference, in float64 for MODE "float64*". Parts are
added up in a fixed order by whoever reads them. Entries of y are at most 2 in magnitude
(statistics.py), so y 2^13 fits MODE fp16x3, whatever the dtype of the rows, and keeps its 22 bits
down to entries of 2^-27: of rows that nearly equal their mean.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from wssl_fast.backends.triton import dispatch
from wssl_fast.backends.triton.launch import launch
from wssl_fast.backends.triton.tiles import INTERPRETED, accumulate, lower_tile, total, widen
from wssl_fast.backends.triton.workspace import Workspace

LIFT = tl.constexpr(8192.0)


@triton.jit
def halves(scale):
    """scale float64 -> power, hi, lo float32: scale = power (hi + lo) to 48 bits.

    Norms of float32 rows reach from 1e-45 to 1e40, whose inverses float32 does not hold. A power
    of two, about sqrt(scale), goes to z before the multiplication, exactly.
    """
    exponent = ((scale.to(tl.int64, bitcast=True) >> 52) & 0x7FF) - 1023
    exponent = tl.minimum(tl.maximum(exponent >> 1, -100), 100).to(tl.int32)
    power = ((exponent + 127) << 23).to(tl.float32, bitcast=True)
    inverse = ((127 - exponent) << 23).to(tl.float32, bitcast=True)
    rest = scale * inverse.to(tl.float64)
    hi = rest.to(tl.float32)
    lo = (rest - hi.to(tl.float64)).to(tl.float32)
    return power, hi, lo


@triton.jit
def fused(x, y, z):
    """x y + z, rounded once: what tl.fma does on a GPU, and its interpreter in two roundings."""
    if INTERPRETED:
        return (x.to(tl.float64) * y.to(tl.float64) + z.to(tl.float64)).to(tl.float32)
    else:
        return tl.fma(x, y, z)


@triton.jit
def load_rows(
    z, scale, mean, row, column, one, n, m, stride_n, stride_m,
    WIDE: tl.constexpr, IN_RANGE: tl.constexpr,
):  # fmt: skip
    """scale z - mean [ROWS, COLUMNS], float64 if WIDE else float32; 0 outside n x m.

    scale [ROWS], mean [COLUMNS]: of these rows and columns, float64, 0 from n and m on. IN_RANGE:
    float32 holds the scale.
    """
    inside = (row < n)[:, None] & (column < m)[None, :]
    offset = row.to(tl.int64)[:, None] * stride_n + column.to(tl.int64)[None, :] * stride_m
    x = tl.load(z + offset, mask=inside, other=0.0)
    if WIDE:
        y = widen(x, one) * scale[:, None] - mean[None, :]
    else:
        x = x.to(tl.float32)
        if IN_RANGE:
            hi = scale.to(tl.float32)
            lo = (scale - hi.to(tl.float64)).to(tl.float32)
        else:
            power, hi, lo = halves(scale)
            x = x * power[:, None]
        mean_hi = mean.to(tl.float32)
        mean_lo = (mean - mean_hi.to(tl.float64)).to(tl.float32)
        # x hi is exact inside the fma: nothing is lost where the mean cancels it
        y = fused(x, hi[:, None], -mean_hi[None, :]) + (x * lo[:, None] - mean_lo[None, :])
    return tl.where((row < n)[:, None], y, 0.0)


@triton.jit
def covariance_kernel(
    z,  # (b, n, m)
    scale,  # (b, n) float64
    mean,  # (b, m) float64
    parts,  # (b, slots, kp, kp)
    diagonal,  # (b, splits, kp) float64
    flags,  # (b,) int8, only problems with 1 if FLAGGED
    counter,  # int32, set to 0 for the grid barrier of the kernel that follows
    one,
    n,
    m,
    kp,
    chunk,  # rows of a part, a multiple of BLOCK
    splits,
    stride_b,
    stride_n,
    stride_m,
    parts_b,  # elements from one problem's parts to the next
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
    MODE: tl.constexpr,
    FLAGGED: tl.constexpr,
):
    i, j = lower_tile(tl.program_id(0))
    s, b = tl.program_id(1), tl.program_id(2).to(tl.int64)
    if tl.program_id(0) + s + tl.program_id(2) == 0:
        tl.store(counter, 0)
    if FLAGGED and tl.load(flags + b) == 0:
        return
    WIDE: tl.constexpr = MODE == "float64" or MODE == "float64_fma"
    z += b * stride_b
    scale += b * n
    mean += b * m
    lane = tl.arange(0, TILE)
    row, column = i * TILE + lane, j * TILE + lane
    row_mean = tl.load(mean + row, mask=row < m, other=0.0)
    column_mean = tl.load(mean + column, mask=column < m, other=0.0)
    factor = 1.0 if WIDE else LIFT
    row_mean *= factor
    column_mean *= factor
    depth = s * chunk + tl.arange(0, BLOCK)
    acc = tl.zeros((TILE, TILE), tl.float64 if WIDE else tl.float32)
    low = tl.zeros((TILE, TILE), tl.float32)
    for _ in range(0, tl.minimum(chunk, n - s * chunk), BLOCK):
        d = tl.load(scale + depth, mask=depth < n, other=0.0) * factor
        x = load_rows(z, d, row_mean, depth, row, one, n, m, stride_n, stride_m, WIDE, False)
        y = load_rows(z, d, column_mean, depth, column, one, n, m, stride_n, stride_m, WIDE, False)
        acc, low = accumulate(tl.trans(x), y, acc, low, one, MODE)
        depth += BLOCK
    acc = total(acc, low, MODE)
    if not WIDE:
        acc *= 1.0 / (LIFT * LIFT)
    if i == j:
        acc = 0.5 * (acc + tl.trans(acc))  # the pieces of a split product meet in another order
    out = parts + b * parts_b + s.to(tl.int64) * kp * kp
    tl.store(out + row.to(tl.int64)[:, None] * kp + column[None, :], acc)
    if i != j:
        tl.store(out + column.to(tl.int64)[:, None] * kp + row[None, :], tl.trans(acc))
    else:
        own = tl.sum(tl.where(lane[:, None] == lane[None, :], acc.to(tl.float64), 0.0), axis=1)
        tl.store(diagonal + (b * splits + s) * kp + row, own)


def mode(z: Tensor, precision: str, target: dispatch.Target) -> str:
    """The product for rows of this dtype at this precision."""
    if precision == "double" or z.dtype == torch.float64:
        return dispatch.float64_mode(target)
    return "fp16x3"


def splits_for(n: int, m: int, tile: dispatch.Tile, target: dispatch.Target, most: int) -> int:
    """Parts of the rows: enough programs to fill the machine, each at least 8 blocks deep."""
    columns = -(-m // tile.size)
    wanted = target.programs // (columns * (columns + 1) // 2)
    return max(1, min(wanted, n // (8 * tile.block), most))


def covariance(
    z: Tensor,
    scale: Tensor,
    mean: Tensor,
    work: Workspace,
    product: str,
    *,
    flags: Tensor | None = None,
) -> None:
    """Writes the parts of sum_i y_i y_i^T, z (b, n, m), and their diagonals into `work`."""
    b, n, m = z.shape
    tile = work.product_tile
    columns = work.kp // tile.size
    chunk = -(-n // (work.splits * tile.block)) * tile.block
    launch(
        covariance_kernel,
        (columns * (columns + 1) // 2, work.splits, b),
        z,
        scale,
        mean,
        work.slots,
        work.diagonal,
        work.counter if flags is None else flags,
        work.counter,
        1.0,
        n,
        m,
        work.kp,
        chunk,
        work.splits,
        *z.stride(),
        work.slots.stride(0),
        TILE=tile.size,
        BLOCK=tile.block,
        MODE=product,
        FLAGGED=flags is not None,
        warps=tile.warps,
        stages=tile.stages,
    )
