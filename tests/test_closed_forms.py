"""Closed forms of the loss and the numbers of the paper's figures that follow from them."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.paper.closed_forms import sampled_w2, sphere_uniformity
from tests.conftest import Api
from tests.zoo import SHAPES, ZOO


def sphere(n: int, m: int, d: int | None = None) -> Tensor:
    """Uniform unit rows, the last m - d coordinates 0."""
    z = torch.randn(n, m, dtype=torch.float64)
    z[:, d:] = 0 if d is not None else z[:, d:]
    return z / z.norm(dim=1, keepdim=True)


def cross_polytope(d: int, m: int) -> Tensor:
    """+-e_1 .. +-e_d in m dimensions: unit rows of mean 0 and covariance I_d / d exactly."""
    z = torch.eye(d, m, dtype=torch.float64)
    return torch.cat([z, -z])


def moments(x: Tensor) -> tuple[float, float, float]:
    """|mu|^2, tr S and tr S^(1/2)."""
    mean = x.mean(0)
    sigma = torch.linalg.svdvals(x - mean) / math.sqrt(x.shape[0])
    return mean.square().sum().item(), sigma.square().sum().item(), sigma.sum().item()


# the loss


@pytest.mark.parametrize("shape", SHAPES)
def test_rank_floor(api: Api, shape: str) -> None:
    n, m = SHAPES[shape]
    for case in ZOO:
        if case.name in ("zero_rows", "two_rows"):
            continue
        floor = math.sqrt(2 - 2 * math.sqrt(min(n - 1, m) / m))
        value = api.wasserstein_uniformity(case(n, m)).item()
        assert floor - api.tolerance <= value <= math.sqrt(2) + api.tolerance, case.name
        if case.name == "flat":
            # the frame itself is rounded to float32: 1e-7 on each sigma
            assert value == pytest.approx(floor, abs=api.tolerance + 1e-6)


@pytest.mark.parametrize(("d", "m"), [(1, 4), (8, 32), (16, 32), (24, 32), (32, 32)])
def test_sub_sphere(api: Api, d: int, m: int) -> None:
    value = api.wasserstein_uniformity(cross_polytope(d, m))
    assert value.item() == pytest.approx(math.sqrt(2 - 2 * math.sqrt(d / m)), abs=api.tolerance)


@pytest.mark.parametrize(("d", "value"), [(200, 0.032), (100, 0.7656), (2, 1.3416)])
def test_sampled_sub_sphere_figure_3(api: Api, d: int, value: float) -> None:
    # the figure's n = 50,000 by formula, 5,000 sampled: the trace fluctuates by 1/n
    assert sampled_w2(d, 200, 50_000) == pytest.approx(value, abs=5e-4)
    sampled = api.wasserstein_uniformity(sphere(5_000, 200, d)).item()
    assert sampled == pytest.approx(sampled_w2(d, 200, 5_000), abs=2e-3)


@pytest.mark.parametrize(("n", "value"), [(10_000, 0.081), (512, 0.370)])
def test_floor_of_uniform_data(api: Api, n: int, value: float) -> None:
    sampled = api.wasserstein_uniformity(sphere(n, 256)).item()
    assert sampled == pytest.approx(value, abs=2e-3)


def test_a_ridge_moves_the_value(api: Api) -> None:
    z = sphere(64, 256)
    assert api.wasserstein_uniformity(z).item() == pytest.approx(1.023, abs=3e-3)
    assert api.wasserstein_uniformity(z, eps=1e-4).item() == pytest.approx(0.910, abs=3e-3)


@pytest.mark.parametrize("clones", [2, 3, 11])
def test_feature_cloning(api: Api, clones: int) -> None:
    x = sphere(40, 24)
    x[:, 0] += 0.2
    mean, trace, root = moments(x)
    want = math.sqrt(clones * (mean + trace) + 1 - 2 / math.sqrt(24) * root)
    got = api.wasserstein_uniformity(x.repeat(1, clones), normalize=False)
    assert got.item() == pytest.approx(want, abs=clones * api.tolerance)
    got = api.uniformity(x.repeat(1, clones), t=0.3, normalize=False)
    want = api.uniformity(x, t=0.3 * clones, normalize=False)
    assert got.item() == pytest.approx(want.item(), abs=api.tolerance)


@pytest.mark.parametrize(("d", "last"), [(8, 3.3168), (16, 3.2541), (24, 3.2054)])
def test_feature_cloning_figure_5(api: Api, d: int, last: float) -> None:
    x = cross_polytope(d, 32).repeat(1, 11)
    # the figure's own data are sampled: 2e-3
    assert api.wasserstein_uniformity(x, normalize=False).item() == pytest.approx(last, abs=2e-3)


@pytest.mark.parametrize("zeros", [1, 8, 240])
def test_appended_zeros(api: Api, zeros: int) -> None:
    x = sphere(40, 24)
    _, _, root = moments(x)
    padded = torch.nn.functional.pad(x, (0, zeros))
    want = math.sqrt(2 - 2 / math.sqrt(24 + zeros) * root)
    assert api.wasserstein_uniformity(padded).item() == pytest.approx(want, abs=api.tolerance)
    assert api.uniformity(padded).item() == pytest.approx(api.uniformity(x).item(), abs=1e-6)


@pytest.mark.parametrize(("d", "last"), [(8, 1.3035), (16, 1.2548), (24, 1.2164)])
def test_appended_zeros_figure_6(api: Api, d: int, last: float) -> None:
    x = cross_polytope(d, 32 * 11)
    # the figure's own data are sampled: 1e-3
    assert api.wasserstein_uniformity(x).item() == pytest.approx(last, abs=1e-3)


@pytest.mark.parametrize("clones", [2, 5])
def test_instance_cloning(api: Api, clones: int) -> None:
    x, n = sphere(30, 12), 30
    pairs = torch.exp(-2 * torch.pdist(x).square()).sum().item()
    total = clones * n
    want = (clones**2 * pairs + n * clones * (clones - 1) / 2) / (total * (total - 1) / 2)
    cloned = x.repeat(clones, 1)
    assert api.uniformity(cloned).item() == pytest.approx(math.log(want), abs=1e-6)
    want_w2 = api.wasserstein_uniformity(x).item()
    assert api.wasserstein_uniformity(cloned).item() == pytest.approx(
        want_w2, abs=2 * api.tolerance
    )


# L_U on the sphere


@pytest.mark.parametrize(("d", "figure_4"), [(3, -2.0798), (2, -1.5751), (1, -0.6928)])
def test_uniformity_of_a_sub_sphere(api: Api, d: int, figure_4: float) -> None:
    exact = sphere_uniformity(d)
    # figure 4 is sampled at n = 50,000
    assert exact == pytest.approx(figure_4, abs=2e-3)
    sampled = api.uniformity(sphere(2_000, 4, d), t=2.0).item()
    # standard error of a U-statistic of 2,000 points whose first-order term vanishes: about 1/n;
    # three of them, on a kernel mean of exp(-2)
    assert sampled == pytest.approx(exact, abs=3 * math.exp(2.1) / 2_000)


# Gaussians


def test_isotropic_gaussians(api: Api) -> None:
    mean, eye = torch.zeros(7), torch.eye(7)
    mean[2] = 3
    want = math.sqrt(9 + (2 - 1 / math.sqrt(7)) ** 2 * 7)
    assert api.gaussian_w2(mean, 4 * eye).item() == pytest.approx(want, abs=10 * api.tolerance)
    other = api.gaussian_w2(mean, 4 * eye, -mean, 9 * eye, squared=True).item()
    assert other == pytest.approx(36 + 7, rel=10 * api.tolerance)


def test_frechet_distance_of_scaled_rows(api: Api) -> None:
    x = sphere(30, 12) + 0.5
    mean, trace, _ = moments(x)
    # S -> s^2 S commutes with S: W2^2 = (s-1)^2 (|mu|^2 + tr S)
    got = api.frechet_distance(x, 3 * x).item()
    assert got == pytest.approx(4 * (mean + trace), rel=10 * api.tolerance)
    got = api.frechet_distance(x, x + 2, squared=False).item()
    assert got == pytest.approx(2 * math.sqrt(12), rel=10 * api.tolerance)


def test_ranks_of_known_spectra(api: Api) -> None:
    assert api.effective_rank(cross_polytope(5, 9)).item() == pytest.approx(5, abs=1e-4)
    assert api.rankme(cross_polytope(5, 9)).item() == pytest.approx(5, abs=1e-4)
    weighted = cross_polytope(3, 6)[:, :3] * torch.tensor([2.0, 1.0, 1.0])
    p = np.array([4, 1, 1]) / 6
    want = math.exp(-(p * np.log(p)).sum())
    assert api.effective_rank(weighted).item() == pytest.approx(want, abs=1e-5)
    spectrum = api.covariance_spectrum(weighted)
    np.testing.assert_allclose(spectrum, 2 * np.array([4, 1, 1]) / 6, atol=1e-6)
