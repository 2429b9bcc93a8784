"""What one forward of W2 leaves for its backward."""

from typing import NamedTuple

import torch
from torch import Tensor


class State(NamedTuple):
    value: Tensor
    """W2^2, float64. ()"""
    weights: Tensor
    """W (n, n) of the Gram formulation, or S^(-1/2) (m, m) of the covariance formulation;
    (0, 0) when no gradient is wanted."""
    scale: Tensor
    """Diagonal of D: 1/|z_i|, 0 for zero rows; one common factor on raw rows. float64 (n,)"""
    mean: Tensor
    """Mean of the rows D z in the covariance formulation, else empty. float64 (m,) or (0,)"""
    deep: Tensor
    """Whether the product of the backward needs float64: bool ()"""


def weights_dtype(dtype: torch.dtype, precision: str) -> torch.dtype:
    """The weights are kept in float64 where a float64 pass may have made them: rounding them to
    float32 costs |W| eps, which at a resolution of 1e-6 is larger than the gradient."""
    if dtype == torch.float64 or precision in ("auto", "double"):
        return torch.float64
    return torch.float32
