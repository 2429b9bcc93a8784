"""L_U = log mean_{i<j} exp(-t |x_i - x_j|^2) and its gradient, by blocks of e.

    u_ij = |x_i|^2 + |x_j|^2 - 2 <x_i, x_j>
    e_ij = exp(near - t u_ij), i != j      near = min t u_ij, one a tile of e: nothing underflows
    V_i  = sum_j e_ij x_j                  s_i = sum_j e_ij
    dL_U/dx_i = 2 t / (sum_{i<j} e_ij) (V_i - s_i x_i)

Launches: rows (one; two on raw rows, whose mean no distance sees), then for a block of up to EDGE x
EDGE pairs `pairs_kernel` and, with gradient, `moments_kernel`, whose last launch writes the value;
without gradient `value_kernel` does. The backward is one launch, row by row (uniformity_rows.py).

rows     x_i = w_i v_i, v_i of norm 1 to 2 by a power of two, cut into float16 planes once: hi +
         lo/2048, 22 bits whatever the range of the rows. Half-precision unit rows are one plane,
         exactly. (b, planes, kp, mp), zero padded
pairs    grid: tiles of a block of e, the lower ones on the diagonal. Stores e relative to the
         largest of its tile, times w_j, in two float16 planes (b, 2, edge, edge), 16 MiB at most
         for one problem of any n; and of each tile near, the sum of e and the factor of w_j
moments  grid: tiles of V. The product of e and v over a block, each tile of e times
         exp(shift - near), shift = the smallest near of the row's tiles: the factor takes the place
         of the `one` with which blocks leave the tensor core (tiles.py). V: (b, n, m) float32

Programs owning rows, as in attention, would leave most of a GPU idle at 512 rows (8 programs); with
a block of e in memory both halves are ordinary products. float64 rows: one float64 plane.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from wssl_fast.backends.eager.numerics import working_dtype
from wssl_fast.backends.eager.uniformity import PairSums
from wssl_fast.backends.triton import dispatch, uniformity_rows
from wssl_fast.backends.triton.launch import by_batches, launch
from wssl_fast.backends.triton.tiles import LO, lower_tile, split_fp16
from wssl_fast.backends.triton.uniformity_rows import two_floats

EDGE = 2048  # rows and columns of a block of e: 16 MiB in two float16 planes, which an L2 holds
INF = tl.constexpr(float("inf"))


@triton.jit
def _product(a, b, MODE: tl.constexpr):
    """a b, float64.  a [M, K], b [K, N]"""
    if MODE == "float64":
        return tl.dot(a, b, out_dtype=tl.float64)
    return tl.sum(a[:, :, None] * b[None, :, :], axis=1)


@triton.jit
def _store_block(e, value, row, column, edge, WIDE: tl.constexpr, TURNED: tl.constexpr):
    """value [TILE, TILE], or its transpose, into the planes of a block of e."""
    out = e + row[:, None] * edge + column[None, :]
    if WIDE:
        tl.store(out, tl.trans(value) if TURNED else value)
    else:
        hi, lo = split_fp16(value)
        tl.store(out, tl.trans(hi) if TURNED else hi)
        tl.store(out + edge * edge, tl.trans(lo) if TURNED else lo)


@triton.jit
def pairs_kernel(
    planes,  # (b, PLANES, kp, mp)
    rows,  # (b, 2, kp) float64: w_i, |x_i|^2
    state,  # (b, 3, tiles, tiles) float64: near, sum of e, if RAW factor of the w_j
    row_sums,  # (b, tiles of a block, edge) float64, only if RAW
    e,  # (b, 2, edge, edge) float16, or (b, 1, edge, edge) float64, only if GRAD
    one,
    t_high,
    t_low,
    n,
    kp,
    mp,
    tiles,
    first_i,  # first tile of the block
    first_j,
    edge,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
    MODE: tl.constexpr,
    RAW: tl.constexpr,
    DIAGONAL: tl.constexpr,
    GRAD: tl.constexpr,
):
    WIDE: tl.constexpr = MODE == "float64" or MODE == "float64_fma"
    PLANES: tl.constexpr = 2 if MODE == "fp16x3" else 1
    dtype: tl.constexpr = tl.float64 if WIDE else tl.float32
    b = tl.program_id(2).to(tl.int64)
    if DIAGONAL:
        i, j = lower_tile(tl.program_id(0))
    else:
        i, j = tl.program_id(0), tl.program_id(1)
    lane = tl.arange(0, TILE)
    row, column = (first_i + i) * TILE + lane, (first_j + j) * TILE + lane

    planes += b * PLANES * kp * mp
    depth = tl.arange(0, BLOCK)[None, :]
    x = planes + row.to(tl.int64)[:, None] * mp + depth
    y = planes + column.to(tl.int64)[:, None] * mp + depth
    plane = kp * mp.to(tl.int64)
    inner = tl.zeros((TILE, TILE), dtype)
    for _ in range(0, mp, BLOCK):
        x_hi, y_hi = tl.load(x), tl.trans(tl.load(y))
        if WIDE:
            inner += _product(x_hi, y_hi, MODE)
        else:
            if PLANES == 2:
                low = tl.dot(tl.load(x + plane), y_hi)
                low = tl.dot(x_hi, tl.trans(tl.load(y + plane)), low)
                inner = tl.fma(low, one * (1.0 / LO), inner)
            inner = tl.fma(tl.dot(x_hi, y_hi), one, inner)
        x += BLOCK
        y += BLOCK

    rows += b * 2 * kp
    w_i, w_j = tl.load(rows + row), tl.load(rows + column)
    q_i, q_j = tl.load(rows + kp + row), tl.load(rows + kp + column)
    t = tl.cast(t_high, tl.float64) + tl.cast(t_low, tl.float64)
    part_i, part_j = w_i, w_j
    if RAW:  # powers of two. In units of the tile's longest rows everything is at most 4
        gain_i, gain_j = tl.max(w_i, axis=0), tl.max(w_j, axis=0)
        unit = tl.maximum(gain_i, gain_j)
        unit = tl.where(unit > 0, unit, 1.0)
        gain_i, gain_j = tl.where(gain_i > 0, gain_i, 1.0), tl.where(gain_j > 0, gain_j, 1.0)
        shrink, t = 1.0 / unit, t * unit * unit
        part_i, part_j = w_i * (1.0 / gain_i), w_j * (1.0 / gain_j)
        w_i, w_j = w_i * shrink, w_j * shrink
        q_i, q_j = q_i * shrink * shrink, q_j * shrink * shrink
    inner = inner * w_i.to(dtype)[:, None] * w_j.to(dtype)[None, :]
    u = (q_i.to(dtype)[:, None] - inner) + (q_j.to(dtype)[None, :] - inner)
    u = tl.where(u < 0, 0.0, u)  # NaN stays
    pair = (row < n)[:, None] & (column < n)[None, :] & (row[:, None] != column[None, :])
    least = tl.min(tl.min(tl.where(pair, u, INF), axis=1), axis=0)
    near = tl.where(least < INF, t * least, INF)  # also of a tile without pairs
    least = tl.where(least < INF, least, 0.0)
    slope = t.to(dtype) if WIDE else tl.minimum(t, 1e38).to(dtype)
    value = tl.where(pair, tl.exp(slope * tl.where(pair, least - u, 0.0)), 0.0)
    sums = tl.sum(value, axis=1).to(tl.float64)
    total = tl.sum(sums, axis=0)

    size = tiles * tiles
    here, there = (first_i + i) * tiles + first_j + j, (first_j + j) * tiles + first_i + i
    state += b * 3 * size
    tl.store(state + here, near)
    tl.store(state + size + here, tl.where(first_i + i == first_j + j, 0.5, 1.0) * total)
    if GRAD:
        e += b * edge * edge * (1 if WIDE else 2)
        local_i, local_j = i * TILE + lane, j * TILE + lane
        right = value * part_j.to(dtype)[None, :]
        _store_block(e, right, local_i, local_j, edge, WIDE, False)
        if RAW:
            tl.store(state + 2 * size + here, gain_j)
            row_sums += b * (edge // TILE) * edge
            tl.store(row_sums + j * edge + local_i, sums)
        if DIAGONAL and i != j:
            tl.store(state + there, near)
            left = value * part_i.to(dtype)[:, None]
            _store_block(e, left, local_j, local_i, edge, WIDE, True)
            if RAW:
                tl.store(state + 2 * size + there, gain_i)
                tl.store(row_sums + i * edge + local_j, tl.sum(value, axis=0).to(tl.float64))


@triton.jit
def _nearest(near, start, stop):
    """The least of near[start:stop]; inf of nothing."""
    lane = tl.arange(0, 64)
    least = tl.full((64,), INF, tl.float64)
    for first in range(start, stop, 64):
        found = tl.load(near + first + lane, mask=first + lane < stop, other=INF)
        least = tl.minimum(least, found)
    return tl.min(least, axis=0)


@triton.jit
def _finish(state, value, total, n, tiles):
    """Value of one problem, and its total: sum_{i<j} e_ij over a shift, and the shift."""
    size = tiles * tiles
    lane = tl.arange(0, 512)
    least = tl.full((512,), INF, tl.float64)
    for first in range(0, size, 512):
        k = first + lane
        lower = (k < size) & (k % tiles <= k // tiles)
        least = tl.minimum(least, tl.load(state + k, mask=lower, other=INF))
    near = tl.min(least, axis=0)
    acc = tl.zeros((512,), tl.float64)
    for first in range(0, size, 512):
        k = first + lane
        lower = (k < size) & (k % tiles <= k // tiles)
        weight = tl.exp(near - tl.load(state + k, mask=lower, other=INF))
        acc += weight * tl.load(state + size + k, mask=lower, other=0.0)
    whole = tl.sum(acc, axis=0)
    wide = tl.cast(n, tl.float64)
    count = 0.5 * wide * (wide - 1.0)
    tl.store(value, tl.log(whole) - near - tl.log(count))
    tl.store(total, whole)
    tl.store(total + 1, -near)


@triton.jit
def value_kernel(state, value, total, n, tiles):
    b = tl.program_id(0).to(tl.int64)
    _finish(state + b * 3 * tiles * tiles, value + b, total + b * 2, n, tiles)


@triton.jit
def moments_kernel(
    planes,  # (b, PLANES, kp, mp)
    rows,  # (b, 2, kp) float64
    state,  # (b, 3, tiles, tiles) float64
    row_sums,  # (b, tiles of a block, edge) float64, only if RAW
    e,  # (b, 2 or 1, edge, edge)
    moments,  # (b, n, m)
    shift,  # (b, n) float64
    value,  # (b,)
    total,  # (b, 2) float64
    n,
    m,
    kp,
    mp,
    tiles,
    first_i,  # first tile of the block
    first_j,
    count_j,  # tiles of the block along j
    edge,
    last,  # whether the value can be finished
    TILE: tl.constexpr,  # of V
    BLOCK: tl.constexpr,
    PAIR: tl.constexpr,  # tile of e
    MODE: tl.constexpr,
    RAW: tl.constexpr,
):
    WIDE: tl.constexpr = MODE == "float64" or MODE == "float64_fma"
    PLANES: tl.constexpr = 2 if MODE == "fp16x3" else 1
    dtype: tl.constexpr = tl.float64 if WIDE else tl.float32
    b = tl.program_id(2).to(tl.int64)
    size = tiles * tiles
    state += b * 3 * size
    if last != 0 and tl.program_id(0) + tl.program_id(1) == 0:
        _finish(state, value + b, total + b * 2, n, tiles)
    local = tl.program_id(1) * TILE + tl.arange(0, TILE)
    row = first_i * PAIR + local
    column = tl.program_id(0) * TILE + tl.arange(0, TILE)
    near = state + (first_i + tl.program_id(1) * TILE // PAIR) * tiles
    gain = near + 2 * size
    before = _nearest(near, 0, first_j)
    least = tl.minimum(before, _nearest(near, first_j, first_j + count_j))
    none = least == INF  # no pair so far: e is 0
    least = tl.where(none, 0.0, least)

    planes += b * PLANES * kp * mp
    plane = kp * mp.to(tl.int64)
    depth = tl.arange(0, BLOCK)
    e += b * edge * edge * (1 if WIDE else 2)
    a = e + local[:, None] * edge + depth[None, :]
    x = planes + (first_j * PAIR + depth).to(tl.int64)[:, None] * mp + column[None, :]
    step = BLOCK * mp.to(tl.int64)
    acc = tl.zeros((TILE, TILE), dtype)
    for k in range(0, count_j * PAIR, BLOCK):
        tile = first_j + k // PAIR
        factor = tl.exp((least - tl.load(near + tile)).to(dtype))
        if RAW:
            factor *= tl.load(gain + tile).to(dtype)
        x_hi = tl.load(x)
        if WIDE:
            acc += factor * _product(tl.load(a), x_hi, MODE)
        else:
            a_hi = tl.load(a)
            low = tl.dot(tl.load(a + edge * edge), x_hi)
            if PLANES == 2:
                low = tl.dot(a_hi, tl.load(x + plane), low)
            acc = tl.fma(low, factor * (1.0 / LO), acc)
            acc = tl.fma(tl.dot(a_hi, x_hi), factor, acc)
        a += BLOCK
        x += step

    if RAW:  # V - s x
        row_sums += b * (edge // PAIR) * edge + local
        s = tl.zeros((TILE,), tl.float64)
        for j in range(count_j):
            s += tl.exp(least - tl.load(near + first_j + j)) * tl.load(row_sums + j * edge)
        own = planes + row.to(tl.int64)[:, None] * mp + column[None, :]
        v = tl.load(own).to(dtype)
        if PLANES == 2:
            v += tl.load(own + plane).to(dtype) * (1.0 / LO)
        acc -= (s * tl.load(rows + b * 2 * kp + row)).to(dtype)[:, None] * v
    inside = (row < n)[:, None] & (column < m)[None, :]
    out = moments + (b * n + row)[:, None] * m + column[None, :]
    if first_j > 0:
        acc += tl.load(out, mask=inside, other=0.0) * tl.exp((least - before).to(dtype))
    tl.store(out, acc, mask=inside)
    if tl.program_id(0) == 0:
        tl.store(shift + b * n + row, tl.zeros((TILE,), tl.float64) - least, mask=row < n)


def mode(z: Tensor, normalize: bool, target: dispatch.Target) -> str:
    """The product of rows: of unit rows in half precision one plane holds every digit."""
    if z.dtype == torch.float64:
        return dispatch.float64_mode(target)
    return "fp16" if normalize and z.dtype != torch.float32 else "fp16x3"


@by_batches
def forward(z: Tensor, t: float, normalize: bool, with_grad: bool) -> PairSums:
    """z (b, n, m), n >= 2, t > 0; every field with a leading b."""
    b, n, m = z.shape
    target = dispatch.target_of(z.device)
    product = mode(z, normalize, target)
    double = z.dtype == torch.float64
    row = product if normalize or double else "raw"  # whose sums need registers of their own
    tile = dispatch.tile("uniformity_pairs", row, n, target)
    # by the area of V, that enough tiles fill the machine; none may be larger than a tile of e
    area = n * m // 1024 if tile.size > 64 else 0
    wide = dispatch.tile("uniformity_moments", row, area, target)
    kp = triton.cdiv(n, tile.size) * tile.size
    across = max(tile.block, wide.size)
    mp = triton.cdiv(m, across) * across
    share = EDGE // tile.size  # tiles of a block; fewer in a batch, whose blocks exist at once
    while share > 1 and share * share * b > (EDGE // tile.size) ** 2 and share * tile.size > 512:
        share //= 2
    tiles = kp // tile.size
    share = min(share, tiles)
    edge = share * tile.size

    def empty(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.empty(b, *shape, dtype=dtype, device=z.device)

    piece = torch.float64 if double else torch.float16
    planes = empty(2 if product == "fp16x3" else 1, kp, mp, dtype=piece)
    weights, scale, state, total = empty(2, kp), empty(n), empty(3, tiles, tiles), empty(2)
    value, shift = empty(dtype=working_dtype(z)), empty(n if with_grad else 0)
    uniformity_rows.rows(z, planes, weights, scale, normalize)
    e = empty(1 if double else 2, edge, edge, dtype=piece) if with_grad else planes
    row_sums = empty(share, edge) if with_grad and not normalize else weights
    moments = empty(*((n, m) if with_grad else (0, 0)), dtype=working_dtype(z))
    for i in range(0, tiles, share):
        for j in range(0, tiles if with_grad else i + 1, share):
            rows, columns = min(share, tiles - i), min(share, tiles - j)
            launch(
                pairs_kernel,
                (rows * (rows + 1) // 2, 1, b) if i == j else (rows, columns, b),
                planes,
                weights,
                state,
                row_sums,
                e,
                1.0,
                *two_floats(t),
                n,
                kp,
                mp,
                tiles,
                i,
                j,
                edge,
                TILE=tile.size,
                BLOCK=tile.block,
                MODE=product,
                RAW=not normalize,
                DIAGONAL=i == j,
                GRAD=with_grad,
                warps=tile.warps,
                stages=tile.stages,
            )
            if not with_grad:
                continue
            launch(
                moments_kernel,
                (triton.cdiv(m, wide.size), rows * tile.size // wide.size, b),
                planes,
                weights,
                state,
                row_sums,
                e,
                moments,
                shift,
                value,
                total,
                n,
                m,
                kp,
                mp,
                tiles,
                i,
                j,
                columns,
                edge,
                int(i + rows == tiles and j + columns == tiles),
                TILE=wide.size,
                BLOCK=wide.block,
                PAIR=tile.size,
                MODE=product,
                RAW=not normalize,
                warps=wide.warps,
                stages=wide.stages,
            )
    if not with_grad:
        launch(value_kernel, (b,), state, value, total, n, tiles)
    return PairSums(value, moments, scale, total, shift)
