"""The compiled passes on drawn shapes, strides, dtypes and threads, on every instruction set.

Here for their values; under `make sanitize` for what they read and write on the way.
"""

import random

import pytest
import torch
from torch import Tensor

from tests.fuzz.inputs import laid_out
from tests.test_native import check_product
from wssl_fast.backends import native

pytestmark = pytest.mark.skipif(not native.available(), reason=native.why_missing())

ISAS = native.instruction_sets() if native.available() else []
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
COMPUTE = (torch.float32, torch.float64)
LAYOUTS = ("rows", "columns", "strided", "window", "odd_offset", "same_row", "same_column")
F64 = torch.float64


class Draw:
    """Shapes up to twice a panel, or larger than what one thread keeps for itself."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        torch.manual_seed(seed)
        large = self.rng.random() < 0.2
        self.n, self.m = (self.rng.randint(1, 300 if large else 70) for _ in range(2))
        self.threads = self.rng.randint(1, 3)

    def matrix(self) -> Tensor:
        x = torch.randn(self.n, self.m).to(self.rng.choice(DTYPES))
        return laid_out(x, self.rng.choice(LAYOUTS))[0]

    def vector(self, size: int) -> Tensor:
        return torch.rand(size, dtype=F64) + 0.5

    def sometimes(self, size: int) -> Tensor | None:
        return self.vector(size) if self.rng.random() < 0.5 else None


def product(draw: Draw, isa: str) -> None:
    x = draw.matrix()
    given = {"scale": draw.sometimes(draw.n), "mean": draw.sometimes(draw.m)}
    check_product(x, draw.rng.choice(COMPUTE), covariance=draw.rng.random() < 0.5, isa=isa, **given)


def row_pass(draw: Draw, isa: str) -> None:
    x = draw.matrix()
    inv, mean = native.row_pass(x, isa=isa)
    rows = x.double()
    torch.testing.assert_close(inv, 1 / rows.norm(dim=1), rtol=1e-12, atol=0)
    torch.testing.assert_close(mean, (rows * inv[:, None]).mean(0), rtol=0, atol=1e-12)


def tangent(draw: Draw, isa: str) -> None:
    z = draw.matrix()
    t = torch.randn(draw.n, draw.m, dtype=draw.rng.choice(COMPUTE))
    a, inv, shift = draw.vector(draw.n), draw.vector(draw.n), draw.sometimes(draw.m)
    p = a[:, None] * t.double() - (0 if shift is None else shift)
    x = inv[:, None] * z.double()
    want = inv[:, None] * (p - (p * x).sum(1, keepdim=True) * x)
    native.tangent_epilogue_(t, z, a=a, inv=inv, shift=shift, isa=isa)
    size = (p * x).abs().sum(1, keepdim=True) * x.abs() + p.abs()
    bound = (torch.finfo(t.dtype).eps + draw.m * torch.finfo(F64).eps) * inv[:, None] * size
    assert ((t.double() - want).abs() <= bound).all()


def exponential(draw: Draw, isa: str) -> None:
    dtype, lower = draw.rng.choice(COMPUTE), draw.rng.random() < 0.5
    base = torch.full((draw.n, draw.m + draw.rng.randint(0, 5)), float("nan"), dtype=dtype)
    k = base[:, : draw.m].copy_(torch.randn(draw.n, draw.m))
    row, column = draw.sometimes(draw.n), draw.sometimes(draw.m)
    v = 0.6 * k.double() - 0.1
    terms = 0.6 * k.double().abs() + 0.1
    for part in (None if row is None else row[:, None], column):
        if part is not None:
            v, terms = v + part, terms + part.abs()
    want = v.exp().tril(-1) if lower else v.exp()
    total = native.exp_block_(
        k, s=0.6, shift=-0.1, row=row, col=column, strictly_lower=lower, isa=isa
    )
    # the rule of tests/test_native.py: the argument, and two units of the exponential
    allowed = torch.finfo(dtype).eps * (2 * terms + 2) * want
    assert ((k.double() - want).abs() <= allowed).all()
    assert abs(total - want.sum().item()) <= allowed.sum().item()
    assert base[:, draw.m :].isnan().all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("check", [product, row_pass, tangent, exponential])
def test_drawn_shapes(check, isa: str) -> None:  # type: ignore[no-untyped-def]
    before = torch.get_num_threads()
    try:
        for seed in range(60):
            draw = Draw(seed)
            torch.set_num_threads(draw.threads)
            check(draw, isa)
    finally:
        torch.set_num_threads(before)
