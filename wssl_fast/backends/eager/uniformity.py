"""L_U = log mean_{i<j} exp(-t |x_i - x_j|^2) and its gradient, by blocks of the Gram matrix.

With e_ij = exp(2 t <x_i, x_j> - t |x_i|^2 - t |x_j|^2), V_i = sum_{j != i} e_ij x_j and
s_i = sum_{j != i} e_ij:

    dL_U/dx_i = 2 t / (sum_{i<j} e_ij) (V_i - s_i x_i)

V is gathered in the forward pass while a block of e is at hand, so the backward has no product:
3 n^2 m flops in all, and nothing of size n x n.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from wssl_fast.backends import native
from wssl_fast.backends.eager import products
from wssl_fast.backends.eager.numerics import SAFE_NORM, working_dtype
from wssl_fast.backends.eager.w2_covariance import tangent_epilogue

BLOCK = 512
# exp(-60) still has all its digits in float32, and 2^24 of them do not vanish beside one e_ij = 1
SAFE_EXPONENT = 60.0
# An exponent of this over a unit of rounding keeps six bits behind its point. Of a sharper kernel
# only the nearest pairs are left, and the same ones.
SHARPEST = 1 / 64


class PairSums(NamedTuple):
    value: Tensor
    """L_U, float64. ()"""
    moments: Tensor
    """V on unit rows, V - s x on raw rows; (0, 0) when no gradient is wanted. (n, m)"""
    scale: Tensor
    """1/|z_i|, or ones on raw rows, float64. (n,)"""
    total: Tensor
    """M and sum_{i<j} e_ij, e relative to exp(M), as (sum, M), float64. (2,)"""
    shift: Tensor
    """V_i is relative to exp(shift_i), float64; empty when no gradient is wanted. (n,)"""


def forward(z: Tensor, t: float, normalize: bool, with_grad: bool) -> PairSums:
    """One problem, z (n, m), n >= 2."""
    n = len(z)
    scale, x, unit, t, stretch = _rows(z, t, normalize)
    rows = _exponents(x, t)
    shift = -_largest_exponent(x, rows, t, _below(n))
    total = torch.zeros((), dtype=torch.float64, device=z.device)
    moments = torch.zeros_like(x) if with_grad else x[:0, :0]
    sums = torch.zeros(n, dtype=torch.float64, device=z.device)
    for a, b in _below(n):
        e = _gram_block(x, a, b)
        e_sum = exp_block(e, 2 * t, rows[a] + shift, rows[b])
        total += e_sum * (0.5 if a == b else 1.0)
        if not with_grad:
            continue
        moments[a].addmm_(e, x[b])
        if a != b:
            moments[b].addmm_(e.mT, x[a])
        if not normalize:
            sums[a] += e.sum(1, dtype=torch.float64)
            if a != b:
                sums[b] += e.sum(0, dtype=torch.float64)
    pairs = torch.log(torch.tensor(n * (n - 1) / 2, dtype=torch.float64))
    value = total.log() - _stretched(shift, stretch) - pairs
    if with_grad and not normalize:
        moments.sub_(sums.to(x.dtype)[:, None] * x).div_(unit)
    # one shift for all: V and the sum are relative to the same
    none = torch.zeros_like(total)
    shifts = torch.zeros_like(scale if with_grad else scale[:0])
    return PairSums(value, moments, scale, torch.stack([total, none]), shifts)


def strip(z: Tensor, own: slice, t: float, normalize: bool, with_grad: bool) -> PairSums:
    """The rows `own` (p) against all of z (n, m): one process's share of a problem.

    value is the log of the sum of e over these p (n - 1) ordered pairs, total that sum relative to
    exp(M) and M, the largest exponent where sums would vanish without it and -inf where p = 0;
    moments and scale are those of the rows `own`, relative to exp(M) as well.
    """
    n, p = len(z), own.stop - own.start
    scale, x, unit, t, stretch = _rows(z, t, normalize)
    rows = _exponents(x, t)
    largest = _largest_exponent(x, rows, t, _across(own, n))
    total = torch.zeros((), dtype=torch.float64, device=z.device)
    moments = torch.zeros_like(x[own]) if with_grad else x[:0, :0]
    sums = torch.zeros(p, dtype=torch.float64, device=z.device)
    for a, b in _across(own, n):
        e = _gram_block(x, a, b)
        total += exp_block(e, 2 * t, rows[a] - largest, rows[b])
        if not with_grad:
            continue
        here = slice(a.start - own.start, a.stop - own.start)
        moments[here].addmm_(e, x[b])
        if not normalize:
            sums[here] += e.sum(1, dtype=torch.float64)
    if with_grad and not normalize:
        moments.sub_(sums.to(x.dtype)[:, None] * x[own]).div_(unit)
    largest = _stretched(largest, stretch)
    return PairSums(
        total.log() + largest,
        moments,
        scale[own],
        torch.stack([total, largest]),
        torch.zeros_like(sums if with_grad else sums[:0]),
    )


def backward(z: Tensor, sums: PairSums, grad: Tensor, t: float, normalize: bool) -> Tensor:
    """grad * dL_U/dz, in the dtype of z. grad () float64."""
    c = grad * (2 * t) / sums.total[0]
    if not normalize:
        return (c * sums.moments).to(z.dtype)
    out = sums.moments.clone()
    ones = torch.ones_like(sums.scale)
    shift = torch.zeros(z.shape[1], dtype=torch.float64, device=z.device)
    tangent_epilogue(out, z, ones, sums.scale, shift, c)
    return out.to(z.dtype)


def exp_block(e: Tensor, factor: float, row: Tensor, column: Tensor) -> Tensor | float:
    """In place: e_ij <- exp(factor e_ij + row_i + column_j); the sum in float64.
    e (a, b); row (a,), column (b,) float64."""
    factor = max(factor, torch.finfo(e.dtype).tiny)  # 0 times the -inf of a row with itself
    if products.compiled(e):
        return native.exp_block_(e, s=factor, row=row, col=column)
    e.mul_(factor).add_(row.to(e.dtype)[:, None]).add_(column.to(e.dtype)).exp_()
    return e.sum(dtype=torch.float64)


class Rows(NamedTuple):
    scale: Tensor
    """1/|z_i|, or ones on raw rows, float64. (n,)"""
    x: Tensor
    """Unit rows; or raw rows less their mean, times `unit`: no distance sees a mean, no digit
    should pay for it. (n, m)"""
    unit: float
    """What brings raw rows into the range of their squares, a power of two; 1 mostly."""
    t: float
    """For x what the t asked for is for the rows, as long as exponents have digits behind their
    point: 4 t |x|^2 up to SHARPEST over a unit of rounding, and as much beyond."""
    stretch: float
    """What the exponents of this t must be multiplied by there; 1 mostly."""


def _rows(z: Tensor, t: float, normalize: bool) -> Rows:
    dtype, unit = working_dtype(z), 1.0
    if normalize:
        scale, x = products.unit_rows(z, dtype)
    else:
        low, high = z.aminmax()
        size = max(-float(low), float(high))
        if SAFE_NORM[1] < size < math.inf:
            unit = 2.0 ** -round(math.log2(size))
        scale = torch.ones(len(z), dtype=torch.float64, device=z.device)
        mean = z.mean(0, dtype=torch.float64)
        x = torch.empty(z.shape, dtype=dtype, device=z.device)
        for part in (slice(i, i + products.CHUNK) for i in range(0, len(z), products.CHUNK)):
            x[part] = (z[part] - mean) * unit  # in float64, never a whole copy
    norm = float(torch.linalg.vector_norm(x, dim=1, dtype=torch.float64).max())
    reach, limit = 4 * t * (norm / unit) * (norm / unit), SHARPEST / torch.finfo(dtype).eps
    if reach > limit:
        return Rows(scale, x, unit, limit / (4 * norm * norm), reach / limit)
    # of equal rows of 1e22 it would be beyond float32, and with their 0 a NaN
    return Rows(scale, x, unit, min(t / unit / unit, torch.finfo(dtype).max / 4), 1.0)


def _stretched(exponent: Tensor, stretch: float) -> Tensor:
    """exponent * stretch; where the nearest rows are equal to rounding, as if they were equal."""
    return torch.where(exponent.abs() < 1, exponent, exponent * stretch)


def _below(n: int) -> Iterator[tuple[slice, slice]]:
    """Blocks of rows a, b that cover the pairs with j <= i once."""
    for i in range(0, n, BLOCK):
        for j in range(0, i + 1, BLOCK):
            yield slice(i, min(i + BLOCK, n)), slice(j, min(j + BLOCK, n))


def _across(own: slice, n: int) -> Iterator[tuple[slice, slice]]:
    """Blocks that cover the pairs of the rows `own` with all n."""
    for i in range(own.start, own.stop, BLOCK):
        for j in range(0, n, BLOCK):
            yield slice(i, min(i + BLOCK, own.stop)), slice(j, min(j + BLOCK, n))


def _gram_block(x: Tensor, a: slice, b: slice) -> Tensor:
    """<x_i, x_j>, and -inf where i = j: a row is no pair with itself."""
    e = x[a] @ x[b].mT
    e.diagonal(a.start - b.start).fill_(-torch.inf)  # empty where the blocks do not meet
    return e


def _exponents(x: Tensor, t: float) -> Tensor:
    """-t |x_i|^2, float64 (n,)."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=1, dtype=torch.float64)
    return norm.square_().mul_(-t)


def _largest_exponent(
    x: Tensor, rows: Tensor, t: float, blocks: Iterator[tuple[slice, slice]]
) -> Tensor:
    """max over the blocks of -t |x_i - x_j|^2, at most 0, where sums would underflow without it,
    and 0 where none would; -inf without a block."""
    zero = torch.zeros((), dtype=torch.float64, device=x.device)
    largest = zero - torch.inf
    if bool(-4 * rows.min() <= SAFE_EXPONENT):
        return largest if next(blocks, None) is None else zero
    for a, b in blocks:
        e = _gram_block(x, a, b).double().mul_(2 * t)
        largest = torch.maximum(largest, e.add_(rows[a][:, None]).add_(rows[b]).max())
    return largest.clamp_max(0)
