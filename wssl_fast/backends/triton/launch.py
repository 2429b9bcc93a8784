"""The one place that launches Triton kernels: device guard, current stream, a record for tests."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, NamedTuple, ParamSpec, TypeVar, cast

import torch
from torch import Tensor
from triton import knobs


class Launch(NamedTuple):
    """One launch: `args` are the runtime arguments in order, `constants` the constexprs."""

    kernel: Any
    grid: tuple[int, ...]
    args: tuple[Any, ...]
    constants: dict[str, Any]
    warps: int
    stages: int
    cooperative: bool


P = ParamSpec("P")
R = TypeVar("R")
PROBLEMS = 65_535
"""Of a launch: more do not fit the y and z of a CUDA grid."""
_records: list[tuple[list[Launch], bool]] = []


def interpreting() -> bool:
    """Whether kernels run in Triton's interpreter, on the CPU (TRITON_INTERPRET=1)."""
    return bool(knobs.runtime.interpret)


@contextmanager
def recorded(*, run: bool = True) -> Iterator[list[Launch]]:
    """The launches made inside, in order. With `run=False` nothing is launched: tensors may be on
    the meta device, which is how every specialisation is found for ahead-of-time compilation."""
    record: tuple[list[Launch], bool] = ([], run)
    _records.append(record)
    try:
        yield record[0]
    finally:
        _records.remove(record)


def record(
    kernel: Any, grid: tuple[int, ...], args: tuple[Any, ...], *, warps: int, cooperative: bool
) -> bool:
    """Notes a launch that another compiler's kernel is about to make; False if it must not run."""
    for found, _ in _records:
        found.append(Launch(kernel, grid, args, {}, warps, 0, cooperative))
    return all(run for _, run in _records)


def by_batches(function: Callable[P, R]) -> Callable[P, R]:
    """`function` of tensors (b, ...), then of settings, for at most PROBLEMS problems at a time."""

    @wraps(function)
    def call(*arguments: P.args, **keywords: P.kwargs) -> R:
        tensors = [a for a in arguments if isinstance(a, Tensor)]
        if len(tensors[0]) <= PROBLEMS:
            return function(*arguments, **keywords)
        settings = arguments[len(tensors) :]
        pieces = zip(*(a.split(PROBLEMS) for a in tensors), strict=True)
        run: Callable[..., Any] = function
        parts: Any = [run(*piece, *settings, **keywords) for piece in pieces]
        if isinstance(parts[0], Tensor):
            parts = torch.cat(parts)
        else:
            parts = tuple(map(torch.cat, zip(*parts, strict=True)))
        return cast(R, parts)

    return call


def launch(
    kernel: Any,
    grid: tuple[int, ...],
    *args: Any,
    warps: int = 4,
    stages: int = 3,
    cooperative: bool = False,
    **constants: Any,
) -> None:
    """`kernel[grid](*args, **constants)` on the device of the first tensor, on its current stream.

    Python floats arrive as float32; a float64 scalar has to travel in a tensor or be computed from
    integers. `cooperative` asks that all programs be resident at once: what a grid barrier needs.
    """
    for record, _ in _records:
        record.append(Launch(kernel, grid, args, constants, warps, stages, cooperative))
    if not all(run for _, run in _records):
        return
    if interpreting():
        kernel[grid](*args, **constants)
        return
    device = next(a for a in args if isinstance(a, Tensor)).device
    options: dict[str, Any] = {"num_warps": warps, "num_stages": stages}
    if cooperative:
        options["launch_cooperative_grid"] = True
    with torch.cuda.device(device):
        kernel[grid](*args, **constants, **options)
