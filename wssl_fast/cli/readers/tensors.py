"""A tensor of a safetensors file, read slice by slice."""

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from wssl_fast.cli.readers.source import Source, choose, refusing

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


def open_safetensors(path: Path, key: str | None) -> Source:
    """One tensor of two dimensions."""
    found = {}
    with (
        refusing(path, "is truncated or no safetensors file"),
        safe_open(str(path), framework="pt") as file,
    ):
        for name in file.keys():  # noqa: SIM118 (no mapping)
            part = file.get_slice(name)
            found[name] = (tuple(part.get_shape()), part.get_dtype())
    usable = {
        name
        for name, (shape, dtype) in found.items()
        if len(shape) == 2 and shape[1] > 0 and dtype in DTYPES
    }
    chosen = choose(path, key, found, "tensor", usable)
    (rows, width), dtype = found[chosen]

    def blocks(count: int) -> Iterator[Tensor]:
        with refusing(path, "is damaged"), safe_open(str(path), framework="pt") as file:
            part = file.get_slice(chosen)
            for i in range(0, rows, count):
                yield part[i : i + count]

    return Source(f"{path}[{chosen}]", rows, width, DTYPES[dtype], blocks)
