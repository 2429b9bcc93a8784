"""Row by row, before and after the pairs of L_U: planes of the rows; gradient from V.

`rows`      x_i = w_i v_i: norms, weights w_i and planes of v_i = (z_i - mean) 2^-p of norm 1 to 2,
            in one launch on unit rows (mean = 0, w_i = 2^p/|z_i|), two on raw rows (w_i = 2^p)
`backward`  dz_i = c_i V_i on raw rows, c_i/|z_i| (V_i - <V_i, x_i> x_i) on unit rows

Grid: blocks of rows, or of columns for the mean. Each row is read twice (float64: three times), the
second time from cache. Scaling by a power of two changes no digit; arithmetic on rows is float64.
"""

import ctypes

import torch
import triton
import triton.language as tl
from torch import Tensor

from wssl_fast.backends.triton import dispatch
from wssl_fast.backends.triton.launch import by_batches, launch
from wssl_fast.backends.triton.tiles import split_fp16

INF = tl.constexpr(float("inf"))
NAN = tl.constexpr(float("nan"))
EXPONENT = tl.constexpr(0x7FF0000000000000)  # of a float64


@triton.jit
def _power_of_two(x):
    """The largest power of two <= x, x float64 >= 0; 0 of 0."""
    bits = x.to(tl.int64, bitcast=True) & EXPONENT
    return bits.to(tl.float64, bitcast=True)


@triton.jit
def _load(z, centre, row, column, n, m, stride_n, stride_m, RAW: tl.constexpr):
    """[ROWS, COLUMNS] of z (n, m), less `centre` (m,) if RAW, in float64; zero outside."""
    inside = (row < n)[:, None] & (column < m)[None, :]
    offset = row.to(tl.int64)[:, None] * stride_n + column.to(tl.int64)[None, :] * stride_m
    x = tl.load(z + offset, mask=inside, other=0.0).to(tl.float64)
    if RAW:
        mean = tl.load(centre + column, mask=column < m, other=0.0)
        x = tl.where(inside, x - mean[None, :], 0.0)
    return x


@triton.jit
def centre_kernel(
    z, centre, n, m, stride_b, stride_n, stride_m, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """centre (b, m) float64: the mean of the rows."""
    b = tl.program_id(1).to(tl.int64)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((ROWS, COLUMNS), tl.float64)
    for start in range(0, n, ROWS):
        row = start + tl.arange(0, ROWS)
        total += _load(z + b * stride_b, z, row, column, n, m, stride_n, stride_m, False)
    tl.store(centre + b * m + column, tl.sum(total, axis=0) / n, mask=column < m)


@triton.jit
def rows_kernel(
    z,  # (b, n, m)
    centre,  # (b, m) float64, only if RAW
    planes,  # (b, PLANES, kp, mp) float16, or float64 if WIDE
    rows,  # (b, 2, kp) float64: w_i, |x_i|^2
    scale,  # (b, n) float64: 1/|z_i|, ones if RAW
    n,
    m,
    kp,
    mp,
    stride_b,
    stride_n,
    stride_m,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PLANES: tl.constexpr,
    RAW: tl.constexpr,
    WIDE: tl.constexpr,
):
    b = tl.program_id(1).to(tl.int64)
    z += b * stride_b
    centre += b * m
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    lane = tl.arange(0, COLUMNS)
    inverse = tl.full((ROWS,), 1.0, tl.float64)
    if WIDE:  # squares of float64 may leave its range, those of float32 do not
        largest = tl.zeros((ROWS,), tl.float64)
        for start in range(0, m, COLUMNS):
            x = _load(z, centre, row, start + lane, n, m, stride_n, stride_m, RAW)
            largest = tl.maximum(largest, tl.max(tl.abs(x), axis=1))
        largest = _power_of_two(largest)
        inverse = 1.0 / tl.where(largest > 0, largest, 1.0)
    square = tl.zeros((ROWS,), tl.float64)
    for start in range(0, m, COLUMNS):
        x = _load(z, centre, row, start + lane, n, m, stride_n, stride_m, RAW)
        x *= inverse[:, None]
        square += tl.sum(x * x, axis=1)
    norm = tl.sqrt(square) / inverse
    norm = tl.where(norm < INF, norm, NAN)
    poison = norm * 0  # 0, or NaN
    power = _power_of_two(norm)
    some = power > 0
    shrink = tl.where(some, 1.0 / tl.where(some, power, 1.0), 0.0)
    own = tl.full((ROWS,), 1.0, tl.float64)
    weight, length = power, norm
    if not RAW:
        own = tl.where(some, 1.0 / tl.where(some, norm, 1.0), 0.0)
        weight, length = power * own, tl.where(some, 1.0, 0.0)
    tl.store(scale + b * n + row, own + poison, mask=row < n)
    tl.store(rows + b * 2 * kp + row, weight + poison, mask=row < kp)
    tl.store(rows + b * 2 * kp + kp + row, length * length + poison, mask=row < kp)
    planes += b * PLANES * kp * mp
    for start in range(0, mp, COLUMNS):
        column = start + lane
        inside = (row < kp)[:, None] & (column < mp)[None, :]
        x = _load(z, centre, row, column, n, m, stride_n, stride_m, RAW) * shrink[:, None]
        out = planes + row.to(tl.int64)[:, None] * mp + column[None, :]
        if WIDE:
            tl.store(out, x, mask=inside)
        else:
            hi, lo = split_fp16(x.to(tl.float32))
            tl.store(out, hi, mask=inside)
            if PLANES == 2:
                tl.store(out + kp * mp.to(tl.int64), lo, mask=inside)


@triton.jit
def backward_kernel(
    grad,  # (b,)
    z,  # (b, n, m)
    moments,  # (b, n, m): V
    scale,  # (b, n) float64
    total,  # (b, 2) float64: the sum of e, and its shift M
    shift,  # (b, n) float64
    dz,  # (b, n, m)
    t_high,
    t_low,
    n,
    m,
    stride_g,
    stride_b,
    stride_n,
    stride_m,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    RAW: tl.constexpr,
):
    """c_i = 2 t grad exp(shift_i - M)/total"""
    b = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    lane = tl.arange(0, COLUMNS)
    t = tl.cast(t_high, tl.float64) + tl.cast(t_low, tl.float64)
    c = 2.0 * t * tl.load(grad + b * stride_g).to(tl.float64) / tl.load(total + b * 2)
    own = tl.load(shift + b * n + row, mask=row < n, other=-INF)
    c = c * tl.exp(own - tl.load(total + b * 2 + 1))
    inverse = tl.load(scale + b * n + row, mask=row < n, other=0.0)
    z += b * stride_b
    offset = (b * n + row)[:, None] * m
    along = tl.zeros((ROWS,), tl.float64)
    if not RAW:
        c = c * inverse
        for start in range(0, m, COLUMNS):
            column = start + lane
            inside = (row < n)[:, None] & (column < m)[None, :]
            v = tl.load(moments + offset + column[None, :], mask=inside, other=0.0)
            x = _load(z, z, row, column, n, m, stride_n, stride_m, False) * inverse[:, None]
            along += tl.sum(v.to(tl.float64) * x, axis=1)
    for start in range(0, m, COLUMNS):
        column = start + lane
        inside = (row < n)[:, None] & (column < m)[None, :]
        v = tl.load(moments + offset + column[None, :], mask=inside, other=0.0).to(tl.float64)
        if not RAW:
            x = _load(z, z, row, column, n, m, stride_n, stride_m, False) * inverse[:, None]
            v -= along[:, None] * x
        v *= c[:, None]
        if dz.dtype.element_ty != tl.float64:
            v = v.to(tl.float32)  # then once more to half precision
        tl.store(dz + offset + column[None, :], v.to(dz.dtype.element_ty), mask=inside)


def rows(z: Tensor, planes: Tensor, weights: Tensor, scale: Tensor, normalize: bool) -> None:
    """Writes planes (b, PLANES, kp, mp), weights (b, 2, kp) and scale (b, n) of z (b, n, m)."""
    b, n, m = z.shape
    kp, mp = planes.shape[2:]
    target = dispatch.target_of(z.device)
    centre = scale
    if not normalize:
        tile = dispatch.tile("uniformity_rows", "centre", n, target)
        centre = torch.empty(b, m, dtype=torch.float64, device=z.device)
        launch(
            centre_kernel,
            (triton.cdiv(m, tile.block), b),
            z,
            centre,
            n,
            m,
            *z.stride(),
            ROWS=tile.size,
            COLUMNS=tile.block,
            warps=tile.warps,
            stages=tile.stages,
        )
    tile = dispatch.tile("uniformity_rows", "rows", n, target)
    launch(
        rows_kernel,
        (triton.cdiv(kp, tile.size), b),
        z,
        centre,
        planes,
        weights,
        scale,
        n,
        m,
        kp,
        mp,
        *z.stride(),
        ROWS=tile.size,
        COLUMNS=tile.block,
        PLANES=planes.shape[1],
        RAW=not normalize,
        WIDE=z.dtype == torch.float64,
        warps=tile.warps,
        stages=tile.stages,
    )


@by_batches
def backward(
    grad: Tensor,
    z: Tensor,
    moments: Tensor,
    scale: Tensor,
    total: Tensor,
    shift: Tensor,
    t: float,
    normalize: bool,
) -> Tensor:
    """grad_b * dL_U/dz (b, n, m) in the dtype of z, from what the forward pass kept."""
    b, n, m = z.shape
    tile = dispatch.tile("uniformity_rows", "rows", n, dispatch.target_of(z.device))
    dz = torch.empty(b, n, m, dtype=z.dtype, device=z.device)
    launch(
        backward_kernel,
        (triton.cdiv(n, tile.size), b),
        grad,
        z,
        moments,
        scale,
        total,
        shift,
        dz,
        *two_floats(t),
        n,
        m,
        grad.stride(0),
        *z.stride(),
        ROWS=tile.size,
        COLUMNS=tile.block,
        RAW=not normalize,
        warps=tile.warps,
        stages=tile.stages,
    )
    return dz


def two_floats(t: float) -> tuple[float, float]:
    """t as a sum of two float32, 48 bits: what a kernel can be passed."""
    high = ctypes.c_float(t).value
    return high, t - high
