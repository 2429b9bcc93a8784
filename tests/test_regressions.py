"""What the fuzzer and the sanitizers found, each as the smallest case that shows it."""

import math

import pytest
import torch
from torch import Tensor

import wssl_fast as wf
from tests.tolerances import (
    contract_tolerance,
    gradient_error,
    gradient_tolerance,
    resolution_of,
    value_tolerance,
    w2_tolerance,
)
from wssl_fast import reference
from wssl_fast.backends import native
from wssl_fast.backends.eager import eigen, roots
from wssl_fast.backends.eager.newton_schulz import FLOOR
from wssl_fast.backends.eager.numerics import NOISE


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


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("size", [1e19, 1e22, 1e30])
def test_uniformity_of_equal_rows_as_large_as_they_come(
    size: float, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """t over the square of their scale is beyond float32, and 0 times it was NaN."""
    if not compiled:
        monkeypatch.setattr(native, "_module", None)
    z = torch.full((3, 2), size).requires_grad_()
    value = wf.uniformity(z, normalize=False)
    (grad,) = torch.autograd.grad(value, z)
    assert value == 0
    assert bool((grad == 0).all())


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


# a ridge beside rows of any size, ranks beside a mean


@pytest.mark.parametrize("shape", [(1, 1), (4, 6), (6, 4)])
@pytest.mark.parametrize("size", [1e-26, 1e-13, 1e20])
def test_a_ridge_beside_raw_rows_of_any_size(shape: tuple[int, int], size: float) -> None:
    z = size * torch.randn(shape)
    for precision in ("auto", "highest"):
        for solver in ("eigh", "newton_schulz"):
            how = {"solver": solver, "precision": precision}
            value = wf.wasserstein_uniformity(z, normalize=False, eps=1e-4, **how)
            want = reference.wasserstein_uniformity(z, normalize=False, eps=1e-4).item()
            assert value.item() == pytest.approx(want, rel=1e-4)


def test_constant_rows_in_float64_have_no_rank() -> None:
    for n, m in ((5, 18), (205, 6)):
        z = torch.randn(1, m, dtype=torch.float64).expand(n, m)
        assert wf.effective_rank(z) == 0


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


# the slope of a root is held relative to the spectra, not to 1


@pytest.mark.parametrize("size", [1e-25, 1e-8, 1e4])
@pytest.mark.parametrize("shape", [(9, 6), (6, 9)])
def test_frechet_gradient_knows_no_scale(size: float, shape: tuple[int, int]) -> None:
    x, y = size * torch.randn(shape), 2 * size * torch.randn(shape)
    leaves = x.requires_grad_(), y.requires_grad_()
    grads = torch.autograd.grad(wf.frechet_distance(*leaves, squared=False), leaves)
    truths = reference.frechet_distance_grad(x, y, squared=False)
    for grad, truth in zip(grads, truths, strict=True):
        near(grad, truth)


def test_gaussian_w2_gradient_knows_no_scale() -> None:
    factor = torch.randn(2, 20, 6, dtype=torch.float64)
    cov = factor.mT @ factor / 20
    given = [1e-8 * torch.randn(6, dtype=torch.float64), 1e-16 * cov[0]]
    given += [1e-8 * torch.randn(6, dtype=torch.float64), 1e-16 * cov[1]]
    leaves = [t.float().requires_grad_() for t in given]
    grads = torch.autograd.grad(wf.gaussian_w2(*leaves), leaves)
    truths = reference.gaussian_w2_grad(*(t.detach() for t in leaves))
    for grad, truth in zip(grads, truths, strict=True):
        near(grad, truth)


# Gaussians given by rounded moments


def test_negative_eigenvalues_of_a_covariance_count_as_0() -> None:
    mean, cov = torch.zeros(2), torch.tensor([[1.0, 1.1], [1.1, 1.0]])  # 2.1 and -0.1
    for squared in (True, False):
        value = wf.gaussian_w2(mean, cov, squared=squared)
        near(value, reference.gaussian_w2(mean, cov, squared=squared))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_standard_target_is_not_rounded_to_half_precision(dtype: torch.dtype) -> None:
    m = 74  # 1/74 in bfloat16 is off by 2e-3
    value = wf.gaussian_w2(torch.zeros(m, dtype=dtype), torch.zeros(m, m, dtype=dtype))
    assert value.item() == pytest.approx(1.0, rel=1e-6)


# covariance


def test_covariance_whose_sums_leave_the_range() -> None:
    z = (1e19 * torch.randn(400, 5)).bfloat16()
    _, cov = wf.batch_covariance(z)
    near(cov, reference.batch_covariance(z)[1])
    _, cov = wf.batch_covariance(1e4 * z)
    want = reference.batch_covariance(1e4 * z)[1]
    assert torch.equal(cov, want.sign() * math.inf)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_covariance_is_exactly_symmetric(dtype: torch.dtype) -> None:
    for n, m in ((73, 10), (32, 52), (200, 61)):
        _, cov = wf.batch_covariance(torch.randn(n, m, dtype=dtype))
        assert torch.equal(cov, cov.mT)


# W2 by eigh


def test_a_null_direction_that_stands_on_a_ridge() -> None:
    """Looked up in the rows it is exact, and what rounding turns into it is not: a float32 pass
    was off by 2 %, and was accepted."""
    z = torch.eye(15)[torch.arange(236) % 15].requires_grad_()
    value = wf.wasserstein_uniformity(z, squared=True, eps=1e-11, solver="eigh")
    (grad,) = torch.autograd.grad(value, z)
    assert gradient_error(grad, z, eps=1e-11) <= gradient_tolerance("auto")


def test_a_covariance_with_subnormal_entries() -> None:
    """LAPACK's float32 iteration gives up on it: "failed to converge"."""
    generator = torch.Generator().manual_seed(725)
    m = int(torch.randint(3, 40, (1,), generator=generator))
    powers = torch.randint(-22, 7, (m + 1, 1), generator=generator)
    rows = torch.eye(m).double()[torch.arange(m + 1) % m]
    z = (rows * 10.0 ** powers.double()).float().double()
    x = z - z.mean(0)
    a = ((x.T @ x) / len(x)).float()
    eigenvalues, vectors = eigen.eigh(a)
    assert torch.equal(eigenvalues.sort().values, eigenvalues)
    near((vectors * eigenvalues) @ vectors.mT, a.double())
    near(eigen.eigvalsh(a).norm(), a.double().norm())


def _few_bits(seed: int) -> tuple[Tensor, Tensor]:
    """Rows r x m of a few distinct entries with zeros, and their weights (r, 1)."""
    generator = torch.Generator().manual_seed(seed)
    m = int(torch.randint(20, 130, (1,), generator=generator))
    r = int(torch.randint(1, 5, (1,), generator=generator))
    rows = (torch.randn(r, m, generator=generator) / 2).round() / 4
    return rows, torch.randint(1, 9, (r, 1), generator=generator)


def test_roots_of_low_rank_matrices_of_few_bits() -> None:
    """Of one in ten LAPACK's float32 iteration made NaN, or gave up."""
    for seed in range(100):
        rows, weights = _few_bits(seed)
        a = rows.T @ (weights * rows) / 3
        root = wf.matrix_sqrt(a, solver="eigh", precision="highest")
        # |A^(1/2) - B^(1/2)| <= |A - B|^(1/2), A known to k units
        unit = len(a) * torch.finfo(a.dtype).eps
        gap = torch.linalg.matrix_norm(root - reference.matrix_sqrt(a), ord=2)
        assert gap <= (8 * unit * a.norm()) ** 0.5


@pytest.mark.parametrize("precision", ["auto", "highest"])
def test_clones_with_dead_features(precision: str) -> None:
    for seed in range(60):
        rows, weights = _few_bits(seed)
        z = rows.repeat_interleave(60 * weights[:, 0], dim=0).requires_grad_()
        how = {"solver": "eigh", "normalize": False}
        value = wf.wasserstein_uniformity(z, precision=precision, **how)
        (grad,) = torch.autograd.grad(value, z)
        want = reference.wasserstein_uniformity(z.detach(), normalize=False)
        limit = w2_tolerance(z.detach(), want.item(), precision, normalize=False)
        assert abs(value - want) <= limit
        assert grad.isfinite().all()


@pytest.mark.parametrize("fails", [1, 2])
@pytest.mark.parametrize("way", ["raises", "NaN"])
def test_an_eigensolver_that_fails_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, way: str, fails: int
) -> None:
    asked, solve = [], torch.linalg.eigh

    def failing(a: Tensor) -> tuple[Tensor, Tensor]:
        asked.append(a.dtype)
        if len(asked) > fails:
            eigenvalues, vectors = solve(a)
            return eigenvalues, vectors
        if way == "raises":
            raise eigen.LinAlgError("failed to converge")
        return a.diagonal() * math.nan, a

    monkeypatch.setattr(torch.linalg, "eigh", failing)
    a = torch.tensor([[2.0, 1e-20], [1e-20, 1.0]])
    eigenvalues, vectors = eigen.eigh(a)
    assert asked == [torch.float32, torch.float64, torch.float64][: fails + 1]
    assert eigenvalues.tolist() == [1.0, 2.0]
    assert {eigenvalues.dtype, vectors.dtype} == {torch.float32}


@pytest.mark.parametrize("shape", [(172, 171), (171, 172)])
def test_unsure_directions_of_rows_far_from_zero(shape: tuple[int, int]) -> None:
    """Looked up in rows that were centred after a float32 product, they were rounding."""
    n, m = shape
    z = (torch.randn(n, m) + 1e6 * torch.randn(m)).requires_grad_()
    (grad,) = torch.autograd.grad(wf.wasserstein_uniformity(z, squared=True, solver="eigh"), z)
    above = resolution_of(z, "auto")
    assert gradient_error(grad, z, above=above) <= gradient_tolerance("auto")


# W2 by Newton-Schulz


@pytest.mark.parametrize("shape", [(60, 90), (90, 60)])
def test_one_pass_over_raw_rows_far_from_their_target(shape: tuple[int, int]) -> None:
    """|Y|_F^2 carries the rounding of Q, 3e-4 of it beside null directions; tr A does not."""
    n, m = shape
    z = 1e6 * torch.randn(n, 2) @ torch.randn(2, m)
    how = {"normalize": False, "squared": True}
    value = wf.wasserstein_uniformity(z, solver="newton_schulz", precision="highest", **how)
    want = reference.wasserstein_uniformity(z, **how)
    # a float32 sum of k squares, and its share in the root of a mean of them: 4 sqrt(k) units
    unit = torch.finfo(z.dtype).eps * min(n, m) ** 0.5
    assert value.item() == pytest.approx(want.item(), rel=4 * unit)


def test_one_pass_over_equal_columns() -> None:
    """All m products of an entry round alike, which makes eigenvalues of -5 units of rounding."""
    column = torch.randn(12, 1, generator=torch.Generator().manual_seed(2424536))
    z = column.expand(12, 113) * 0.1
    how = {"normalize": False, "squared": True}
    value = wf.wasserstein_uniformity(z, solver="newton_schulz", precision="highest", **how)
    want = reference.wasserstein_uniformity(z, **how)
    limit = 2 * want.sqrt() * value_tolerance("highest")  # of W2, here of its square
    assert abs(value - want) <= limit


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("units", [1, 5, 21, 200])
def test_a_root_of_what_rounding_made_indefinite(dtype: torch.dtype, units: int) -> None:
    unit = torch.finfo(dtype).eps
    a = torch.diag(torch.tensor([1.0, 0.5, 0.0, -units * unit], dtype=dtype))
    noise = torch.tensor(NOISE[dtype] * unit, dtype=torch.float64)
    root = roots.inverse_root(a, noise, target=0.0, eps=0.0, solver="newton_schulz", clones=False)
    bound = (FLOOR[dtype] * 1.25**0.5) ** -0.5  # |Q|, and one and a half of it with the shift out
    assert root.inverse.abs().max() <= 1.5 * bound
    near(root.inverse[:2, :2], torch.diag(torch.tensor([1.0, 2.0**0.5], dtype=torch.float64)))


@pytest.mark.parametrize("precision", ["auto", "double"])
def test_rows_that_are_equal_are_not_pushed(precision: str) -> None:
    """More of them than columns: their mean is a few units of rounding away, and not a spread."""
    z = torch.randn(1, 6).expand(248, 6).clone().requires_grad_()
    wf.wasserstein_uniformity(z, solver="newton_schulz", precision=precision).backward()
    assert z.grad is not None
    assert z.grad.eq(0).all()


# what was tried by hand


@pytest.mark.parametrize("t", [1e-44, 1e-46, 1e-320])
def test_l_u_of_a_kernel_that_is_flat(t: float) -> None:
    """2 t is 0 in float32, and a row with itself has the exponent -inf."""
    z = torch.randn(6, 4).requires_grad_()
    value = wf.uniformity(z, t=t)
    value.backward()
    assert value == 0
    assert z.grad is not None
    assert z.grad.isfinite().all()


# matrix roots by Newton-Schulz


def test_roots_of_large_matrices_in_float32() -> None:
    a = torch.diag(torch.tensor([1e27, 4e27, 9e27]))
    for name in ("matrix_sqrt", "matrix_inv_sqrt"):
        root = getattr(wf, name)(a, solver="newton_schulz", precision="highest")
        near(root, getattr(reference, name)(a))


def test_equal_raw_rows_so_small_that_their_shift_is_subnormal() -> None:
    z = 1e-8 * torch.ones(8, 1)
    how = {"solver": "newton_schulz", "precision": "highest"}
    value = wf.wasserstein_uniformity(z, normalize=False, **how)
    assert value.item() == pytest.approx(1.0, abs=1e-4)


def test_a_matrix_made_indefinite_by_half_precision() -> None:
    factor = torch.randn(5, 1, dtype=torch.float64)
    a = (factor @ factor.T).bfloat16()  # entries rounded at 4e-3: eigenvalues of about -1e-2
    assert torch.linalg.eigvalsh(a.double())[0] < 0
    for precision in ("auto", "highest"):
        root = wf.matrix_sqrt(a, solver="newton_schulz", precision=precision)
        # |A^(1/2) - B^(1/2)| <= |A - B|^(1/2), with the shift of two units of |A|_F between them
        unit = torch.finfo(a.dtype).eps
        gap = torch.linalg.matrix_norm(root.double() - reference.matrix_sqrt(a.float()), ord=2)
        assert gap <= (4 * unit * a.double().norm()) ** 0.5
