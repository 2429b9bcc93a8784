"""What the zoo cannot see: which path runs, what is kept, what exists in memory."""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import wssl_fast as wf
from wssl_fast import reference
from wssl_fast.backends.eager import w2_covariance, w2_gram

from .tolerances import gradient_error, gradient_tolerance

SEED = 3


def gaussian(n: int, m: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(n, m, generator=torch.Generator().manual_seed(SEED)).to(dtype)


def collapsed(n: int, m: int, noise: float) -> Tensor:
    return gaussian(n, 12) @ gaussian(12, m) + noise * gaussian(n, m)


# n = m: the least singular value of a healthy batch is 1/n of the largest, and is looked up in the
# rows; elsewhere the Gram knows it
@pytest.mark.parametrize("shape", [(64, 128), (128, 128), (129, 128), (200, 64)])
def test_a_healthy_batch_takes_one_float32_pass(shape: tuple[int, int]) -> None:
    backend = w2_gram if shape[0] <= shape[1] else w2_covariance
    assert not bool(backend.forward(gaussian(*shape), True, 0.0, "eigh", "auto", True).deep)


def with_spectrum(n: int, m: int, sigma: Tensor) -> Tensor:
    """Float32 rows (n, m) whose centred singular values are sigma (k,)."""
    u = gaussian(n, len(sigma), torch.float64)
    u = torch.linalg.qr(u - u.mean(0)).Q
    v = torch.linalg.qr(gaussian(m, len(sigma), torch.float64)).Q
    return ((u * sigma) @ v.mT).float()


# a fifth of the directions lies where a float32 Gram knows weights to 1e-3 .. 0.5
@pytest.mark.parametrize("shape", [(129, 160), (160, 128)])
def test_many_unsure_directions_are_looked_up_in_the_rows(shape: tuple[int, int]) -> None:
    sigma = torch.ones(128, dtype=torch.float64)
    sigma[:26] = torch.logspace(-2, -3.3, 26, dtype=torch.float64)
    z = with_spectrum(*shape, sigma).requires_grad_()
    backend = w2_gram if shape[0] <= shape[1] else w2_covariance
    state = backend.forward(z.detach(), False, 0.0, "eigh", "auto", True)
    assert not bool(state.deep)
    wf.wasserstein_uniformity(z, normalize=False, squared=True).backward()
    assert gradient_error(z.grad, z, normalize=False) <= gradient_tolerance("auto")


def test_a_look_at_the_rows_keeps_the_lifted_null_vector() -> None:
    """|mu| = 34.5 leaves directions up to lambda = 0.9 unsure: of 63 the 13 small ones, and the
    null vector, lifted to the mean of all, 0.78. The rows know nothing of a lift."""
    sigma = torch.full((63,), 8.0, dtype=torch.float64)  # lambda = 64/n = 1
    sigma[-13:] = 0.1
    mean = 34.5 * torch.nn.functional.normalize(gaussian(1, 128))
    z = (with_spectrum(64, 128, sigma) + mean).requires_grad_()
    truth = reference.wasserstein_uniformity(z, normalize=False).item()
    value = wf.wasserstein_uniformity(z, normalize=False)
    # of raw rows W2 is about |mu|: relative to that, float32's result and its promise
    assert abs(value.item() - truth) <= 1e-6 * truth
    wf.wasserstein_uniformity(z, normalize=False, squared=True).backward()
    assert gradient_error(z.grad, z, normalize=False) <= gradient_tolerance("auto")


@pytest.mark.parametrize("shape", [(129, 160), (160, 128)])
def test_a_fifth_of_the_directions_gone_takes_a_float64_pass(shape: tuple[int, int]) -> None:
    sigma = torch.ones(128, dtype=torch.float64)
    sigma[:26] = 1e-6
    z = with_spectrum(*shape, sigma)
    backend = w2_gram if shape[0] <= shape[1] else w2_covariance
    assert bool(backend.forward(z, False, 0.0, "eigh", "auto", True).deep)


@pytest.mark.parametrize("shape", [(64, 128), (200, 64)])
@pytest.mark.parametrize("solver", ["eigh", "newton_schulz"])
def test_a_collapsed_batch_takes_a_float64_pass(shape: tuple[int, int], solver: str) -> None:
    backend = w2_gram if shape[0] <= shape[1] else w2_covariance
    z = collapsed(*shape, noise=1e-4)
    assert bool(backend.forward(z, True, 0.0, solver, "auto", True).deep)
    assert not bool(backend.forward(z, True, 0.0, solver, "highest", True).deep)


def test_only_w_is_kept_besides_the_input() -> None:
    n, m = 16, 256
    z = gaussian(n, m).requires_grad_()
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        wf.wasserstein_uniformity(z)
    large = [t for t in kept if t.numel() > 2 * n]
    assert sorted(tuple(t.shape) for t in large) == sorted([(1, n, m), (1, n, n)])


class LargestTensor(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, tuple | list) else (out,):
            if isinstance(t, Tensor):
                self.elements = max(self.elements, t.numel())
        return out


@pytest.mark.parametrize("precision", ["auto", "double"])
def test_no_m_by_m_tensor_when_rows_are_fewer(precision: str) -> None:
    n, m = 8, 512
    z = gaussian(n, m).requires_grad_()
    with LargestTensor() as seen:
        wf.wasserstein_uniformity(z, precision=precision).backward()
    assert seen.elements <= n * m


def test_no_n_by_n_tensor_in_uniformity() -> None:
    n, m = 1536, 4
    z = gaussian(n, m).requires_grad_()
    with LargestTensor() as seen:
        wf.uniformity(z).backward()
    assert seen.elements <= 512 * 512


@pytest.mark.parametrize("shape", [(6, 9), (9, 6)])
def test_batch_of_problems_equals_one_by_one(shape: tuple[int, int]) -> None:
    z = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(SEED)).requires_grad_()
    together = wf.wasserstein_uniformity(z)
    assert together.shape == (2, 3)
    (grad,) = torch.autograd.grad(together.sum(), z)
    for i in range(2):
        for j in range(3):
            x = z[i, j].detach().requires_grad_()
            value = wf.wasserstein_uniformity(x)
            torch.testing.assert_close(together[i, j], value, rtol=0, atol=0)
            torch.testing.assert_close(grad[i, j], torch.autograd.grad(value, x)[0], rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(33, 70), (70, 33)])
def test_autocast_and_global_precision_change_nothing(shape: tuple[int, int]) -> None:
    z = gaussian(*shape).requires_grad_()
    expected = wf.wasserstein_uniformity(z)
    (expected_grad,) = torch.autograd.grad(expected, z)
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = wf.wasserstein_uniformity(z)
            (grad,) = torch.autograd.grad(value, z)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    torch.testing.assert_close(value, expected, rtol=0, atol=0)
    torch.testing.assert_close(grad, expected_grad, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(33, 70), (70, 33)])
def test_bitwise_repeatable(shape: tuple[int, int]) -> None:
    z = gaussian(*shape).requires_grad_()
    runs = [torch.autograd.grad(wf.wasserstein_uniformity(z), z)[0] for _ in range(3)]
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(runs[0], runs[2])


def test_gradient_at_the_optimum_is_finite_and_small() -> None:
    """W2 = 0: the unsquared loss has the slope of a norm; the documented gradient is 0 there."""
    eye = torch.eye(6)
    z = torch.cat([eye, -eye]).requires_grad_()
    value = wf.wasserstein_uniformity(z)
    (grad,) = torch.autograd.grad(value, z)
    unit = torch.finfo(torch.float32).eps
    assert value <= unit**0.5
    assert grad.norm() <= unit**0.5  # rounding of W2^2's gradient over the held slope


def test_scaled_upstream_gradient_is_applied_last() -> None:
    """A GradScaler's factor must not overflow inside: float16 rows, upstream 2^16."""
    z = gaussian(16, 32, torch.float16).requires_grad_()
    (plain,) = torch.autograd.grad(wf.wasserstein_uniformity(z), z)
    scale = 2.0**16
    (scaled,) = torch.autograd.grad(wf.wasserstein_uniformity(z) * scale, z)
    assert plain.dtype == scaled.dtype == torch.float16
    expected = reference.wasserstein_uniformity_grad(z.detach()) * scale
    error = (scaled.double() - expected).norm() / expected.norm()
    assert error <= 2 * torch.finfo(torch.float16).eps
