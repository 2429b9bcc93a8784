"""The four properties by either solver, on batches that hypothesis draws: healthy, collapsed,
clustered. tests/test_properties.py has those of the default solver against the reference."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import wssl_fast as wf
from tests.tolerances import value_tolerance

drawn = settings(max_examples=15, deadline=None, derandomize=True)
SOLVERS = pytest.mark.parametrize("solver", ["eigh", "newton_schulz"])
DTYPES = (torch.float32, torch.float64)


@st.composite
def batches(draw: st.DrawFn) -> Tensor:
    """Rows (n, m) of a drawn rank, around a drawn mean, in either dtype."""
    n, m = draw(st.integers(2, 32)), draw(st.integers(2, 32))
    rank = draw(st.integers(1, min(n, m)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))

    def normal(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=generator, dtype=torch.float64)

    z = normal(n, rank) @ normal(rank, m) + draw(st.sampled_from([0.0, 1.0]))
    return z.to(draw(st.sampled_from(DTYPES)))


def w2(z: Tensor, solver: str) -> float:
    return wf.wasserstein_uniformity(z, solver=solver).item()


def tolerance(z: Tensor) -> float:
    """Both sides of an equality are off by one value's tolerance. W2 of rows that a clone made
    larger is another matrix: its error is its own."""
    return 2 * value_tolerance("auto", z.dtype)


@SOLVERS
@drawn
@given(z=batches())
def test_ipc(solver: str, z: Tensor) -> None:
    order = torch.randperm(len(z), generator=torch.Generator().manual_seed(0))
    assert abs(w2(z[order], solver) - w2(z, solver)) <= tolerance(z)


@SOLVERS
@drawn
@given(z=batches(), clones=st.integers(2, 4))
def test_icc(solver: str, z: Tensor, clones: int) -> None:
    assert abs(w2(z.repeat(clones, 1), solver) - w2(z, solver)) <= tolerance(z)


@SOLVERS
@drawn
@given(z=batches(), clones=st.integers(2, 4))
def test_fcc(solver: str, z: Tensor, clones: int) -> None:
    """W2^2 = 2 - 2 T / sqrt m: on unit rows T stays and m grows, so 2 - W2^2 falls by sqrt(clones);
    a batch on one point has T = 0 and nothing to lose."""
    before, after = w2(z, solver), w2(z.repeat(1, clones), solver)
    assert 2 - after**2 == pytest.approx((2 - before**2) / clones**0.5, abs=3 * tolerance(z))
    if 2 - before**2 > 0.1:
        assert after > before + tolerance(z)


@SOLVERS
@drawn
@given(z=batches(), zeros=st.integers(1, 32))
def test_fbc(solver: str, z: Tensor, zeros: int) -> None:
    m = z.shape[1]
    before, after = w2(z, solver), w2(torch.nn.functional.pad(z, (0, zeros)), solver)
    shrunk = (2 - before**2) * (m / (m + zeros)) ** 0.5
    assert 2 - after**2 == pytest.approx(shrunk, abs=3 * tolerance(z))
    if 2 - before**2 - shrunk > 0.01:
        assert after > before + tolerance(z)


@drawn
@given(z=batches(), clones=st.integers(2, 4))
def test_l_u_has_ipc_alone(z: Tensor, clones: int) -> None:
    before = wf.uniformity(z).item()
    # float32 kernels of pairs: a few units of rounding on a sum of exponentials up to e^-8
    close = 1e-4 if z.dtype == torch.float32 else 1e-9
    order = torch.randperm(len(z), generator=torch.Generator().manual_seed(0))
    assert abs(wf.uniformity(z[order]).item() - before) <= close
    assert wf.uniformity(z.repeat(clones, 1)).item() >= before - close  # ICC: rises
    assert abs(wf.uniformity(z.repeat(1, clones)).item() - before) <= close  # FCC: stays
    padded = torch.nn.functional.pad(z, (0, 5))
    assert abs(wf.uniformity(padded).item() - before) <= close  # FBC: stays
