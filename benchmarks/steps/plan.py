"""Which cells are measured: all, a subset that `pytest benchmarks` has time for, a quick look."""

from collections.abc import Sequence

import torch

from benchmarks.ssl.methods import BarlowTwins
from benchmarks.steps.measure import Cell, Settings, default_encoder
from benchmarks.steps.methods import METHODS

DIMS = (256, 2048, 8192, 16384)
BATCHES = (256, 512)
QUICK = Settings(rounds=3, seconds_per_arm=0.5, limit_seconds=1.0)
SUBSET = Settings(seconds_per_arm=6.0)


def every_cell(
    device: str,
    encoder: str | None = None,
    methods: Sequence[str] = tuple(METHODS),
    dims: Sequence[int] = DIMS,
    batches: Sequence[int] = BATCHES,
) -> list[Cell]:
    """All combinations; the device's own encoder if none is named."""
    return [
        Cell(METHODS[method], dim, batch, encoder or default_encoder(device), device)
        for method in methods
        for dim in dims
        for batch in batches
    ]


def subset(device: str) -> list[Cell]:
    """On a CPU all methods at 2,048, Barlow Twins at every dimension, batch 256; else all."""
    if torch.device(device).type != "cpu":
        return every_cell(device)
    names = {BarlowTwins.name: DIMS}
    return [
        cell
        for cell in every_cell(device, batches=(256,))
        if cell.dim in names.get(cell.method.name, (2048,))
    ]


def quick(device: str, encoder: str | None = None) -> list[Cell]:
    """Four methods at 256, Barlow Twins at 2,048, batch 32: seconds, and no figures to quote."""
    small = every_cell(device, encoder, dims=(256,), batches=(32,))
    return small + every_cell(device, encoder, [BarlowTwins.name], [2048], [32])
