"""Every derived formula of benchmarks/paper against float64: integrals, samples, exact frames."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
import torch
from torch import Tensor

import wssl_fast as wf
from benchmarks.paper import closed_forms as exact
from benchmarks.paper import measures
from benchmarks.paper.collapse import w2_error
from wssl_fast import reference

SAMPLES = 40


def sphere(n: int, d: int, m: int, seed: int = 0) -> Tensor:
    """Float64 rows uniform on the first d of m dimensions."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, dtype=torch.float64, generator=generator)
    return torch.nn.functional.pad(x / x.norm(dim=1, keepdim=True), (0, m - d))


def cross_polytope(d: int, m: int) -> Tensor:
    """+-e_1 .. +-e_d: mean 0 and covariance I_d / d exactly."""
    z = torch.eye(d, m, dtype=torch.float64)
    return torch.cat([z, -z])


def moments(x: Tensor) -> tuple[float, float, float]:
    """|mu|^2, tr S and tr S^(1/2) of an eigendecomposition, not of the reference's SVD."""
    mean = x.mean(0)
    s = (x - mean).T @ (x - mean) / len(x)
    lam = torch.linalg.eigvalsh(s).clamp_min(0)
    return mean.square().sum().item(), lam.sum().item(), lam.sqrt().sum().item()


# what holds of every batch of unit rows


@pytest.mark.parametrize(("n", "m"), [(20, 12), (12, 20)])
def test_unit_rows(n: int, m: int) -> None:
    x = sphere(n, m, m)
    x = torch.nn.functional.normalize(x + 0.1, dim=1)
    mean, trace, root = moments(x)
    assert mean + trace == pytest.approx(1, abs=1e-12)
    nuclear = torch.linalg.svdvals(x - x.mean(0)).sum().item() / math.sqrt(n)
    # eigenvalues of a squared matrix are known to 1e-16, the m - n null ones too: their roots 1e-8
    assert root == pytest.approx(nuclear, abs=1e-8 * m)
    value = reference.wasserstein_uniformity(x).item()
    assert value == pytest.approx(math.sqrt(2 - 2 / math.sqrt(m) * nuclear), abs=1e-12)
    literal = math.sqrt(mean + 1 + trace - 2 / math.sqrt(m) * root)
    assert value == pytest.approx(literal, abs=1e-8 * m)
    assert wf.metrics.w2_floor(n, m) < value < math.sqrt(2)


@pytest.mark.parametrize(("n", "m"), [(9, 16), (17, 16)])
def test_rank_floor_is_reached(n: int, m: int) -> None:
    """By a simplex, all of whose n - 1 singular values are equal; by +-e_i where n > m."""
    simplex = torch.eye(n, dtype=torch.float64) - 1 / n
    x = torch.nn.functional.pad(simplex, (0, m - n)) if n <= m else cross_polytope(m, m)
    value = reference.wasserstein_uniformity(x).item()
    assert value == pytest.approx(wf.metrics.w2_floor(n, m), abs=1e-7)


# the uniform sub-sphere


@pytest.mark.parametrize(("d", "m"), [(1, 4), (8, 32), (32, 32)])
def test_w2_of_a_sub_sphere(d: int, m: int) -> None:
    value = reference.wasserstein_uniformity(cross_polytope(d, m)).item()
    assert value == pytest.approx(exact.sphere_w2(d, m), abs=1e-7)


@pytest.mark.parametrize("d", [2, 3, 8, 40, 1000])
@pytest.mark.parametrize("t", [0.5, 2.0, 22.0])
def test_uniformity_of_a_sub_sphere(d: int, t: float) -> None:
    """The mean of exp(-t |x-y|^2) over the density of one coordinate of y along x (lemma 4)."""

    def integrand(angle: float) -> float:
        log = scipy.special.gammaln(d / 2) - scipy.special.gammaln((d - 1) / 2)
        log += -0.5 * math.log(math.pi) - 2 * t * (1 - math.cos(angle))
        return math.exp(log) * math.sin(angle) ** (d - 2)

    places = [0.3, 1.0, 1.4, 1.5, 1.6]  # of its peak, between t >> d and d >> t
    mean = scipy.integrate.quad(integrand, 0, math.pi, points=places, limit=400)[0]
    assert exact.sphere_uniformity(d, t) == pytest.approx(math.log(mean), rel=1e-7)


def test_uniformity_of_two_points() -> None:
    """d = 1: half the pairs coincide, half are antipodal."""
    assert exact.sphere_uniformity(1) == pytest.approx(math.log((1 + math.exp(-8)) / 2))


@pytest.mark.parametrize(("d", "t"), [(2, 2.0), (16, 2.0), (16, 6.0)])
def test_standard_error_of_uniformity(d: int, t: float) -> None:
    n = 200
    values = [float(reference.uniformity(sphere(n, d, d, s), t=t)) for s in range(SAMPLES)]
    ratio = np.std(values) / exact.uniformity_error(d, n, t)
    # the standard deviation of 40 draws is known to 1/sqrt(80) = 11 %; four of these, and a
    # weighted chi-square has heavier tails than a normal
    assert 0.5 < ratio < 1.6


@pytest.mark.parametrize(
    ("d", "m", "n"), [(16, 32, 1000), (100, 200, 800), (64, 64, 64), (200, 400, 100)]
)
def test_w2_of_a_sample(d: int, m: int, n: int) -> None:
    want = exact.sampled_w2(d, m, n)
    allowed = w2_error(want, exact.w2_squared_error(d, m, n))
    values = [reference.wasserstein_uniformity(sphere(n, d, m, s)).item() for s in range(8)]
    assert max(abs(v - want) for v in values) <= allowed
    assert want > exact.sphere_w2(d, m)


@pytest.mark.parametrize(("n", "value"), [(10_000, 0.081), (512, 0.370)])
def test_floors_of_uniform_data(n: int, value: float) -> None:
    assert exact.sampled_w2(256, 256, n) == pytest.approx(value, abs=1e-3)  # of three digits


@pytest.mark.parametrize(("n", "m"), [(10_000, 256), (300, 256), (64, 256)])
def test_w2_of_a_sample_is_that_of_the_metrics(n: int, m: int) -> None:
    # two quadratures of one integral
    assert exact.sampled_w2(m, m, n) == pytest.approx(wf.metrics.w2_of_uniform(n, m), abs=1e-7)


def test_marchenko_pastur() -> None:
    assert exact.marchenko_pastur_root(0) == 1
    assert exact.marchenko_pastur_root(1) == pytest.approx(8 / (3 * math.pi), abs=1e-9)
    assert exact.marchenko_pastur_root(1e-3) == pytest.approx(1 - 1e-3 / 8, abs=1e-7)
    # of n x m rows and of their transpose: d eigenvalues of mean root f(c), n of sqrt(c) f(1/c)
    for c in (0.3, 0.8):
        other = exact.marchenko_pastur_root(1 / c)
        assert exact.marchenko_pastur_root(c) == pytest.approx(other / math.sqrt(c), rel=1e-8)


# the four properties


@pytest.mark.parametrize("clones", [1, 2, 10])
def test_cloned_features(clones: int) -> None:
    x, m = sphere(60, 24, 24), 24
    cloned = x.repeat(1, clones + 1)
    mean, trace, root = moments(x)
    want = (clones + 1) * (mean + trace) + 1 - 2 / math.sqrt(m) * root
    value = reference.wasserstein_uniformity(cloned, normalize=False, squared=True).item()
    assert value == pytest.approx(want, rel=1e-9)
    frame = cross_polytope(8, 32).repeat(1, clones + 1)
    value = reference.wasserstein_uniformity(frame, normalize=False).item()
    assert value == pytest.approx(exact.cloned_features_w2(8, 32, clones), rel=1e-9)
    spread = reference.uniformity(cloned, normalize=False).item()
    assert spread == pytest.approx(reference.uniformity(x, t=2.0 * (clones + 1)).item(), rel=1e-9)


@pytest.mark.parametrize("zeros", [1, 32, 320])
def test_appended_zeros(zeros: int) -> None:
    frame = torch.nn.functional.pad(cross_polytope(8, 32), (0, zeros))
    value = reference.wasserstein_uniformity(frame).item()
    assert value == pytest.approx(exact.padded_w2(8, 32, zeros), abs=1e-9)
    x = sphere(40, 32, 32)
    padded = torch.nn.functional.pad(x, (0, zeros))
    assert reference.uniformity(padded).item() == pytest.approx(reference.uniformity(x).item())


@pytest.mark.parametrize("clones", [1, 4, 10])
def test_cloned_instances(clones: int) -> None:
    x, n = sphere(30, 12, 12), 30
    once = reference.uniformity(x).item()
    cloned = x.repeat(clones + 1, 1)
    want = exact.cloned_instances_uniformity(once, n, clones)
    assert reference.uniformity(cloned).item() == pytest.approx(want, abs=1e-9)
    value = reference.wasserstein_uniformity(x).item()
    assert reference.wasserstein_uniformity(cloned).item() == pytest.approx(value, abs=1e-9)


def test_published_clones_follow_from_the_published_original() -> None:
    # five printed digits of L_U on either side
    for clones, printed in ((1, -3.49688), (10, -3.48387)):
        want = exact.cloned_instances_uniformity(-3.51304, 1_000, clones)
        assert printed == pytest.approx(want, abs=1.5e-5)


# one coordinate of the sphere


@pytest.mark.parametrize("m", [2, 3, 4, 16, 256])
def test_density_of_a_coordinate(m: int) -> None:
    """y^2 is Beta(1/2, (m-1)/2)."""
    y = np.array([-0.7, -0.1, 0.2, 0.5])
    beta = scipy.stats.beta.pdf(y * y, 0.5, (m - 1) / 2) * np.abs(y)
    np.testing.assert_allclose(exact.coordinate_density(y, m), beta, rtol=1e-9)


def test_density_of_two_coordinates() -> None:
    m = 8

    def along(y: float) -> float:
        edge = math.sqrt(1 - y * y)
        pair = lambda x: float(exact.coordinate_pair_density(np.float64(x), np.float64(y), m))  # noqa: E731
        return scipy.integrate.quad(pair, -edge, edge)[0]

    for y in (0.0, 0.3, -0.8):
        assert along(y) == pytest.approx(float(exact.coordinate_density(np.array(y), m)), rel=1e-7)


@pytest.mark.parametrize("m", [3, 4, 16, 256])
def test_divergence_of_a_coordinate(m: int) -> None:
    def integrand(angle: float) -> float:
        y = math.sin(angle)
        density = float(exact.coordinate_density(np.array(y), m))
        if density == 0:
            return 0.0
        log_ratio = math.log(density) - scipy.stats.norm.logpdf(y, scale=m**-0.5)
        return density * log_ratio * math.cos(angle)

    numeric = scipy.integrate.quad(integrand, -math.pi / 2, math.pi / 2, points=[0], limit=400)[0]
    # the divergence of 1e-5 is what is left of terms a hundred times as large
    assert exact.coordinate_divergence(m) == pytest.approx(numeric, rel=1e-4)


@pytest.mark.parametrize("m", [2, 4, 16, 256])
def test_w2_of_a_coordinate(m: int) -> None:
    """2/m - 2 E[Y G] over the quantile coupling, by Gauss-Hermite quadrature: another formula, as
    exact as its cancellation lets it be."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(180)
    upper = 2 * scipy.stats.norm.sf(np.abs(nodes))
    quantile = np.sqrt(scipy.stats.beta.isf(upper, 0.5, (m - 1) / 2))
    product = (weights * quantile * np.abs(nodes)).sum() / math.sqrt(2 * math.pi * m)
    value = exact.coordinate_w2(m)
    # the quadrature of a kink-free odd function: 1e-9 absolute in W2^2, over twice W2
    assert value**2 == pytest.approx(2 / m - 2 * product, abs=1e-6 * max(value, 1e-3))
    assert value <= exact.talagrand_bound(m)


# the studies' own measures


@pytest.mark.parametrize(("n", "d", "m"), [(40, 12, 20), (12, 40, 64)])
def test_measures_are_those_of_the_padded_rows(n: int, d: int, m: int) -> None:
    rows = measures.sphere(n, d, m, generator=torch.Generator().manual_seed(0))
    padded = rows.padded()
    assert padded.shape == (n, m)
    # rows are float32, W2 is computed in float64 from them as they are
    want = reference.wasserstein_uniformity(padded, normalize=False).item()
    assert measures.w2(rows) == pytest.approx(want, abs=1e-7)
    # L_U is float32
    want = reference.uniformity(padded, normalize=False).item()
    assert measures.uniformity(rows) == pytest.approx(want, abs=1e-5)


def test_normalising_before_zeroing_is_another_figure() -> None:
    """Zeroing coordinates of unit rows leaves W2^2 = eta; the printed numbers are of the other
    order."""
    n, m, d = 20_000, 64, 32
    x = sphere(n, m, m)
    x[:, d:] = 0
    value = reference.wasserstein_uniformity(x, normalize=False, squared=True).item()
    # sampled roots: sqrt(d/m) d/(8n) in T, twice
    assert value == pytest.approx(1 - d / m, abs=1e-3)
    assert exact.sphere_w2(d, m) ** 2 > value + 0.08


def test_dimensions_left_as_the_authors_count_them() -> None:
    assert measures.split(200, 0.8) == (39, 199)
    assert measures.split(200, 0.5) == (100, 200)
    assert measures.split(1000, 0.55) == (449, 999)
