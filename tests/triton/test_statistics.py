"""Norms and mean of the rows, in Triton: against float64 PyTorch."""

import pytest
import torch
from torch import Tensor

from tests.kernels import placed
from tests.zoo import SHAPES, ZOO, Case
from wssl_fast.backends.triton import dispatch, launch
from wssl_fast.backends.triton.dispatch import Tile
from wssl_fast.backends.triton.statistics import statistics

EPS = torch.finfo(torch.float64).eps

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
LAYOUTS = {
    "contiguous": lambda z: z,
    "transposed": lambda z: z.mT.contiguous().mT,
    "sliced": lambda z: torch.nn.functional.pad(z, (1, 2, 3, 1), value=7.0)[:, 3:-1, 1:-2],
    "every other column": lambda z: z.repeat_interleave(2, dim=2)[:, :, ::2],
    "expanded": lambda z: z[:1].expand(3, -1, -1),
}


def on_the_device(z: Tensor, normalize: bool) -> tuple[Tensor, Tensor]:
    scale, mean = statistics(placed(z), normalize)
    return scale.cpu(), mean.cpu()


def check(z: Tensor, normalize: bool) -> None:
    scale, mean = on_the_device(z, normalize)
    assert (scale.dtype, mean.dtype) == (torch.float64, torch.float64)
    assert (scale.shape, mean.shape) == (z.shape[:2], (z.shape[0], z.shape[2]))
    x = z.double()
    if normalize:
        largest = x.abs().amax(-1, keepdim=True)
        norm = largest[..., 0] * (x / torch.where(largest > 0, largest, 1.0)).norm(dim=-1)
        want = torch.where(norm > 0, 1 / norm, 0.0)
        # a sum of m squares, a root, an inverse: m eps at worst, in any order
        torch.testing.assert_close(scale, want, rtol=z.shape[2] * EPS, atol=0)
    else:
        assert (scale == scale[:, :1]).all()
        assert (torch.frexp(scale).mantissa == 0.5).all()  # powers of two
        largest = (x * scale[..., None]).abs().amax((-2, -1))
        zero = (z == 0).all(-1).all(-1)
        assert (zero | ((largest >= 0.5) & (largest < 1))).all()
        assert (scale[zero] == 1).all()
    rows = x * scale[..., None]
    # terms of at most 1, added in another order: n eps at worst
    torch.testing.assert_close(mean, rows.mean(1), rtol=0, atol=z.shape[1] * EPS)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("case", ZOO, ids=lambda case: case.name)
def test_zoo(case: Case, shape: tuple[int, int], normalize: bool) -> None:
    check(case(*shape)[None], normalize)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_and_dtypes(layout: str, dtype: torch.dtype, normalize: bool) -> None:
    check(LAYOUTS[layout](torch.randn(2, 37, 129).to(dtype)), normalize)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (1, 70), (70, 1), (300, 20), (33, 200)])
def test_small_and_uneven_shapes(shape: tuple[int, int], normalize: bool) -> None:
    z = torch.randn(2, *shape)
    check(z, normalize)
    with (
        dispatch.override("statistics", Tile(16, 16, 4, 1)),
        dispatch.assume(dispatch.Target("interpreter", 16)),
    ):
        check(z, normalize)  # several tiles, and parts of the rows


@pytest.mark.parametrize("normalize", [True, False])
def test_norms_that_cannot_be_squared(normalize: bool) -> None:
    factors = torch.tensor([1e-45, 1e-38, 1e-20, 1.0, 1e38, 0.0])
    check(torch.ones(6, 1, 40) * factors[:, None, None], normalize)
    check((torch.randn(1, 6, 40).clamp(-3, 3) * factors[:, None]), normalize)
    factors = torch.tensor([1e-300, 1e-170, 1.0, 1e170, 1e306], dtype=torch.float64)
    check(torch.ones(5, 3, 40, dtype=torch.float64) * factors[:, None, None], normalize)
    check(torch.randn(1, 5, 40, dtype=torch.float64) * factors[:, None], normalize)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_that_are_not_finite(bad: float, dtype: torch.dtype) -> None:
    z = torch.randn(2, 20, 70).to(dtype)
    z[1, 3, 65] = bad
    scale, mean = on_the_device(z, True)
    assert scale[1].isnan().nonzero().tolist() == [[3]]
    assert scale[0].isfinite().all()
    assert mean[1].isnan().all()
    assert mean[0].isfinite().all()
    scale, mean = on_the_device(z, False)
    assert scale[1].isnan().all()
    assert mean[1].isnan().all()
    assert scale[0].isfinite().all()
    assert mean[0].isfinite().all()


def test_two_launches_or_three_and_the_same_bits() -> None:
    z = placed(torch.randn(1, 200, 30))
    with launch.recorded() as made:
        statistics(z[:, :40], True)
    assert len(made) == 2
    with (
        dispatch.override("statistics", Tile(16, 16, 4, 1)),
        dispatch.assume(dispatch.Target("interpreter", 16)),
    ):
        with launch.recorded() as made:
            first = statistics(z, True)
        assert len(made) == 3
        for a, b in zip(first, statistics(z, True), strict=True):
            assert torch.equal(a, b)


def test_the_host_reads_no_data() -> None:
    z = torch.empty(2, 512, 8192, device="meta")
    with (
        dispatch.assume(dispatch.Target("sm_90", 132)),
        launch.recorded(run=False) as made,
    ):
        scale, mean = statistics(z, True)
    assert (scale.shape, mean.shape) == ((2, 512), (2, 8192))
    assert all(record.grid[0] * record.grid[1] >= 132 for record in made[:1])
