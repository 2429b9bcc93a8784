"""The reference against what is independent of it: autograd through singular values, finite
differences, brute-force formulas and scipy's matrix root."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from tests.zoo import BY_NAME, SHAPES, ZOO
from wssl_fast import reference as ref

SHAPE_IDS = tuple(SHAPES)
RANK_DEFICIENT = ("exact_rank", "duplicated_rows", "dead_features", "cloned_features")


def rows(n: int, m: int, *batch: int) -> Tensor:
    return torch.randn(*batch, n, m, dtype=torch.float64)


def autograd(function: Callable[..., Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
    leaves = [t.detach().double().requires_grad_() for t in inputs]
    return torch.autograd.grad(function(*leaves).sum(), leaves)


def slope(function: Callable[[Tensor], Tensor], z: Tensor, dz: Tensor, h: float) -> float:
    """Directional derivative by central differences, two steps extrapolated (error h^4)."""

    def central(step: float) -> float:
        return ((function(z + step * dz) - function(z - step * dz)) / (2 * step)).item()

    return (4 * central(h) - central(2 * h)) / 3


def root(a: Tensor) -> np.ndarray:
    return np.real(scipy.linalg.sqrtm(a.numpy()))


# W2


@pytest.mark.parametrize("eps", [0.0, 1e-2])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("shape", ["n<m", "n>m"])
def test_value_is_the_papers_formula(shape: str, normalize: bool, eps: float) -> None:
    n, m = SHAPES[shape]
    z = rows(n, m)
    x = z / z.norm(dim=1, keepdim=True) if normalize else z
    cov = (x - x.mean(0)).T @ (x - x.mean(0)) / n + eps * torch.eye(m)
    # a root of the covariance, the form the reference never takes; rank-deficient for n < m
    trace = np.sqrt(np.clip(scipy.linalg.eigvalsh(cov.numpy()), 0, None)).sum()
    want = x.mean(0).square().sum() + 1 + cov.trace() - 2 / math.sqrt(m) * trace
    got = ref.wasserstein_uniformity(z, normalize=normalize, squared=True, eps=eps)
    assert abs(got - want) < 1e-6
    plain = ref.wasserstein_uniformity(z, normalize=normalize, eps=eps)
    torch.testing.assert_close(plain.square(), got)


def test_value_agrees_with_scipys_matrix_root() -> None:
    z = rows(200, 12)
    x = z / z.norm(dim=1, keepdim=True)
    mean, cov = ref.batch_covariance(z, normalize=True)
    torch.testing.assert_close(mean, x.mean(0))
    want = 2 - 2 / math.sqrt(12) * np.trace(root(cov))
    assert abs(ref.wasserstein_uniformity(z, squared=True) - want) < 1e-12


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("eps", [0.0, 1e-2])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("shape", SHAPE_IDS)
def test_gradient_is_autograd_of_the_singular_values(
    shape: str, normalize: bool, eps: float, squared: bool
) -> None:
    z = rows(*SHAPES[shape])
    keywords = {"normalize": normalize, "squared": squared, "eps": eps}
    (want,) = autograd(lambda z: ref.wasserstein_uniformity(z, **keywords), z)
    got = ref.wasserstein_uniformity_grad(z, **keywords)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("case", ZOO, ids=lambda case: case.name)
def test_gradient_is_the_slope_of_the_value_on_every_spectrum(case: object) -> None:
    # dz = z B keeps the rank and the scale of each row, so the slope exists on null directions too
    z = case(24, 30).double()  # type: ignore[operator]
    mixing = torch.randn(30, 30, dtype=torch.float64) / 30**0.5
    got = (ref.wasserstein_uniformity_grad(z, squared=True) * (z @ mixing)).sum().item()
    depth = ref.relative_spectrum(z)
    step = min(1e-3, 0.1 * depth[depth > 0].min().item())
    want = slope(lambda z: ref.wasserstein_uniformity(z, squared=True), z, z @ mixing, step)
    # central differences lose eps/step of a value of at most 2
    assert got == pytest.approx(want, rel=1e-6, abs=1e-14 / step + 1e-10)


def test_gradient_is_tangential_and_zero_rows_stay() -> None:
    z = BY_NAME["zero_rows"](48, 80)
    grad = ref.wasserstein_uniformity_grad(z, squared=True)
    assert (grad * z).sum(dim=1).abs().max() < 1e-16
    assert (grad[z.norm(dim=1) == 0] == 0).all()


@pytest.mark.parametrize("name", RANK_DEFICIENT)
@pytest.mark.parametrize("shape", ["n<m", "n=m"])
def test_null_directions_weigh_nothing(name: str, shape: str) -> None:
    z = BY_NAME[name](*SHAPES[shape])
    polar = ref.polar_factor(z)
    relative, weights = ref.polar_weights(z, polar)
    live = int((relative > 0).sum())
    assert live < min(z.shape)
    assert polar.norm().square().item() == pytest.approx(z.shape[0] * live)
    torch.testing.assert_close(weights[:live], torch.ones(live, dtype=torch.float64))
    assert weights[live:].isnan().all()


def test_polar_factor_is_the_rows_times_the_inverse_root() -> None:
    z = rows(300, 10)
    x = z / z.norm(dim=1, keepdim=True)
    _, cov = ref.batch_covariance(z, normalize=True)
    want = (x - x.mean(0)) @ torch.from_numpy(np.linalg.inv(root(cov)))
    torch.testing.assert_close(ref.polar_factor(z), want)


def test_weights_build_a_gradient_of_limited_resolution() -> None:
    z = BY_NAME["noise_1e-3"](48, 80)
    cut = ref.polar_factor(z, resolution=1e-2)
    relative, weights = ref.polar_weights(z, cut)
    torch.testing.assert_close(weights[:47], (relative[:47] >= 1e-2).double())
    assert weights[47].isnan()  # centring's null direction
    weights = weights.nan_to_num(0.0)
    by_function = ref.wasserstein_uniformity_grad(
        z, squared=True, weights=lambda relative: (relative >= 1e-2).double()
    )
    by_tensor = ref.wasserstein_uniformity_grad(z, squared=True, weights=weights)
    whole = ref.wasserstein_uniformity_grad(z, squared=True, weights=torch.ones_like(weights))
    torch.testing.assert_close(by_function, by_tensor)
    assert torch.equal(whole, ref.wasserstein_uniformity_grad(z, squared=True))
    assert (whole - by_function).norm() > 0.5 * whole.norm()


@pytest.mark.parametrize(
    ("z", "want"),
    [
        (torch.ones(1, 5), math.sqrt(2)),  # one row
        (torch.ones(7, 5), math.sqrt(2)),  # constant rows
        (torch.zeros(4, 5), 1.0),  # no row has a direction: N(0, 0)
        (torch.ones(6, 1), math.sqrt(2)),  # m = 1, one side: N(1, 0) against N(0, 1)
        (torch.tensor([[2.0], [-3.0]]), 0.0),  # m = 1, both sides
        (torch.tensor([[1.0, 0], [0, 1.0], [0, 0], [0, 0]]), None),
    ],
)
def test_degenerate_batches(z: Tensor, want: float | None) -> None:
    value = ref.wasserstein_uniformity(z)
    if want is not None:
        assert value.item() == pytest.approx(want, abs=1e-14)
    for squared in (True, False):
        assert ref.wasserstein_uniformity_grad(z, squared=squared).isfinite().all()


# pairs


@pytest.mark.parametrize("normalize", [True, False])
def test_uniformity_is_the_mean_over_pairs(normalize: bool) -> None:
    z = rows(15, 6)
    x = z / z.norm(dim=1, keepdim=True) if normalize else z
    want = torch.pdist(x).square().mul(-1.5).exp().mean().log()
    torch.testing.assert_close(ref.uniformity(z, t=1.5, normalize=normalize), want)
    (grad,) = autograd(lambda z: ref.uniformity(z, t=1.5, normalize=normalize), z)
    torch.testing.assert_close(ref.uniformity_grad(z, t=1.5, normalize=normalize), grad)


@pytest.mark.parametrize("alpha", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("normalize", [True, False])
def test_alignment_is_the_mean_power_of_the_gap(normalize: bool, alpha: float) -> None:
    x, y = rows(9, 6), rows(9, 6)
    unit = torch.nn.functional.normalize
    u, v = (unit(x), unit(y)) if normalize else (x, y)
    want = torch.stack([(a - b).square().sum() ** (alpha / 2) for a, b in zip(u, v, strict=True)])
    got = ref.alignment(x, y, alpha=alpha, normalize=normalize)
    torch.testing.assert_close(got, want.mean())
    grads = autograd(lambda x, y: ref.alignment(x, y, alpha=alpha, normalize=normalize), x, y)
    got_grads = ref.alignment_grad(x, y, alpha=alpha, normalize=normalize)
    for got_one, want_one in zip(got_grads, grads, strict=True):
        torch.testing.assert_close(got_one, want_one)


# Gaussians


def bures(cx: Tensor, cy: Tensor) -> float:
    half = root(cx)
    cross = np.real(scipy.linalg.sqrtm(half @ cy.numpy() @ half))
    return float(cx.trace() + cy.trace() - 2 * np.trace(cross))


FRECHET_SHAPES = [(40, 50, 8), (40, 23, 64), (70, 9, 30)]


@pytest.mark.parametrize("eps", [0.0, 1e-2])
@pytest.mark.parametrize(("n_x", "n_y", "m"), FRECHET_SHAPES)
def test_frechet_distance(n_x: int, n_y: int, m: int, eps: float) -> None:
    x, y = rows(n_x, m), 2 * rows(n_y, m) + 1
    (mean_x, cx), (mean_y, cy) = ref.batch_covariance(x), ref.batch_covariance(y)
    ridge = eps * torch.eye(m)
    want = (mean_x - mean_y).square().sum().item() + bures(cx + ridge, cy + ridge)
    # scipy's root of a singular covariance keeps 8 digits
    assert ref.frechet_distance(x, y, eps=eps).item() == pytest.approx(want, rel=1e-6)
    got = ref.gaussian_w2(mean_x, cx + ridge, mean_y, cy + ridge, squared=True).item()
    assert got == pytest.approx(want, rel=1e-6)


def nuclear(x: Tensor, y: Tensor) -> Tensor:
    cross = (x - x.mean(0)) @ (y - y.mean(0)).T / math.sqrt(x.shape[0] * y.shape[0])
    spread = sum((z - z.mean(0)).square().sum() / z.shape[0] for z in (x, y))
    return (x.mean(0) - y.mean(0)).square().sum() + spread - 2 * torch.linalg.svdvals(cross).sum()


@pytest.mark.parametrize(("n_x", "n_y", "m"), FRECHET_SHAPES)
def test_frechet_gradient(n_x: int, n_y: int, m: int) -> None:
    x, y = rows(n_x, m), 2 * rows(n_y, m) + 1
    want = autograd(nuclear, x, y)
    root_of = autograd(lambda x, y: nuclear(x, y).sqrt(), x, y)
    for i in range(2):
        got = ref.frechet_distance_grad(x, y)[i]
        torch.testing.assert_close(got, want[i], rtol=1e-6, atol=1e-8)
        got = ref.frechet_distance_grad(x, y, squared=False)[i]
        torch.testing.assert_close(got, root_of[i], rtol=1e-6, atol=1e-8)


def test_frechet_gradient_with_a_ridge() -> None:
    x, y = rows(7, 5), rows(6, 5)
    dx, dy = rows(7, 5), rows(6, 5)
    gx, gy = ref.frechet_distance_grad(x, y, eps=0.1)
    got = (gx * dx).sum() + (gy * dy).sum()
    path = torch.zeros((), dtype=torch.float64)

    def along(step: Tensor) -> Tensor:
        return ref.frechet_distance(x + step * dx, y + step * dy, eps=0.1)

    assert got.item() == pytest.approx(slope(along, path, torch.ones_like(path), 1e-3), rel=1e-8)


@pytest.mark.parametrize("eps", [0.0, 1e-2])
def test_frechet_distance_of_a_batch_to_itself_is_zero(eps: float) -> None:
    x = rows(20, 33) + 5
    assert ref.frechet_distance(x, x[torch.randperm(20)], squared=False, eps=eps) < 1e-12
    for grad in ref.frechet_distance_grad(x, x, squared=False, eps=eps):
        assert (grad == 0).all()


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("with_target", [True, False])
def test_gaussian_w2_gradient(with_target: bool, squared: bool) -> None:
    (mean_x, cx), (mean_y, cy) = (ref.batch_covariance(rows(30, 6)) for _ in range(2))
    given = (mean_x, cx, mean_y, cy) if with_target else (mean_x, cx)
    moves = [torch.randn_like(t) for t in given]
    moves = [t + t.mT if t.ndim == 2 else t for t in moves]
    grads = ref.gaussian_w2_grad(*given, squared=squared)[: len(given)]
    got = sum((g * d).sum() for g, d in zip(grads, moves, strict=True))

    def along(step: Tensor) -> Tensor:
        moved = [t + step * d for t, d in zip(given, moves, strict=True)]
        return ref.gaussian_w2(*moved, squared=squared)

    path = torch.zeros((), dtype=torch.float64)
    want = slope(along, path, torch.ones_like(path), 1e-4)
    assert float(got) == pytest.approx(want, rel=1e-7)


def test_gaussian_w2_of_the_moments_is_the_uniformity() -> None:
    z = rows(90, 20)
    mean, cov = ref.batch_covariance(z, normalize=True)
    torch.testing.assert_close(ref.gaussian_w2(mean, cov), ref.wasserstein_uniformity(z))


# roots


def test_matrix_roots() -> None:
    _, cov = ref.batch_covariance(rows(40, 9, 2, 3))
    torch.testing.assert_close(ref.matrix_sqrt(cov[1, 2]), torch.from_numpy(root(cov[1, 2])))
    torch.testing.assert_close(ref.matrix_sqrt(cov) @ ref.matrix_sqrt(cov), cov)
    inverse = ref.matrix_inv_sqrt(cov)
    eye = torch.eye(9, dtype=torch.float64).expand(2, 3, 9, 9)
    torch.testing.assert_close(inverse @ cov @ inverse, eye)


@pytest.mark.parametrize("name", ["matrix_sqrt", "matrix_inv_sqrt"])
@pytest.mark.parametrize("rank", [7, 4])
def test_matrix_root_gradients(name: str, rank: int) -> None:
    # dF = F B keeps the rank of A = F^T F: the slope exists on a singular matrix too
    factor, mixing, upstream = rows(rank, 7), rows(7, 7), rows(7, 7)
    function, gradient = getattr(ref, name), getattr(ref, name + "_grad")

    def along(step: Tensor) -> Tensor:
        moved = factor @ (torch.eye(7) + step * mixing)
        return (upstream * function(moved.T @ moved)).sum()

    move = mixing.T @ factor.T @ factor + factor.T @ factor @ mixing
    got = (gradient(factor.T @ factor, upstream) * move).sum().item()
    path = torch.zeros((), dtype=torch.float64)
    assert got == pytest.approx(slope(along, path, torch.ones_like(path), 1e-5), rel=1e-5)


# spectra


@pytest.mark.parametrize("shape", SHAPE_IDS)
def test_spectra(shape: str) -> None:
    n, m = SHAPES[shape]
    z = rows(n, m) * torch.arange(1, m + 1).rsqrt() + 0.3
    values = np.linalg.eigvalsh(np.cov(z.T.numpy(), bias=True))[::-1][: min(n, m)].copy()
    np.testing.assert_allclose(ref.covariance_spectrum(z), values, atol=1e-12)
    p = values[: min(n - 1, m)] / values.sum()
    assert ref.effective_rank(z).item() == pytest.approx(math.exp(-(p * np.log(p)).sum()))
    sigma = np.linalg.svd(z.numpy(), compute_uv=False)
    p = sigma / sigma.sum() + 1e-7
    assert ref.rankme(z).item() == pytest.approx(math.exp(-(p * np.log(p)).sum()))


def entropic_rank(values: Tensor, extra: float = 0.0) -> Tensor:
    p = values / values.sum() + extra
    return torch.exp(-(p * torch.log(p)).sum())


@pytest.mark.parametrize(("n", "m"), [(12, 7), (7, 12)])
def test_spectra_gradients(n: int, m: int) -> None:
    z, k = rows(n, m), min(n - 1, m)
    (want,) = autograd(lambda z: entropic_rank(torch.linalg.svdvals(z - z.mean(0))[:k] ** 2), z)
    torch.testing.assert_close(ref.effective_rank_grad(z), want)
    (want,) = autograd(lambda z: entropic_rank(torch.linalg.svdvals(z), 1e-7), z)
    torch.testing.assert_close(ref.rankme_grad(z), want)
    upstream = torch.randn(min(n, m), dtype=torch.float64)
    (want,) = autograd(
        lambda z: (upstream * torch.linalg.svdvals(z - z.mean(0)) ** 2 / n)[:k].sum(), z
    )
    torch.testing.assert_close(ref.covariance_spectrum_grad(z, upstream), want)


@pytest.mark.parametrize("z", [torch.ones(5, 4), torch.ones(1, 4), torch.zeros(3, 4)])
def test_spectra_of_nothing(z: Tensor) -> None:
    assert ref.effective_rank(z) == 0
    assert (ref.covariance_spectrum(z) == 0).all()
    for gradient in (ref.effective_rank_grad, ref.rankme_grad):
        assert gradient(z).isfinite().all()


# what all of them share

ONE_BATCH = (
    *("wasserstein_uniformity", "wasserstein_uniformity_grad", "polar_factor", "relative_spectrum"),
    *("uniformity", "uniformity_grad", "covariance_spectrum"),
    *("effective_rank", "effective_rank_grad", "rankme", "rankme_grad"),
)


@pytest.mark.parametrize("name", ONE_BATCH)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_batches_are_independent_and_nan_stays_in_its_own(name: str, bad: float) -> None:
    function = getattr(ref, name)
    z = rows(9, 5, 2, 2).bfloat16()
    z[1, 0, 3, 2] = bad
    before = z.clone()
    got = function(z)
    assert got.dtype == torch.float64
    assert torch.equal(z.nan_to_num(), before.nan_to_num())
    assert got[1, 0].isnan().all()
    for i, j in ((0, 0), (0, 1), (1, 1)):
        torch.testing.assert_close(got[i, j], function(z[i, j].double()))


def test_arguments_are_checked() -> None:
    z = torch.ones(3, 4)
    with pytest.raises(TypeError, match=r"z: .*int64"):
        ref.wasserstein_uniformity(z.long())
    with pytest.raises(ValueError, match=r"z: .*\(4,\)"):
        ref.wasserstein_uniformity(z[0])
    with pytest.raises(ValueError, match="z: "):
        ref.effective_rank(z[:0])
    with pytest.raises(ValueError, match="eps: "):
        ref.wasserstein_uniformity(z, eps=-1.0)
    with pytest.raises(ValueError, match="t: "):
        ref.uniformity(z, t=0.0)
    with pytest.raises(ValueError, match="2 rows"):
        ref.uniformity(z[:1])
    with pytest.raises(ValueError, match="alpha: "):
        ref.alignment(z, z, alpha=0.0)
    with pytest.raises(ValueError, match="y: "):
        ref.frechet_distance(z, z[:, :2])
    with pytest.raises(ValueError, match="cov_x: "):
        ref.gaussian_w2(z[0], z)
    with pytest.raises(ValueError, match="a: "):
        ref.matrix_sqrt(z)
