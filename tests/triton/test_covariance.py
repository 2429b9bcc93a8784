"""Covariance of scaled and centred rows, in Triton: against float64 PyTorch."""

import math
from contextlib import ExitStack

import pytest
import torch
from torch import Tensor

from tests.kernels import DEVICE, placed
from tests.triton.test_statistics import DTYPES, LAYOUTS
from tests.zoo import COLLAPSED, SHAPES, ZOO, Case
from wssl_fast.backends.triton import dispatch, launch
from wssl_fast.backends.triton.covariance import covariance, mode, splits_for
from wssl_fast.backends.triton.dispatch import INTERPRETER, Target, Tile
from wssl_fast.backends.triton.statistics import statistics
from wssl_fast.backends.triton.workspace import Workspace, allocate

SMALL = Tile(16, 16, 4, 1)
UNIT = {"fp16x3": 2.0**-22, "float64": 2.0**-53, "float64_fma": 2.0**-53}
"""Relative error of an entry that the product sees: 11 bits a piece, or the dtype's rounding."""


def workspace(z: Tensor, product: str, splits: int) -> Workspace:
    b, _, m = z.shape
    tile = dispatch.tile("covariance", product, m, INTERPRETER)
    work = allocate(
        b,
        m,
        splits=splits,
        wide=product.startswith("float64"),
        product_tile=tile,
        tile=tile,
        device=torch.device(DEVICE),
    )
    work.counter.fill_(7)
    return work


def check(z: Tensor, normalize: bool, product: str, splits: int = 1) -> None:
    b, n, m = z.shape
    scale, mean = statistics(placed(z), normalize)
    work = workspace(z, product, splits)
    covariance(placed(z), scale, mean, work, product)
    scale, mean = scale.cpu(), mean.cpu()
    y = z.double() * scale[..., None] - mean[:, None]
    want = torch.zeros(b, work.kp, work.kp, dtype=torch.float64)
    want[:, :m, :m] = y.mT @ y
    got = work.slots[:, :splits].double().sum(1).cpu()
    # Each entry of y carries its rounding, y being formed as if in float64; sums of n terms in
    # float32 (float64) round each addition.
    working = 2.0**-53 if product.startswith("float64") else 2.0**-24
    size = y.abs().mT @ y.abs()
    bound = torch.zeros_like(want)
    bound[:, :m, :m] = (2 * UNIT[product] + 2 * working * math.sqrt(n) + 4 * working) * size
    # forming y in float64 rounds what it is the difference of, here and there
    x = (z.double() * scale[..., None]).abs() + mean.abs()[:, None]
    noise = 2.0**-50 * x
    if product.startswith("fp16"):  # entries of y under 2^-27: pieces of float16 end
        noise += 2.0**-38
    noise = noise.mT @ y.abs()
    bound[:, :m, :m] += noise + noise.mT + n * 2.0**-76
    assert ((got - want).abs() <= bound).all()
    diagonal = work.diagonal.sum(1).cpu()
    torch.testing.assert_close(diagonal, got.diagonal(dim1=-2, dim2=-1), rtol=1e-6, atol=0)
    assert torch.equal(got, got.mT)
    assert work.counter.item() == 0


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("case", [*ZOO, *COLLAPSED], ids=lambda case: case.name)
def test_zoo(case: Case, normalize: bool) -> None:
    z = case(*SHAPES["n>m"])[None]
    check(z, normalize, "fp16x3")
    check(z, normalize, "float64")


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_and_dtypes(layout: str, dtype: torch.dtype) -> None:
    z = LAYOUTS[layout](torch.randn(2, 37, 50).to(dtype))
    for precision in ("auto", "medium", "double"):
        check(z, True, mode(z, precision, INTERPRETER))


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("tiny", [False, True], ids=["default tile", "small tile"])
@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("product", ["fp16x3", "float64", "float64_fma"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 20), (20, 1), (50, 37), (33, 34)])
def test_tiles_and_splits(shape: tuple[int, int], product: str, splits: int, tiny: bool) -> None:
    with ExitStack() as stack:
        if tiny:
            stack.enter_context(dispatch.override("covariance", SMALL))
        check(torch.randn(2, *shape) + 0.5, True, product, splits)
        check(torch.randn(2, *shape) + 0.5, False, product, splits)


def test_digits_that_the_mean_cancels() -> None:
    # the difference is formed as if in float64: 24 bits of it stay where the mean has taken 14
    z = 1 + 2.0**-14 * torch.randn(1, 96, 40)
    check(z, True, "fp16x3")


@pytest.mark.parametrize("factor", [1e-45, 1e-38, 1e-20, 1e15, 1e36])
def test_norms_at_the_ends_of_float32(factor: float) -> None:
    z = torch.randn(1, 96, 40).clamp(-3, 3)
    z = (z > 0).float() * factor if factor == 1e-45 else z * factor
    check(z, True, "fp16x3")
    check(z, False, "fp16x3")


def test_problems_that_are_not_flagged_stay() -> None:
    z = placed(torch.randn(2, 40, 20))
    scale, mean = statistics(z, True)
    for product in ("fp16x3", "float64"):
        work = workspace(z, product, 1)
        work.slots.fill_(5.0)
        flags = torch.tensor([0, 1], dtype=torch.int8, device=DEVICE)
        covariance(z, scale, mean, work, product, flags=flags)
        assert (work.slots[0] == 5).all()
        y = z[1].double() * scale[1, :, None] - mean[1]
        got = work.slots[1, 0, :20, :20].double()
        torch.testing.assert_close(got, y.T @ y, rtol=0, atol=1e-6)
        assert work.counter.item() == 0


def test_a_row_that_is_not_finite() -> None:
    z = torch.randn(2, 40, 20)
    z[1, 3, 4] = float("inf")
    z = placed(z)
    for normalize in (True, False):
        scale, mean = statistics(z, normalize)
        work = workspace(z, "fp16x3", 1)
        covariance(z, scale, mean, work, "fp16x3")
        assert work.slots[1, 0, :20, :20].isnan().all()
        assert work.slots[0, 0].isfinite().all()


def test_one_launch_fills_the_machine() -> None:
    target = Target("sm_90", 132)
    z = torch.empty(1, 4096, 1024, device="meta")
    with dispatch.assume(target), launch.recorded(run=False) as made:
        tile = dispatch.tile("covariance", "fp16x3", 1024, target)
        splits = splits_for(4096, 1024, tile, target, 5)
        work = allocate(
            1, 1024, splits=splits, wide=False, product_tile=tile, tile=tile, device=z.device
        )
        scale = torch.empty(1, 4096, dtype=torch.float64, device="meta")
        mean = torch.empty(1, 1024, dtype=torch.float64, device="meta")
        covariance(z, scale, mean, work, "fp16x3")
    assert len(made) == 1
    assert made[0].grid[0] * made[0].grid[1] > 100
