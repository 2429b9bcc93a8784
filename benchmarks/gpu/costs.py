"""What each kernel's launch multiplies, moves and waits for, from its recorded arguments.

A function a kernel: from a Launch to its work, a `Work` for every phase between two barriers. A
healthy batch is meant: launches that stand by for float64 cost their latency alone.
"""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.gpu.rates import H200_COPY, H200_HALF
from wssl_fast.backends.triton.dispatch import Target
from wssl_fast.backends.triton.launch import Launch
from wssl_fast.backends.triton.newton_schulz import product_phases

H200 = Target("sm_90", 132)

RATES = {"half": H200_HALF, "tf32": H200_HALF / 2, "float64": 67e12, "float64_fma": 34e12}
"""Flops a second of dense products by kind: half precision measured on an H200, tf32 half of it,
float64 the vendor's figures (tensor cores, and without)."""
MEMORY = H200_COPY
"""Bytes a second of a copy, measured on an H200."""
L2_RATE, L2_BYTES = 5.5e12, 50 * 2**20
"""Bytes a second out of the L2 cache, an assumption; its size."""
LAUNCH, BARRIER = 2e-6, 1.5e-6
"""Seconds of a launch inside a graph and of a grid barrier: assumptions, to be measured."""

PIECES = {"exact": 1, "fp16x1": 1, "fp16x3": 3, "bf16x1": 1, "bf16x3": 3, "bf16x6": 6}
PIECES |= {"float64": 1, "float64_fma": 1}


@dataclass(frozen=True)
class Work:
    """What one launch, or one phase between two barriers, has to do."""

    kernel: str
    kind: str = "half"
    flops: float = 0.0
    """Of all pieces of the products that the mathematics asks for: no padding."""
    bytes: float = 0.0
    """To and from memory, each operand once."""
    items: int = 0
    """Tiles that programs take one of at a time."""
    tile_flops: float = 0.0
    """Of one of them, with its padding."""
    loads: float = 0.0
    """Bytes that all tiles load, mostly again and from the L2 cache."""
    latency: float = LAUNCH

    @property
    def floor(self) -> float:
        """Seconds that nothing with these products and bytes can go below."""
        return max(self.flops / RATES[self.kind], self.bytes / MEMORY) + self.latency

    @property
    def planned(self) -> float:
        """Seconds as planned: whole waves of tiles, and what they load again."""
        waves = math.ceil(self.items / H200.programs) * H200.programs
        products = max(self.flops, waves * self.tile_flops) / RATES[self.kind]
        return max(products, self.bytes / MEMORY, self.loads / L2_RATE) + self.latency


def kind(mode: str) -> str:
    """The rate at which products of a MODE run."""
    return mode if mode.startswith("float64") else "half"


def arguments(launch: Launch) -> dict[str, Any]:
    """Runtime arguments by name."""
    return dict(zip(inspect.signature(launch.kernel.fn).parameters, launch.args, strict=False))


def _nothing(launch: Launch) -> list[Work]:
    return [Work(launch.kernel.fn.__name__)]


def gram(launch: Launch, wide: bool) -> list[Work]:
    """n^2 m flops a piece: one triangle. Writes its parts, both triangles."""
    a, c = arguments(launch), launch.constants
    if c["FLAGGED"]:
        return _nothing(launch)
    b, n, m = a["z"].shape
    pieces, size = PIECES[c["MODE"]], a["z"].itemsize
    tiles = math.prod(launch.grid)
    return [
        Work(
            "gram",
            kind(c["MODE"]),
            flops=b * n * (n + 1) * m * pieces,
            bytes=b * n * m * size + b * a["splits"] * n * n * a["parts"].itemsize,
            items=tiles,
            tile_flops=2 * c["TILE"] ** 2 * a["chunk"] * pieces,
            loads=tiles * 2 * c["TILE"] * a["chunk"] * size,
        )
    ]


def covariance(launch: Launch, wide: bool) -> list[Work]:
    """m^2 n flops a piece."""
    a, c = arguments(launch), launch.constants
    if c["FLAGGED"]:
        return _nothing(launch)
    b, n, m = a["z"].shape
    pieces, size = PIECES[c["MODE"]], a["z"].itemsize
    tiles = math.prod(launch.grid)
    return [
        Work(
            "covariance",
            kind(c["MODE"]),
            flops=b * m * (m + 1) * n * pieces,
            bytes=b * n * m * size + b * a["splits"] * m * m * a["parts"].itemsize,
            items=tiles,
            tile_flops=2 * c["TILE"] ** 2 * a["chunk"] * pieces,
            loads=tiles * 2 * c["TILE"] * a["chunk"] * size,
        )
    ]


def rows(launch: Launch, wide: bool) -> list[Work]:
    """Norms: reads z once, twice where its squares could overflow."""
    z, c = arguments(launch)["z"], launch.constants
    times = 2 if c["WIDE"] and c["NORMALIZE"] else 1
    return [Work("rows", bytes=times * z.numel() * z.itemsize)]


def columns(launch: Launch, wide: bool) -> list[Work]:
    """Mean: reads z once."""
    a = arguments(launch)
    return [Work("columns", bytes=a["z"].numel() * a["z"].itemsize + 8 * a["out"].numel())]


def parts(launch: Launch, wide: bool) -> list[Work]:
    """Adds the parts of the mean up."""
    return [Work("parts", bytes=8 * arguments(launch)["sums"].numel())]


def products_of(phase: int, steps: int) -> tuple[int, int]:
    """Products in a product phase of newton_schulz.py with so many quintic steps: those computed
    by one triangle (k^3 flops), and those in full (2 k^3). chain.py says which are which.

    >>> [tuple(map(sum, zip(*(products_of(p, s) for p in range(60))))) for s in (7, 15)]
    [(14, 14), (30, 30)]
    """
    chain = 3 * (steps - 1) + 2
    if phase < chain - 1:
        return ((1, 0), (0, 1), (1, 1 if phase > 3 else 0))[phase % 3]  # P; T; R and Q
    return {chain - 1: (0, 1), chain: (1, 0), chain + 1: (0, 1), chain + 3: (0, 1)}.get(
        phase, (0, 0)
    )


PRODUCTS = ("products", "sums")
"""Parts of newton_schulz.py that multiply when they are launched alone."""


def newton_schulz(launch: Launch, wide: bool) -> list[Work]:
    """Flops of `products_of` a piece; parts in, weights out; a barrier, or a launch, each phase."""
    a, c = arguments(launch), launch.constants
    if c["FLAGGED"]:
        return _nothing(launch)
    batch, k, kp, steps = a["batch"], a["k"], a["kp"], c["STEPS"]
    pieces, tile, entry = PIECES[c["MODE"]], c["TILE"], a["slots"].itemsize
    matrix = batch * k * k * entry
    edge = kp // tile
    near = 6 * matrix <= L2_BYTES  # all matrices stay in the L2 cache
    ends = {
        "rows": (a["splits"] + 1) * matrix,
        "weights": matrix + a["weights"].nbytes,
    }
    chain = [("products", phase) for phase in range(product_phases(steps))]
    every = [("rows", 0), ("scalars", 0), ("start", 0), *chain, ("weights", 0)]
    found = []
    for part, phase in every if c["PART"] == "all" else [(c["PART"], a["phase"])]:
        half, full = products_of(phase, steps) if part in PRODUCTS else (0, 0)
        between = 0 if part == "scalars" else 3 * (half + full) * matrix or 2 * matrix
        moved = ends.get(part) or (0 if near else between)
        tiles = batch * (half * edge * (edge + 1) // 2 + full * edge * edge)
        found.append(
            Work(
                "newton_schulz",
                kind(c["MODE"]),
                flops=batch * k**3 * (half + 2 * full) * pieces,
                bytes=moved,
                items=tiles,
                tile_flops=2 * tile * tile * kp * pieces,
                loads=tiles * 2 * tile * kp * entry,
                latency=BARRIER if found else LAUNCH,
            )
        )
    return found


def newton_schulz_small(launch: Launch, wide: bool) -> list[Work]:
    """The same products by one program a problem: no barrier, and one multiprocessor."""
    a, c = arguments(launch), launch.constants
    if c["FLAGGED"]:
        return _nothing(launch)
    k, kp, pieces = a["k"], a["kp"], PIECES[c["MODE"]]
    batch, entry = a["slots"].shape[0], a["slots"].itemsize
    chain = [products_of(phase, c["STEPS"]) for phase in range(product_phases(c["STEPS"]))]
    cubes = sum(half + 2 * full for half, full in chain)
    return [
        Work(
            "newton_schulz_small",
            kind(c["MODE"]),
            flops=batch * k**3 * cubes * pieces,
            bytes=batch * k * k * a["splits"] * entry + a["weights"].nbytes,
            items=batch,
            tile_flops=kp**3 * cubes * pieces,
        )
    ]


def _rows_pieces(c: dict[str, Any], dtype: torch.dtype) -> int:
    """Products of a float32 weight with a row: half-precision rows have one or two pieces."""
    if c["MODE"].startswith("float64") or dtype == torch.float32:
        return PIECES[c["MODE"]]
    pieces = {6: 3, 3: 2, 1: 1}[c["PRODUCTS"]]
    return pieces + {6: 2, 3: 1, 1: 0}[c["PRODUCTS"]] * (dtype == torch.float16)


def gram_backward(launch: Launch, wide: bool) -> list[Work]:
    """2 n^2 m flops a piece; reads W and z, writes dz."""
    a, c = arguments(launch), launch.constants
    if not c["EVERY"] and c["MODE"].startswith("float64") != wide:
        return _nothing(launch)
    b, n, m = a["z"].shape
    pieces, size = _rows_pieces(c, a["z"].dtype), a["z"].itemsize
    tiles, depth = math.prod(launch.grid), -(-n // c["BLOCK"]) * c["BLOCK"]
    return [
        Work(
            "gram_backward",
            kind(c["MODE"]),
            flops=2 * b * n * n * m * pieces,
            bytes=2 * b * n * m * size + a["weights"].nbytes,
            items=tiles,
            tile_flops=2 * c["TILE"] ** 2 * depth * pieces,
            loads=tiles * c["TILE"] * depth * (size + a["weights"].itemsize),
        )
    ]


def covariance_backward(launch: Launch, wide: bool) -> list[Work]:
    """2 n m^2 flops a piece; a program owns TILE rows and reads all of Q for them."""
    a, c = arguments(launch), launch.constants
    if not c["EVERY"] and c["MODE"].startswith("float64") != wide:
        return _nothing(launch)
    b, n, m = a["z"].shape
    pieces, size = PIECES[c["MODE"]], a["z"].itemsize
    tile, across, depth = c["TILE"], -(-m // c["TILE"]), -(-m // c["BLOCK"]) * c["BLOCK"]
    per_tile = across * depth * tile * (size + a["weights"].itemsize)
    return [
        Work(
            "covariance_backward",
            kind(c["MODE"]),
            flops=2 * b * n * m * m * pieces,
            bytes=2 * b * n * m * size + a["weights"].nbytes,
            items=a["total"],
            tile_flops=2 * tile * tile * across * depth * pieces,
            loads=a["total"] * per_tile,
        )
    ]


KERNELS: dict[str, Callable[[Launch, bool], list[Work]]] = {
    "gram_kernel": gram,
    "covariance_kernel": covariance,
    "rows_kernel": rows,
    "columns_kernel": columns,
    "parts_kernel": parts,
    "newton_schulz_kernel": newton_schulz,
    "newton_schulz_small_kernel": newton_schulz_small,
    "gram_backward_kernel": gram_backward,
    "covariance_backward_kernel": covariance_backward,
}
