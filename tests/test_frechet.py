"""`frechet_distance`, `gaussian_w2` and `batch_covariance` where ranks, means and formulations
meet."""

import itertools

import pytest
import torch
from torch import Tensor

import wssl_fast as wf
from tests.tolerances import contract_tolerance
from tests.zoo import BY_NAME
from wssl_fast import reference

SPECTRA = ("gaussian", "soft_collapse", "noise_1e-4", "exact_rank", "large_mean", "clusters")
SOLVERS = pytest.mark.parametrize("solver", ["eigh", "newton_schulz"])


def gradients(x: Tensor, y: Tensor, **keywords: object) -> tuple[Tensor, Tensor, Tensor]:
    leaves = x.clone().requires_grad_(), y.clone().requires_grad_()
    value = wf.frechet_distance(*leaves, **keywords)
    value.backward()
    assert leaves[0].grad is not None
    assert leaves[1].grad is not None
    return value.detach(), leaves[0].grad, leaves[1].grad


@SOLVERS
@pytest.mark.parametrize(
    ("n_x", "n_y", "m"),
    [(20, 30, 40), (30, 20, 40), (20, 50, 40), (60, 50, 40), (60, 10, 40), (41, 41, 40)],
)
def test_both_formulations(solver: str, n_x: int, n_y: int, m: int) -> None:
    # Gram for n_x, n_y <= m, covariance otherwise: full rank, deficient on one side, on both
    x, y = torch.randn(n_x, m), 2 * torch.randn(n_y, m) + 0.5
    value, *grads = gradients(x, y, solver=solver)
    limit = contract_tolerance(torch.float32)
    want = reference.frechet_distance(x, y).item()
    assert value.item() == pytest.approx(want, rel=limit)
    for grad, truth in zip(grads, reference.frechet_distance_grad(x, y), strict=True):
        assert (grad - truth).norm() <= limit * truth.norm()


@pytest.mark.parametrize(
    ("left", "right"),
    tuple(itertools.combinations(SPECTRA, 2)),
)
@pytest.mark.parametrize("shape", [(48, 80), (96, 40)])
def test_spectra_against_each_other(left: str, right: str, shape: tuple[int, int]) -> None:
    x, y = BY_NAME[left](*shape), BY_NAME[right](*shape)
    value, *grads = gradients(x, y)
    # float64 inside, one product of two factors: 1e-7 of the scale in either spectrum
    want = reference.frechet_distance(x, y).item()
    scale = (x.double().square().sum() + y.double().square().sum()).item() / shape[0]
    assert value.item() == pytest.approx(want, abs=1e-5 * scale)
    for grad in grads:
        assert grad.isfinite().all()


def test_a_batch_against_itself() -> None:
    for shape in ((30, 50), (50, 30)):
        x = torch.randn(shape) + 3
        scale = x.square().sum(dim=1).mean().item()
        value, *grads = gradients(x, x[torch.randperm(len(x))])
        assert abs(value.item()) <= 1e-6 * scale
        for grad in grads:
            assert grad.norm() <= 1e-5
        value, *grads = gradients(x, x, squared=False)
        assert value.item() <= 1e-3 * scale**0.5
        for grad in grads:
            assert grad.isfinite().all()
            assert grad.norm() <= 1


def test_agrees_with_the_moments() -> None:
    x, y = torch.randn(90, 12) * 2, torch.randn(70, 12) + 1
    by_moments = wf.gaussian_w2(*wf.batch_covariance(x), *wf.batch_covariance(y), squared=True)
    torch.testing.assert_close(wf.frechet_distance(x, y), by_moments, rtol=1e-4, atol=1e-5)
    unit = torch.nn.functional.normalize(x)
    mean, cov = wf.batch_covariance(x, normalize=True)
    torch.testing.assert_close(wf.gaussian_w2(mean, cov), wf.wasserstein_uniformity(x))
    torch.testing.assert_close(mean, unit.mean(0))


def test_gradient_of_the_covariance_itself() -> None:
    z = torch.randn(11, 5)
    up_mean, up_cov = torch.randn(5), torch.randn(5, 5)
    for normalize in (True, False):
        leaf, truth = z.clone().requires_grad_(), z.double().requires_grad_()
        mean, cov = wf.batch_covariance(leaf, normalize=normalize)
        (mean @ up_mean + (cov * up_cov).sum()).backward()
        mean64, cov64 = reference.batch_covariance(truth, normalize=normalize)
        (mean64 @ up_mean.double() + (cov64 * up_cov).sum()).backward()
        assert leaf.grad is not None
        torch.testing.assert_close(leaf.grad.double(), truth.grad, rtol=1e-4, atol=1e-6)
        assert torch.equal(cov, cov.mT)


def test_a_large_mean_costs_the_covariance_no_digit() -> None:
    z = (torch.randn(200, 6, dtype=torch.float64) + 1e3).float()
    _, cov = wf.batch_covariance(z)
    _, want = reference.batch_covariance(z)
    torch.testing.assert_close(cov.double(), want, rtol=1e-5, atol=1e-5)
    got = wf.frechet_distance(z, z + 1).item()
    assert got == pytest.approx(reference.frechet_distance(z, z + 1).item(), rel=1e-5)


def test_broadcast_of_one_gaussian_against_many() -> None:
    mean, cov = wf.batch_covariance(torch.randn(3, 40, 6))
    one_mean, one_cov = mean[0], cov[0]
    values = wf.gaussian_w2(mean, cov, one_mean, one_cov)
    assert values.shape == (3,)
    assert values[0] <= 1e-3
    for i in (1, 2):
        alone = wf.gaussian_w2(mean[i], cov[i], one_mean, one_cov)
        torch.testing.assert_close(values[i], alone)


@pytest.mark.parametrize("rank", [0, 3])
def test_singular_covariances(rank: int) -> None:
    factor = torch.randn(rank, 6)
    cov = (factor.T @ factor).requires_grad_()
    value = wf.gaussian_w2(torch.zeros(6), cov, squared=True)
    value.backward()
    assert value.item() == pytest.approx(
        reference.gaussian_w2(torch.zeros(6), cov, squared=True).item(), rel=1e-5
    )
    assert cov.grad is not None
    assert cov.grad.isfinite().all()
