"""What kernels share: split products against float64, tiles of a triangle, the barrier."""

import pytest
import torch
import triton
import triton.language as tl

from wssl_fast.backends.triton import tiles

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@triton.jit
def product_kernel(a, b, c, one, M: tl.constexpr, K: tl.constexpr, MODE: tl.constexpr):
    row, depth = tl.arange(0, M), tl.arange(0, K)
    x = tl.load(a + row[:, None] * K + depth[None, :])
    y = tl.load(b + row[:, None] * K + depth[None, :])
    wide: tl.constexpr = MODE == "float64" or MODE == "float64_fma"
    acc = tl.zeros((M, M), tl.float64 if wide else tl.float32)
    low = tl.zeros((M, M), tl.float32)
    acc, low = tiles.accumulate(x, tl.trans(y), acc, low, one, MODE)
    tl.store(c + row[:, None] * M + row[None, :], tiles.total(acc, low, MODE))


@triton.jit
def lower_tile_kernel(rows, columns, count):
    for t in range(count):
        i, j = tiles.lower_tile(t)
        tl.store(rows + t, i)
        tl.store(columns + t, j)


@triton.jit
def barrier_kernel(counter, out, rounds):
    for step in range(rounds):
        tl.store(out + step * tl.num_programs(0) + tl.program_id(0), step)
        tiles.grid_barrier(counter, tl.num_programs(0))


# Relative to |a| |b| of the rows: the largest piece that a mode leaves out, times a few for the
# rounding of the pieces that it keeps and of the sum.
UNITS = {
    "fp16x3": 2.0**-21,  # both lower pieces, 2^-11 each, are not multiplied
    "bf16x6": 2.0**-22,
    "bf16x4": 2.0**-16,  # operands of 16 bits, 2^-17 each
    "bf16x1": 2.0**-7,
    "float64": 2.0**-50,
    "float64_fma": 2.0**-50,
}


@pytest.mark.parametrize("mode", UNITS)
def test_accumulate(mode: str) -> None:
    dtype = torch.float64 if mode.startswith("float64") else torch.float32
    a, b = (torch.randn(16, 16, dtype=dtype, device=DEVICE) for _ in range(2))
    if mode.startswith("bf16"):  # any float32 range: rows of 1e30 and 1e-20
        a, b = a * 1e30, b * 1e-20
    c = torch.empty(16, 16, dtype=dtype, device=DEVICE)
    product_kernel[(1,)](a, b, c, 1.0, 16, 16, mode)
    scale = a.double().norm(dim=1)[:, None] * b.double().norm(dim=1)
    assert ((c.double() - a.double() @ b.double().T).abs() / scale).max() <= UNITS[mode]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_products_of_half_precision_are_exact(dtype: torch.dtype) -> None:
    a, b = (torch.randint(-8, 9, (16, 16), device=DEVICE).to(dtype) for _ in range(2))
    c = torch.empty(16, 16, device=DEVICE)
    product_kernel[(1,)](a, b, c, 1.0, 16, 16, "exact")
    assert torch.equal(c, a.float() @ b.float().T)


def test_fp16_pieces_saturate_and_keep_nan() -> None:
    a, b = torch.zeros(16, 16, device=DEVICE), torch.eye(16, device=DEVICE)
    a[0, 0], a[1, 1], a[2, 2] = 1e6, -1e6, torch.nan
    c = torch.empty(16, 16, device=DEVICE)
    product_kernel[(1,)](a, b, c, 1.0, 16, 16, "fp16x3")
    assert c[0, 0] == 65504
    assert c[1, 1] == -65504
    assert c[2, 2].isnan()


def test_lower_tile_counts_by_rows() -> None:
    count = 300 * 301 // 2 if torch.cuda.is_available() else 120
    i = torch.empty(count, dtype=torch.int32, device=DEVICE)
    j = torch.empty(count, dtype=torch.int32, device=DEVICE)
    lower_tile_kernel[(1,)](i, j, count)
    edge = 300 if torch.cuda.is_available() else 15
    want = torch.tril_indices(edge, edge)
    assert torch.equal(torch.stack([i, j]).cpu(), want[:, :count].int())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the interpreter runs one program")
def test_grid_barrier() -> None:
    programs = torch.cuda.get_device_properties(0).multi_processor_count
    counter = torch.zeros(1, dtype=torch.int32, device=DEVICE)
    out = torch.full((200, programs), -1, dtype=torch.int32, device=DEVICE)
    barrier_kernel[(programs,)](counter, out, 200, launch_cooperative_grid=True)
    assert counter.item() == 200 * programs
    assert torch.equal(out, torch.arange(200, device=DEVICE, dtype=torch.int32)[:, None] + 0 * out)
