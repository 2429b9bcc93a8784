"""torch.compile and opcheck: every operator, every public function."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import wssl_fast as wf

OPS = torch.ops.wssl_fast
SEED = 7


def rows(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(SEED)).requires_grad_()


def spd() -> Tensor:
    z = rows(2, 9, 6).detach()
    return (z.mT @ z).requires_grad_()


def other(x: Tensor) -> Tensor:
    return x.detach().roll(1, 0).requires_grad_()


WIDE, TALL, VECTORS = (2, 6, 9), (2, 9, 6), (2, 6)
NEWTON_SCHULZ = ("newton_schulz", "highest", True, "auto")
OPERATORS: dict[str, Callable[[], tuple[object, ...]]] = {
    "w2_gram": lambda: (rows(*WIDE), True, False, 0.0, "eigh", "auto", True, "auto"),
    "w2_covariance": lambda: (rows(*TALL), True, True, 1e-3, *NEWTON_SCHULZ),
    "uniformity": lambda: (rows(*WIDE), 2.0, True, True),
    "alignment": lambda: (rows(*WIDE), other(rows(*WIDE)), 2.0, True),
    "batch_covariance": lambda: (rows(*TALL), True),
    "gaussian_w2": lambda: (rows(*VECTORS), spd(), other(rows(*VECTORS)), other(spd()), False),
    "frechet_distance": lambda: (rows(*WIDE), rows(2, 5, 9), True, 0.0, "eigh"),
    "matrix_root": lambda: (spd(), False, "eigh", "auto"),
    "covariance_spectrum": lambda: (rows(*WIDE), True),
    "effective_rank": lambda: (rows(*WIDE), True),
    "rankme": lambda: (rows(*TALL), True),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_opcheck(name: str) -> None:
    torch.library.opcheck(getattr(OPS, name).default, OPERATORS[name]())


def test_every_differentiable_operator_is_listed() -> None:
    found = {name.split("::")[1].split(".")[0] for name in torch._C._dispatch_get_all_op_names()
             if name.startswith("wssl_fast::")}  # fmt: skip
    assert {name for name in found if not name.endswith("_backward")} == set(OPERATORS)


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "wasserstein_uniformity": wf.wasserstein_uniformity,
    "newton_schulz": lambda z: wf.wasserstein_uniformity(z, solver="newton_schulz"),
    "squared": lambda z: wf.wasserstein_uniformity(z, squared=True, normalize=False),
    "uniformity": wf.uniformity,
    "alignment": lambda z: wf.alignment(z, z.flip(0)),
    "frechet_distance": lambda z: wf.frechet_distance(z, z.detach() * 2),
    "gaussian_w2": lambda z: wf.gaussian_w2(*wf.batch_covariance(z)),
    "matrix_sqrt": lambda z: wf.matrix_sqrt(z.mT @ z).sum(),
    "matrix_inv_sqrt": lambda z: wf.matrix_inv_sqrt(z.mT @ z + torch.eye(z.shape[1])).sum(),
    "effective_rank": wf.effective_rank,
    "rankme": wf.rankme,
    "covariance_spectrum": lambda z: wf.covariance_spectrum(z)[..., 0].sum(),
    "loss": lambda z: wf.nn.WassersteinUniformityLoss(0.2)(z, z * 0.5),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_fullgraph_compile_equals_eager(name: str) -> None:
    """backend aot_eager: the whole graph, forward and backward, without code generation, whose
    rounding is not this package's."""
    f = FUNCTIONS[name]
    z = rows(7, 5)
    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    value, expected = compiled(z), f(z)
    (grad,) = torch.autograd.grad(value, z)
    (expected_grad,) = torch.autograd.grad(expected, z)
    torch.testing.assert_close(value, expected, rtol=0, atol=0)
    torch.testing.assert_close(grad, expected_grad, rtol=0, atol=0)


def test_one_step_with_the_default_compiler() -> None:
    """A training step as a user writes it, code generation included."""
    layer = torch.nn.Linear(12, 16)
    x = rows(8, 12).detach()

    def loss(x: Tensor) -> Tensor:
        z = layer(x)
        return z.square().mean() + wf.nn.WassersteinUniformityLoss(0.5)(z)

    value = torch.compile(loss, fullgraph=True)(x)
    (grad,) = torch.autograd.grad(value, layer.weight)
    (expected,) = torch.autograd.grad(loss(x), layer.weight)
    torch.testing.assert_close(grad, expected, rtol=1e-4, atol=1e-6)


def test_last_batch_is_smaller() -> None:
    """n changes, and with it the formulation, under one compiled function."""
    compiled = torch.compile(wf.wasserstein_uniformity, fullgraph=True, backend="aot_eager")
    for n in (12, 9, 8, 7, 3):
        z = rows(n, 8)
        torch.testing.assert_close(compiled(z), wf.wasserstein_uniformity(z), rtol=0, atol=0)
