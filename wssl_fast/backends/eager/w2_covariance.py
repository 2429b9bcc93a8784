"""W2^2 of n > m rows: covariance matrix, its inverse root, and a row-wise epilogue.

With X = D z the rows used (unit rows, or z itself), mu their mean, Xc = X - 1 mu^T, S = Xc^T Xc/n,
P = Xc S^(-1/2):

    W2^2 = |mu|^2 + |S^(1/2) - I/sqrt m|_F^2                          (no difference of large terms)
    dW2^2/dz_i = -2/(n sqrt m) 1/|z_i| (P_i - <P_i, x_i> x_i)              on unit rows
    dW2^2/dz   = 2/n z - 2/(n sqrt m) P                                    on raw rows

Forward: one pass over the rows (norms, mean), one symmetric product that scales and centres while
it packs, one m x m root. Backward: one product with S^(-1/2) and its epilogue, block by block.

All that is asked of the rows is a sum over them (`Source`), so that a process may hold a part of
the rows as well as all of them; `backward` gives the gradient of those rows that it is given.
"""

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from wssl_fast.backends import native
from wssl_fast.backends.eager import products
from wssl_fast.backends.eager.numerics import (
    ACCEPTED_ERROR,
    LARGEST_RIDGE,
    ROW_UNIT,
    SAFE_NORM,
    noise_level,
)
from wssl_fast.backends.eager.roots import Root, accepted_error, inverse_root
from wssl_fast.backends.eager.state import State


class Scales(NamedTuple):
    """How raw rows z become the rows X that are worked with."""

    scale: Tensor
    """Diagonal of D times `unit`, for the rows at hand. float64 (n,)"""
    mean: Tensor
    """Mean of X over all n rows, float64. (m,)"""
    unit: float
    """What raw rows are multiplied by to come into float32's range; 1 mostly."""
    in_range: bool
    """Whether float32 may hold the products of every row."""


class Source(Protocol):
    """What `solve` asks of the rows X (n, m) of one problem."""

    n: int
    dtype: torch.dtype
    scales: Scales

    def product(self, dtype: torch.dtype) -> Tensor:
        """Xc^T Xc (m, m) accumulated in `dtype`."""

    def ritz(self, v: Tensor) -> Tensor:
        """v^T Xc^T Xc v (q, q) float64 of directions v (m, q), from Xc v and not from the product
        above."""


class Rows:
    """A `Source` of the rows at hand, z (n, m), or their share in a sum over rows."""

    def __init__(self, z: Tensor, scales: Scales, plain: bool) -> None:
        """`plain`: the rows are used as they are, diag(scale) is the identity."""
        self.z, self.n, self.dtype = z, z.shape[0], z.dtype
        self.scales, self.plain = scales, plain

    def product(self, dtype: torch.dtype) -> Tensor:
        scale = None if self.plain else self.scales.scale
        return products.symmetric_product(
            self.z, dtype, covariance=True, scale=scale, mean=self.scales.mean
        )

    def ritz(self, v: Tensor) -> Tensor:
        scale, mean = self.scales.scale, self.scales.mean
        out = torch.zeros(v.shape[1], v.shape[1], dtype=torch.float64, device=v.device)
        for start in range(0, self.n, products.CHUNK):
            part = slice(start, start + products.CHUNK)
            x = self.z[part].double() * scale[part, None] - mean  # before the product rounds
            b = (x.float() @ v).double()
            out.addmm_(b.mT, b)
        return out


def forward(
    z: Tensor, normalize: bool, eps: float, solver: str, precision: str, with_grad: bool
) -> State:
    """One problem, z (n, m)."""
    scale, mean = products.row_statistics(z, normalize)
    unit = 1.0 if normalize else unit_of(float(z.abs().amax()), eps)
    scales = Scales(scale * unit, mean * unit, unit, in_range(scale, unit))
    rows = Rows(z, scales, plain=not normalize and unit == 1.0)
    return solve(rows, eps, solver, precision, with_grad)


def solve(rows: Source, eps: float, solver: str, precision: str, with_grad: bool) -> State:
    """One problem, wherever its rows are. The scale of the state is that of the rows at hand."""
    scale, mean, unit, fits = rows.scales
    n, m = rows.n, len(mean)
    double = rows.dtype == torch.float64 or precision == "double"
    target, ridge = unit / math.sqrt(m), eps * unit * unit
    mean_square = (mean * mean).sum()
    row_noise = ROW_UNIT**2 * mean_square

    def ritz(v: Tensor) -> Tensor:
        return rows.ritz(v).div_(n)

    def root_in(dtype: torch.dtype) -> Root:
        s = rows.product(dtype).div_(n)
        look = precision == "auto" and dtype == torch.float32 and fits
        return inverse_root(
            s,
            torch.maximum(noise_level(s, dtype), row_noise),
            target=target,
            eps=ridge,
            solver=solver,
            basis=with_grad,
            ritz=ritz if look else None,
        )

    deep = double
    root = root_in(torch.float64 if double else torch.float32)
    accepted = accepted_error(precision, solver, mean.device)
    if precision == "auto" and not double and bool(root.error > accepted):
        deep = True
        root = root_in(torch.float64)
    value = (mean_square + root.distance) / unit**2
    if not with_grad:
        empty = root.inverse.new_empty(0, 0)
        return State(value, empty, scale, mean, torch.tensor(deep, device=mean.device))
    # z Q - mu Q cancels the mean, in float32 to |mu| |Q|_F units; a row of P has norm sqrt m
    lost = torch.linalg.vector_norm(root.inverse, dtype=torch.float64) * mean_square.sqrt()
    lost = lost / math.sqrt(m)
    deep = deep or bool(lost * torch.finfo(torch.float32).eps > ACCEPTED_ERROR)
    deep = deep or not fits
    return State(value, root.inverse, scale, mean, torch.tensor(deep, device=mean.device))


def unit_of(largest: float, eps: float) -> float:
    """1, or the factor that brings the largest entry of raw rows out of a range that float32
    cannot square, as far as float32 then holds the ridge."""
    if SAFE_NORM[0] <= largest <= SAFE_NORM[1] or largest == 0 or not math.isfinite(largest):
        return 1.0
    return min(1.0 / largest, (LARGEST_RIDGE / eps) ** 0.5) if eps > 0 else 1.0 / largest


def in_range(scale: Tensor, unit: float) -> bool:
    """Whether float32 may hold the products of the backward. A zero row has scale 0: harmless."""
    low, high = 1 / SAFE_NORM[1], 1 / SAFE_NORM[0]
    fits = (scale == 0) | ((scale >= low) & (scale <= high)) | scale.isnan()
    return unit == 1.0 and bool(fits.all())


def backward(z: Tensor, state: State, coefficient: Tensor, normalize: bool) -> Tensor:
    """coefficient * dW2^2/dz, in the dtype of z. coefficient () float64.

    For a part of the rows, a coefficient times their share of all rows: n is that of z here.
    """
    n, m = z.shape
    dtype = torch.float64 if bool(state.deep) else torch.float32
    q = state.weights.to(dtype)
    c = coefficient * (-2 / (n * math.sqrt(m)))
    dz = torch.empty(n, m, dtype=z.dtype, device=z.device)
    if not normalize:
        return _raw_backward(z, q, state, c, coefficient * (2 / n), dz)
    shift = state.mean @ state.weights.double()  # (m,) Q mu
    for start in range(0, n, products.CHUNK):
        part = slice(start, min(start + products.CHUNK, n))
        rows, inv = z[part], state.scale[part]
        if dtype == torch.float64:  # scaled first: the norms may be out of range
            t, times = (rows.double() * inv[:, None]) @ q, torch.ones_like(inv)
        else:
            target = dz[part] if dz.dtype == dtype else None
            t, times = torch.mm(rows.to(dtype), q, out=target), inv
        tangent_epilogue(t, rows, times, inv, shift, c)
        if t.data_ptr() != dz[part].data_ptr():
            dz[part] = t.to(dz.dtype)
    return dz


def tangent_epilogue(
    t: Tensor, z: Tensor, times: Tensor, inv: Tensor, shift: Tensor, c: Tensor
) -> None:
    """In place: t_i <- c inv_i (P_i - <P_i, x_i> x_i), P_i = times_i t_i - shift, x_i = inv_i z_i.
    t, z (b, m); times, inv (b,), shift (m,), c (): float64."""
    if products.compiled(t, z):
        factor = float(c)
        native.tangent_epilogue_(t, z, a=times, inv=inv, shift=shift, c=factor)
        if math.isnan(factor):  # rows of zeros too: they are part of the problem
            t.fill_(factor)
        return
    x = (z.double() * inv[:, None]).to(t.dtype)
    t.mul_(times[:, None].to(t.dtype)).sub_(shift.to(t.dtype))
    radial = (t * x).sum(1, dtype=torch.float64).to(t.dtype)
    t.sub_(radial[:, None] * x)
    t.copy_((c * inv)[:, None] * t)


def _raw_backward(
    z: Tensor, q: Tensor, state: State, c: Tensor, radial: Tensor, dz: Tensor
) -> Tensor:
    """radial z + c (unit z - mean) Q = z (radial I + c unit Q) - c mean Q: one product, one bias.
    The scaled rows unit z carry no units, so the weights are applied to them."""
    unit = state.scale[0]
    w = (c * q.double()).to(q.dtype)  # (m, m)
    w.diagonal().add_((radial / unit).to(q.dtype))
    bias = -(c * state.mean) @ q.double()
    for start in range(0, z.shape[0], products.CHUNK):
        part = slice(start, start + products.CHUNK)
        rows = (z[part].double() * unit).to(q.dtype) if q.dtype == torch.float64 else z[part]
        dz[part] = torch.addmm(bias.to(q.dtype), rows.to(q.dtype), w).to(dz.dtype)
    return dz
