"""Gram matrix of raw rows: K = z z^T in parts, lower tiles only, split over the columns.

    part_s = z[:, chunk s] z[:, chunk s]^T      (b, splits, kp, kp), both triangles, zero padded
    diag_s = its diagonal                        (b, splits, kp) float64

Grid: (lower tiles, splits, b): 512 rows of 8192 columns make 36 tiles of 64, so 4 parts fill 132
multiprocessors. The parts are added up in a fixed order by whoever reads them: no atomics, the same
bits on every run. float32 and half-precision rows give float32 parts; MODE "float64*" float64 ones.
Rows are used as they are: norms and mean are taken out of K later, where that keeps enough digits,
and K is made again in float64 where it does not (newton_schulz.py decides, on the device).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from wssl_fast.backends.triton import dispatch
from wssl_fast.backends.triton.launch import launch
from wssl_fast.backends.triton.tiles import accumulate, lower_tile, total, widen
from wssl_fast.backends.triton.workspace import Workspace


@triton.jit
def _load(
    rows_ptr,
    scale,
    row,
    column,
    one,
    n,
    m,
    stride_n,
    stride_m,
    MODE: tl.constexpr,
    SCALED: tl.constexpr,
):
    """[TILE, BLOCK] of z, zero outside, in the type that MODE multiplies; times scale[row]."""
    inside = (row < n)[:, None] & (column < m)[None, :]
    offset = row.to(tl.int64)[:, None] * stride_n + column.to(tl.int64)[None, :] * stride_m
    x = tl.load(rows_ptr + offset, mask=inside, other=0.0)
    if MODE == "float64" or MODE == "float64_fma":
        x = widen(x, one)
    elif MODE != "exact":
        x = x.to(tl.float32)
    if SCALED:
        x *= tl.load(scale + row, mask=row < n, other=0.0)[:, None]
    return x


@triton.jit(do_not_specialize=["n", "chunk", "splits", "parts_b"])
def gram_kernel(
    z,  # (b, n, m)
    scale,  # (b, n) float64, rows are multiplied by it if SCALED (float64 products alone)
    parts,  # (b, slots, kp, kp)
    diagonal,  # (b, splits, kp) float64
    flags,  # (b,) int8, only problems with 1 if FLAGGED
    counter,  # int32, set to 0 for the grid barrier of the kernel that follows
    one,
    n,
    m,
    kp,
    chunk,  # columns of a part, a multiple of BLOCK
    splits,
    stride_b,
    stride_n,
    stride_m,
    parts_b,  # elements from one problem's parts to the next
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
    MODE: tl.constexpr,
    SCALED: tl.constexpr,
    FLAGGED: tl.constexpr,
):
    i, j = lower_tile(tl.program_id(0))
    s, b = tl.program_id(1), tl.program_id(2).to(tl.int64)
    if tl.program_id(0) + s + tl.program_id(2) == 0:
        tl.store(counter, 0)
    if FLAGGED and tl.load(flags + b) == 0:
        return
    rows_ptr, scale_ptr = z + b * stride_b, scale + b * n
    lane = tl.arange(0, TILE)
    row, column = i * TILE + lane, j * TILE + lane
    depth = s * chunk + tl.arange(0, BLOCK)
    WIDE: tl.constexpr = MODE == "float64" or MODE == "float64_fma"
    acc = tl.zeros((TILE, TILE), tl.float64 if WIDE else tl.float32)
    low = tl.zeros((TILE, TILE), tl.float32)
    for _ in range(0, tl.minimum(chunk, m - s * chunk), BLOCK):
        x = _load(rows_ptr, scale_ptr, row, depth, one, n, m, stride_n, stride_m, MODE, SCALED)
        y = _load(rows_ptr, scale_ptr, column, depth, one, n, m, stride_n, stride_m, MODE, SCALED)
        acc, low = accumulate(x, tl.trans(y), acc, low, one, MODE)
        depth += BLOCK
    acc = total(acc, low, MODE)
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
    """The product of rows of this dtype at this precision."""
    if precision == "double" or z.dtype == torch.float64:
        return dispatch.float64_mode(target)
    if z.dtype != torch.float32:
        return "exact"
    return "bf16x4" if precision in ("high", "medium") else "bf16x6"


def splits_for(n: int, m: int, tile: dispatch.Tile, target: dispatch.Target, most: int) -> int:
    """Parts of the columns: enough programs to fill the machine, each at least 8 blocks deep."""
    rows = -(-n // tile.size)
    wanted = target.programs // (rows * (rows + 1) // 2)
    return max(1, min(wanted, m // (8 * tile.block), most))


def gram(
    z: Tensor,
    work: Workspace,
    product: str,
    *,
    scale: Tensor | None = None,
    flags: Tensor | None = None,
) -> None:
    """Writes the parts of z z^T, z (b, n, m), and their diagonals into `work`."""
    b, n, m = z.shape
    tile = work.product_tile
    rows = work.kp // tile.size
    chunk = -(-m // (work.splits * tile.block)) * tile.block
    launch(
        gram_kernel,
        (rows * (rows + 1) // 2, work.splits, b),
        z,
        work.numbers if scale is None else scale,
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
        SCALED=scale is not None,
        FLAGGED=flags is not None,
        warps=tile.warps,
        stages=tile.stages,
    )
