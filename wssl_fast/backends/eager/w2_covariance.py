"""W2^2 of n > m rows: covariance matrix, its inverse root, and a row-wise epilogue.

With X = D z the rows used (unit rows, or z itself), mu their mean, Xc = X - 1 mu^T, S = Xc^T Xc/n,
P = Xc S^(-1/2):

    W2^2 = |mu|^2 + |S^(1/2) - I/sqrt m|_F^2                          (no difference of large terms)
    dW2^2/dz_i = -2/(n sqrt m) 1/|z_i| (P_i - <P_i, x_i> x_i)              on unit rows
    dW2^2/dz   = 2/n z - 2/(n sqrt m) P                                    on raw rows

Forward: one pass over the rows (norms, mean), one symmetric product that scales and centres while
it packs, one m x m root. Backward: one product with S^(-1/2) and its epilogue, block by block.
"""

import math

import torch
from torch import Tensor

from wssl_fast.backends import native
from wssl_fast.backends.eager import products
from wssl_fast.backends.eager.numerics import ACCEPTED_ERROR, ROW_UNIT, SAFE_NORM, noise_level
from wssl_fast.backends.eager.roots import Root, inverse_root
from wssl_fast.backends.eager.state import State


def forward(
    z: Tensor, normalize: bool, eps: float, solver: str, precision: str, with_grad: bool
) -> State:
    """One problem, z (n, m)."""
    m = z.shape[1]
    scale, mean = products.row_statistics(z, normalize)
    unit = 1.0
    if not normalize:
        unit = _unit(z)
        scale, mean = scale * unit, mean * unit
    double = z.dtype == torch.float64 or precision == "double"
    target, ridge = unit / math.sqrt(m), eps * unit * unit

    mean_square = (mean * mean).sum()
    row_noise = ROW_UNIT**2 * mean_square

    def ritz(v: Tensor) -> Tensor:  # v^T S v (q, q) float64 of directions v (m, q), from Xc v
        out = torch.zeros(v.shape[1], v.shape[1], dtype=torch.float64, device=z.device)
        for start in range(0, z.shape[0], products.CHUNK):
            part = slice(start, start + products.CHUNK)
            b = (z[part].float() @ v).double() * scale[part, None] - mean @ v.double()
            out.addmm_(b.mT, b, alpha=1 / z.shape[0])
        return out

    def solve(dtype: torch.dtype) -> Root:
        plain = not normalize and unit == 1.0
        s = products.symmetric_product(
            z, dtype, covariance=True, scale=None if plain else scale, mean=mean
        ).div_(z.shape[0])
        noise = torch.maximum(noise_level(s, dtype), row_noise)
        look = precision == "auto" and dtype == torch.float32 and _in_range(scale, normalize)
        return inverse_root(
            s,
            noise,
            target=target,
            eps=ridge,
            solver=solver,
            basis=with_grad,
            ritz=ritz if look else None,
        )

    deep = double
    root = solve(torch.float64 if double else torch.float32)
    if precision == "auto" and not double and bool(root.error > ACCEPTED_ERROR):
        deep = True
        root = solve(torch.float64)
    value = (mean_square + root.distance) / unit**2
    if not with_grad:
        empty = root.inverse.new_empty(0, 0)
        return State(value, empty, scale, mean, torch.tensor(deep, device=z.device))
    # z Q - mu Q cancels the mean, in float32 to |mu| |Q|_F units; a row of P has norm sqrt m
    lost = torch.linalg.vector_norm(root.inverse, dtype=torch.float64) * mean_square.sqrt()
    lost = lost / math.sqrt(m)
    deep = deep or bool(lost * torch.finfo(torch.float32).eps > ACCEPTED_ERROR)
    deep = deep or not _in_range(scale, normalize)
    return State(value, root.inverse, scale, mean, torch.tensor(deep, device=z.device))


def _unit(z: Tensor) -> float:
    """1, or the factor that brings the largest entry of raw rows out of a range that float32
    cannot square."""
    largest = float(z.abs().amax())
    if SAFE_NORM[0] <= largest <= SAFE_NORM[1] or largest == 0 or not math.isfinite(largest):
        return 1.0
    return 1.0 / largest


def _in_range(scale: Tensor, normalize: bool) -> bool:
    """Whether float32 may hold the products of the backward. A zero row has scale 0: harmless."""
    if not normalize:
        return float(scale[0]) == 1.0
    low, high = 1 / SAFE_NORM[1], 1 / SAFE_NORM[0]
    return bool(((scale == 0) | ((scale >= low) & (scale <= high)) | scale.isnan()).all())


def backward(z: Tensor, state: State, coefficient: Tensor, normalize: bool) -> Tensor:
    """coefficient * dW2^2/dz, in the dtype of z. coefficient () float64."""
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
        native.tangent_epilogue_(t, z, a=times, inv=inv, shift=shift, c=float(c))
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
