"""How a peer is called: one batch of raw rows in, a scalar out."""

from collections.abc import Callable

import torch
from torch import Tensor

Loss = Callable[[Tensor], Tensor]


def two_views(loss: Callable[[Tensor, Tensor], Tensor]) -> Loss:
    """A loss of two views as a loss of their concatenation: the rows' halves are the views."""

    def of_halves(z: Tensor) -> Tensor:
        z_a, z_b = z.chunk(2)
        return loss(z_a, z_b)

    return of_halves


def value_and_gradient(loss: Loss, z: Tensor) -> tuple[Tensor, Tensor]:
    """Forward and backward of `loss` at z: the scalar and dloss/dz (n x m)."""
    leaf = z.detach().requires_grad_()
    value = loss(leaf)
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.detach(), gradient
