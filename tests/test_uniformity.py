"""`uniformity` where its blocks, its exponent and its Gram form could lose digits."""

import math

import pytest
import torch
from torch import Tensor

import wssl_fast as wf
from tests.tolerances import by_direction
from tests.zoo import BY_NAME
from wssl_fast import reference


def check(z: Tensor, *, t: float = 2.0, normalize: bool = True, rtol: float = 1e-5) -> None:
    """Value to 1e-5 and gradient to `rtol` of its norm, against the reference."""
    leaf = z.clone().requires_grad_()
    value = wf.uniformity(leaf, t=t, normalize=normalize)
    value.backward()
    want = reference.uniformity(z, t=t, normalize=normalize).item()
    assert value.item() == pytest.approx(want, rel=1e-6, abs=1e-5)
    assert leaf.grad is not None
    got = by_direction(leaf.grad, z, normalize)
    truth = by_direction(reference.uniformity_grad(z, t=t, normalize=normalize), z, normalize)
    assert (got - truth).norm() <= rtol * truth.norm() + 1e-12


@pytest.mark.parametrize("n", [2, 3, 511, 512, 513, 1025])
@pytest.mark.parametrize("normalize", [True, False])
def test_across_block_boundaries(n: int, normalize: bool) -> None:
    # e^(-t d^2) of exponents up to 8 (unit rows) keeps 1e-6
    check(torch.randn(n, 17) * (1.0 if normalize else 0.4), normalize=normalize)


@pytest.mark.parametrize("t", [1e-3, 0.5, 20.0, 200.0, 2e4])
def test_temperatures_to_underflow(t: float) -> None:
    # an exponent of t |d|^2 = 4 t is known to 4 t eps: the sum is then only as good; what is left
    # at t = 2e4 is the nearest pair, and no 0 / 0
    check(torch.randn(40, 6), t=t, rtol=max(1e-5, 16 * t * torch.finfo(torch.float32).eps))


def test_far_apart_raw_rows_do_not_underflow() -> None:
    z = 1e3 * torch.eye(5)  # every pair at t d^2 = 4e6
    value = wf.uniformity(z, normalize=False)
    assert value.item() == pytest.approx(-4e6, rel=1e-6)


@pytest.mark.parametrize("name", ["duplicated_rows", "zero_rows", "near_constant", "clusters"])
def test_close_and_equal_rows(name: str) -> None:
    # |x_i - x_j|^2 from a Gram is off by 2 eps, t times that on the exponent: nothing beside 1;
    # the gradient of a near-constant batch is a difference of rows that agree to 0.03
    check(BY_NAME[name](48, 80), rtol=1e-4 if name == "near_constant" else 1e-5)


@pytest.mark.parametrize("name", ["tiny_norms", "huge_norms", "mixed_norms"])
def test_norms_out_of_range(name: str) -> None:
    check(BY_NAME[name](48, 80))


def test_a_large_mean_costs_raw_rows_no_digit() -> None:
    z = (torch.randn(30, 8, dtype=torch.float64) * 0.3 + 1000).float()
    check(z, normalize=False, rtol=1e-5)


def test_constant_rows() -> None:
    z = torch.full((7, 4), 0.3, requires_grad=True)
    value = wf.uniformity(z)
    value.backward()
    assert value.item() == pytest.approx(0.0, abs=1e-6)
    assert z.grad is not None
    assert z.grad.abs().max() < 1e-5


def test_antipodal_pairs() -> None:
    assert wf.uniformity(torch.tensor([[2.0], [-3.0]]), t=1.0).item() == pytest.approx(-4.0)
    simplex = torch.eye(4) - 0.25
    assert wf.uniformity(simplex, t=1.0).item() == pytest.approx(-2 * (1 + 1 / 3), abs=1e-6)
    assert math.isfinite(wf.uniformity(simplex, t=1e6).item())
