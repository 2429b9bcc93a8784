"""Memory of one problem batch between the product of the rows and the weights.

Slots are k x k matrices, padded to kp: first the parts of the product, then the matrices of
Newton-Schulz, which in float32 are pairs of float16 planes of the same size (tiles.py, fp16x3).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from wssl_fast.backends.cuda import Plan
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


@dataclass(frozen=True)
class Task:
    """What is made of the parts in a workspace, by whichever kernel: options, then tensors."""

    product: str
    """fp16x3, float64 or float64_fma: the iteration's products."""
    rows_product: str
    """What made the parts: how well they are known."""
    n: int
    m: int
    covariance: bool
    normalize: bool
    squared: bool
    eps: float
    with_grad: bool
    auto: bool
    decides: bool
    """Whether `deep` is written."""
    flagged: bool
    """Whether `deep` is read, and problems with 0 left alone."""
    scaled: bool
    """Whether `scale` is given, not written."""
    scale: Tensor
    """(b, n) float64."""
    mean: Tensor
    """(b, m) float64, of the covariance formulation."""
    value: Tensor
    """(b,)"""
    weights: Tensor
    """(b, k, k)"""
    deep: Tensor
    """(b,) int8."""

    @property
    def wide(self) -> bool:
        """Whether this is the float64 pass."""
        return self.product != "fp16x3"


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
    own = [tile, phase_tile] if phase_tile else [tile]
    # whole tiles, and whole blocks of the depth: matrices.multiply has no masks
    edge = max(product_tile.size, *(max(t.size, t.block) for t in own))
    kp = -(-k // edge) * edge
    tiles = (kp // tile.size) ** 2
    scalars, vectors, sums = NUMBERS
    return _fill(
        (batch, max(MATRICES, splits + 1), kp),
        scalars + vectors * kp + sums * tiles,
        k,
        splits,
        wide,
        (product_tile, tile, phase_tile),
        device,
    )


def of_plan(
    batch: int,
    k: int,
    plan: Plan,
    *,
    splits: int,
    product_tile: dispatch.Tile,
    device: torch.device,
) -> Workspace:
    """The same for csrc/cuda, whose kernel has tiles of its own."""
    shape, tiles = (batch, plan.slots, plan.kp), (product_tile, product_tile, None)
    return _fill(shape, plan.numbers, k, splits, False, tiles, device)


def _fill(
    shape: tuple[int, int, int],
    length: int,
    k: int,
    splits: int,
    wide: bool,
    tiles: tuple[dispatch.Tile, dispatch.Tile, dispatch.Tile | None],
    device: torch.device,
) -> Workspace:
    """`length`: of the numbers of a problem."""
    batch, count, kp = shape
    product_tile, tile, phase_tile = tiles
    dtype = torch.float64 if wide else torch.float32
    slots = torch.empty(batch, count, kp, kp, dtype=dtype, device=device)
    planes = slots if wide else slots.view(torch.float16).view(batch, count, 2, kp, kp)
    return Workspace(
        slots,
        planes,
        torch.empty(batch, splits, kp, dtype=torch.float64, device=device),
        torch.empty(batch, length, dtype=torch.float64, device=device),
        torch.empty(1, dtype=torch.int32, device=device),
        k,
        kp,
        splits,
        product_tile,
        tile,
        phase_tile,
    )
