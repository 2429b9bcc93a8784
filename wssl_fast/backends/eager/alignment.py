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
    power = torch.where(distance > 0, distance.pow(alpha - 2), 0.0)
    power = torch.where(distance.sum().isfinite(), power, torch.nan)
    d.mul_((power * (alpha / len(x)))[:, None].to(d.dtype))
    dx = _tangent(d, a, inv_x, grad) if normalize else d * grad
    dy = _tangent(-d, b, inv_y, grad) if normalize else -d * grad
    return dx.to(x.dtype), dy.to(y.dtype)


def _rows(z: Tensor, normalize: bool) -> tuple[Tensor, Tensor]:
    if not normalize:
        return torch.ones(len(z), dtype=torch.float64, device=z.device), z.to(working_dtype(z))
    return products.unit_rows(z, working_dtype(z))


def _tangent(g: Tensor, unit: Tensor, inv: Tensor, grad: Tensor) -> Tensor:
    """grad D (g - <g, x> x): the derivative through x = z / |z|."""
    return (g - (g * unit).sum(1, keepdim=True) * unit).mul_((grad * inv)[:, None])
