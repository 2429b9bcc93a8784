"""`Moments`: any split of the rows gives the float64 truth of all of them."""

import copy
import functools
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import wssl_fast as wf
from tests.tolerances import contract_tolerance, unseen, value_tolerance
from tests.zoo import BY_NAME, RAW_SCALE, SHAPES, ZOO, Case
from wssl_fast import reference
from wssl_fast.backends import native
from wssl_fast.backends.eager import products
from wssl_fast.metrics import Moments, _state

CASES = pytest.mark.parametrize("case", ZOO, ids=lambda case: case.name)
SAME = 1e-13
"""Relative: what a handful of float64 merges may differ by, a few hundred units of rounding."""


def stream(z: Tensor, sizes: list[int], **keywords: object) -> Moments:
    """Moments of the rows of z, cut into pieces of `sizes`, the rest last."""
    moments, start = Moments(**keywords), 0  # type: ignore[arg-type]
    for size in [*sizes, len(z)]:
        if z[start : start + size].numel():
            moments.update(z[start : start + size])
        start += size
    return moments


def close(a: Moments, b: Moments) -> None:
    """Equal to float64 rounding."""
    assert a.count == b.count
    torch.testing.assert_close(a.mean, b.mean, rtol=SAME, atol=SAME * float(a.mean.abs().max()))
    top = float(a.covariance.diagonal().max())
    torch.testing.assert_close(a.covariance, b.covariance, rtol=SAME, atol=SAME * top)
    assert float(a.mean_norm()) == pytest.approx(float(b.mean_norm()), rel=SAME)


@CASES
@pytest.mark.parametrize("shape", ["n<m", "n=m+1", "n>m"])
def test_every_spectrum_equals_the_truth_of_the_concatenation(case: Case, shape: str) -> None:
    z = case(*SHAPES[shape])
    moments = stream(z, [1, 7, 20])
    limit = value_tolerance("double")
    want = reference.wasserstein_uniformity(z).item()
    assert float(moments.wasserstein_uniformity()) == pytest.approx(want, abs=limit)
    x = torch.nn.functional.normalize(z.double(), eps=1e-300)
    spectrum = reference.covariance_spectrum(x)
    # a covariance in float64: eigenvalues to eps64 |C|, as tests/test_spectrum.py asks
    top = 1e-12 * spectrum[0].item()
    torch.testing.assert_close(moments.covariance_spectrum(), spectrum, rtol=1e-6, atol=top)
    want = reference.effective_rank(x).item()
    assert float(moments.effective_rank()) == pytest.approx(want, rel=1e-5)
    # sigma under 1e-7 of the largest drops out of rankme's sum: k of them, 1e-7 log 1e7 each
    assert float(moments.rankme()) == pytest.approx(reference.rankme(x).item(), rel=1e-3)
    norms = z.double().norm(dim=1).mean().item()
    assert float(moments.mean_norm()) == pytest.approx(norms, rel=1e-12)


@CASES
def test_one_float32_product_sees_what_it_promises(case: Case) -> None:
    z = case(*SHAPES["n>m"])
    moments = stream(z, [40], precision="highest")
    limit = value_tolerance("highest") + unseen(z)
    want = reference.wasserstein_uniformity(z).item()
    assert float(moments.wasserstein_uniformity()) == pytest.approx(want, abs=limit)


@pytest.mark.parametrize("precision", ["double", "highest"])
@pytest.mark.parametrize("name", ["gaussian", "large_mean", "power_law", *RAW_SCALE])
def test_rows_as_given(name: str, precision: str) -> None:
    # rows of 1e-20, and of 1e15, whose squares leave float32's range
    z = BY_NAME[name](*SHAPES["n>m"])
    moments = stream(z, [11, 30], normalize=False, precision=precision)
    mean, cov = reference.batch_covariance(z)
    limit = contract_tolerance(torch.float64 if precision == "double" else torch.float32)
    size = (
        mean.square().sum() + cov.trace()
    ).sqrt()  # of a row: a mean of centred rows is rounding
    assert (moments.mean - mean).norm() <= limit * size
    assert (moments.covariance - cov).norm() <= limit * cov.norm()
    if name not in RAW_SCALE:
        want = reference.wasserstein_uniformity(z, normalize=False, squared=True).item()
        found = float(moments.wasserstein_uniformity(squared=True))
        assert found == pytest.approx(want, rel=1e3 * limit)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtypes_and_strides(dtype: torch.dtype) -> None:
    z = torch.randn(2 * 33, 3 * 20).to(dtype)[::2, ::3]
    moments = stream(z, [5])
    want = reference.wasserstein_uniformity(z).item()
    limit = value_tolerance("double", torch.float64)
    assert float(moments.wasserstein_uniformity()) == pytest.approx(want, abs=limit)
    assert not moments.mean.requires_grad


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 9),
    st.lists(st.integers(0, 15), max_size=6),
    st.booleans(),
    st.integers(0, 2**16),
    st.sampled_from([0.0, 1.0, 100.0]),
)
def test_any_split(
    n: int, m: int, sizes: list[int], normalize: bool, seed: int, offset: float
) -> None:
    z = torch.randn(n, m, generator=torch.Generator().manual_seed(seed)) + offset
    moments = stream(z, sizes, normalize=normalize)
    mean, cov = reference.batch_covariance(z, normalize=normalize)
    scale = float(mean.square().sum() + cov.trace())
    assert moments.count == n
    torch.testing.assert_close(moments.mean, mean, rtol=1e-12, atol=1e-12 * scale**0.5)
    torch.testing.assert_close(moments.covariance, cov, rtol=1e-12, atol=1e-12 * scale)
    assert torch.equal(moments.covariance, moments.covariance.T)
    want = reference.wasserstein_uniformity(z, normalize=normalize, squared=True).item()
    # a null direction of a covariance in float64 is noise up to 1e-8 |x|, and m of them up to m
    # times that in the trace of the root
    found = float(moments.wasserstein_uniformity(squared=True))
    assert found == pytest.approx(want, rel=1e-9, abs=1e-7 * (1 + scale**0.5))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=3, max_size=3), st.integers(0, 2**16))
def test_merging_is_associative_and_commutative(sizes: list[int], seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    parts = [
        Moments().update(torch.randn(size, 5, generator=g) + i) if size else Moments()
        for i, size in enumerate(sizes)
    ]
    if not any(sizes):
        return
    a, b, c = parts
    close((a + b) + c, a + (b + c))
    close(a + b + c, c + b + a)
    close(sum(parts), functools.reduce(Moments.merge, parts, Moments()))  # type: ignore[arg-type]
    assert [part.count for part in parts] == sizes  # a sum leaves its terms alone


@pytest.mark.parametrize("m", [10, 23, 300])
def test_merged_covariances_are_symmetric_bit_by_bit(m: int) -> None:
    a, b = Moments().update(torch.randn(30, m)), Moments().update(torch.randn(7, m) + 1)
    for merged in (a + b, b + a, a + b + a):
        assert torch.equal(merged.covariance, merged.covariance.mT)


def test_a_covariance_without_the_compiled_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_module", None)
    covariance = Moments().update(torch.randn(40, 90)).covariance
    assert torch.equal(covariance, covariance.mT)


def test_short_rows_far_from_those_before() -> None:
    """In float32 a row of 1 less a mean of 1e23 has no square."""
    z = torch.cat([1e24 * torch.randn(1, 5), torch.randn(8, 5)])
    moments = stream(z, [1, 3], normalize=False, precision="highest")
    _, want = reference.batch_covariance(z, normalize=False)
    gap = (moments.covariance - want).norm() / want.norm()
    assert gap <= contract_tolerance(torch.float32)


def test_what_is_handed_out_is_the_callers() -> None:
    moments = Moments().update(torch.randn(9, 4))
    sample = wf.metrics.RowSample(3).update(torch.randn(9, 4))
    want = [moments.wasserstein_uniformity(), moments.effective_rank(), sample.uniformity()]
    for tensor in (moments.mean, moments.covariance, moments.covariance_spectrum(), sample.rows):
        tensor.fill_(7.0)
    found = [moments.wasserstein_uniformity(), moments.effective_rank(), sample.uniformity()]
    assert found == want


def test_blocks_of_one_update_are_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    z = torch.randn(100, 7) + 3
    whole = Moments().update(z)
    monkeypatch.setattr(_state, "BLOCK", 9)
    close(whole, Moments().update(z))


def fail_in_the_second_block(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    product, calls = products.symmetric_product, 0

    def failing(*arguments: object, **keywords: object) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise error
        return product(*arguments, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(products, "symmetric_product", failing)


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt()])
@pytest.mark.parametrize("first", [True, False])
def test_an_update_that_fails_adds_nothing(
    error: BaseException, first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    z = torch.randn(_state.BLOCK + 9, 4)
    want = Moments() if first else Moments().update(z[:20] + 1)
    moments = want.copy()
    if not first:
        moments.effective_rank()
    with monkeypatch.context() as patch:
        fail_in_the_second_block(patch, error)
        with pytest.raises(type(error)):
            moments.update(z)
    assert moments.count == want.count
    if not first:
        assert torch.equal(moments.covariance, want.covariance)
        assert torch.equal(moments.effective_rank(), want.effective_rank())
    for each in (moments, want):
        each.update(z)
    assert torch.equal(moments.covariance, want.covariance)
    assert torch.equal(moments.effective_rank(), want.effective_rank())


def test_a_merge_that_fails_adds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = Moments().update(torch.randn(9, 4)), Moments(precision="highest")
    b.update(torch.randn(9, 4))
    want, rank = a.covariance, a.effective_rank()

    def failing(*unused: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(torch, "outer", failing)
        with pytest.raises(KeyboardInterrupt):
            a.merge(b)
    assert (a.count, a.precision) == (9, "double")
    assert torch.equal(a.covariance, want)
    assert torch.equal(a.effective_rank(), rank)


def test_a_mean_far_away_costs_no_digit_of_the_covariance() -> None:
    # squares of 1e6 would leave 4 digits of a variance of 1; the stream starts far from its mean
    z = torch.randn(500, 6, dtype=torch.float64)
    z[100:] += 1e6
    moments = stream(z, [100, 50], normalize=False)
    near = stream(z[100:], [50], normalize=False)
    _, cov = reference.batch_covariance(z[100:] - 1e6)
    # rows at 1e6 carry a rounding of 1e-10 of their own
    torch.testing.assert_close(near.covariance, cov, rtol=1e-8, atol=1e-9)
    _, cov = reference.batch_covariance(z)
    torch.testing.assert_close(moments.covariance, cov, rtol=1e-12, atol=0)


def test_frechet_distance() -> None:
    x, y = torch.randn(60, 12), 0.5 * torch.randn(40, 12) + 0.2
    a, b = stream(x, [13], normalize=False), stream(y, [1, 1], normalize=False)
    want = reference.frechet_distance(x, y).item()
    assert float(a.frechet_distance(b)) == pytest.approx(want, rel=1e-9)
    assert float(b.frechet_distance(a)) == pytest.approx(want, rel=1e-9)
    root = float(a.frechet_distance(b, squared=False))
    assert root == pytest.approx(want**0.5, rel=1e-9)
    # of equal Gaussians: a few units of rounding of the traces, 24 here
    assert float(a.frechet_distance(a.copy())) == pytest.approx(0, abs=1e-13)


def test_nan_is_not_swallowed() -> None:
    moments = Moments().update(torch.randn(5, 3))
    moments.update(torch.tensor([[1.0, torch.nan, 0.0]]))
    assert moments.count == 6
    for value in (moments.wasserstein_uniformity(), moments.effective_rank(), moments.rankme()):
        assert value.isnan()
    assert Moments().update(torch.tensor([[torch.inf, 1.0]])).wasserstein_uniformity().isnan()


def test_one_row_and_constant_rows() -> None:
    one = Moments().update(torch.tensor([[3.0, 4.0]]))
    assert float(one.wasserstein_uniformity()) == pytest.approx(2**0.5, abs=1e-15)
    assert float(one.effective_rank()) == 0
    assert one.covariance_spectrum().tolist() == [0]
    zeros = Moments().update(torch.zeros(4, 3))
    assert float(zeros.wasserstein_uniformity()) == pytest.approx(1, abs=1e-15)


def test_errors() -> None:
    moments = Moments()
    with pytest.raises(ValueError, match="no rows yet"):
        moments.wasserstein_uniformity()
    with pytest.raises(ValueError, match="no rows yet"):
        moments.save("nowhere")
    with pytest.raises(ValueError, match=r"shape \(n, m\)"):
        moments.update(torch.randn(2, 3, 4))
    with pytest.raises(ValueError, match="at least 1 row"):
        moments.update(torch.randn(0, 3))
    with pytest.raises(TypeError, match="dtype"):
        moments.update(torch.ones(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="precision must be one of double, highest"):
        Moments(precision="auto")
    moments.update(torch.randn(2, 3))
    with pytest.raises(ValueError, match=r"\(n, 3\), the width of the rows so far, got \(2, 4\)"):
        moments.update(torch.randn(2, 4))
    other = Moments().update(torch.randn(2, 4))
    with pytest.raises(ValueError, match="cannot merge moments of 3 and of 4 columns"):
        moments.merge(other)
    with pytest.raises(ValueError, match="cannot compare moments of 3 and of 4 columns"):
        moments.frechet_distance(other)
    with pytest.raises(ValueError, match="normalize=True and of rows with normalize=False"):
        moments.merge(Moments(normalize=False))
    with pytest.raises(TypeError, match=r"wssl_fast\.metrics\.Moments, got int"):
        moments.merge(3)  # type: ignore[arg-type]
    assert moments.count == 2  # as before the first error


def test_of_two_precisions_the_sum_has_the_lesser() -> None:
    z = torch.randn(9, 4)
    fine, coarse = Moments().update(z), Moments(precision="highest").update(z)
    assert (fine + coarse).precision == (coarse + fine).precision == "highest"
    assert fine.precision == "double"
    assert (fine + Moments(precision="highest")).precision == "double"  # of no rows


def test_copies_are_apart() -> None:
    moments = Moments().update(torch.randn(4, 3))
    for twin in (moments.copy(), copy.deepcopy(moments), pickle.loads(pickle.dumps(moments))):
        close(twin, moments)
        twin.update(torch.randn(4, 3))
        assert moments.count == 4


def test_memory_of_a_pass_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """64 MiB of rows, 128 KiB of moments: what the process holds of its own grows by less than
    half the file (by a block's packing buffers and what the allocator keeps: 16 MiB)."""
    if not Path("/proc/self/status").exists():
        pytest.skip("resident memory by kind is Linux's /proc/self/status")
    code = """
import re, sys
import numpy as np, torch
from pathlib import Path
from wssl_fast.cli.readers import open_sources
from wssl_fast.metrics import Moments
def own():
    return int(re.search(r"RssAnon:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
path = Path(sys.argv[1])
out = np.lib.format.open_memmap(path, "w+", np.float32, (131072, 128))
out[:] = np.linspace(-1, 1, 128, dtype=np.float32)
out.flush(); del out
Moments().update(torch.randn(8192, 128)).wasserstein_uniformity()  # what stays: pools, buffers
before = peak = own()
moments = Moments()
for block in open_sources([path])[0].blocks(8192):
    moments.update(block)
    peak = max(peak, own())
assert moments.count == 131072
print(peak - before)
"""
    out = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "rows.npy")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert out.returncode == 0, out.stderr
    assert float(out.stdout) < 32  # MiB, of 64


def test_module_needs_no_torchmetrics() -> None:
    code = """
import sys
sys.modules["torchmetrics"] = None
import wssl_fast as wf, torch
assert wf.metrics.Moments().update(torch.eye(3)).count == 3
assert "WassersteinUniformity" in dir(wf.metrics)
try:
    wf.metrics.WassersteinUniformity
except ImportError as error:
    assert "pip install 'wssl-fast[metrics]'" in str(error), error
    print("ok")
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert out.stdout.strip() == "ok", out.stderr
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = wf.metrics.Nothing
