"""What the fuzzer and the sanitizers found, each as the smallest case that shows it."""

import math

import pytest
import torch
from torch import Tensor

import wssl_fast as wf
from tests.tolerances import contract_tolerance
from wssl_fast import reference
from wssl_fast.backends import native


@pytest.fixture(autouse=True, params=["compiled", "plain"])
def _backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "plain":
        monkeypatch.setattr(native, "_module", None)


def near(got: Tensor, want: Tensor) -> None:
    assert got.isfinite().all()
    limit = contract_tolerance(got.dtype)
    assert (got.double() - want).norm() <= limit * want.norm()


# L_U of raw rows: squares and exponents out of range


@pytest.mark.parametrize("size", [1e8, 1e17, 1e25])
@pytest.mark.parametrize("t", [1e-3, 2.0])
def test_uniformity_of_raw_rows_as_large_as_they_come(size: float, t: float) -> None:
    z = (size * torch.diag(torch.arange(1.0, 5.0))).requires_grad_()  # one nearest pair
    value = wf.uniformity(z, t=t, normalize=False)
    want = reference.uniformity(z.detach(), t=t, normalize=False)
    if want < -torch.finfo(torch.float32).max:
        assert value == -math.inf
    else:  # |x|^2 / |x_i - x_j|^2 = 3 units
        assert value.item() == pytest.approx(want.item(), rel=1e-6)
    (grad,) = torch.autograd.grad(value, z)
    truth = reference.uniformity_grad(z.detach(), t=t, normalize=False)
    assert grad.isfinite().all()
    assert (grad.double() - truth).norm() <= truth.norm() / 16  # six bits of each exponent, m = 4


@pytest.mark.parametrize("size", [1e8, 1e17, 1e25])
def test_equal_rows_among_rows_as_large_as_they_come(size: float) -> None:
    z = size * torch.eye(5, 3)  # the last two are equal
    value = wf.uniformity(z, normalize=False)
    assert value.item() == pytest.approx(-math.log(10), abs=0.1)  # six bits of the exponent


def test_uniformity_of_unit_rows_at_any_temperature() -> None:
    z = torch.eye(4) - 0.25
    want = -(1 + 1 / 3) * 2
    for t in (1e8, 1e20, 1e36):
        assert wf.uniformity(z, t=t).item() == pytest.approx(want * t, rel=1e-6)


def test_the_reference_gradient_of_uniformity_sees_no_mean() -> None:
    z = torch.randn(9, 4, dtype=torch.float64).mul(2**20).round() / 2**20
    far = reference.uniformity_grad(z + 2**20, normalize=False)  # exact: 41 bits
    want = reference.uniformity_grad(z, normalize=False)
    assert (far - want).norm() <= 1e-13 * want.norm()


# powers of a distance out of the range of float32, where the gradient is not


@pytest.mark.parametrize(("alpha", "size"), [(0.5, 1e-28), (0.5, 1e31), (3.5, 1e12), (3.0, 1e-16)])
def test_alignment_gradient_where_powers_leave_the_range(alpha: float, size: float) -> None:
    x, y = size * torch.randn(6, 4), size * torch.randn(6, 4)
    leaves = x.requires_grad_(), y.requires_grad_()
    value = wf.alignment(*leaves, alpha=alpha, normalize=False)
    grads = torch.autograd.grad(value, leaves)
    truths = reference.alignment_grad(x, y, alpha=alpha, normalize=False)
    for grad, truth in zip(grads, truths, strict=True):
        near(grad, truth)


# what one row tells of another


def test_rows_of_zeros_are_nan_too_in_a_problem_that_is() -> None:
    for shape in ((9, 4), (4, 9)):
        z = torch.randn(shape)
        z[2] = 0
        z[0, 0] = math.nan
        for loss in (wf.wasserstein_uniformity, wf.uniformity):
            leaf = z.clone().requires_grad_()
            loss(leaf).backward()
            assert leaf.grad is not None
            assert leaf.grad.isnan().all()
