"""The tensors of a case: rows of a prescribed spectrum, traits, scales, then dtype and strides."""

import torch
from torch import Tensor

from tests.fuzz.cases import RANGE, WIDEST, Case

F64 = torch.float64
HEADROOM = 1e-2
"""Entries stay under this share of a dtype's largest number, so that rounding makes no infinity."""


def dtype_of(case: Case) -> torch.dtype:
    found = getattr(torch, case.dtype)
    assert isinstance(found, torch.dtype)
    return found


def batch_of_rows(case: Case, rows: int, stream: int) -> Tensor:
    """(*batch, rows, m) in the dtype of the case, contiguous; `stream` tells arguments apart."""
    generator = torch.Generator().manual_seed(case.seed * 8 + stream)
    count = 1
    for size in case.batch:
        count *= size
    problems = [_problem(case, rows, generator) for _ in range(count)]
    stacked = torch.stack(problems) if problems else torch.zeros(0, rows, case.m, dtype=F64)
    return stacked.reshape(*case.batch, rows, case.m).to(dtype_of(case))


def batch_of_matrices(case: Case, stream: int) -> Tensor:
    """Symmetric positive semi-definite (*batch, m, m), largest entry about 10^scale."""
    dtype = dtype_of(case)
    generator = torch.Generator().manual_seed(case.seed * 8 + stream)
    count = 1
    for size in case.batch:
        count *= size
    found = []
    for _ in range(count):
        rows = _base(case, case.n, case.m, generator)
        rows = _with_traits(rows, case, generator)
        a = rows.mT @ rows
        a = a / a.abs().max().clamp_min(torch.finfo(F64).tiny)
        a = _in_range(a * 10.0**case.scale, dtype)
        found.append(a)
    stacked = torch.stack(found) if found else torch.zeros(0, case.m, case.m, dtype=F64)
    a = stacked.reshape(*case.batch, case.m, case.m).to(dtype)
    return torch.triu(a) + torch.triu(a, 1).mT  # symmetric after rounding too


def laid_out(x: Tensor, layout: str) -> tuple[Tensor, Tensor]:
    """x (..., n, m) with other strides, and the memory it lies in, whose gaps hold NaN. What is
    expanded repeats its first row, column or problem."""
    if layout == "rows":
        base = x.contiguous()
        return base, base
    nan = float("nan")
    *batch, n, m = x.shape
    if layout == "columns":
        base = x.mT.contiguous()
        return base.mT, base
    if layout == "strided":
        base = torch.full((*batch, 2 * n, 3 * m), nan, dtype=x.dtype)
        view = base[..., ::2, 1::3]
    elif layout == "window":
        base = torch.full((*batch, n + 2, m + 5), nan, dtype=x.dtype)
        view = base[..., 1 : n + 1, 3 : 3 + m]
    elif layout == "odd_offset":
        base = torch.full((x.numel() + 1,), nan, dtype=x.dtype)
        view = base[1:].view(x.shape)
    elif layout == "batch_last":
        base = x.movedim(0, -1).contiguous()
        return base.movedim(-1, 0), base
    else:
        dim = {"same_row": -2, "same_column": -1, "same_problem": 0}[layout]
        base = x.narrow(dim, 0, min(1, x.shape[dim])).contiguous()
        return base.expand(x.shape), base
    view.copy_(x)
    return view, base


def _problem(case: Case, n: int, generator: torch.Generator) -> Tensor:
    m, dtype = case.m, dtype_of(case)
    z = _base(case, n, m, generator)
    if case.mean:
        z = z + 10.0**case.mean * _randn(1, m, generator) * z.square().mean().sqrt()
    z = _with_traits(z, case, generator)
    low, high = (bound - case.scale for bound in RANGE.get(case.dtype, WIDEST))
    if case.row_scales:
        low, high = max(low, -case.row_scales), min(high, case.row_scales)
        powers = torch.randint(low, max(low, high) + 1, (n, 1), generator=generator)
        z = z * torch.pow(10.0, powers.to(F64))
    z = z * 10.0**case.scale
    if "subnormal" in case.traits:
        some = torch.rand(n, 1, generator=generator, dtype=F64) < 0.5
        tiny = torch.finfo(dtype).tiny / z.abs().amax(-1, keepdim=True).clamp_min(1e-300)
        z = torch.where(some, z * tiny, z)
    return _in_range(z, dtype)


def _in_range(z: Tensor, dtype: torch.dtype) -> Tensor:
    limit = HEADROOM * torch.finfo(dtype).max
    largest = z.abs().max().item() if z.numel() else 0.0
    return z * (limit / largest) if largest > limit else z


def _randn(n: int, m: int, generator: torch.Generator) -> Tensor:
    return torch.randn(n, m, dtype=F64, generator=generator)


def _base(case: Case, n: int, m: int, generator: torch.Generator) -> Tensor:
    """Rows of entries about 1/sqrt m."""
    k, kind = min(n, m), case.spectrum
    z = _randn(n, m, generator)
    last = 10.0**-case.depth
    if kind in ("rank", "rank_one"):
        rank = 1 if kind == "rank_one" else 1 + case.seed % k
        z = _randn(n, rank, generator) @ _randn(rank, m, generator)
    elif kind in ("power_law", "log_spaced", "flat"):
        u, _, vh = torch.linalg.svd(z, full_matrices=False)
        index = torch.arange(k, dtype=F64)
        power = -0.5 * (1 + case.seed % 4)
        sigma = {
            "power_law": (1 + index) ** power,
            "log_spaced": last ** (index / max(1, k - 1)),
            "flat": torch.ones(k, dtype=F64),
        }[kind]
        z = (u * sigma) @ vh * n**0.5
    elif kind == "noise":
        low = 1 + case.seed % min(12, k)
        z = _randn(n, low, generator) @ _randn(low, m, generator) + last * z
    elif kind == "clusters":
        centres = _randn(1 + case.seed % 10, m, generator)
        z = centres[torch.randint(len(centres), (n,), generator=generator)] + last * z
    elif kind == "one_hot":
        z = torch.eye(m, dtype=F64)[torch.arange(n) % m] * m**0.5
    elif kind == "constant":
        z = z[:1].repeat(n, 1)
    elif kind == "zero":
        z = torch.zeros(n, m, dtype=F64)
    return z / m**0.5


def _with_traits(z: Tensor, case: Case, generator: torch.Generator) -> Tensor:
    n, m = z.shape
    for trait in case.traits:
        if trait == "duplicated":
            z = z[: (n + 1) // 2].repeat(2, 1)[:n]
        elif trait == "clones":
            z = z[torch.randint(0, min(n, 3), (n,), generator=generator)]
        elif trait == "antipodal":
            half = z[: (n + 1) // 2]
            z = torch.cat([half, -half])[:n]
        elif trait == "zero_rows":
            z = z * (torch.rand(n, 1, generator=generator) > 0.2)
        elif trait == "dead_columns":
            z = z * (torch.rand(m, generator=generator) > 0.3)
        elif trait == "cloned_columns":
            z = z[:, : (m + 1) // 2].repeat(1, 2)[:, :m]
        elif trait == "few_bits":
            z = (z * 4 * m**0.5).round() / 4
    return z
