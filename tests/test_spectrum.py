"""`effective_rank`, `rankme` and `covariance_spectrum` on the zoo."""

import pytest
import torch

import wssl_fast as wf
from tests.tolerances import contract_tolerance
from tests.zoo import BY_NAME, RAW_SCALE, SHAPES, ZOO, Case
from wssl_fast import reference

HEALTHY = ("gaussian", "power_law", "large_mean", "clusters", "soft_collapse")
CASES = pytest.mark.parametrize("case", ZOO, ids=lambda case: case.name)


@CASES
def test_values_on_every_spectrum(case: Case) -> None:
    for shape in ("n<m", "n=m+1", "odd"):
        z = case(*SHAPES[shape])
        spectrum, want = wf.covariance_spectrum(z).double(), reference.covariance_spectrum(z)
        # a Gram in float64: eigenvalues to eps64 |C| absolutely, rounded to float32 at the end
        # (rows of norm 1e-20 have eigenvalues of 1e-42, subnormal in float32)
        atol = max(1e-12 * want[0].item(), 1e-45)
        torch.testing.assert_close(spectrum, want, rtol=1e-6, atol=atol)
        assert (spectrum.diff() <= 0).all()
        assert wf.effective_rank(z).item() == pytest.approx(
            reference.effective_rank(z).item(), rel=1e-5
        )
        # sigma under 1e-7 of the largest drops out of rankme's sum: k of them, 1e-7 log 1e7 each
        assert wf.rankme(z).item() == pytest.approx(reference.rankme(z).item(), rel=1e-3)


@CASES
def test_gradients_on_every_spectrum(case: Case) -> None:
    for shape in ("n<m", "n=m+1"):
        z = case(*SHAPES[shape])
        for name in ("effective_rank", "rankme"):
            leaf = z.clone().requires_grad_()
            getattr(wf, name)(leaf).backward()
            assert leaf.grad is not None
            assert leaf.grad.isfinite().all(), name
            truth = getattr(reference, name + "_grad")(z)
            # at equal singular values both ranks are at their maximum, the gradient is rounding
            if name == "effective_rank" and case.name not in (
                *RAW_SCALE,
                "flat",
                "one_hot",
                "two_rows",
            ):
                gap = (leaf.grad - truth).norm()
                assert gap <= contract_tolerance(torch.float32) * truth.norm(), name


@pytest.mark.parametrize("name", HEALTHY)
def test_gradients_of_rankme_and_of_the_spectrum(name: str) -> None:
    limit = contract_tolerance(torch.float32)
    for shape in ("n<m", "n>m"):
        z = BY_NAME[name](*SHAPES[shape])
        # a constant column of ones: the raw rows have no direction that is null but for rounding,
        # where rankme's own gradient, log of 1e-7 + 1e-8, knows no limit but its constant
        padded = torch.cat([z, torch.ones(len(z), 1)], dim=1)
        leaf = padded.clone().requires_grad_()
        wf.rankme(leaf).backward()
        truth = reference.rankme_grad(padded)
        assert leaf.grad is not None
        assert (leaf.grad - truth).norm() <= limit * truth.norm()
        upstream = torch.randn(min(z.shape))
        leaf = z.clone().requires_grad_()
        wf.covariance_spectrum(leaf).backward(upstream)
        truth = reference.covariance_spectrum_grad(z, upstream)
        assert leaf.grad is not None
        assert (leaf.grad - truth).norm() <= limit * truth.norm()


def test_repeated_eigenvalues_under_one_upstream() -> None:
    z = BY_NAME["flat"](96, 40).requires_grad_()
    wf.covariance_spectrum(z).sum().backward()  # the trace: 2/n of the centred rows
    assert z.grad is not None
    torch.testing.assert_close(z.grad, 2 / 96 * (z - z.mean(0)).detach(), rtol=1e-5, atol=1e-7)
