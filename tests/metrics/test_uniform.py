"""What uniform points show: the floor, and the Marchenko-Pastur law, against drawn points."""

import statistics

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.zoo import BY_NAME
from wssl_fast import reference
from wssl_fast.metrics import uniform_spectrum, w2_floor, w2_of_uniform


def drawn(n: int, m: int, seed: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(n, m, dtype=torch.float64, generator=g), dim=1)


# The law is that of Gaussian rows. Rows of fixed length vary less, by the factor m / (m + 2) where
# rows are many, and W2 sees half of that: a share of 1/m.
@pytest.mark.parametrize(("n", "m"), [(8, 8), (200, 20), (64, 64), (65, 64), (20, 200), (512, 256)])
def test_w2_of_drawn_points(n: int, m: int) -> None:
    count = max(10, 10_000 // (n * m))
    draws = [reference.wasserstein_uniformity(drawn(n, m, seed)).item() for seed in range(count)]
    assert statistics.mean(draws) == pytest.approx(w2_of_uniform(n, m), rel=1 / m)


@pytest.mark.parametrize(
    ("n", "m", "want"),
    # of the W2 paper and its notebook: n = 10,000 and 512 at m = 256; figure 3 at eta = 0
    [(10_000, 256, 0.081), (512, 256, 0.370), (50_000, 200, 0.032), (50_000, 1000, 0.0709)],
)
def test_numbers_of_the_paper(n: int, m: int, want: float) -> None:
    # printed to three digits, of a few draws
    assert w2_of_uniform(n, m) == pytest.approx(want, abs=1e-3)


@pytest.mark.parametrize(("n", "m"), [(400, 40), (64, 64), (40, 400)])
def test_spectrum_of_drawn_points(n: int, m: int) -> None:
    law = uniform_spectrum(n, m)
    mean = torch.zeros(m, dtype=torch.float64)
    for seed in range(20):
        mean[: min(n, m)] += reference.covariance_spectrum(drawn(n, m, seed)) / 20
    assert law.shape == (m,)
    assert bool((law.diff() <= 0).all())
    assert int((law > 0).sum()) == min(n - 1, m)
    # the largest of a draw lies about n^(-2/3) of itself inside the law's edge (Tracy & Widom)
    assert float((law - mean).abs().max()) <= n ** (-2 / 3) * float(mean[0])
    assert float(law.sum()) == pytest.approx(1 - 1 / n, abs=1e-3)


def test_floor_is_where_equal_directions_are() -> None:
    for n, m in ((48, 80), (63, 64)):
        z = BY_NAME["flat"](n, m, torch.float64)  # the simplex: n - 1 equal directions
        want = reference.wasserstein_uniformity(z).item()
        assert w2_floor(n, m) == pytest.approx(want, abs=1e-9)
    assert w2_floor(65, 64) == 0
    assert w2_floor(1, 3) == w2_of_uniform(1, 3) == 2**0.5
    assert uniform_spectrum(1, 3).tolist() == [0, 0, 0]
    for n, m in ((2, 1), (2, 5), (30, 31), (1000, 3)):
        assert w2_floor(n, m) <= w2_of_uniform(n, m) + 1e-12


def test_errors() -> None:
    for function in (w2_floor, w2_of_uniform, uniform_spectrum):
        with pytest.raises(ValueError, match="n must be >= 1, got 0"):
            function(0, 3)
        with pytest.raises(ValueError, match="m must be >= 1, got 0"):
            function(3, 0)
        for wrong in (2.5, 2.0, True, "2", torch.tensor(2.0), np.float64(2)):
            with pytest.raises(TypeError, match="n must be an integer, got "):
                function(wrong, 3)  # type: ignore[arg-type]
            with pytest.raises(TypeError, match="m must be an integer, got "):
                function(3, wrong)  # type: ignore[arg-type]


def test_numpy_integers() -> None:
    for n in (np.int64(9), np.uint8(9), np.array([9])[0]):
        assert w2_floor(n, np.int32(12)) == w2_floor(9, 12)
        assert w2_of_uniform(n, np.int32(12)) == w2_of_uniform(9, 12)
        assert torch.equal(uniform_spectrum(n, np.int32(12)), uniform_spectrum(9, 12))
