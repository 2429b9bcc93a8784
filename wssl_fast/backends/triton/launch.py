"""The one place that launches Triton kernels: device guard, current stream, a record for tests."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

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
