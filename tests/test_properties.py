"""Invariances: the four properties of the paper (IPC, ICC, FCC, FBC), rotations, scales, the
target. Shapes and seeds are drawn by hypothesis, deterministically."""

import math

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.conftest import Api
from tests.tolerances import gradient_error, gradient_tolerance

drawn = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
batches = st.builds(
    lambda n, m, seed: torch.randn(n, m, generator=torch.Generator().manual_seed(seed)).double(),
    st.integers(2, 40),
    st.integers(2, 40),
    st.integers(0, 999),
)


def w2(api: Api, z: Tensor) -> float:
    return api.wasserstein_uniformity(z).item()


def rotation(m: int) -> Tensor:
    return torch.linalg.qr(torch.randn(m, m, dtype=torch.float64)).Q


def grad_of(api: Api, z: Tensor) -> Tensor:
    """Gradient of W2^2, in the implementation's own dtype."""
    if hasattr(api.module, "wasserstein_uniformity_grad"):
        return api.wasserstein_uniformity_grad(z, squared=True)
    leaf = z.detach().to(api.dtype, copy=True).requires_grad_()
    api.module.wasserstein_uniformity(leaf, squared=True).backward()
    assert leaf.grad is not None
    return leaf.grad


@drawn
@given(z=batches)
def test_permuting_instances_changes_nothing(api: Api, z: Tensor) -> None:
    order = torch.randperm(z.shape[0])
    assert abs(w2(api, z[order]) - w2(api, z)) <= 2 * api.tolerance
    assert abs(api.uniformity(z[order]) - api.uniformity(z)) < 1e-5


@drawn
@given(z=batches)
def test_cloning_instances_changes_nothing_in_w2(api: Api, z: Tensor) -> None:
    cloned = torch.cat([z, z])
    assert abs(w2(api, cloned) - w2(api, z)) <= 2 * api.tolerance
    assert api.uniformity(cloned) > api.uniformity(z) + 1e-4  # L_U does not satisfy ICC


@drawn
@given(z=batches)
def test_cloning_features_raises_w2(api: Api, z: Tensor) -> None:
    cloned = torch.cat([z, z], dim=1)
    assert w2(api, cloned) > w2(api, z) + 1e-3
    assert abs(api.uniformity(cloned) - api.uniformity(z)) < 1e-5  # nor FCC, on unit rows


@drawn
@given(z=batches, zeros=st.integers(1, 40))
def test_appending_zero_features_raises_w2(api: Api, z: Tensor, zeros: int) -> None:
    padded = torch.nn.functional.pad(z, (0, zeros))
    assert w2(api, padded) > w2(api, z) + 1e-4
    assert abs(api.uniformity(padded) - api.uniformity(z)) < 1e-5  # nor FBC


@drawn
@given(z=batches)
def test_w2_lies_between_its_bounds(api: Api, z: Tensor) -> None:
    assert -api.tolerance <= w2(api, z) <= math.sqrt(2) + api.tolerance


@drawn
@given(z=batches)
def test_rotating_features_rotates_the_gradient(api: Api, z: Tensor) -> None:
    turn = rotation(z.shape[1])
    assert abs(w2(api, z @ turn) - w2(api, z)) <= 2 * api.tolerance
    # the rotated rows are rounded anew; both gradients answer to the truth on their own input
    turned = (z @ turn).to(api.dtype)
    tolerance = gradient_tolerance("auto", api.dtype)
    assert gradient_error(grad_of(api, turned), turned, above=3e-5) <= tolerance
    back = grad_of(api, turned).double() @ turn.T
    z = z.to(api.dtype)
    assert gradient_error(back, z, above=1e-3) <= 2 * tolerance


@drawn
@given(z=batches)
def test_row_lengths_do_not_matter(api: Api, z: Tensor) -> None:
    lengths = torch.pow(2.0, torch.randint(-20, 20, (z.shape[0], 1)))  # exact in every dtype
    assert abs(w2(api, lengths * z) - w2(api, z)) <= 2 * api.tolerance
    torch.testing.assert_close(
        (lengths * grad_of(api, lengths * z)).double(), grad_of(api, z).double(), rtol=0, atol=1e-3
    )


@drawn
@given(z=batches)
def test_a_step_down_the_gradient_lowers_w2(api: Api, z: Tensor) -> None:
    grad = grad_of(api, z).double()
    z = z.double()
    size = grad.norm()
    if size < 1e-3:  # at an optimum already (n = 2: two opposite rows)
        return
    step = 1e-2 * z.norm() / size
    assert w2(api, z - step * grad) < w2(api, z)


def test_w2_is_zero_at_the_target(api: Api) -> None:
    eye = torch.eye(16, dtype=torch.float64)
    hadamard = torch.ones(1, 1, dtype=torch.float64)
    for _ in range(4):
        hadamard = torch.kron(hadamard, torch.tensor([[1.0, 1.0], [1.0, -1.0]]).double())
    for rows in (eye, hadamard, eye @ rotation(16)):
        z = torch.cat([rows, -rows])
        assert w2(api, z) <= api.tolerance
        assert grad_of(api, z).norm() <= 1e-5
    leaf = torch.cat([eye, -eye]).to(api.dtype).requires_grad_()
    if hasattr(api.module, "wasserstein_uniformity_grad"):
        assert (api.wasserstein_uniformity_grad(leaf) == 0).all()
    else:
        api.module.wasserstein_uniformity(leaf).backward()
        assert leaf.grad is not None
        # the slope of the root is capped: finite, and no longer than that of a unit W2
        assert leaf.grad.norm() <= 1


@drawn
@given(z=batches)
def test_uniformity_knows_only_distances(api: Api, z: Tensor) -> None:
    turned = z @ rotation(z.shape[1])
    assert abs(api.uniformity(turned) - api.uniformity(z)) < 1e-5
    moved = z + torch.randn(z.shape[1], dtype=torch.float64)
    got = api.uniformity(moved, t=0.1, normalize=False)
    assert abs(got - api.uniformity(z, t=0.1, normalize=False)) < 1e-5


@drawn
@given(z=batches)
def test_frechet_distance_is_a_distance(api: Api, z: Tensor) -> None:
    x, y = z, 2 * z.roll(1, dims=1) + 1
    third = torch.randn(7, z.shape[1], dtype=torch.float64)

    def distance(a: Tensor, b: Tensor) -> float:
        return api.frechet_distance(a, b, squared=False).item()

    slack = 10 * api.tolerance * z.shape[1]
    assert abs(distance(x, y) - distance(y, x)) <= slack
    assert distance(x, y) <= distance(x, third) + distance(third, y) + slack
    turn = rotation(z.shape[1])
    assert abs(distance(x @ turn, y @ turn) - distance(x, y)) <= slack


@drawn
@given(z=batches)
def test_ranks_know_neither_scale_nor_rotation(api: Api, z: Tensor) -> None:
    turned = 8 * z @ rotation(z.shape[1])
    for name in ("effective_rank", "rankme"):
        before, after = getattr(api, name)(z).item(), getattr(api, name)(turned).item()
        assert abs(before - after) < 1e-4 * before
        assert 1 - 1e-5 <= before <= min(z.shape) * (1 + 1e-4)
    shifted = api.effective_rank(z + 3).item()
    assert abs(shifted - api.effective_rank(z).item()) < 1e-4 * shifted
