"""`wasserstein_uniformity` on every spectrum of the zoo: solvers x precisions x formulations."""

import math

import pytest
import torch
from torch import Tensor

import wssl_fast as wf
from tests.tolerances import (
    MEDIUM_COSINE,
    ONE_PASS,
    gradient_cosine,
    gradient_error,
    gradient_tolerance,
    resolution,
    value_tolerance,
    w2_tolerance,
)
from tests.zoo import BY_NAME, COLLAPSED, RAW_SCALE, SHAPES, ZOO, Case
from wssl_fast import reference

CASES = pytest.mark.parametrize("case", ZOO, ids=lambda case: case.name)
SOLVERS = pytest.mark.parametrize("solver", ["eigh", "newton_schulz"])


def w2(z: Tensor, **keywords: object) -> tuple[Tensor, Tensor]:
    """W2 and the gradient of W2^2."""
    leaf = z.detach().clone().requires_grad_()
    wf.wasserstein_uniformity(leaf, squared=True, **keywords).sum().backward()
    assert leaf.grad is not None
    return wf.wasserstein_uniformity(z, **keywords), leaf.grad


def formulations(case: Case) -> tuple[bool, ...]:
    return (True,) if case.name in RAW_SCALE else (True, False)


@CASES
@SOLVERS
@pytest.mark.parametrize("precision", ["auto", "double", "highest", "medium"])
@pytest.mark.parametrize("shape", SHAPES)
def test_value_and_gradient(case: Case, solver: str, precision: str, shape: str) -> None:
    z = case(*SHAPES[shape])
    above = resolution(precision)
    for normalize in formulations(case):
        value, grad = w2(z, normalize=normalize, solver=solver, precision=precision)
        want = reference.wasserstein_uniformity(z, normalize=normalize).item()
        assert grad.isfinite().all()

        bound = w2_tolerance(z, want, precision, normalize=normalize)
        assert abs(value.item() - want) <= bound, f"{normalize=}"

        if precision == "medium":
            if case.name != "flat":  # nothing is left of the gradient at the optimum
                cosine = gradient_cosine(grad, z, normalize=normalize, above=above)
                assert cosine >= MEDIUM_COSINE, f"{normalize=}"
            continue
        sees_null = precision not in ONE_PASS
        error = gradient_error(grad, z, normalize=normalize, above=above, null=sees_null)
        assert error <= gradient_tolerance(precision, solver=solver), f"{normalize=}"


def polar_of(z: Tensor, grad: Tensor) -> Tensor:
    """The polar factor inside a gradient of W2^2 on raw rows, `(2/n) X - 2/(n sqrt m) P`."""
    n, m = z.shape
    return math.sqrt(m) * (z.double() - n / 2 * grad.double())


@CASES
@SOLVERS
@pytest.mark.parametrize("precision", ["auto", "double", "highest"])
def test_every_direction_is_pushed_as_promised(case: Case, solver: str, precision: str) -> None:
    for shape in ("n<m", "n=m+1", "odd"):
        z = case(*SHAPES[shape])
        z = torch.nn.functional.normalize(z, eps=1e-30)  # raw rows, so that P can be read off
        _, grad = w2(z, normalize=False, solver=solver, precision=precision)
        polar = polar_of(z, grad)
        relative, weights = reference.polar_weights(z, polar, normalize=False)
        above = relative >= resolution(precision)
        assert ((weights[above] - 1).abs() < 0.1).all(), shape
        # below: bounded, and never pushed the wrong way by more than the digits of P
        assert torch.linalg.matrix_norm(polar, ord=2) <= 1.5 * math.sqrt(z.shape[0]), shape
        below = (relative > 0) & ~above
        assert (weights[below] > -0.1).all(), shape


@pytest.mark.parametrize(
    "name", ["exact_rank", "duplicated_rows", "dead_features", "cloned_features"]
)
@SOLVERS
@pytest.mark.parametrize("precision", ["auto", "double"])
def test_exactly_null_directions_have_weight_zero(name: str, solver: str, precision: str) -> None:
    for shape in ("n<m", "n=m", "odd"):
        z = BY_NAME[name](*SHAPES[shape])
        if name == "exact_rank":
            z = z / 32  # near unit length, and still exact
        _, grad = w2(z, normalize=False, solver=solver, precision=precision)
        rows = z.double() - z.double().mean(0)
        _, s, vh = torch.linalg.svd(rows)
        null = vh[int((s > 1e-12 * s[0]).sum()) :].T  # (m, null)
        pushed = torch.linalg.matrix_norm(polar_of(z, grad) @ null, ord=2) / z.shape[0] ** 0.5
        assert pushed <= gradient_tolerance(precision), shape


@CASES
@SOLVERS
@pytest.mark.parametrize("shape", ["n<m", "n=m", "n>m"])
def test_float64_input(case: Case, solver: str, shape: str) -> None:
    z = case(*SHAPES[shape], dtype=torch.float64)
    for normalize in formulations(case):
        value, grad = w2(z, normalize=normalize, solver=solver)
        assert value.dtype == grad.dtype == torch.float64
        want = reference.wasserstein_uniformity(z, normalize=normalize).item()
        assert abs(value.item() - want) <= w2_tolerance(z, want, "auto", normalize=normalize)
        error = gradient_error(grad, z, normalize=normalize, above=resolution("auto", z.dtype))
        assert error <= gradient_tolerance("auto", z.dtype)


@CASES
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", ["n<m", "n>m"])
def test_half_precision_input(case: Case, dtype: torch.dtype, shape: str) -> None:
    if case.name in RAW_SCALE and dtype == torch.float16:
        pytest.skip("norms of 1e-20 and 1e15 do not exist in float16")
    z = case(*SHAPES[shape], dtype=dtype)
    value, grad = w2(z)
    assert (value.dtype, grad.dtype) == (torch.float32, dtype)
    want = reference.wasserstein_uniformity(z).item()
    assert abs(value.item() - want) <= value_tolerance("auto")
    if dtype == torch.float16:
        # entries of the gradient under 6e-5 are subnormal in float16: compare before the cast
        grad = w2(z.float())[1]
    error = gradient_error(grad, z, above=resolution("auto"))
    assert error <= gradient_tolerance("auto", dtype)


@CASES
@SOLVERS
def test_unsquared_gradient_is_the_squared_ones_over_twice_w2(case: Case, solver: str) -> None:
    for shape in ("n<m", "n>m"):
        z = case(*SHAPES[shape])
        value = wf.wasserstein_uniformity(z, solver=solver)
        leaf = z.clone().requires_grad_()
        wf.wasserstein_uniformity(leaf, solver=solver).backward()
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()
        if value > 1e-2:  # at the optimum the slope is capped: finite is all that is promised
            error = gradient_error(2 * value * leaf.grad, z, above=resolution("auto"))
            assert error <= gradient_tolerance("auto"), shape


@CASES
@pytest.mark.parametrize("shape", ["n<m", "n=m", "n>m"])
def test_a_ridge(case: Case, shape: str) -> None:
    z, eps = case(*SHAPES[shape]), 1e-4
    leaf = z.clone().requires_grad_()
    value = wf.wasserstein_uniformity(leaf, squared=True, eps=eps)
    value.backward()
    assert leaf.grad is not None
    want = reference.wasserstein_uniformity(z, squared=True, eps=eps).item()
    assert value.item() == pytest.approx(want, abs=value_tolerance("auto"))
    want_grad = reference.wasserstein_uniformity_grad(z, squared=True, eps=eps)
    scaled = z.double().norm(dim=1, keepdim=True)
    gap = ((leaf.grad.double() - want_grad) * scaled).norm()
    # the ridge smooths what lies under sqrt(eps): no resolution to speak of, nothing to leave out;
    # the floor of gradient_error, |P|_F = sqrt(n rank)
    n, m = z.shape
    floor = 1e-2 * 2 / (n * math.sqrt(m)) * math.sqrt(n * min(n, m))
    assert gap <= gradient_tolerance("auto") * max((want_grad * scaled).norm().item(), floor)


@SOLVERS
def test_a_batch_of_problems_of_every_kind(solver: str) -> None:
    n, m = SHAPES["odd"]
    z = torch.stack([case(n, m) for case in ZOO if case.name != "two_rows"])
    z = z.reshape(2, -1, n, m)
    value, grad = w2(z, solver=solver)
    assert value.shape == z.shape[:2]
    for i, j in ((0, 0), (0, 3), (1, 6)):
        one, one_grad = w2(z[i, j], solver=solver)
        torch.testing.assert_close(value[i, j], one)
        torch.testing.assert_close(grad[i, j], one_grad)


@pytest.mark.parametrize("case", COLLAPSED, ids=lambda case: case.name)
@SOLVERS
@pytest.mark.parametrize("precision", ["auto", "double", "highest"])
@pytest.mark.parametrize("shape", ["n<m", "n=m", "n>m", "few", "few columns", "pair"])
def test_collapsed_batches(case: Case, solver: str, precision: str, shape: str) -> None:
    few = {"few": (6, 64), "few columns": (6, 4), "pair": (2, 5)}
    n, m = few.get(shape) or SHAPES[shape]
    z = case(n, m)
    value, grad = w2(z, solver=solver, precision=precision)
    want = 1.0 if case.name == "zeros" else math.sqrt(2)
    assert abs(value.item() - want) <= value_tolerance(precision)
    # |P|_F = sqrt(n k) if every direction that rounding made were pushed; nothing above that
    pushed = (grad.double() * z.double().norm(dim=1, keepdim=True)).norm().item()
    pushed *= n * math.sqrt(m) / 2
    assert pushed <= 1.5 * math.sqrt(n * min(n, m))
    if case.name != "parallel" and precision != "highest":
        assert pushed <= 1e-2 * math.sqrt(n)


@SOLVERS
@pytest.mark.parametrize("precision", ["auto", "double", "highest"])
@pytest.mark.parametrize(("n", "m"), [(221, 3), (385, 4), (265, 5), (289, 8), (400, 40)])
def test_neural_collapse(solver: str, precision: str, n: int, m: int) -> None:
    # m - 1 nearly equal eigenvalues and one exactly null, which n <= m alone would know of
    z = BY_NAME["one_hot"](n, m)
    value, grad = w2(z, solver=solver, precision=precision)
    want = reference.wasserstein_uniformity(z).item()
    bound = value_tolerance(precision)
    if precision == "highest" and solver == "newton_schulz":
        # clones round alike: the null eigenvalue is off by up to 10 eps |S|_F, and a solver without
        # eigenvalues to cut weighs it by 1.5 (10 eps |S|_F)^(-1/2); dW2 = dT / (sqrt m W2)
        noise = 10 * torch.finfo(z.dtype).eps * math.sqrt(m - 1) / m
        bound += 1.5 * math.sqrt(noise) / (math.sqrt(m) * want)
    assert abs(value.item() - want) <= bound
    error = gradient_error(grad, z, null=precision != "highest")
    assert error <= gradient_tolerance(precision, solver=solver)


@pytest.mark.parametrize("shape", ["n<m", "n>m"])
@SOLVERS
def test_gradient_changes_smoothly_as_a_direction_collapses(shape: str, solver: str) -> None:
    # through the resolution of one float32 pass and of auto: no jump beyond the tolerance where
    # auto turns to more digits, and bounded below
    n, m = SHAPES[shape]
    left = torch.linalg.qr(torch.randn(n, 9, dtype=torch.float64)).Q
    left = torch.linalg.qr(left - left.mean(0)).Q
    right = torch.linalg.qr(torch.randn(m, 9, dtype=torch.float64)).Q
    for depth in torch.logspace(-1, -8, 29, dtype=torch.float64):
        sigma = torch.ones(9, dtype=torch.float64)
        sigma[8] = depth
        z = (n**0.5 * (left * sigma) @ right.T).float()
        _, grad = w2(z, solver=solver)
        weight = polar_of(z, w2(z, normalize=False, solver=solver)[1])
        assert torch.linalg.matrix_norm(weight, ord=2) <= 1.5 * math.sqrt(n)
        assert gradient_error(grad, z, above=resolution("auto")) <= gradient_tolerance("auto")
