"""From squared distances to the value asked for, and back: shared by every W2."""

import torch
from torch import Tensor

from wssl_fast.ops._library import stack


def finish(squared_values: list[Tensor], squared: bool, dtype: torch.dtype) -> Tensor:
    """W2^2 of each problem, clamped at 0, or its root, in the dtype of results. (b,)"""
    value = stack(squared_values)
    value = torch.where(value < 0, 0.0, value)
    value = torch.where(value.isfinite(), value, torch.nan)
    return (value if squared else value.sqrt()).to(dtype)


def slope(grad: Tensor, value: Tensor, squared: bool, scale: Tensor | None = None) -> Tensor:
    """Upstream gradient of W2^2 from that of the value, float64 (b,).

    Of W2 itself: 1/(2 max(W2, sqrt(u) scale)), u the unit of the dtype of the value and `scale` the
    size of the two spectra, float64 (b,), 1 by default: so the gradient is finite, and zero, at
    W2 = 0. NaN where the value is.
    """
    if squared:
        return torch.where(value.isnan(), torch.nan, grad.double())
    floor = torch.ones_like(value, dtype=torch.float64) if scale is None else scale
    floor = (floor * torch.finfo(value.dtype).eps ** 0.5).clamp_min(torch.finfo(torch.float64).tiny)
    return grad.double() / (2 * torch.maximum(value.double(), floor))
