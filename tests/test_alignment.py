"""`alignment` where close pairs, odd powers and extreme norms could lose digits."""

import pytest
import torch

import wssl_fast as wf
from tests.tolerances import by_direction, contract_tolerance
from tests.zoo import BY_NAME
from wssl_fast import reference
from wssl_fast.backends.eager import alignment


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 3.5])
@pytest.mark.parametrize("gap", [1.0, 1e-3])
def test_close_pairs_keep_their_digits(alpha: float, gap: float) -> None:
    x = torch.randn(50, 9)
    y = x + gap * torch.randn(50, 9)
    x.requires_grad_()
    value = wf.alignment(x, y, alpha=alpha)
    value.backward()
    want = reference.alignment(x, y, alpha=alpha).item()
    # a unit row is rounded to 6e-8, relative to a gap of `gap`
    slack = contract_tolerance(torch.float32) + 1e-6 / gap
    assert value.item() == pytest.approx(want, rel=slack)
    truth = reference.alignment_grad(x, y, alpha=alpha)[0]
    assert x.grad is not None
    assert (x.grad - truth).norm() <= slack * truth.norm()


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 3.0])
def test_equal_pairs_have_gradient_zero(alpha: float) -> None:
    x = torch.randn(6, 4)
    x[2] = 0
    leaves = x.clone().requires_grad_(), x.clone().requires_grad_()
    value = wf.alignment(*leaves, alpha=alpha)
    value.backward()
    assert value == 0
    for leaf in leaves:
        assert leaf.grad is not None
        assert (leaf.grad == 0).all()


@pytest.mark.parametrize("name", ["tiny_norms", "huge_norms", "mixed_norms", "zero_rows"])
def test_norms_out_of_range(name: str) -> None:
    x = BY_NAME[name](48, 80)
    y = x.roll(1, dims=1) * 2
    leaves = x.requires_grad_(), y.requires_grad_()
    value = wf.alignment(*leaves)
    value.backward()
    assert value.item() == pytest.approx(reference.alignment(x, y).item(), rel=1e-5)
    for leaf, truth in zip(leaves, reference.alignment_grad(x, y), strict=True):
        assert leaf.grad is not None
        gap = by_direction(leaf.grad, leaf) - by_direction(truth, leaf)
        assert gap.norm() <= contract_tolerance(torch.float32) * by_direction(truth, leaf).norm()


@pytest.mark.parametrize("normalize", [True, False])
def test_no_look_at_the_data_on_a_gpu(normalize: bool) -> None:
    """A CUDA graph does not capture what looks, and tensors without data refuse to be looked at."""
    x, y = torch.empty(2, 6, 4, device="meta").unbind()
    value = alignment.forward(x, y, 2.0, normalize)
    assert value.shape == ()
    assert alignment.backward(x, y, value, 2.0, normalize)[0].shape == x.shape
