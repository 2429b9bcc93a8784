"""benchmarks.peers against the float64 truth, and where the paper's own form turns NaN."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import peers
from benchmarks.batches import collapsed, healthy, near_constant
from benchmarks.demo.truth import cosine
from benchmarks.peers import Loss, value_and_gradient
from wssl_fast import reference

W2_FORMS = [peers.literal_w2, peers.eigvalsh_w2, peers.svdvals_w2]
SHAPES = [(48, 16), (17, 16), (33, 7)]  # n > m: the covariance has full rank
FLOAT64 = 1e-10  # float64 on well-conditioned rows: rounding times a condition number below 1e4


@pytest.mark.parametrize("loss", W2_FORMS)
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize(("n", "m"), SHAPES)
def test_w2_forms_in_float64(loss: Loss, squared: bool, n: int, m: int) -> None:
    z = healthy(n, m).double()
    value, gradient = value_and_gradient(lambda z: loss(z, squared=squared), z)
    true_value = reference.wasserstein_uniformity(z, squared=squared)
    true_gradient = reference.wasserstein_uniformity_grad(z, squared=squared)
    torch.testing.assert_close(value, true_value, rtol=FLOAT64, atol=FLOAT64)
    torch.testing.assert_close(gradient, true_gradient, rtol=0, atol=FLOAT64)


@pytest.mark.parametrize("eps", [1e-12, 1e-4])
def test_literal_ridge(eps: float) -> None:
    z = healthy(40, 12).double()
    value = peers.literal_w2(z, eps=eps)
    torch.testing.assert_close(
        value, reference.wasserstein_uniformity(z, eps=eps), rtol=1e-9, atol=0
    )


@pytest.mark.parametrize("batch", [healthy, collapsed, near_constant])
def test_svdvals_is_right_on_every_spectrum(batch) -> None:
    z = batch(24, 40)  # n < m
    value, gradient = value_and_gradient(peers.svdvals_w2, z)
    assert abs(value.item() - reference.wasserstein_uniformity(z).item()) < 1e-5
    assert cosine(gradient, reference.wasserstein_uniformity_grad(z)) > 0.999


def test_literal_is_nan_without_full_rank() -> None:
    """Two equal eigenvalues at 0, exactly: no gradient comes back, as the paper's users report."""
    z = torch.zeros(6, 5)
    z[:, :2] = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    _, gradient = value_and_gradient(peers.literal_w2, z)
    assert gradient.isnan().any()
    _, gradient = value_and_gradient(peers.svdvals_w2, z)
    assert gradient.isfinite().all()


def test_literal_is_nan_at_the_optimum() -> None:
    """S = I/m: all eigenvalues equal, and W2 = 0 under the outer root."""
    z = torch.cat([torch.eye(4), -torch.eye(4)])
    _, gradient = value_and_gradient(peers.literal_w2, z)
    assert gradient.isnan().any()


def test_pdist_uniformity() -> None:
    z = healthy(20, 6).double()
    value, gradient = value_and_gradient(peers.pdist_uniformity, z)
    torch.testing.assert_close(value, reference.uniformity(z))
    torch.testing.assert_close(gradient, reference.uniformity_grad(z))


def off_diagonal(square: Tensor) -> Tensor:
    return square[~torch.eye(len(square), dtype=torch.bool)]


def test_barlow_twins_by_its_definition() -> None:
    z_a, z_b = healthy(12, 5, 1).double(), healthy(12, 5, 2).double()
    columns = [
        (z - z.mean(0)) / (z.var(0, unbiased=False) + 1e-5).sqrt() for z in (z_a, z_b)
    ]  # 1e-5 is batch normalisation's
    c = columns[0].T @ columns[1] / len(z_a)
    expected = (1 - c.diagonal()).square().sum() + 0.3 * off_diagonal(c).square().sum()
    found = peers.barlow_twins(z_a, z_b, off_diagonal_weight=0.3)
    torch.testing.assert_close(found, expected)


def test_barlow_twins_is_small_for_equal_whitened_views() -> None:
    z = torch.cat([torch.eye(4), -torch.eye(4)]).double()
    assert peers.barlow_twins(z, z).item() < 1e-8


def test_vicreg_by_its_definition() -> None:
    z_a, z_b = healthy(12, 5, 1).double(), healthy(12, 5, 2).double()
    expected = 25 * (z_a - z_b).square().mean()
    for z in (z_a, z_b):
        expected = expected + 25 * F.relu(1 - (z.var(0) + 1e-4).sqrt()).mean() / 2
        expected = expected + off_diagonal(torch.cov(z.T)).square().sum() / z.shape[1]
    torch.testing.assert_close(peers.vicreg(z_a, z_b), expected)


def test_two_views_are_the_halves() -> None:
    z = healthy(10, 4)
    found = peers.two_views(peers.barlow_twins)(z)
    torch.testing.assert_close(found, peers.barlow_twins(z[:5], z[5:]))
