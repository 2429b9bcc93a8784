"""`matrix_sqrt` and `matrix_inv_sqrt` over condition numbers, solvers and singular matrices."""

import pytest
import torch
from torch import Tensor

import wssl_fast as wf
from tests.tolerances import root_tolerance
from wssl_fast import reference

SOLVERS = pytest.mark.parametrize("solver", ["eigh", "newton_schulz"])


def spd(k: int, kappa: float, dtype: torch.dtype = torch.float64) -> Tensor:
    """Eigenvalues log-spaced from 1 to 1/kappa."""
    q = torch.linalg.qr(torch.randn(k, k, dtype=torch.float64)).Q
    values = kappa ** -torch.linspace(0, 1, k, dtype=torch.float64)
    a = (q * values) @ q.T
    return ((a + a.T) / 2).to(dtype)


@SOLVERS
@pytest.mark.parametrize("kappa", [1.0, 1e2, 1e4])
@pytest.mark.parametrize("k", [1, 2, 33])
def test_roots_and_their_gradients(solver: str, kappa: float, k: int) -> None:
    a = spd(k, kappa, torch.float32)
    upstream = torch.randn(k, k)
    for name in ("matrix_sqrt", "matrix_inv_sqrt"):
        leaf = a.clone().requires_grad_()
        root = getattr(wf, name)(leaf, solver=solver)
        want = getattr(reference, name)(a)
        assert (root - want).norm() <= root_tolerance(kappa) * want.norm(), name
        root.backward(upstream)
        truth = getattr(reference, name + "_grad")(a, upstream)
        assert leaf.grad is not None
        assert (leaf.grad - truth).norm() <= root_tolerance(kappa) * truth.norm(), name
        torch.testing.assert_close(leaf.grad, leaf.grad.mT)


@SOLVERS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_defining_equations(solver: str, dtype: torch.dtype) -> None:
    a = torch.stack([spd(20, kappa, dtype) for kappa in (1.0, 10.0, 1e3)])
    root = wf.matrix_sqrt(a, solver=solver)
    inverse = wf.matrix_inv_sqrt(a, solver=solver)
    eye = torch.eye(20, dtype=dtype).expand(3, 20, 20)
    limit = root_tolerance(1e3, dtype)
    torch.testing.assert_close(root, root.mT)
    torch.testing.assert_close(root @ root, a, rtol=0, atol=limit)
    torch.testing.assert_close(root @ inverse, eye, rtol=0, atol=20 * limit)
    # the gradient of tr A^(1/2) is A^(-1/2) / 2
    leaf = a.clone().requires_grad_()
    wf.matrix_sqrt(leaf, solver=solver).diagonal(dim1=-2, dim2=-1).sum().backward()
    assert leaf.grad is not None
    torch.testing.assert_close(leaf.grad, inverse / 2, rtol=0, atol=limit * inverse.abs().max())


@SOLVERS
@pytest.mark.parametrize("scale", [1e-30, 1e-8, 1e8, 1e30])
def test_scale(solver: str, scale: float) -> None:
    a = spd(12, 100.0, torch.float32)
    root = wf.matrix_sqrt(a * scale, solver=solver) / scale**0.5
    want = reference.matrix_sqrt(a)
    assert (root - want).norm() <= root_tolerance(100.0) * want.norm()
    inverse = wf.matrix_inv_sqrt(a * scale, solver=solver) * scale**0.5
    want = reference.matrix_inv_sqrt(a)
    assert (inverse - want).norm() <= root_tolerance(100.0) * want.norm()


def test_singular_matrices_by_eigh() -> None:
    factor = torch.randint(-3, 4, (4, 9), generator=torch.Generator().manual_seed(3)).float()
    a = factor.T @ factor  # exactly of rank 4
    upstream = torch.randn(9, 9)
    for name in ("matrix_sqrt", "matrix_inv_sqrt"):
        leaf = a.clone().requires_grad_()
        root = getattr(wf, name)(leaf)
        root.backward(upstream)
        want = getattr(reference, name)(a)
        truth = getattr(reference, name + "_grad")(a, upstream)
        assert (root - want).norm() <= root_tolerance(1e2) * want.norm(), name
        assert leaf.grad is not None
        assert (leaf.grad - truth).norm() <= root_tolerance(1e2) * truth.norm(), name


@SOLVERS
def test_zero_and_rounded_matrices(solver: str) -> None:
    # eigenvalues at minus the rounding of float32: what a float32 covariance of few rows has
    rounding = torch.diag(torch.tensor([1.0, 0.5, -1e-8]))
    _, covariance = wf.batch_covariance(torch.randn(20, 40))
    for a in (torch.zeros(3, 3), rounding, covariance):
        leaf = a.clone().requires_grad_()
        root = wf.matrix_sqrt(leaf, solver=solver)
        root.sum().backward()
        want = reference.matrix_sqrt(a)
        # newton_schulz lifts what is null by a shift at rounding level, the root of which is 1e-3
        torch.testing.assert_close(root.double(), want, rtol=0, atol=2e-3)
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()
        assert wf.matrix_inv_sqrt(a, solver=solver).isfinite().all()


def test_only_the_symmetric_part_is_read() -> None:
    a = spd(6, 10.0, torch.float32)
    skew = torch.randn(6, 6)
    torch.testing.assert_close(wf.matrix_sqrt(a + (skew - skew.T)), wf.matrix_sqrt(a))
