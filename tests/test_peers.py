"""benchmarks.peers against the float64 truth on healthy batches, and what fails where, as facts."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import peers
from benchmarks.batches import collapsed, healthy, near_constant
from benchmarks.demo.truth import cosine
from benchmarks.peers import Loss, value_and_gradient
from tests.tolerances import root_tolerance
from wssl_fast import reference

EXACT = [peers.literal_w2, peers.eigvalsh_w2, peers.svdvals_w2]
SHAPES = [(48, 16), (17, 16), (33, 7)]  # n > m: the covariance has full rank
FLOAT64 = 1e-10  # float64 on well-conditioned rows: rounding times a condition number below 1e4


@pytest.mark.parametrize("loss", EXACT)
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
@pytest.mark.parametrize("loss", [peers.svdvals_w2, peers.polar_express_w2])
@pytest.mark.parametrize(("n", "m"), [(24, 40), (40, 24)])
def test_unsquared_rows_are_right_on_every_spectrum(loss: Loss, batch, n: int, m: int) -> None:
    z = batch(n, m)
    value, gradient = value_and_gradient(loss, z)
    assert abs(value.item() - reference.wasserstein_uniformity(z).item()) < 1e-5
    assert cosine(gradient, reference.wasserstein_uniformity_grad(z)) > 0.999


@pytest.mark.parametrize("name", peers.W2_FORMS)
def test_w2_forms_without_normalising(name: str) -> None:
    """On rows of length 1 `normalize` changes nothing but the gradient along the rows."""
    z = F.normalize(healthy(33, 7).double())
    value, gradient = value_and_gradient(peers.W2_FORMS[name], z)
    plain, free = value_and_gradient(lambda z: peers.W2_FORMS[name](z, normalize=False), z)
    tangent = free - (free * z).sum(dim=1, keepdim=True) * z
    torch.testing.assert_close(value, plain)
    torch.testing.assert_close(gradient, tangent)


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


@pytest.mark.parametrize(("n", "m"), [(48, 16), (33, 7)])
def test_isqrt_cov_in_float64(n: int, m: int) -> None:
    """Converged to rounding where sigma_min is above sigma_max / 10."""
    z = healthy(n, m).double()
    value, gradient = value_and_gradient(peers.isqrt_cov_w2, z)
    torch.testing.assert_close(
        value, reference.wasserstein_uniformity(z), rtol=FLOAT64, atol=FLOAT64
    )
    truth = reference.wasserstein_uniformity_grad(z)
    torch.testing.assert_close(gradient, truth, rtol=0, atol=FLOAT64)


def test_polar_express_in_float64() -> None:
    """Its steps end within float32's rounding of 1, and so do value and gradient."""
    z = healthy(48, 16).double()
    value, gradient = value_and_gradient(peers.polar_express_w2, z)
    torch.testing.assert_close(value, reference.wasserstein_uniformity(z), rtol=1e-6, atol=0)
    truth = reference.wasserstein_uniformity_grad(z)
    assert (gradient - truth).norm() < 1e-6 * truth.norm()


def test_muon_is_approximate() -> None:
    """Singular values end in [0.68, 1.21], the range of its quintic's attractor."""
    x = healthy(12, 40).double()
    s = torch.linalg.svdvals(peers.polar_factor(x, peers.MUON))
    assert 0.68 < s.min() < 0.95
    assert 1.0 < s.max() < 1.21


@pytest.mark.parametrize("degree", [5, 8])
def test_pade_root_of_scalars(degree: int) -> None:
    """sqrt(x) (1 + r)/(1 - r), r = ((1 - sqrt x)/(1 + sqrt x))^(2 degree + 1), in closed form."""
    a = torch.tensor([1.0, 0.3, 0.02, 1e-4], dtype=torch.float64)
    norm = a.norm()
    s = (a / norm).sqrt()
    r = ((1 - s) / (1 + s)) ** (2 * degree + 1)
    expected = norm.sqrt() * s * (1 + r) / (1 - r)
    found = peers.pade_root(a.diag(), degree)
    torch.testing.assert_close(found, expected.diag(), rtol=FLOAT64, atol=FLOAT64)
    inverse = peers.pade_inverse_root(a.diag(), degree)
    torch.testing.assert_close(inverse, (1 / expected).diag(), rtol=1e-9, atol=FLOAT64)


def test_pade_backward_solves_lyapunov() -> None:
    a = conditioned(1.5, 6).requires_grad_()
    grad = conditioned(3.0, 6)
    root = peers.pade_root(a)
    (found,) = torch.autograd.grad(root, a, grad)
    torch.testing.assert_close(root @ found + found @ root, grad)


def test_pade_at_its_defaults_is_off_on_a_collapsed_batch() -> None:
    """sqrt(x) at x = 0 is 1/(2 degree + 1) of sqrt|A|_F, in every collapsed direction."""
    z = collapsed(64, 128)
    truth = reference.wasserstein_uniformity(z).item()
    for settings in ({"degree": 5, "lyapunov_steps": 8}, {}):
        assert abs(peers.pade_w2(z, **settings).item() - truth) > 0.1


@pytest.mark.parametrize("name", ["paper's eigh", "eigvalsh", "Pade", "iSQRT-COV", "Muon"])
@pytest.mark.parametrize(("n", "m"), [(64, 128), (128, 64)])
def test_squared_forms_lose_a_collapsed_gradient(name: str, n: int, m: int) -> None:
    """Noise at 1e-4 of sigma_max is 1e-8 once squared; Muon's five steps lift by 3.4^5 at most."""
    z = collapsed(n, m)
    _, gradient = value_and_gradient(peers.W2_FORMS[name], z)
    assert not cosine(gradient, reference.wasserstein_uniformity_grad(z)) > 0.9  # NaN, too


@pytest.mark.parametrize("name", ["Pade", "iSQRT-COV"])
def test_iterations_are_nan_on_constant_rows(name: str) -> None:
    """Neither source guards its division by |A|_F."""
    assert peers.W2_FORMS[name](torch.ones(8, 4)).isnan()


def inverse_root_error(name: str, kappa: float) -> float:
    a = conditioned(kappa, 32)
    truth = reference.matrix_inv_sqrt(a)
    return ((peers.ROOTS[name](a.float()) - truth).norm() / truth.norm()).item()


@pytest.mark.parametrize("name", [n for n in peers.ROOTS if n not in ("Pade", "Muon")])
def test_inverse_roots(name: str) -> None:
    assert inverse_root_error(name, 100.0) < root_tolerance(100.0)


@pytest.mark.parametrize("name", ["Pade", "Muon", "iSQRT-COV"])
def test_inverse_roots_that_end_too_early(name: str) -> None:
    """iSQRT-COV's 12 steps lift sqrt(lambda/|A|_F) by 1.5^12 = 130: not from 1e-4 to 1."""
    kappa = 1e5
    assert 0.05 < inverse_root_error(name, kappa) < 1
    assert inverse_root_error("eigh", kappa) < root_tolerance(kappa)


def test_coupled_polar_express_overflows_on_a_null_direction() -> None:
    """Why ROOTS keeps its default: steps for [1e-6, 1] lift what is exactly null, too."""
    z = F.normalize(healthy(64, 128))
    centred = z - z.mean(0)
    gram = centred @ centred.T / 64
    assert not peers.coupled_roots(gram, peers.polar_express_steps(1e-6))[1].isfinite().all()
    assert peers.ROOTS["Polar Express"](gram).isfinite().all()


@pytest.mark.parametrize("name", peers.FRECHET)
def test_frechet_on_healthy_batches(name: str) -> None:
    x, y = healthy(50, 12, 1), healthy(60, 12, 2) + 0.1
    value, gradient = value_and_gradient(lambda x: peers.FRECHET[name](x, y), x)
    truth, _ = reference.frechet_distance_grad(x, y)
    # float32 with eigenvalues down to 1e-3 of the largest: 1e3 eps; POT's ridge adds m 1e-6
    assert value.item() == pytest.approx(reference.frechet_distance(x, y).item(), rel=1e-4)
    assert (gradient - truth).norm() < 1e-3 * truth.norm()


@pytest.mark.parametrize("name", ["POT", "eigh sqrtm"])
@pytest.mark.parametrize(("n", "m"), [(64, 96), (128, 48)])
def test_frechet_forms_lose_a_collapsed_gradient(name: str, n: int, m: int) -> None:
    """Against 2 m points of mean 0 and covariance I/m: W2 of the uniformity loss itself."""
    x, target = F.normalize(collapsed(n, m)), torch.cat([torch.eye(m), -torch.eye(m)])
    truth = reference.wasserstein_uniformity_grad(x, normalize=False, squared=True)
    _, gradient = value_and_gradient(lambda x: peers.FRECHET[name](x, target), x)
    assert not cosine(gradient, truth) > 0.9
    for right in ("wssl_fast", "torchmetrics"):  # float64 inside
        _, gradient = value_and_gradient(lambda x, f=peers.FRECHET[right]: f(x, target), x)
        assert cosine(gradient, truth) > 0.999


@pytest.mark.parametrize("name", ["torchmetrics", "eigh sqrtm"])
def test_frechet_forms_are_nan_with_dead_features(name: str) -> None:
    x, y = F.pad(healthy(40, 4, 1), (0, 2)), healthy(40, 6, 2)
    _, gradient = value_and_gradient(lambda x: peers.FRECHET[name](x, y), x)
    assert gradient.isnan().any()
    _, gradient = value_and_gradient(lambda x: peers.FRECHET["wssl_fast"](x, y), x)
    assert gradient.isfinite().all()


def test_pot_is_nan_at_distance_zero() -> None:
    """It returns W2; the root's slope at 0 times the square's is infinity times 0."""
    x = healthy(40, 6)
    _, gradient = value_and_gradient(lambda z: peers.FRECHET["POT"](z, x), x)
    assert gradient.isnan().any()


def conditioned(kappa: float, k: int) -> Tensor:
    """Symmetric k x k in float64, eigenvalues log-spaced from 1 to 1/kappa."""
    generator = torch.Generator().manual_seed(0)
    q = torch.linalg.qr(torch.randn(k, k, dtype=torch.float64, generator=generator)).Q
    return q * torch.logspace(0, -math.log10(kappa), k, dtype=torch.float64) @ q.T


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


def test_simclr_by_its_definition() -> None:
    z_a, z_b = healthy(5, 4, 1).double(), healthy(5, 4, 2).double()
    x = F.normalize(torch.cat([z_a, z_b]))
    terms = []
    for i in range(10):
        similar = [math.exp(x[i] @ x[k] / 0.5) for k in range(10)]
        terms.append(-math.log(similar[(i + 5) % 10] / (sum(similar) - similar[i])))
    assert peers.simclr(z_a, z_b).item() == pytest.approx(sum(terms) / 10)


def test_sigreg_by_its_definition() -> None:
    """All 17 knots, with complex exponentials, on directions drawn the same way."""
    z = healthy(20, 6).double()
    a = torch.randn(6, 256, generator=torch.Generator().manual_seed(0)).double()
    t = torch.linspace(-5, 5, 17, dtype=z.dtype)
    phase = (z @ (a / a.norm(dim=0)))[..., None] * t
    normal = torch.exp(-(t**2) / 2)
    gap = (torch.exp(1j * phase).mean(0) - normal).abs().square() * normal
    torch.testing.assert_close(peers.sigreg(z), 20 * torch.trapezoid(gap, t).mean())


def test_sigreg_is_least_for_a_standard_normal() -> None:
    z = torch.randn(512, 8, generator=torch.Generator().manual_seed(0))
    spread = torch.linspace(0.2, 2, 8)
    assert peers.sigreg(z) < peers.sigreg(z * spread) < peers.sigreg(z[:, :1].repeat(1, 8))


@pytest.mark.parametrize(("n", "m"), [(6, 15), (15, 6)])
def test_coding_rate_by_its_definition(n: int, m: int) -> None:
    """The determinant of the larger product; both are equal (Sylvester)."""
    z = healthy(n, m).double()
    x = F.normalize(z)
    larger = x.T @ x if n < m else x @ x.T
    identity = torch.eye(len(larger), dtype=z.dtype)
    expected = -torch.logdet(identity + m / (n * 0.5) * larger) / 2
    torch.testing.assert_close(peers.coding_rate(z), expected)


@pytest.mark.parametrize("name", peers.SSL_LOSSES)
def test_ssl_losses_have_gradients(name: str) -> None:
    z = healthy(6, 3).double().requires_grad_()
    assert torch.autograd.gradcheck(peers.SSL_LOSSES[name], z)
