"""The Gram kernel: parts, mirror images, padding, every product, any strides."""

import pytest
import torch
from torch import Tensor

from wssl_fast.backends.triton import dispatch, workspace
from wssl_fast.backends.triton.gram import gram, mode, splits_for

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TILE = dispatch.Tile(16, 16, 4, 1)
# |part - truth| over |z_i| |z_j|: the unit of the product, times the square root of some hundred
# terms that float32 adds up
UNITS = {
    "exact": 2.0**-22,
    "bf16x6": 2.0**-20,
    "bf16x4": 2.0**-16,
    "float64": 2.0**-49,
    "float64_fma": 2.0**-49,
}


def parts(
    z: Tensor,
    product: str,
    *,
    splits: int = 1,
    scale: Tensor | None = None,
    flags: Tensor | None = None,
    tile: dispatch.Tile = TILE,
) -> tuple[Tensor, Tensor]:
    wide = product.startswith("float64")
    work = workspace.allocate(
        z.shape[0], z.shape[1], splits=splits, wide=wide, product_tile=tile, tile=tile,
        device=z.device,
    )  # fmt: skip
    work.slots.fill_(torch.nan)
    work.diagonal.fill_(torch.nan)
    work.counter.fill_(7)
    gram(z, work, product, scale=scale, flags=flags)
    assert work.counter.item() == 0
    return work.slots[:, :splits], work.diagonal


def check(z: Tensor, product: str, found: Tensor, diagonal: Tensor) -> None:
    n = z.shape[1]
    k = found.double().sum(1)
    want = z.double() @ z.double().mT
    norm = z.double().norm(dim=2)
    error = (k[:, :n, :n] - want).abs() / (norm[:, :, None] * norm[:, None, :])
    assert error.max() <= UNITS[product]
    assert (k[:, n:] == 0).all()
    assert (k[:, :, n:] == 0).all()
    assert torch.equal(k, k.mT)
    own = diagonal.sum(1)[:, :n]
    assert ((own - norm**2).abs() <= UNITS[product] * norm**2).all()


@pytest.mark.parametrize("product", [p for p in UNITS if p != "exact"])
@pytest.mark.parametrize(("n", "m", "splits"), [(37, 129, 3), (16, 16, 1), (5, 3, 1), (1, 40, 2)])
def test_float32_rows(product: str, n: int, m: int, splits: int) -> None:
    z = torch.randn(2, n, m, device=DEVICE)
    check(z, product, *parts(z, product, splits=splits))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("product", ["exact", "float64"])
def test_half_precision_rows(dtype: torch.dtype, product: str) -> None:
    z = torch.randn(1, 21, 70, device=DEVICE).to(dtype)
    check(z, product, *parts(z, product, splits=2))


def test_rows_of_any_length() -> None:
    # bfloat16 pieces have float32's range; float64 squares what float32 cannot
    z = torch.randn(1, 12, 40, device=DEVICE)
    z /= z.norm(dim=2, keepdim=True)
    check(z * 1e15, "bf16x6", *parts(z * 1e15, "bf16x6"))
    tiny = z * 1e-30
    check(tiny, "float64", *parts(tiny, "float64"))


def test_scaled_rows() -> None:
    z = torch.randn(2, 9, 30, dtype=torch.float64, device=DEVICE) * 1e200
    scale = 1 / (z / 1e200).norm(dim=2) / 1e200
    check(z * scale[:, :, None], "float64", *parts(z, "float64", scale=scale))


def test_strides() -> None:
    base = torch.randn(40, 3, 90, device=DEVICE)
    for view in (
        base.transpose(0, 1)[:, ::2, ::3],
        base.permute(1, 2, 0),
        base[:1, :1].expand(2, 5, 90),
    ):
        check(view, "bf16x6", *parts(view, "bf16x6"))


def test_a_problem_without_its_flag_is_left_alone() -> None:
    z = torch.randn(3, 9, 30, device=DEVICE)
    flags = torch.tensor([1, 0, 1], dtype=torch.int8, device=DEVICE)
    found, diagonal = parts(z, "float64", flags=flags)
    assert found[1].isnan().all()
    check(z[::2], "float64", found[::2], diagonal[::2])


def test_the_same_bits_twice_and_whatever_the_batch() -> None:
    z = torch.randn(2, 37, 129, device=DEVICE)
    first, second = (parts(z, "bf16x6", splits=3)[0] for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(first[:1], parts(z[:1], "bf16x6", splits=3)[0])


def test_product_follows_dtype_and_precision() -> None:
    target = dispatch.Target("sm_90", 132)
    rows = {torch.float32: "bf16x6", torch.bfloat16: "exact", torch.float16: "exact"}
    for dtype, want in rows.items():
        assert mode(torch.empty(1, 1, 1, dtype=dtype), "auto", target) == want
        assert mode(torch.empty(1, 1, 1, dtype=dtype), "double", target) == "float64"
    assert mode(torch.empty(1, 1, 1), "high", target) == "bf16x4"
    assert mode(torch.empty(1, 1, 1), "double", target._replace(name="sm_100")) == "float64_fma"


@pytest.mark.parametrize(("n", "m", "most"), [(64, 64, 5), (512, 8192, 5), (16384, 256, 5)])
def test_splits_fill_the_machine_and_no_more(n: int, m: int, most: int) -> None:
    target = dispatch.Target("sm_90", 132)
    tile = dispatch.Tile(64, 64, 4, 3)
    splits = splits_for(n, m, tile, target, most)
    edge = -(-n // 64)
    assert 1 <= splits <= most
    assert splits == 1 or splits * edge * (edge + 1) // 2 <= target.programs
    assert splits == 1 or m / splits >= 8 * tile.block
