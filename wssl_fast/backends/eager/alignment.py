"""Alignment A = mean_i |x_i - y_i|^alpha of paired rows, and its gradient.

dA/dx_i = alpha/n |x_i - y_i|^(alpha - 2) (x_i - y_i),   0 where x_i = y_i
"""

import torch
from torch import Tensor

from wssl_fast.backends.eager import products
from wssl_fast.backends.eager.numerics import working_dtype


def forward(x: Tensor, y: Tensor, alpha: float, normalize: bool) -> Tensor:
    """One problem, x and y (n, m). float64 ()"""
    a, b = _rows(x, normalize)[1], _rows(y, normalize)[1]
    distance: Tensor = torch.linalg.vector_norm(a - b, dim=1, dtype=torch.float64)
    mean = distance.pow(alpha).mean()
    return torch.where(mean.isfinite(), mean, torch.nan)


def backward(
    x: Tensor, y: Tensor, grad: Tensor, alpha: float, normalize: bool
) -> tuple[Tensor, Tensor]:
    """grad * dA/dx and grad * dA/dy in the dtype of x. grad () float64."""
    (inv_x, a), (inv_y, b) = _rows(x, normalize), _rows(y, normalize)
    d = a - b  # (n, m)
    distance = torch.linalg.vector_norm(d, dim=1, dtype=torch.float64)
    # directions first: a power of the distance may leave the range of d, where d times it does not
    d.div_(torch.where(distance > 0, distance, 1.0)[:, None])
    slope = torch.where(distance > 0, distance.pow(alpha - 1), 0.0) * (grad * alpha / len(x))
    slope = torch.where(distance.sum().isfinite(), slope, torch.nan)  # (n,)
    if normalize:
        dx, dy = _tangent(d, a, inv_x, slope), _tangent(-d, b, inv_y, slope)
        return dx.to(x.dtype), dy.to(y.dtype)
    d.mul_(slope[:, None])
    return d.to(x.dtype), (-d).to(y.dtype)


def _rows(z: Tensor, normalize: bool) -> tuple[Tensor, Tensor]:
    if not normalize:
        return torch.ones(len(z), dtype=torch.float64, device=z.device), z.to(working_dtype(z))
    return products.unit_rows(z, working_dtype(z))


def _tangent(g: Tensor, unit: Tensor, inv: Tensor, slope: Tensor) -> Tensor:
    """diag(slope) D (g - <g, x> x): the derivative through x = z / |z|. slope, inv (n,) float64."""
    return (g - (g * unit).sum(1, keepdim=True) * unit).mul_((slope * inv)[:, None])
