"""The compiled kernels against float64 PyTorch, on every instruction set of this processor.

Tolerances. A product of depth k rounds each term and each partial sum: errors that are random in
sign add up to eps * sqrt(k) of the product of the norms, and C = 2 covers the spread over all
entries of the shapes here; the difference scale * x - mean itself, formed in float64 here and
there, is known to eps64 of its terms. Row-wise kernels work in float64 and round once, so they are
held to one unit in the last place of the output's largest entry (float32) or a few eps64 (float64).
"""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing._internal.two_tensor import TwoTensor

from wssl_fast.backends import native

pytestmark = pytest.mark.skipif(not native.available(), reason=native.why_missing())

ISAS = native.instruction_sets() if native.available() else []
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
COMPUTE = (torch.float32, torch.float64)
NAN = float("nan")
F64 = torch.float64
SHAPES = [
    pytest.param(1, 1, id="one-entry"),
    pytest.param(1, 300, id="one-row"),
    pytest.param(300, 1, id="one-column"),
    pytest.param(7, 13, id="less-than-a-panel"),
    pytest.param(31, 255, id="panel-and-depth-minus-one"),
    pytest.param(32, 256, id="exact-panel-and-depth"),
    pytest.param(33, 257, id="panel-and-depth-plus-one"),
    pytest.param(101, 1031, id="primes"),
    pytest.param(96, 520, id="several-panels"),
    pytest.param(70, 9001, id="several-packed-steps"),
]
LAYOUTS = ["rows", "columns", "strided", "padded"]


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def laid_out(x: Tensor, layout: str) -> Tensor:
    """The values of x (n, m) with other strides; the gaps hold NaN."""
    n, m = x.shape
    if layout == "columns":
        return x.T.contiguous().T
    if layout == "strided":
        y = torch.full((2 * n, 3 * m), NAN, dtype=x.dtype)[::2, ::3]
    elif layout == "padded":
        y = torch.full((n, m + 5), NAN, dtype=x.dtype)[:, 2 : 2 + m]
    else:
        return x.contiguous()
    return y.copy_(x)


def vectors(n: int, m: int) -> tuple[Tensor, Tensor]:
    return torch.rand(n, dtype=F64) + 0.5, torch.randn(m, dtype=F64)


def check_product(x: Tensor, dtype: torch.dtype, **options: object) -> Tensor:
    covariance = bool(options.get("covariance", False))
    scale, mean = options.get("scale"), options.get("mean")
    y = x.double()
    y = y * scale[:, None] if isinstance(scale, Tensor) else y
    terms = y.abs() + mean.abs() if isinstance(mean, Tensor) else y.abs()
    y = y - mean if isinstance(mean, Tensor) else y
    y, terms = (y.T, terms.T) if covariance else (y, terms)
    n, depth = y.shape
    out = torch.full((n, n), NAN, dtype=dtype)
    got = native.symmetric_product(x, dtype=dtype, out=out, **options)  # type: ignore[arg-type]
    norm, term = y.norm(dim=1), terms.norm(dim=1)
    rounding = torch.finfo(dtype).eps * norm[:, None] * norm + 2.0**-52 * term[:, None] * term
    bound = 2 * math.sqrt(depth) * rounding
    assert got.data_ptr() == out.data_ptr()
    assert ((got.double() - y @ y.T).abs() <= bound).all()
    assert torch.equal(got, got.T)
    return got


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("covariance", [False, True])
@pytest.mark.parametrize("dtype", COMPUTE)
@pytest.mark.parametrize(("n", "m"), SHAPES)
def test_symmetric_product_shapes(
    n: int, m: int, dtype: torch.dtype, covariance: bool, isa: str
) -> None:
    x = torch.randn((m, n) if covariance else (n, m), dtype=dtype)  # the product is n x n
    scale, mean = vectors(*x.shape)
    check_product(x, dtype, covariance=covariance, scale=scale, mean=mean, isa=isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("covariance", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("source", DTYPES)
@pytest.mark.parametrize("options", ["plain", "scale", "mean", "both"])
def test_symmetric_product_layouts(
    options: str, source: torch.dtype, layout: str, covariance: bool, isa: str
) -> None:
    x = laid_out(torch.randn(53, 271).to(source), layout)
    scale, mean = vectors(*x.shape)
    given = {
        **({"scale": scale} if options in ("scale", "both") else {}),
        **({"mean": mean} if options in ("mean", "both") else {}),
    }
    for dtype in COMPUTE:
        check_product(x, dtype, covariance=covariance, isa=isa, **given)


@pytest.mark.parametrize("covariance", [False, True])
@pytest.mark.parametrize("isa", ISAS)
def test_symmetric_product_is_the_same_bits_for_any_thread_count(
    isa: str, covariance: bool
) -> None:
    x = torch.randn(203, 3001)
    before = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 2, 3):
            torch.set_num_threads(count)
            results.append(native.symmetric_product(x, covariance=covariance, isa=isa))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_centring_error_is_relative_to_the_centred_entry() -> None:
    # y = x - mean of about 1e-4 of the mean: rounding the mean first would cost four digits
    mean = torch.rand(500, dtype=F64) + 1
    x = (mean + 1e-4 * torch.randn(64, 500, dtype=F64)).float()
    check_product(x, torch.float32, mean=mean)


@pytest.mark.parametrize("bad", [NAN, float("inf")])
def test_symmetric_product_keeps_nan_to_its_row(bad: float) -> None:
    x = torch.randn(40, 70)
    x[3, 60] = bad
    got = native.symmetric_product(x)
    finite = torch.ones(40, dtype=torch.bool)
    finite[3] = False
    assert not got[3].isfinite().any()
    assert got[finite][:, finite].isfinite().all()


@pytest.mark.parametrize("isa", ISAS)
def test_half_conversion_is_exact_on_every_bit_pattern(isa: str) -> None:
    bits = torch.arange(65536, dtype=torch.int32).to(torch.int16)
    for dtype in (torch.float16, torch.bfloat16):
        x = bits.view(dtype)[:, None]
        x = x[x[:, 0].isfinite()]  # products of two such numbers are exact in float64
        for block in x.split(512):
            got = native.symmetric_product(block, dtype=F64, isa=isa)
            assert torch.equal(got, block.double() @ block.double().T)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("source", DTYPES)
@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 300), (300, 1), (31, 67), (130, 1031)])
def test_row_pass(
    n: int, m: int, source: torch.dtype, layout: str, isa: str, threads: int, poisoned: None
) -> None:
    x = laid_out(torch.randn(n, m).add_(0.5).to(source), layout)
    x[n // 2] = 0 if n > 1 else x[n // 2]
    inv, mean = native.row_pass(x, isa=isa)
    norm = x.double().norm(dim=1)
    want = torch.where(norm == 0, 0.0, 1 / norm)
    # sums of m squares, then of n entries, in float64
    torch.testing.assert_close(inv, want, rtol=1e-14 + m * 2**-53, atol=0)
    bound = n * 2.0**-52 * (x.double() * want[:, None]).abs().mean(dim=0) + 1e-15
    assert ((mean - (x.double() * want[:, None]).mean(dim=0)).abs() <= bound).all()
    again = native.row_pass(x, isa=isa)
    assert torch.equal(inv, again[0])
    assert torch.equal(mean, again[1])


@pytest.mark.parametrize("isa", ISAS)
def test_row_pass_at_the_ends_of_the_range(isa: str) -> None:
    x = torch.ones(6, 4, dtype=F64)
    x[0] *= 1e300
    x[1] *= 1e-300
    x[2, 1] = NAN
    x[3, 2] = float("inf")
    x[4] = 0
    x[5] = 5e-324  # 1 / norm overflows: counted as a zero row
    inv, mean = native.row_pass(x, isa=isa)
    torch.testing.assert_close(inv[:2], torch.tensor([0.5e-300, 0.5e300], dtype=F64))
    assert inv[2:4].isnan().all()
    assert (inv[4:] == 0).all()
    assert mean.isnan().all()
    tiny = native.row_pass(torch.full((1, 4), 1e-42))[0]
    torch.testing.assert_close(tiny, 1 / torch.full((1, 4), 1e-42).double().norm(dim=1))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("source", DTYPES)
@pytest.mark.parametrize("dtype", COMPUTE)
def test_tangent_epilogue(
    dtype: torch.dtype, source: torch.dtype, layout: str, shifted: bool, isa: str, threads: int
) -> None:
    n, m = 61, 1031
    z = laid_out(torch.randn(n, m).to(source), layout)
    t = torch.randn(n, m, dtype=dtype)
    a, shift = vectors(n, m)
    inv = 1 / z.double().norm(dim=1)
    inv[5] = 0
    p = a[:, None] * t.double() - (shift if shifted else 0)
    x = inv[:, None] * z.double()
    want = 0.7 * inv[:, None] * (p - (p * x).sum(dim=1, keepdim=True) * x)
    got = native.tangent_epilogue_(
        t, z, a=a, inv=inv, shift=shift if shifted else None, c=0.7, isa=isa
    )
    assert got is t
    eps = torch.finfo(dtype).eps if dtype == torch.float32 else 16 * torch.finfo(dtype).eps
    assert ((got.double() - want).abs() <= eps * want.abs().amax(dim=1, keepdim=True)).all()
    assert (got[5] == 0).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", COMPUTE)
def test_exp_is_within_two_units_in_the_last_place(dtype: torch.dtype, isa: str) -> None:
    k = torch.linspace(-700 if dtype == F64 else -86, 80, 100_003, dtype=dtype)[None]
    got = k.clone()
    native.exp_block_(got, s=1.0, isa=isa)
    if dtype == F64:  # torch's own is within one unit; the comparison allows one more
        assert ((got - k.exp()).abs() <= 3 * torch.finfo(dtype).eps * k.exp()).all()
    else:
        want = k.double().exp()
        assert ((got.double() - want).abs() <= torch.finfo(dtype).eps * want).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", COMPUTE)
def test_exp_at_the_ends_of_the_range(dtype: torch.dtype, isa: str) -> None:
    k = torch.tensor([[0.0, -1e9, 1e9, -float("inf"), float("inf"), NAN]], dtype=dtype)
    got = k.clone()
    native.exp_block_(got, s=1.0, isa=isa)
    torch.testing.assert_close(got, k.exp(), rtol=0, atol=0, equal_nan=True)
    smallest = torch.tensor([[math.log(torch.finfo(dtype).tiny) - 3]], dtype=dtype)
    got = smallest.clone()
    native.exp_block_(got, s=1.0, isa=isa)
    # subnormal: half a unit is relative to tiny
    assert (got - smallest.exp()).abs() <= torch.finfo(dtype).eps * torch.finfo(dtype).tiny


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", COMPUTE)
@pytest.mark.parametrize("strictly_lower", [False, True])
@pytest.mark.parametrize(("a", "b"), [(1, 1), (1, 77), (77, 1), (131, 131), (131, 67), (67, 131)])
def test_exp_block(
    a: int, b: int, strictly_lower: bool, dtype: torch.dtype, isa: str, threads: int
) -> None:
    x, y = torch.randn(a, 8, dtype=dtype), torch.randn(b, 8, dtype=dtype)
    row, col = -0.3 * x.double().square().sum(1), -0.3 * y.double().square().sum(1)
    outer = torch.full((a, b + 3), NAN, dtype=dtype)
    given = x @ y.T
    k = outer[:, :b].copy_(given)
    want = (0.6 * k.double() + row[:, None] + col - 0.1).exp()
    want = want.tril(-1) if strictly_lower else want
    total = native.exp_block_(
        k, s=0.6, shift=-0.1, row=row, col=col, strictly_lower=strictly_lower, isa=isa
    )
    # the argument is off by eps times its terms, twice where a product is rounded before the sum;
    # the exponential by two units in the last place
    terms = 0.6 * given.double().abs() - row[:, None] - col + 0.1
    allowed = torch.finfo(dtype).eps * (2 * terms + 2) * want
    assert ((k.double() - want).abs() <= allowed).all()
    assert abs(total - want.sum().item()) <= allowed.sum().item()
    assert outer[:, b:].isnan().all()


@pytest.mark.parametrize("isa", ISAS)
def test_exp_block_of_terms_that_float32_cannot_hold(isa: str) -> None:
    k = torch.tensor([[2.0**120, 2.0**119]])
    row, col = torch.tensor([-(2.0**1020)], dtype=F64), torch.tensor([0.0, 2.0], dtype=F64)
    total = native.exp_block_(k, s=2.0**900, row=row, col=col, isa=isa)
    assert k.tolist() == [[1.0, 0.0]]
    assert total == 1.0


def test_views_that_negate() -> None:
    """Their memory holds the numbers with the other sign."""
    x = torch.randn(7, 5, dtype=torch.complex64).conj().imag
    assert x.is_neg()
    scale, mean = vectors(7, 5)
    for covariance in (False, True):
        how: dict[str, Any] = {"covariance": covariance, "scale": scale, "mean": mean}
        want = native.symmetric_product(x.resolve_neg(), **how)
        assert torch.equal(native.symmetric_product(x, **how), want)
    for found, true in zip(native.row_pass(x), native.row_pass(x.resolve_neg()), strict=True):
        assert torch.equal(found, true)
    t = torch.randn(7, 5)
    found, true = (
        native.tangent_epilogue_(t.clone(), z, a=scale, inv=scale, shift=mean)
        for z in (x, x.resolve_neg())
    )
    assert torch.equal(found, true)
    with pytest.raises(ValueError, match="k must have its numbers in memory"):
        native.exp_block_(torch._neg_view(torch.randn(4, 6)), s=1.0)


def test_wrong_arguments_are_refused() -> None:
    x = torch.randn(4, 6)
    with pytest.raises(ValueError, match="x must be a non-empty floating CPU matrix"):
        native.symmetric_product(torch.ones(4, 6, dtype=torch.int64))
    with pytest.raises(ValueError, match="scale must be a contiguous float64 CPU vector of 4"):
        native.symmetric_product(x, scale=torch.ones(6, dtype=F64))
    with pytest.raises(ValueError, match="out must be"):
        native.symmetric_product(x, out=torch.empty(6, 6))
    with pytest.raises(ValueError, match="t must be"):
        native.tangent_epilogue_(x.T, x.T, a=vectors(6, 4)[0], inv=vectors(6, 4)[0])
    with pytest.raises(ValueError, match="unit column stride"):
        native.exp_block_(x.T, s=1.0)
    with pytest.raises(ValueError, match="instruction set not available"):
        native.row_pass(x, isa="vax")


def test_tensors_without_memory() -> None:
    """An address of 0 is never read; zeros that have none are zeros."""
    wrapped = TwoTensor(torch.randn(4, 6), torch.randn(4, 6))
    with pytest.raises(ValueError, match="x must have its numbers in memory, which this TwoTensor"):
        native.row_pass(wrapped)
    with pytest.raises(ValueError, match="x must have its numbers in memory"):
        native.symmetric_product(wrapped)
    with pytest.raises(ValueError, match="k must have its numbers in memory"):
        native.exp_block_(wrapped, s=1.0)
    with pytest.raises(ValueError, match="out must have its numbers in memory"):
        native.symmetric_product(torch.randn(2, 6), out=TwoTensor(torch.eye(2), torch.eye(2)))
    zeros = torch._efficientzerotensor((4, 6))
    assert native.row_pass(zeros)[0].tolist() == [0] * 4
    assert torch.equal(native.symmetric_product(zeros), torch.zeros(4, 4))
