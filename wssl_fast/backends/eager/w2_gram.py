"""W2^2 of n <= m rows: Gram matrix, its inverse root, and the weights W of the gradient.

With X = D z the rows used (unit rows, or z itself), C = X X^T, H = I - 11^T/n, G = H C H / n,
A = G^(-1/2) H:

    W2^2 = |mu|^2 + |G^(1/2) - H/sqrt m|_F^2 + (m - n + 1)/m          (no difference of large terms)
    dW2^2/dz = D W (D z),   W = -2/(n sqrt m) (A - diag rowsum(A * C))     on unit rows
    dW2^2/dz =   W (D z),   W = 2/n D^(-1) - 2/(n sqrt m) A                on raw rows

Forward: one symmetric product of the raw rows, one n x n root. Backward: one product with z.
A float32 pass centres in Gram space; where its estimated error, or the range of the norms, says
that float32 will not do, the product is repeated in float64 from the scaled rows.

All that is asked of the rows is a sum over their columns (`Source`), so that a process may hold a
slice of the columns as well as all of them; likewise `backward` gives those columns of the gradient
that it is given of z.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from wssl_fast.backends.eager import products
from wssl_fast.backends.eager.numerics import (
    LARGEST_RIDGE,
    SAFE_NORM,
    noise_level,
)
from wssl_fast.backends.eager.roots import accepted_error, inverse_root
from wssl_fast.backends.eager.state import State


class Source(Protocol):
    """What `solve` asks of the rows z (n, m) of one problem."""

    m: int
    dtype: torch.dtype

    def product(self, dtype: torch.dtype, *scale: Tensor) -> Tensor:
        """Y Y^T (n, n) accumulated in `dtype`; Y = z, or diag(scale) z, scale float64 (n,)."""

    def inverse_norms(self) -> Tensor:
        """1/|z_i|, 0 for zero rows, float64 (n,)."""

    def ritz(self, u: Tensor, scale: Tensor) -> Tensor:
        """u^T G u (q, q) float64 of directions u (n, q), from u^T H D z and not from G."""


class Rows:
    """A `Source` of the rows at hand, z (n, m), or their share in a sum over columns."""

    def __init__(self, z: Tensor) -> None:
        self.z, self.m, self.dtype = z, z.shape[1], z.dtype

    def product(self, dtype: torch.dtype, *scale: Tensor) -> Tensor:
        return products.symmetric_product(self.z, dtype, scale=scale[0] if scale else None)

    def inverse_norms(self) -> Tensor:
        return products.inverse_norms(self.z)

    def ritz(self, u: Tensor, scale: Tensor) -> Tensor:
        n, m = self.z.shape
        left = ((u - u.mean(0)) * scale.float()[:, None]).mT  # (q, n)
        out = torch.zeros(len(left), len(left), dtype=torch.float64, device=u.device)
        for part in _columns(n, m):
            b = (left @ self.z[:, part].float()).double()
            out.addmm_(b, b.mT, alpha=1 / n)
        return out


def forward(
    z: Tensor, normalize: bool, eps: float, solver: str, precision: str, with_grad: bool
) -> State:
    """One problem, z (n, m)."""
    return solve(Rows(z), normalize, eps, solver, precision, with_grad)


def solve(
    rows: Source, normalize: bool, eps: float, solver: str, precision: str, with_grad: bool
) -> State:
    """One problem, wherever its rows are."""
    m, double = rows.m, rows.dtype == torch.float64
    if not double and precision != "double":
        c = rows.product(torch.float32)  # (n, n)
        scale = _scale_from_diagonal(c, normalize)
        if scale is not None:
            if normalize:
                c.mul_(scale.float()).mul_(scale.float()[:, None])
            look = partial(rows.ritz, scale=scale) if precision == "auto" else None
            state, error, offset = _solve(
                c, m, scale, normalize, eps, solver, torch.float32, with_grad, ritz=look
            )
            enough = not bool(error > accepted_error(precision, solver, error.device))
            if enough or (precision != "auto" and not bool(offset > 0.1)):
                return state
            del c, state
    scale = rows.inverse_norms()  # (n,)
    if not normalize:
        scale = _common_scale(scale, eps)
    c = rows.product(torch.float64, scale)
    single = not double and precision not in ("auto", "double")
    root_dtype = torch.float32 if single else torch.float64
    return _solve(c, m, scale, normalize, eps, solver, root_dtype, with_grad, deep=True)[0]


def _solve(
    c: Tensor,
    m: int,
    scale: Tensor,
    normalize: bool,
    eps: float,
    solver: str,
    root_dtype: torch.dtype,
    with_grad: bool,
    deep: bool = False,
    ritz: Callable[[Tensor], Tensor] | None = None,
) -> tuple[State, Tensor, Tensor]:
    """State, estimated error, |mu|^2 as a share of the mean square. c = X X^T (n, n), consumed."""
    n = c.shape[0]
    # raw rows were multiplied by `unit`: solve for the scaled rows, then scale the distance back
    unit = 1.0 if normalize else float(scale[0])
    target, ridge = unit / math.sqrt(m), eps * unit * unit
    row_mean = c.mean(0)  # (n,) <x_i, mu>
    mean_square = row_mean.mean(dtype=torch.float64)  # |mu|^2
    offset = mean_square / c.diagonal().mean(dtype=torch.float64)
    noise = noise_level(c, c.dtype) / n
    c.sub_(row_mean).sub_((row_mean - row_mean.mean())[:, None])
    g = c.div_(n).to(root_dtype)
    if c.dtype != root_dtype:
        noise = torch.maximum(noise, noise_level(g, root_dtype))
    del c
    # the null vector of a centred Gram, 1/sqrt n, is lifted to an ordinary eigenvalue
    lift = torch.maximum(g.diagonal().mean(dtype=torch.float64), 8 * noise)
    g.add_((lift / n).to(root_dtype))
    root = inverse_root(
        g,
        noise,
        target=target,
        eps=ridge,
        solver=solver,
        basis=with_grad,
        clones=False,
        ritz=None if ritz is None else lambda u: ritz(u) + _lifted(u, lift),
    )
    null_distance = (math.sqrt(ridge) - target) ** 2
    distance = root.distance - ((lift + ridge).sqrt() - target) ** 2 + (m - n + 1) * null_distance
    value = (mean_square + distance) / unit**2
    deep_flag = torch.tensor(deep, device=g.device)
    no_mean = scale.new_empty(0)
    if not with_grad:
        return State(value, g.new_empty(0, 0), scale, no_mean, deep_flag), root.error, offset
    a = root.inverse
    q_mean = a.mean(0)
    a = a.sub_(q_mean).sub_((q_mean - q_mean.mean())[:, None])  # H Q H
    if normalize:
        # <P_i, x_i> = (A C)_ii = n (G^(1/2))_ii + (A X mu)_i; the lifted vector is not in G^(1/2)
        lifted = torch.where(lift > 0, lift * (lift + ridge).rsqrt(), 0.0) / n
        inner = n * (root.diagonal - lifted) + (a @ row_mean.to(a.dtype)).double()
        a.diagonal().sub_(inner.to(a.dtype))
    a.mul_(-2 / (n * math.sqrt(m)))
    if not normalize:
        a.diagonal().add_(2 / (n * unit))
    return State(value, a, scale, no_mean, deep_flag), root.error, offset


def _lifted(u: Tensor, lift: Tensor) -> Tensor:
    """u^T (lift/n 11^T) u (q, q) float64: what is added to G, seen by directions u (n, q)."""
    sums = u.sum(0, dtype=torch.float64)
    return torch.outer(sums, sums) * (lift / len(u))


def _scale_from_diagonal(c: Tensor, normalize: bool) -> Tensor | None:
    """D from the squared norms on the diagonal of a float32 Gram; None when squares left the
    range in which float32 keeps its digits. (n,) float64"""
    square = c.diagonal().double()
    low, high = SAFE_NORM[0] ** 2, SAFE_NORM[1] ** 2
    smallest = square.min() if normalize else square.max()
    if not bool((smallest >= low) & (square.max() <= high)):  # NaN, overflow and zero rows too
        return None
    return square.rsqrt() if normalize else torch.ones_like(square)


def _common_scale(inv_norm: Tensor, eps: float) -> Tensor:
    """One factor for all raw rows that brings the largest norm to 1, or the ridge, which grows by
    its square, to where float32 still holds it. (n,) float64"""
    positive = torch.where(inv_norm > 0, inv_norm, torch.inf)
    factor = positive.min()  # of zeros alone: inf; of a NaN: NaN
    if eps > 0:
        factor = torch.where(factor.isinf(), factor, factor.clamp_max((LARGEST_RIDGE / eps) ** 0.5))
    return torch.where(factor.isinf(), 1.0, factor).expand_as(inv_norm).contiguous()


def backward(z: Tensor, state: State, coefficient: Tensor, normalize: bool) -> Tensor:
    """coefficient * dW2^2/dz, in the dtype of z. coefficient () float64."""
    n, m = z.shape
    left = coefficient * state.scale if normalize else coefficient.expand(n)
    dz = torch.empty(n, m, dtype=z.dtype, device=z.device)
    if not bool(state.deep):
        w = state.weights.to(torch.float32, copy=True)
        w.mul_(left.float()[:, None]).mul_(state.scale.float())
        if z.dtype == torch.float32:
            return torch.mm(w, z, out=dz)
        for part in _columns(n, m):
            dz[:, part] = w @ z[:, part].float()
        return dz
    for part in _columns(n, m):
        x = z[:, part].double() * state.scale[:, None]
        dz[:, part] = (left[:, None] * (state.weights.double() @ x)).to(z.dtype)
    return dz


def _columns(n: int, m: int) -> list[slice]:
    """Slices of about n columns, so that a converted slice is no larger than W."""
    width = max(n, 64)
    return [slice(start, start + width) for start in range(0, m, width)]
