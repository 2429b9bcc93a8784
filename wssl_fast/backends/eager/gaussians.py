"""W2^2 between Gaussians, float64 inside.

    W2^2 = |mu_x - mu_y|^2 + tr Sx + tr Sy - 2 tr (Sx^(1/2) Sy Sx^(1/2))^(1/2)

From batches with n_x, n_y <= m the last trace is |Xc Yc^T|_* / sqrt(n_x n_y), an n_x x n_y problem;
with its polar factor O (n_x, n_y) the gradient is dXc = 2/n_x Xc - 2/sqrt(n_x n_y) O Yc.
From covariances it is |Sx^(1/2) Sy^(1/2)|_*, and the optimal transport map Kx from x to y gives

    dW2^2/dSx = I - Kx,   Kx = Sy^(1/2) (Sy^(1/2) Sx Sy^(1/2))^(-1/2) Sy^(1/2)

with a pseudo-inverse root; Xc Kx = O Yc, so a batch is pulled into directions that it lacks.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from wssl_fast.backends.eager import products
from wssl_fast.backends.eager.numerics import ROW_UNIT, noise_level
from wssl_fast.backends.eager.roots import inverse_root
from wssl_fast.backends.eager.sqrtm import symmetric_part


def polar_factor(b: Tensor, solver: str, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """O = b R (p, q), R = (b^T b)^(-1/2) (q, q) and |b|_* of b (p, q) float64, q <= p. Singular
    values that are rounding of entries of size `scale` count as null."""
    gram = b.mT @ b
    noise = torch.maximum(noise_level(gram, torch.float64), (ROW_UNIT * scale) ** 2)
    root = inverse_root(gram, noise, target=0.0, eps=0.0, solver=solver).inverse
    o = b @ root
    return o, root, (o * b).sum()


class BatchPair(NamedTuple):
    value: Tensor
    """W2^2, float64. ()"""
    left: Tensor
    """O (n_x, n_y) of the Gram formulation, or Kx (m, m)."""
    right: Tensor
    """O^T, or Ky (m, m)."""


def gram_formulation(n_x: int, n_y: int, m: int, eps: float) -> bool:
    return eps == 0.0 and max(n_x, n_y) <= m


def frechet_forward(x: Tensor, y: Tensor, eps: float, solver: str) -> BatchPair:
    """x (n_x, m), y (n_y, m)."""
    mx, my = _mean(x), _mean(y)
    gap = ((mx - my) ** 2).sum()
    (n_x, m), n_y = x.shape, len(y)
    if gram_formulation(n_x, n_y, m, eps):
        b = torch.zeros(n_x, n_y, dtype=torch.float64, device=x.device)
        tx = ty = torch.zeros((), dtype=torch.float64, device=x.device)
        for start in range(0, m, products.CHUNK):
            part = slice(start, start + products.CHUNK)
            xc, yc = x[:, part].double() - mx[part], y[:, part].double() - my[part]
            b.addmm_(xc, yc.mT)
            tx, ty = tx + (xc * xc).sum() / n_x, ty + (yc * yc).sum() / n_y
        b.div_((n_x * n_y) ** 0.5)
        tall = n_x >= n_y
        o, _, nuclear = polar_factor(b if tall else b.mT, solver, (tx * ty).sqrt())
        o = o if tall else o.mT
        return BatchPair(gap + tx + ty - 2 * nuclear, o, o.mT)
    sx, sy = (
        products.symmetric_product(a, torch.float64, covariance=True, mean=mean).div_(len(a))
        for a, mean in ((x, mx), (y, my))
    )
    sx.diagonal().add_(eps)
    sy.diagonal().add_(eps)
    value, kx, ky = covariance_distance(sx, sy, solver)
    return BatchPair(gap + value, kx, ky)


def spread(x: Tensor, y: Tensor, eps: float) -> Tensor:
    """sqrt(tr Sx + tr Sy), float64 (): what a distance between two batches is small against."""
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    for z in (x, y):
        mean = _mean(z)
        for start in range(0, len(z), products.CHUNK):
            total += ((z[start : start + products.CHUNK].double() - mean) ** 2).sum() / len(z)
    return (total + 2 * eps * x.shape[1]).sqrt()


def frechet_backward(
    x: Tensor, y: Tensor, left: Tensor, right: Tensor, eps: float, grad: Tensor
) -> tuple[Tensor, Tensor]:
    """grad * dW2^2/dx and dy, in the dtypes of x and y. grad () float64."""
    mx, my = _mean(x), _mean(y)
    gram = gram_formulation(len(x), len(y), x.shape[1], eps)

    def one(a: Tensor, b: Tensor, ma: Tensor, mb: Tensor, weights: Tensor) -> Tensor:
        n = len(a)
        out = torch.empty(a.shape, dtype=a.dtype, device=a.device)
        if gram:
            c = 2 / (n * len(b)) ** 0.5
            for start in range(0, a.shape[1], products.CHUNK):
                p = slice(start, start + products.CHUNK)
                pushed = (a[:, p].double() - mb[p]) * (2 / n)
                pushed -= c * (weights @ (b[:, p].double() - mb[p]))
                out[:, p] = (grad * pushed).to(a.dtype)
            return out
        for start in range(0, n, products.CHUNK):
            p = slice(start, start + products.CHUNK)
            ac = a[p].double() - ma
            out[p] = (grad * (2 / n) * (ac - ac @ weights + (ma - mb))).to(a.dtype)
        return out

    return one(x, y, mx, my, left), one(y, x, my, mx, right)


def covariance_distance(sx: Tensor, sy: Tensor, solver: str) -> tuple[Tensor, Tensor, Tensor]:
    """tr Sx + tr Sy - 2 tr (Sx^(1/2) Sy Sx^(1/2))^(1/2), Kx and Ky. (), (m, m), (m, m) float64"""
    hx, hy = _root(sx), _root(sy)
    # of the roots: a trace would count the negative eigenvalues that rounding has made
    tx, ty = hx.square().sum(), hy.square().sum()
    scale = (tx * ty).sqrt()
    o, r, nuclear = polar_factor(hx @ hy, solver, scale)
    kx, ky = hy @ r @ hy, hx @ (o @ r @ o.mT) @ hx
    return tx + ty - 2 * nuclear, symmetric_part(kx), symmetric_part(ky)


def _root(s: Tensor) -> Tensor:
    """S^(1/2), directions below the rounding of S as 0."""
    root = inverse_root(s, noise_level(s, torch.float64), target=0.0, eps=0.0, solver="eigh")
    return symmetric_part(s @ root.inverse)


def _mean(z: Tensor) -> Tensor:
    return z.mean(0, dtype=torch.float64)
