"""Backward of W2: one product with the weights that the forward left, one launch a grade.

Gram formulation, k = n, weights W (n, n):

    dz_i = c left_i sum_j W_ij scale_j z_j           left = scale on unit rows, 1 on raw rows

Covariance formulation, k = m, weights Q = S^(-1/2) (m, m), x_i = scale_i z_i, P_i = (x_i - mu) Q:

    dz_i = c (-2/(n sqrt m)) scale_i (P_i - <P_i, x_i> x_i)                  on unit rows
    dz_i = c (2/n z_i - 2/(n sqrt m) P_i)                                    on raw rows

c is the upstream gradient of W2^2, made from that of the value in the kernel. Both float32-grade
and float64 are launched, and a program returns at once where `deep` says that its problem is not
for its grade: the host never looks. float32-grade products are of bfloat16 pieces (tiles.py),
which hold weights and rows of any range; float64 rows have the float64 launch alone.

Gram: grid (row tiles, column tiles, b); reads W, z and writes dz, nothing else in memory.
Covariance: a program owns TILE rows, as many programs as fill the machine twice over, and goes
through P by tiles of columns. P waits in dz, or for half-precision rows in float32 memory of the
program's own (programs, TILE, m), since what is left of P once its radial part is gone may be
small; then the program sweeps over its own rows for <P_i, x_i>, and once more to finish dz.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from wssl_fast.backends.triton import dispatch
from wssl_fast.backends.triton.covariance import load_rows
from wssl_fast.backends.triton.launch import launch
from wssl_fast.backends.triton.tiles import accumulate, dot, int64, round_bf16, split_bf16, widen


@triton.jit
def _slope(grad, value, b, stride, EPS: tl.constexpr, SQUARED: tl.constexpr):
    """Upstream gradient of W2^2, () float64 (ops/_distance.slope)."""
    g = tl.load(grad + b * stride).to(tl.float64)
    v = tl.load(value + b).to(tl.float64)
    if SQUARED:
        return tl.where(v == v, g, float("nan"))
    else:
        floor = tl.sqrt(tl.full((), EPS, tl.float64))
        return g / (2.0 * tl.where(v < floor, floor, v))  # NaN stays NaN


@triton.jit
def _not_mine(deep, b, WIDE: tl.constexpr, EVERY: tl.constexpr):
    """Whether problem b is for the launch of the other grade."""
    if EVERY:
        return b < 0
    else:
        return (tl.load(deep + b) != 0) != WIDE


@triton.jit
def _accumulate_rows(a, b, acc, one, PRODUCTS: tl.constexpr):
    """acc += a b float32, a float32, b half precision: of one bfloat16 piece, or two if float16."""
    a0, a1, a2 = split_bf16(a)
    b0 = b
    if b.dtype == tl.float16:
        b0, b1, _zero = split_bf16(b.to(tl.float32))
    block = tl.zeros(acc.shape, tl.float32)
    if PRODUCTS == 6:
        block = dot(a2, b0, block)
    if PRODUCTS != 1:
        if b.dtype == tl.float16:
            block = dot(a0, b1, dot(a1, b1, block))
        block = dot(a1, b0, block)
    return tl.fma(dot(a0, b0, block), one, acc)


@triton.jit
def _narrow(x, type: tl.constexpr):
    """x in the type of the output; from float64 to half precision by way of float32."""
    if x.dtype == tl.float64 and type != tl.float64:
        x = x.to(tl.float32)
    if type == tl.bfloat16:
        x = round_bf16(x)
    return x.to(type)


# n is a row of W and stride_b where z begins: what either divides by decides how wide loads are
@triton.jit(do_not_specialize=["stride_grad"])
def gram_backward_kernel(
    grad,  # (b,)
    value,  # (b,)
    z,  # (b, n, m)
    weights,  # (b, n, n)
    scale,  # (b, n) float64
    deep,  # (b,) int8
    dz,  # (b, n, m) contiguous
    one,
    n,
    m,
    stride_grad,
    stride_b,
    stride_n,
    stride_m,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
    MODE: tl.constexpr,
    PRODUCTS: tl.constexpr,
    NORMALIZE: tl.constexpr,
    SQUARED: tl.constexpr,
    EPS: tl.constexpr,
    EVERY: tl.constexpr,
):
    WIDE: tl.constexpr = MODE == "float64" or MODE == "float64_fma"
    b = tl.program_id(2).to(tl.int64)
    if _not_mine(deep, b, WIDE, EVERY):
        return
    z += b * stride_b
    weights += b * n * n
    scale += b * n
    lane = tl.arange(0, TILE)
    row, column = tl.program_id(0) * TILE + lane, tl.program_id(1) * TILE + lane
    acc = tl.zeros((TILE, TILE), tl.float64 if WIDE else tl.float32)
    for start in range(0, n, BLOCK):
        depth = start + tl.arange(0, BLOCK)
        inside = (row < n)[:, None] & (depth < n)[None, :]
        w_at = row.to(tl.int64)[:, None] * n + depth[None, :]
        w = tl.load(weights + w_at, mask=inside, other=0.0)
        s = tl.load(scale + depth, mask=depth < n, other=0.0)
        inside = (depth < n)[:, None] & (column < m)[None, :]
        z_at = depth.to(tl.int64)[:, None] * stride_n + column.to(tl.int64)[None, :] * stride_m
        x = tl.load(z + z_at, mask=inside, other=0.0)
        if WIDE:
            acc, _low = accumulate(
                w.to(tl.float64), widen(x, one) * s[:, None], acc, acc, one, MODE
            )
        else:
            if w.dtype == tl.float64:
                a = (w * s[None, :]).to(tl.float32)
            else:
                a = w * s.to(tl.float32)[None, :]
            if x.dtype == tl.float32:
                acc, _low = accumulate(a, x, acc, acc, one, MODE)
            else:
                acc = _accumulate_rows(a, x, acc, one, PRODUCTS)
    factor = tl.zeros((TILE,), tl.float64) + _slope(grad, value, b, stride_grad, EPS, SQUARED)
    if NORMALIZE:
        factor *= tl.load(scale + row, mask=row < n, other=0.0)
    out = acc * factor.to(acc.dtype)[:, None]
    at = (b * n + row)[:, None] * m + column[None, :]
    inside = (row < n)[:, None] & (column < m)[None, :]
    tl.store(dz + at, _narrow(out, dz.dtype.element_ty), mask=inside)


@triton.jit
def _product(
    z, weights, scale, mean, row, column, one, n, m, stride_n, stride_m,
    BLOCK: tl.constexpr, MODE: tl.constexpr, WIDE: tl.constexpr, NORMALIZE: tl.constexpr,
):  # fmt: skip
    """P [TILE, TILE] = (scale z - mean) Q of these rows and columns. scale [TILE]."""
    acc = tl.zeros((row.shape[0], column.shape[0]), tl.float64 if WIDE else tl.float32)
    for start in range(0, m, BLOCK):
        depth = start + tl.arange(0, BLOCK)
        mu = tl.load(mean + depth, mask=depth < m, other=0.0)
        y = load_rows(z, scale, mu, row, depth, one, n, m, stride_n, stride_m, WIDE, NORMALIZE)
        inside = (depth < m)[:, None] & (column < m)[None, :]
        at = depth.to(tl.int64)[:, None] * m + column[None, :]
        q = tl.load(weights + at, mask=inside, other=0.0)
        acc, _low = accumulate(y, q.to(y.dtype), acc, acc, one, MODE)
    return acc


@triton.jit
def _tile(z, column, inside, stride_n, stride_m, TILE: tl.constexpr):
    """z [TILE, TILE] of the rows from z on and these columns."""
    at = tl.arange(0, TILE).to(tl.int64)[:, None] * stride_n
    return tl.load(z + at + column.to(tl.int64)[None, :] * stride_m, mask=inside, other=0.0)


@triton.jit(do_not_specialize=["blocks", "total", "n", "stride_grad"])
def covariance_backward_kernel(
    grad,  # (b,)
    value,  # (b,)
    z,  # (b, n, m)
    weights,  # (b, m, m)
    scale,  # (b, n) float64
    mean,  # (b, m) float64
    deep,  # (b,) int8
    dz,  # (b, n, m) contiguous
    scratch,  # (programs, TILE, m) float32 if SCRATCH
    one,
    blocks,  # blocks of TILE rows in a problem
    total,  # and in all of them
    n,
    m,
    stride_grad,
    stride_b,
    stride_n,
    stride_m,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
    MODE: tl.constexpr,
    NORMALIZE: tl.constexpr,
    SQUARED: tl.constexpr,
    EPS: tl.constexpr,
    EVERY: tl.constexpr,
    SCRATCH: tl.constexpr,
):
    WIDE: tl.constexpr = MODE == "float64" or MODE == "float64_fma"
    real = tl.float64 if WIDE else tl.float32
    lane = tl.arange(0, TILE)
    for t in range(tl.program_id(0), total, tl.num_programs(0)):
        b = int64(t // blocks)
        if not _not_mine(deep, b, WIDE, EVERY):
            first = int64(t % blocks) * TILE
            row = t % blocks * TILE + lane
            z_b, q_b, scale_b = z + b * stride_b, weights + b * m * m, scale + b * n
            z_at = z_b + first * stride_n
            out_at = dz + (b * n + first) * m
            kept_at = scratch + int64(tl.program_id(0)) * TILE * m if SCRATCH else out_at
            own = tl.load(scale_b + row, mask=row < n, other=0.0)
            for start in range(0, m, TILE):
                column = start + lane
                p = _product(
                    z_b, q_b, own, mean + b * m, row, column, one, n, m, stride_n, stride_m,
                    BLOCK, MODE, WIDE, NORMALIZE,
                )  # fmt: skip
                inside = (row < n)[:, None] & (column < m)[None, :]
                at = lane[:, None] * m + column[None, :]
                tl.store(kept_at + at, p.to(kept_at.dtype.element_ty), mask=inside)
            tl.debug_barrier()  # P is read by other threads of this program than stored it

            c = _slope(grad, value, b, stride_grad, EPS, SQUARED) * 2.0 / tl.cast(n, tl.float64)
            polar = -c / tl.sqrt(tl.cast(m, tl.float64))
            left = tl.zeros((TILE,), tl.float64) + polar
            s = tl.load(scale_b + row, mask=row < n, other=0.0).to(real)[:, None]
            inner = tl.zeros((TILE,), tl.float64)
            if NORMALIZE:
                left *= own
                for start in range(0, m, TILE):
                    column = start + lane
                    inside = (row < n)[:, None] & (column < m)[None, :]
                    at = lane[:, None] * m + column[None, :]
                    p = tl.load(kept_at + at, mask=inside, other=0.0).to(real)
                    x = s * _tile(z_at, column, inside, stride_n, stride_m, TILE).to(real)
                    inner += tl.sum(p * x, axis=1).to(tl.float64)
            for start in range(0, m, TILE):
                column = start + lane
                inside = (row < n)[:, None] & (column < m)[None, :]
                at = lane[:, None] * m + column[None, :]
                p = tl.load(kept_at + at, mask=inside, other=0.0).to(real)
                x = _tile(z_at, column, inside, stride_n, stride_m, TILE).to(real)
                if NORMALIZE:
                    out = left.to(real)[:, None] * (p - inner.to(real)[:, None] * (s * x))
                else:
                    out = left.to(real)[:, None] * p + c.to(real) * x
                tl.store(out_at + at, _narrow(out, dz.dtype.element_ty), mask=inside)
            tl.debug_barrier()  # before the next rows take the scratch


def _grades(z: Tensor, target: dispatch.Target, products: int) -> list[tuple[str, str, bool]]:
    """(product in the table, MODE, whether for every problem) of each launch."""
    wide = dispatch.float64_mode(target)
    if z.dtype == torch.float64:
        return [(wide, wide, True)]
    return [("bf16", f"bf16x{products}", False), (wide, wide, False)]


def gram_backward(
    grad: Tensor,
    value: Tensor,
    z: Tensor,
    weights: Tensor,
    scale: Tensor,
    deep: Tensor,
    normalize: bool,
    squared: bool,
    dz: Tensor,
    *,
    products: int = 6,
) -> None:
    """Writes the gradient into dz (b, n, m), contiguous. grad, value, deep (b); weights (b, n, n)
    and scale (b, n) contiguous. `products` of bfloat16 pieces in float32-grade: 6, 4 or 1."""
    b, n, m = z.shape
    target = dispatch.target_of(z.device)
    side = math.isqrt(n * m)  # of a square of as many entries: large tiles where they are many
    for product, mode, every in _grades(z, target, products):
        tile = dispatch.tile("gram_backward", product, side, target)
        launch(
            gram_backward_kernel,
            (-(-n // tile.size), -(-m // tile.size), b),
            grad,
            value,
            z,
            weights,
            scale,
            deep.view(torch.int8),
            dz,
            1.0,
            n,
            m,
            grad.stride(0),
            *z.stride(),
            TILE=tile.size,
            BLOCK=tile.block,
            MODE=mode,
            PRODUCTS=products,
            NORMALIZE=normalize,
            SQUARED=squared,
            EPS=torch.finfo(value.dtype).eps,
            EVERY=every,
            warps=tile.warps,
            stages=tile.stages,
        )


def covariance_backward(
    grad: Tensor,
    value: Tensor,
    z: Tensor,
    weights: Tensor,
    scale: Tensor,
    mean: Tensor,
    deep: Tensor,
    normalize: bool,
    squared: bool,
    dz: Tensor,
    *,
    products: int = 6,
) -> None:
    """Writes the gradient into dz (b, n, m), contiguous. grad, value, deep (b); weights (b, m, m),
    scale (b, n) and mean (b, m) contiguous. `products` as in
    `gram_backward`."""
    b, n, m = z.shape
    target = dispatch.target_of(z.device)
    for product, mode, every in _grades(z, target, products):
        tile = dispatch.tile("covariance_backward", product, n, target)
        blocks = -(-n // tile.size)
        programs = min(b * blocks, 2 * target.programs)
        waiting = z.dtype.itemsize < 4
        launch(
            covariance_backward_kernel,
            (programs,),
            grad,
            value,
            z,
            weights,
            scale,
            mean,
            deep.view(torch.int8),
            dz,
            dz.new_empty(programs, tile.size, m, dtype=torch.float32) if waiting else dz,
            1.0,
            blocks,
            b * blocks,
            n,
            m,
            grad.stride(0),
            *z.stride(),
            TILE=tile.size,
            BLOCK=tile.block,
            MODE=mode,
            NORMALIZE=normalize,
            SQUARED=squared,
            EPS=torch.finfo(value.dtype).eps,
            EVERY=every,
            SCRATCH=waiting,
            warps=tile.warps,
            stages=tile.stages,
        )
