"""What the public functions do to tensors before they call an operator."""

import math

import torch
from torch import Tensor


def fold(z: Tensor) -> Tensor:
    """Leading dimensions as one: (..., n, m) -> (b, n, m)."""
    # -1 would be ambiguous under a vmap over nothing
    return z.reshape(math.prod(z.shape[:-2]), *z.shape[-2:]) if z.dim() != 2 else z[None]


def unfold(output: Tensor, batch: torch.Size) -> Tensor:
    """Leading dimensions again: (b, ...) -> (*batch, ...). A copy: the operator may keep its own
    for the backward, and `loss += other` of a caller must not change that."""
    return output.reshape(batch + output.shape[1:]).clone()


def wants_grad(*tensors: Tensor) -> bool:
    """Whether a backward may follow for any of these."""
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
