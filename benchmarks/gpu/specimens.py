"""Calls that reach every kernel in every form: shapes, dtypes, precisions, layouts.

A specimen calls launchers on meta tensors: nothing is computed or launched, and what would have
been launched is recorded. A new module is one line in SPECIMENS. tests/triton/test_compiled.py
checks that every row of table.json is used and that every kernel is reached.
"""

import json
from collections.abc import Callable, Iterator
from functools import cache
from importlib.resources import files
from itertools import product
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from wssl_fast.backends.triton import dispatch, uniformity, uniformity_rows, w2
from wssl_fast.backends.triton.dispatch import Target
from wssl_fast.backends.triton.launch import Launch, recorded
from wssl_fast.backends.triton.statistics import statistics

Row = tuple[str, str, str, int | None]  # architecture, kernel, product, limit

ROWS = (
    (torch.float16, "auto"),
    (torch.bfloat16, "auto"),
    (torch.float32, "auto"),
    (torch.float32, "highest"),
    (torch.float32, "medium"),
    (torch.float32, "double"),
    (torch.float64, "auto"),
)
"""Rows and precisions that ask for different products."""

SMALL = 32
USUAL = 512
WIDE = 8192
LARGE = 4096  # every phase of its root is a launch


@cache
def table() -> dict[str, Any]:
    """table.json as it is."""
    found: dict[str, Any] = json.loads(
        (files("wssl_fast.backends.triton") / "table.json").read_text()
    )
    return found


@cache
def sizes() -> tuple[int, ...]:
    """One size at, and one above, every limit of the table."""
    limits = {limit for _, _, _, limit in rows() if limit is not None}
    return tuple(sorted({SMALL, USUAL, LARGE} | limits | {2 * limit for limit in limits}))


def rows() -> Iterator[Row]:
    """Every row of the table."""
    for architecture, kernels in table().items():
        for kernel, products in kernels.items():
            for name, entries in products.items():
                for limit, _ in entries:
                    yield architecture, kernel, name, limit


def meta(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """A tensor without memory."""
    return torch.empty(*shape, dtype=dtype, device="meta")


def odd(n: int, m: int, dtype: torch.dtype) -> Tensor:
    """(1, n - 1, m - 1), of which no size or stride is 1 or divides by 16."""
    return meta(1, n - 1, 2 * m - 3, dtype=dtype)[..., ::2]


def _w2(target: Target) -> None:
    """Both formulations and backwards. Every size on unit rows, with its gradient, in a plain and
    in an odd layout; every other form, a transposed layout and a batch at one size."""
    for (dtype, precision), k, by_covariance in product(ROWS, sizes(), (False, True)):
        n, m = (WIDE, k) if by_covariance else (k, max(k, WIDE))
        for z in (meta(1, n, m, dtype=dtype), odd(n, m, dtype)):
            _w2_call(z, (True, False, True), precision, by_covariance)
    for (dtype, precision), by_covariance in product(ROWS, (False, True)):
        n, m = (WIDE, USUAL) if by_covariance else (USUAL, WIDE)
        for form in product(*[(True, False)] * 3):
            _w2_call(meta(1, n, m, dtype=dtype), form, precision, by_covariance)
        _w2_call(meta(1, m, n, dtype=dtype).mT, (True, False, True), precision, by_covariance)
        _w2_call(meta(3, n, m, dtype=dtype), (True, False, True), precision, by_covariance)


def _w2_call(z: Tensor, form: tuple[bool, ...], precision: str, by_covariance: bool) -> None:
    normalize, squared, with_grad = form
    value, *kept = w2.forward(z, normalize, squared, 0.0, precision, with_grad, by_covariance)
    if with_grad:
        grad = torch.empty_like(value)
        w2.backward(grad, value, z, *kept, normalize, squared, by_covariance)


def _statistics(target: Target) -> None:
    for (dtype, _), size, normalize in product(ROWS, sizes(), (True, False)):
        for n, m in ((size, WIDE), (WIDE, size), (size, size)):
            statistics(meta(1, n, m, dtype=dtype), normalize)


def _uniformity(target: Target) -> None:
    for (dtype, _), n, normalize in product(ROWS, sizes(), (True, False)):
        for z in (meta(1, n, 1024, dtype=dtype), odd(n, 1024, dtype)):
            uniformity.forward(z, 2.0, normalize, False)
            sums = uniformity.forward(z, 2.0, normalize, True)
            grad = torch.empty_like(sums.value)
            kept = sums.moments, sums.scale, sums.total, sums.shift
            uniformity_rows.backward(grad, z, *kept, 2.0, normalize)


SPECIMENS: dict[str, Callable[[Target], None]] = {
    "w2": _w2,
    "statistics": _statistics,
    "uniformity": _uniformity,
}


def launches(target: Target) -> list[Launch]:
    """Every launch that the specimens would make on `target`."""
    with dispatch.assume(target), recorded(run=False) as found:
        for call in SPECIMENS.values():
            call(target)
    return found


def rows_used(target: Target) -> set[Row]:
    """Rows of the table that the specimens looked up on `target`."""
    used = set()
    look_up = dispatch.tile

    def watched(kernel: str, name: str, size: int, of: Target) -> dispatch.Tile:
        entries = table()[of.name][kernel][name]
        fitting = (limit for limit, _ in entries if limit is None or size <= limit)
        used.add((of.name, kernel, name, next(fitting, entries[-1][0])))
        return look_up(kernel, name, size, of)

    with mock.patch.object(dispatch, "tile", watched):
        launches(target)
    return used
