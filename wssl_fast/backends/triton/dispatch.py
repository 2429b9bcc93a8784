"""Which tile on which machine: `table.json`, by architecture, kernel, type of product and size.

    {"sm_90": {"gram": {"exact": [[512, [64, 64, 4, 4]], ...]}}}

reads: up to 512 rows, tiles of 64 x 64, blocks of 64 in the inner loop, 4 warps, 4 stages. The
table is committed; nothing is tuned at a user's first call. `python -m benchmarks.gpu tune`
regenerates an architecture on a CUDA machine. An architecture without a table takes the one below
it that is nearest.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

import torch

from wssl_fast.backends.triton.launch import interpreting


class Target(NamedTuple):
    """What a launch is planned for."""

    name: str
    """sm_80, sm_90, sm_100, gfx942, or `interpreter`."""
    programs: int
    """Multiprocessors, each with room for one program: the limit of a grid barrier."""


class Tile(NamedTuple):
    size: int
    """Rows and columns of an output tile (rows alone for row-wise kernels)."""
    block: int
    """Depth of one block of the inner loop."""
    warps: int
    stages: int


INTERPRETER = Target("interpreter", 1)
_assumed: list[Target] = []
_overridden: list[tuple[str, Tile]] = []


def target_of(device: torch.device) -> Target:
    """The target of launches on `device`."""
    if _assumed:
        return _assumed[-1]
    if interpreting():
        return INTERPRETER
    return _cuda_target(device.index if device.index is not None else torch.cuda.current_device())


@cache
def _cuda_target(index: int) -> Target:
    properties = torch.cuda.get_device_properties(index)
    if torch.version.hip is not None:
        name = properties.gcnArchName.split(":")[0]
    else:
        name = f"sm_{properties.major}{properties.minor}"
    return Target(name, properties.multi_processor_count)


def tile(kernel: str, product: str, size: int, target: Target) -> Tile:
    """The tile of `kernel` for products of kind `product` on problems of `size` (k, n or m)."""
    for name, override in reversed(_overridden):
        if name == kernel:
            return override
    table = _table()
    rows = table[_nearest(target.name, tuple(table))][kernel][product]
    for limit, entry in rows:
        if limit is None or size <= limit:
            return Tile(*entry)
    return Tile(*rows[-1][1])


def float64_mode(target: Target) -> str:
    """FMA where tl.dot of float64 does not compile: sm_100, gfx942 (Triton 3.6 to 3.9)."""
    amd = target.name.startswith("gfx")
    return "float64_fma" if amd or _number(target.name) >= 100 else "float64"


@contextmanager
def assume(target: Target) -> Iterator[None]:
    """Plans made inside are for `target`, whatever the device; see `launch.recorded(run=False)`."""
    _assumed.append(target)
    try:
        yield
    finally:
        _assumed.pop()


@contextmanager
def override(kernel: str, entry: Tile) -> Iterator[None]:
    """`kernel` uses `entry` inside: tests and tuning."""
    _overridden.append((kernel, entry))
    try:
        yield
    finally:
        _overridden.pop()


def architectures() -> tuple[str, ...]:
    """The architectures that the table was written for."""
    return tuple(_table())


def _number(name: str) -> int:
    return int(name.removeprefix("sm_")) if name.startswith("sm_") else 0


def _nearest(name: str, known: tuple[str, ...]) -> str:
    if name in known:
        return name
    numbered = sorted((other for other in known if _number(other)), key=_number)
    older = [other for other in numbered if _number(other) <= _number(name)]
    return (older or numbered[:1])[-1]


@cache
def _table() -> dict[str, Any]:
    text = (files("wssl_fast.backends.triton") / "table.json").read_text()
    table: dict[str, Any] = json.loads(text)
    return table
