"""W2 by GPU kernels, whoever wrote them, held to the rules of tolerances.py.

On a CUDA machine tensors go there; elsewhere they stay on the CPU, where Triton's interpreter and
the emulator of tests/cuda run the kernels.
"""

import torch
from torch import Tensor

import wssl_fast as wf
from tests.tolerances import (
    ONE_PASS,
    gradient_error,
    gradient_tolerance,
    resolution,
    unseen,
    value_tolerance,
)
from wssl_fast import reference

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def w2(z: Tensor, **keywords: object) -> tuple[Tensor, Tensor]:
    """W2 and the gradient of W2^2, on the CPU. One forward: W2 is the root of what it returns."""
    leaf = z.detach().to(DEVICE).requires_grad_()
    squared = wf.wasserstein_uniformity(leaf, squared=True, **keywords)
    (grad,) = torch.autograd.grad(squared.sum(), leaf)
    return squared.detach().cpu().sqrt(), grad.cpu()


def allowed(z: Tensor, precision: str, normalize: bool = True) -> float:
    """Largest error of the value."""
    return value_tolerance(precision, z.dtype) + (
        unseen(z, normalize=normalize) if precision in (*ONE_PASS, "medium") else 0.0
    )


def check(z: Tensor, precision: str, *, normalize: bool = True) -> None:
    """Value and gradient of one problem against the reference."""
    value, grad = w2(z, precision=precision, normalize=normalize)
    want = reference.wasserstein_uniformity(z, normalize=normalize).item()
    assert abs(value.item() - want) <= allowed(z, precision, normalize) * max(1.0, want)
    # medium keeps what one pass keeps: its rows are rounded to 16 bits, not its products
    rule = "high" if precision == "medium" else precision
    error = gradient_error(
        grad,
        z,
        normalize=normalize,
        above=resolution(rule, z.dtype),
        null=precision not in ONE_PASS,
    )
    assert error <= gradient_tolerance(rule, z.dtype, solver="newton_schulz")
