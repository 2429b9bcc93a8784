"""Part (a): value and gradient of the loss against the float64 truth."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

import wssl_fast as wf
from benchmarks.batches import collapsed, healthy, near_constant
from benchmarks.demo.tables import Table
from benchmarks.peers import value_and_gradient
from wssl_fast import reference

BATCHES: Sequence[tuple[str, Callable[[int, int], Tensor]]] = (
    ("healthy", healthy),
    ("rank 12 + noise at 1e-4", collapsed),
    ("near-constant", near_constant),
)


def compare(shapes: Sequence[tuple[int, int]], on_case: Callable[[], None]) -> Table:
    """One row a batch and shape: W2 in float32 beside the truth, and the gradient's error."""
    rows = []
    for n, m in shapes:
        for name, batch in BATCHES:
            z = batch(n, m)
            value, gradient = value_and_gradient(wf.wasserstein_uniformity, z)
            true_value = reference.wasserstein_uniformity(z).item()
            true_gradient = reference.wasserstein_uniformity_grad(z)
            error = (gradient.double() - true_gradient).norm() / true_gradient.norm()
            rows.append(
                [
                    name,
                    f"{n} x {m}",
                    f"{value.item():.6f}",
                    f"{true_value:.6f}",
                    f"{abs(value.item() - true_value):.0e}",
                    f"{error.item():.0e}",
                    f"{cosine(gradient, true_gradient):.6f}",
                ]
            )
            on_case()
    return Table(
        title="W2 and its gradient against the float64 truth",
        header=["batch (float32)", "n x m", "W2", "truth", "error", "gradient error", "cosine"],
        rows=rows,
        note="Truth: float64 singular value decomposition of the centred rows. "
        "Gradient error: relative, in the Frobenius norm.",
    )


def cosine(gradient: Tensor, truth: Tensor) -> float:
    """Cosine between two gradients as vectors, in float64; NaN if either holds one."""
    a, b = gradient.double().flatten(), truth.double().flatten()
    return (torch.dot(a, b) / (a.norm() * b.norm())).item()
