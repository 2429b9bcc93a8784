"""Backward of W2, in Triton: its two products against float64 formulas, gradients against truth."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
import torch
from torch import Tensor

from tests.kernels import placed
from tests.tolerances import gradient_error, gradient_tolerance, resolution
from tests.triton.test_statistics import DTYPES, LAYOUTS
from tests.zoo import BY_NAME, RAW_SCALE, SHAPES, ZOO, Case
from wssl_fast.backends.eager import w2_covariance, w2_gram
from wssl_fast.backends.eager.numerics import working_dtype
from wssl_fast.backends.triton import dispatch, launch
from wssl_fast.backends.triton.dispatch import Target, Tile
from wssl_fast.backends.triton.statistics import statistics
from wssl_fast.backends.triton.w2_backward import covariance_backward, gram_backward
from wssl_fast.ops._distance import slope

KERNELS = ("gram_backward", "covariance_backward")
UNEVEN = [(37, 129), (65, 64), (33, 34), (1, 1), (1, 20), (20, 1)]
UNIT = {6: 2.0**-22, 4: 2.0**-14, 1: 2.0**-7}
"""Relative error of a term of a product of bfloat16 pieces, 8 bits a piece."""


@contextmanager
def small_tiles(small: bool) -> Iterator[None]:
    with ExitStack() as stack:
        for kernel in KERNELS if small else ():
            stack.enter_context(dispatch.override(kernel, Tile(16, 16, 4, 1)))
        yield


class Problem:
    """What a forward of z (b, n, m) leaves, with weights and upstream gradients at random: on the
    CPU, where checks are made, and placed for every run."""

    def __init__(self, z: Tensor, gram: bool, normalize: bool, squared: bool, deep: bool) -> None:
        b, n, m = z.shape
        k = n if gram else m
        self.z, self.gram, self.normalize, self.squared = z, gram, normalize, squared
        self.grad = torch.randn(b).to(working_dtype(z))
        self.value = torch.rand(b).to(working_dtype(z))
        self.weights = torch.randn(b, k, k, dtype=torch.float64)
        scale, mean = statistics(placed(z), normalize)
        self.scale, self.mean = scale.cpu(), mean.cpu()
        self.deep = torch.full((b,), deep)

    def run(self, products: int = 6) -> Tensor:
        dz = placed(torch.full(self.z.shape, float("nan"), dtype=self.z.dtype))
        before = map(placed, (self.grad, self.value, self.z, self.weights, self.scale))
        after = (placed(self.deep), self.normalize, self.squared, dz)
        if self.gram:
            gram_backward(*before, *after, products=products)
        else:
            covariance_backward(*before, placed(self.mean), *after, products=products)
        return dz.cpu()

    def check(self, products: int = 6) -> None:
        """Each entry against float64, within the rounding of the terms that it is the sum of."""
        z, scale, weights = self.z.double(), self.scale[..., None], self.weights.double()
        n, m = z.shape[1:]
        c = slope(self.grad, self.value, self.squared)[:, None, None]
        x = z * scale
        left = c * scale if self.normalize else c
        size = noise = torch.zeros_like(z)
        if self.gram:
            want = left * (weights @ x)
            size = left.abs() * (weights.abs() @ x.abs())
        else:
            left = -2 / (n * m**0.5) * left
            y = x - self.mean[:, None]

            def terms(rows: Tensor) -> Tensor:
                out = rows @ weights.abs()
                if self.normalize:
                    out = out + (out * x.abs()).sum(-1, keepdim=True) * x.abs()
                return left.abs() * out

            want = y @ weights
            if self.normalize:
                want = want - (want * x).sum(-1, keepdim=True) * x
            want = left * want
            if not self.normalize:
                want, size = want + 2 / n * c * z, (2 / n * c * z).abs()
            size = size + terms(y.abs())
            noise = terms(x.abs() + self.mean.abs()[:, None])  # what y is the difference of
        dz = self.run(products)
        # terms as the product sees them; float32 sums of k of them; a few operations after
        single = self.z.dtype != torch.float64
        wide = self.deep[:, None, None] | (not single)
        coarse = UNIT[products] + (weights.shape[-1] ** 0.5 + 8) * 2.0**-24
        unit = torch.where(wide, 2.0**-50, coarse)
        if single:  # stored in float32, P too
            unit = unit + 2.0**-23
        last = torch.finfo(dz.dtype)
        bound = unit * size + 2.0**-50 * noise + last.eps / 2 * want.abs() + last.tiny * last.eps
        assert ((dz.double() - want).abs() <= bound).all()


@pytest.mark.parametrize("gram", [True, False], ids=["gram", "covariance"])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("deep", [True, False])
@pytest.mark.parametrize("small", [True, False], ids=["small tile", "default tile"])
@pytest.mark.parametrize("shape", UNEVEN)
def test_shapes(
    shape: tuple[int, int], gram: bool, normalize: bool, deep: bool, small: bool
) -> None:
    with small_tiles(small and max(shape) < 64):
        Problem(torch.randn(2, *shape) + 0.3, gram, normalize, True, deep).check()


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("gram", [True, False], ids=["gram", "covariance"])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_and_dtypes(layout: str, dtype: torch.dtype, normalize: bool, gram: bool) -> None:
    z = LAYOUTS[layout](torch.randn(2, 33, 40).to(dtype))
    for deep in (True, False):
        for squared in (True, False):
            Problem(z, gram, normalize, squared, deep).check()


@pytest.mark.parametrize("gram", [True, False], ids=["gram", "covariance"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("products", [6, 4, 1])
def test_products_of_pieces(products: int, dtype: torch.dtype, gram: bool) -> None:
    Problem(torch.randn(1, 40, 33).to(dtype), gram, True, True, False).check(products)


@pytest.mark.parametrize("gram", [True, False], ids=["gram", "covariance"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_float32_weights(dtype: torch.dtype, gram: bool) -> None:
    problem = Problem(torch.randn(2, 40, 33).to(dtype), gram, True, False, False)
    problem.weights = problem.weights.float()
    problem.deep[1] = True
    problem.check()


@pytest.mark.parametrize("gram", [True, False], ids=["gram", "covariance"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_deep_problem_of_several(dtype: torch.dtype, gram: bool) -> None:
    z = torch.randn(3, 40, 33).to(dtype)
    problem = Problem(z, gram, True, True, False)
    problem.deep[1] = True
    problem.check()
    # each problem by itself gives the same bits: who shares the batch does not matter
    together = problem.run()
    for i in range(3):
        one = Problem(z[i : i + 1], gram, True, True, bool(problem.deep[i]))
        one.grad, one.value = problem.grad[i : i + 1], problem.value[i : i + 1]
        one.weights = problem.weights[i : i + 1]
        assert torch.equal(one.run()[0], together[i])


@pytest.mark.parametrize("gram", [True, False], ids=["gram", "covariance"])
def test_an_expanded_upstream_gradient(gram: bool) -> None:
    problem = Problem(torch.randn(3, 40, 33), gram, True, False, False)
    problem.grad = torch.tensor(1.5).expand(3)
    problem.check()


@pytest.mark.parametrize("gram", [True, False], ids=["gram", "covariance"])
@pytest.mark.parametrize("squared", [True, False])
def test_a_value_of_nan_and_a_value_of_zero(squared: bool, gram: bool) -> None:
    problem = Problem(torch.randn(2, 40, 33), gram, True, squared, False)
    problem.value[0] = 0.0  # the slope is capped
    problem.check()
    problem.value[0] = float("nan")
    dz = problem.run()
    assert dz[0].isnan().all()
    assert dz[1].isfinite().all()


@pytest.mark.parametrize("gram", [True, False], ids=["gram", "covariance"])
@pytest.mark.parametrize("deep", [True, False])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_row_that_is_not_finite(bad: float, deep: bool, gram: bool) -> None:
    z = torch.randn(2, 40, 33)
    z[1, 3, 4] = bad
    problem = Problem(z, gram, True, True, deep)
    problem.value[1] = float("nan")  # what a forward makes of it
    dz = problem.run()
    assert dz[1].isnan().all()
    assert dz[0].isfinite().all()


@pytest.mark.parametrize("gram", [True, False], ids=["gram", "covariance"])
def test_zero_rows_have_no_gradient_on_the_sphere(gram: bool) -> None:
    z = torch.randn(1, 40, 33)
    z[0, 5] = 0
    for deep in (True, False):
        assert (Problem(z, gram, True, True, deep).run()[0, 5] == 0).all()


@pytest.mark.parametrize("case", ZOO, ids=lambda case: case.name)
@pytest.mark.parametrize("gram", [True, False], ids=["gram", "covariance"])
def test_gradient_on_the_zoo(case: Case, gram: bool) -> None:
    z = case(*SHAPES["n<m" if gram else "n>m"])
    backend = w2_gram if gram else w2_covariance
    for normalize in (True,) if case.name in RAW_SCALE else (True, False):
        state = backend.forward(z, normalize, 0.0, "eigh", "auto", True)
        problem = Problem(z[None], gram, normalize, True, bool(state.deep))
        problem.grad, problem.value = torch.ones(1), state.value.float()[None]
        problem.weights = state.weights.double()[None].contiguous()
        problem.scale, problem.mean = state.scale[None], state.mean[None]
        error = gradient_error(problem.run()[0], z, normalize=normalize, above=resolution("auto"))
        assert error <= gradient_tolerance("auto"), f"{normalize=}"


@pytest.mark.parametrize("gram", [True, False], ids=["gram", "covariance"])
def test_the_polar_part_along_the_row_leaves_its_digits(gram: bool) -> None:
    # at the optimum P is parallel to x and the gradient is what the subtraction leaves: bfloat16
    # rows must not round P first
    z = BY_NAME["flat"](96, 40, torch.bfloat16)
    exact = Problem(z[None].float(), gram, True, True, True)
    exact.weights = torch.eye(96 if gram else 40, dtype=torch.float64)[None]
    half = Problem(z[None], gram, True, True, False)
    half.grad, half.value, half.weights = exact.grad, exact.value, exact.weights
    half.check()


@pytest.mark.parametrize("gram", [True, False], ids=["gram", "covariance"])
def test_launches_and_bits(gram: bool) -> None:
    for dtype, count in ((torch.float32, 2), (torch.bfloat16, 2), (torch.float64, 1)):
        problem = Problem(torch.randn(2, 40, 33).to(dtype), gram, True, True, False)
        with launch.recorded() as made:
            first = problem.run()
        assert len(made) == count
        assert torch.equal(first, problem.run())


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_host_reads_no_data(dtype: torch.dtype) -> None:
    with dispatch.assume(Target("sm_90", 132)), launch.recorded(run=False) as made:
        for b, n, m in ((1, 512, 8192), (2, 4096, 1024)):
            z = torch.empty(b, n, m, dtype=dtype, device="meta")
            k = min(n, m)
            weights = torch.empty(b, k, k, dtype=torch.float64, device="meta")
            scale, mean = z.new_empty(b, n).double(), z.new_empty(b, m).double()
            value, deep = z.new_empty(b), torch.empty(b, dtype=torch.bool, device="meta")
            if n < m:
                gram_backward(
                    value, value, z, weights, scale, deep, True, True, torch.empty_like(z)
                )
            else:
                covariance_backward(
                    value, value, z, weights, scale, mean, deep, True, True, torch.empty_like(z)
                )
    assert len(made) == (2 if dtype == torch.float64 else 4)
