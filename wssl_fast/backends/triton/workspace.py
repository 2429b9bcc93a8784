"""Memory of one problem batch between the product of the rows and the weights.

Slots are k x k matrices, padded to kp: first the parts of the product, then the matrices of
Newton-Schulz, which in float32 are pairs of float16 planes of the same size (tiles.py, fp16x3).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from wssl_fast.backends.triton import dispatch

MATRICES = 6  # what Newton-Schulz keeps at once: R_0, R, T and three that P and Q share
NUMBERS = (16, 4, 4)  # scalars; vectors of kp; sums of a tile each: w2_phases.py names them


@dataclass(frozen=True)
class Workspace:
    slots: Tensor
    """(b, slots, kp, kp) float32 or float64."""
    planes: Tensor
    """The same memory: (b, slots, 2, kp, kp) float16 beside float32 slots, `slots` if float64."""
    diagonal: Tensor
    """Diagonals of the parts, (b, splits, kp) float64."""
    numbers: Tensor
    """Scalars, vectors and partial sums of w2_phases.py, (b, ...) float64."""
    counter: Tensor
    """Arrivals at the grid barrier, (1,) int32; set to 0 by the kernel before."""
    k: int
    kp: int
    splits: int
    product_tile: dispatch.Tile
    """Tile of the kernel that multiplies rows."""
    tile: dispatch.Tile
    """Tile of newton_schulz.py."""
    phase_tile: dispatch.Tile | None
    """Tile of its products where a phase is a launch."""


def allocate(
    batch: int,
    k: int,
    *,
    splits: int,
    wide: bool,
    product_tile: dispatch.Tile,
    tile: dispatch.Tile,
    phase_tile: dispatch.Tile | None = None,
    device: torch.device,
) -> Workspace:
    """Uninitialised memory for `batch` k x k problems, float64 if `wide`."""
    edge = max(product_tile.size, tile.size, phase_tile.size if phase_tile else 1)
    kp = -(-k // edge) * edge
    tiles = (kp // tile.size) ** 2
    scalars, vectors, sums = NUMBERS
    count = max(MATRICES, splits + 1)
    dtype = torch.float64 if wide else torch.float32
    slots = torch.empty(batch, count, kp, kp, dtype=dtype, device=device)
    planes = slots if wide else slots.view(torch.float16).view(batch, count, 2, kp, kp)

    def numbers(*shape: int) -> Tensor:
        return torch.empty(batch, *shape, dtype=torch.float64, device=device)

    return Workspace(
        slots,
        planes,
        numbers(splits, kp),
        numbers(scalars + vectors * kp + sums * tiles),
        torch.empty(1, dtype=torch.int32, device=device),
        k,
        kp,
        splits,
        product_tile,
        tile,
        phase_tile,
    )
