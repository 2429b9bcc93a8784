"""What the public functions do to tensors before they call an operator."""

import torch
from torch import Tensor


def fold(z: Tensor) -> Tensor:
    """Leading dimensions as one: (..., n, m) -> (b, n, m)."""
    return z.reshape(-1, *z.shape[-2:]) if z.dim() != 2 else z[None]


def wants_grad(*tensors: Tensor) -> bool:
    """Whether a backward may follow for any of these."""
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
