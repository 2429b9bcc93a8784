"""W2 by GPU kernels, whoever wrote them, held to the rules of tolerances.py.

On a CUDA machine tensors go there; elsewhere they stay on the CPU, where Triton's interpreter and
the emulator of tests/cuda run the kernels.
"""

from collections.abc import Callable

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


def placed(z: Tensor) -> Tensor:
    """z where kernels read it, with its strides and its offset: `.to` packs what is not dense."""
    flat = torch.empty(0, dtype=z.dtype).set_(z.detach().untyped_storage())
    return flat.to(DEVICE).as_strided(z.shape, z.stride(), z.storage_offset())


def w2(z: Tensor, **keywords: object) -> tuple[Tensor, Tensor]:
    """W2 and the gradient of W2^2, on the CPU. One forward: W2 is the root of what it returns."""
    leaf = placed(z).requires_grad_()
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


def nan_stays_in_its_problem(bad: float, shape: tuple[int, int], normalize: bool) -> None:
    """A NaN or an infinity in the second of three problems."""
    z = torch.randn(3, *shape)
    z[1, 2, 3] = bad
    value, grad = w2(z, normalize=normalize)
    assert value.isnan().tolist() == [False, True, False]
    assert grad[1].isnan().all()
    assert grad[0].isfinite().all()
    assert grad[2].isfinite().all()


def nothing_is_unwritten_or_differs_twice(shape: tuple[int, int], **keywords: object) -> None:
    """With memory that holds NaN: the fixture `poisoned`."""
    z = torch.randn(2, *shape)
    for one, other in zip(w2(z, **keywords), w2(z, **keywords), strict=True):
        assert one.isfinite().all()
        assert torch.equal(one, other)


def a_graph_replays(
    shape: tuple[int, int], function: Callable[[Tensor], Tensor] = wf.wasserstein_uniformity
) -> None:
    """Forward and backward captured in a CUDA graph give the bits of an ordinary call."""
    z = torch.randn(shape, device="cuda", requires_grad=True)

    def step() -> tuple[Tensor, Tensor]:
        value = function(z)
        return value, torch.autograd.grad(value, z)[0]

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        step()  # compiles what is Triton's
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):  # any synchronisation is an error here
        captured = step()
    for _ in range(3):
        with torch.no_grad():
            z.copy_(torch.randn_like(z))
        graph.replay()
        for one, other in zip(captured, step(), strict=True):
            assert torch.equal(one, other)


def far_from_its_target(n: int, m: int) -> None:
    """Raw rows of rank 2 and norms of 1e6: W2^2 is |mu|^2 + tr S, and nothing of Q.

    |Y|_F^2 in its place carries the rounding of Q, 3e-4 of it beside null directions.
    """
    z = 1e6 * torch.randn(n, 2) @ torch.randn(2, m)
    value, _ = w2(z, precision="highest", normalize=False)
    want = reference.wasserstein_uniformity(z, normalize=False)
    # a float32 sum of k squares, 4 sqrt(k) units, and a half of it in the root
    unit = torch.finfo(z.dtype).eps * min(n, m) ** 0.5
    assert abs(value / want - 1) <= 2 * unit
