"""Row statistics: scale and mean of the rows, in float64.

    normalize:  scale_i = 1/|z_i|, 0 for a zero row, NaN for a row that is not finite
    raw:        scale_i = 2^-e for all rows, the largest |z_ij| in [2^(e-1), 2^e): entries of
                scale z are below 1, and multiplying by it rounds nothing; 1 for all-zero rows,
                NaN for all where one is not finite
    mean_j = (1/n) sum_i scale_i z_ij

Launches: rows (b x row blocks), columns (column tiles x parts of the rows x b), and a sum over the
parts in a fixed order where there is more than one. Reads z twice (the second time from the L2
cache up to a few tens of MiB), writes (parts, m) float64 a problem. Squares of float32 and half
precision neither over- nor underflow in float64; float64 rows are divided by their largest entry.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from wssl_fast.backends.triton import dispatch
from wssl_fast.backends.triton.launch import launch


@triton.jit
def _magnitude(z, row, column, n, m, stride_n, stride_m):
    """|z| [ROWS, BLOCK] float64, inf for NaN (a maximum may skip NaN), 0 outside."""
    inside = (row < n)[:, None] & (column < m)[None, :]
    offset = row.to(tl.int64)[:, None] * stride_n + column.to(tl.int64)[None, :] * stride_m
    x = tl.abs(tl.load(z + offset, mask=inside, other=0.0).to(tl.float64))
    return tl.where(x == x, x, float("inf"))


@triton.jit
def rows_kernel(
    z,  # (b, n, m)
    scale,  # (b, n) float64; if not NORMALIZE the largest |entry| of each row, inf if not finite
    n,
    m,
    stride_b,
    stride_n,
    stride_m,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    NORMALIZE: tl.constexpr,
    WIDE: tl.constexpr,
):
    b = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    z += b * stride_b
    largest = tl.zeros((ROWS, BLOCK), tl.float64)
    squares = tl.zeros((ROWS, BLOCK), tl.float64)
    if WIDE or not NORMALIZE:
        for start in range(0, m, BLOCK):
            column = start + tl.arange(0, BLOCK)
            x = _magnitude(z, row, column, n, m, stride_n, stride_m)
            largest = tl.maximum(largest, x)
    out = tl.max(largest, axis=1)
    if NORMALIZE:
        unit = tl.where(out > 0, out, 1.0) if WIDE else tl.full((ROWS,), 1.0, tl.float64)
        for start in range(0, m, BLOCK):
            column = start + tl.arange(0, BLOCK)
            x = _magnitude(z, row, column, n, m, stride_n, stride_m)
            if WIDE:
                x = x / unit[:, None]
            squares += x * x
        norm = unit * tl.sqrt(tl.sum(squares, axis=1))
        out = tl.where(norm > 0, 1.0 / tl.where(norm > 0, norm, 1.0), 0.0)
        out = tl.where(norm < float("inf"), out, float("nan"))  # norm is NaN if rows had inf / inf
    tl.store(scale + b * n + row, out, mask=row < n)


@triton.jit
def _power_of_two(largest):
    """2^-e with largest in [2^(e-1), 2^e), () float64; 1 for 0, NaN for inf."""
    exponent = (largest.to(tl.int64, bitcast=True) >> 52) & 0x7FF
    exponent = tl.maximum(2045 - exponent, 1)  # biased, of the inverse; above 2^1022 entries pass 1
    factor = (exponent << 52).to(tl.float64, bitcast=True)
    factor = tl.where(largest == 0, 1.0, factor)
    return tl.where(largest < float("inf"), factor, float("nan"))


@triton.jit
def columns_kernel(
    z,  # (b, n, m)
    rows,  # (b, n) float64: what rows_kernel left
    scale,  # (b, n) float64, written if not NORMALIZE
    out,  # (b, parts, m) float64: the mean if there is one part
    n,
    m,
    chunk,  # rows of a part, a multiple of BLOCK
    parts,
    stride_b,
    stride_n,
    stride_m,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
    NORMALIZE: tl.constexpr,
    VECTOR: tl.constexpr,
):
    s, b = tl.program_id(1), tl.program_id(2).to(tl.int64)
    column = tl.program_id(0) * TILE + tl.arange(0, TILE)
    lane = tl.arange(0, BLOCK)
    z += b * stride_b
    rows += b * n
    end = tl.minimum((s + 1) * chunk, n)
    if not NORMALIZE:
        largest = tl.zeros((VECTOR,), tl.float64)
        for start in range(0, n, VECTOR):
            at = start + tl.arange(0, VECTOR)
            largest = tl.maximum(largest, tl.load(rows + at, mask=at < n, other=0.0))
        factor = _power_of_two(tl.max(largest))
        if tl.program_id(0) == 0:
            for start in range(s * chunk, end, BLOCK):
                row = start + lane
                own = tl.zeros((BLOCK,), tl.float64) + factor
                tl.store(scale + b * n + row, own, mask=row < end)
    acc = tl.zeros((BLOCK, TILE), tl.float64)
    for start in range(s * chunk, end, BLOCK):
        row = start + lane
        inside = (row < end)[:, None] & (column < m)[None, :]
        offset = row.to(tl.int64)[:, None] * stride_n + column.to(tl.int64)[None, :] * stride_m
        x = tl.load(z + offset, mask=inside, other=0.0).to(tl.float64)
        if NORMALIZE:
            acc += x * tl.load(rows + row, mask=row < end, other=0.0)[:, None]
        else:
            acc += x * factor
    mean = tl.sum(acc, axis=0)
    if parts == 1:
        mean = mean / tl.cast(n, tl.float64)
    tl.store(out + (b * parts + s) * m + column, mean, mask=column < m)


@triton.jit
def parts_kernel(
    sums,  # (b, parts, m) float64
    mean,  # (b, m) float64
    n,
    m,
    parts,
    TILE: tl.constexpr,
):
    b = tl.program_id(1).to(tl.int64)
    column = tl.program_id(0) * TILE + tl.arange(0, TILE)
    acc = tl.zeros((TILE,), tl.float64)
    for s in range(parts):
        acc += tl.load(sums + (b * parts + s) * m + column, mask=column < m, other=0.0)
    tl.store(mean + b * m + column, acc / tl.cast(n, tl.float64), mask=column < m)


def statistics(z: Tensor, normalize: bool) -> tuple[Tensor, Tensor]:
    """scale (b, n) and mean (b, m), float64, of z (b, n, m). Two or three launches."""
    b, n, m = z.shape
    target = dispatch.target_of(z.device)
    tile = dispatch.tile("statistics", "rows", m, target)
    scale = torch.empty(b, n, dtype=torch.float64, device=z.device)
    rows = scale if normalize else torch.empty_like(scale)
    launch(
        rows_kernel,
        (-(-n // tile.size), b),
        z,
        rows,
        n,
        m,
        *z.stride(),
        ROWS=tile.size,
        BLOCK=tile.block,
        NORMALIZE=normalize,
        WIDE=z.dtype == torch.float64,
        warps=tile.warps,
        stages=tile.stages,
    )
    tile = dispatch.tile("statistics", "columns", m, target)
    tiles = -(-m // tile.size)
    wanted = -(-2 * target.programs // (tiles * b))
    wanted = max(1, min(wanted, n // (2 * tile.block)))
    chunk = -(-n // (wanted * tile.block)) * tile.block
    parts = -(-n // chunk)
    mean = torch.empty(b, m, dtype=torch.float64, device=z.device)
    sums = mean if parts == 1 else mean.new_empty(b, parts, m)
    launch(
        columns_kernel,
        (tiles, parts, b),
        z,
        rows,
        scale,
        sums,
        n,
        m,
        chunk,
        parts,
        *z.stride(),
        TILE=tile.size,
        BLOCK=tile.block,
        NORMALIZE=normalize,
        VECTOR=1024,
        warps=tile.warps,
        stages=tile.stages,
    )
    if parts > 1:
        tile = dispatch.tile("statistics", "parts", m, target)
        launch(
            parts_kernel,
            (-(-m // tile.size), b),
            sums,
            mean,
            n,
            m,
            parts,
            TILE=tile.size,
            warps=tile.warps,
            stages=tile.stages,
        )
    return scale, mean
