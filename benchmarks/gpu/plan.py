"""Which cases the sweep tries, in which order: what is cut off at the deadline matters least."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from benchmarks.gpu import providers as p
from benchmarks.gpu.timing import FEWEST, ROUNDS, SECONDS

ROWS = tuple(2**i for i in range(8, 15))  # 256 .. 16384
COLUMNS = tuple(2**i for i in range(8, 16))  # 256 .. 32768
DTYPES = {
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float16": torch.float16,
}

TARGET_SHAPES = ((512, 8192), (1024, 8192))
LARGE_SHAPES = ((2048, 8192), (4096, 16384), (2048, 32768))  # k >= 2048
MEMORY_SHAPE = (512, 32768)
LITERAL_SHAPES = ((512, 2048), (512, 4096))  # what an exponent is fitted to
CENTRE = TARGET_SHAPES[0]
EXPENSIVE = 10.0  # seconds of a case of the grid
SMALL_SHAPE = (256, 2048)

ROOT_TARGETS = {256: 60.0, 512: 120.0, 1024: 350.0}  # us of csrc/cuda in a graph, on an H200
ROOT_SIZES = (*ROOT_TARGETS, 128, 768, 2048)
TRITON, CSRC = "Triton", "csrc/cuda"  # beside p.COMPOSED: who solves the k x k problem alone

OURS = (p.OURS, p.HIGHEST, p.DOUBLE)
COMPOSITIONS = (p.COMPOSED, p.COMPOSED_FAST)
BESIDE = (p.BARLOW, p.BARLOW_AUTOCAST, p.VICREG, p.VICREG_AUTOCAST)
LITERAL = (p.EIGVALSH, p.SVDVALS, p.LITERAL)
EVERY = (
    *(*OURS, p.CUDA, p.COMPOSED, p.COMPILED, p.COMPOSED_FAST, p.MUON),
    *(*BESIDE, p.UNIFORMITY, p.SVDVALS, p.PDIST),
)
GRID = (p.OURS, p.COMPOSED, p.BARLOW_AUTOCAST)


@dataclass(frozen=True)
class Case:
    """Providers side by side on rows of one shape and dtype."""

    tier: str
    n: int
    m: int
    dtype: str
    providers: tuple[str, ...]

    @property
    def key(self) -> str:
        return f"{self.n}x{self.m} {self.dtype}"

    @property
    def half(self) -> bool:
        return DTYPES[self.dtype].itemsize < 4

    def seconds(self) -> float:
        """About how long it takes, without compiling."""
        n, m = self.n, self.m
        total = 0.5 + 2e-9 * n * m + p.root_flops(min(n, m)) * 57 / 25 / p.DOUBLE_RATE
        if n * m <= p.REFERENCE_ELEMENTS and min(n, m) <= p.REFERENCE_SIDE:
            total += 0.5  # the reference on the CPU
        for name in self.providers:
            provider = p.BY_NAME[name]
            one = provider.seconds(n, m, self.half)
            if not provider.fits(n, m, self.half):
                continue
            timed = max(min(ROUNDS * one, SECONDS), FEWEST * one)
            ways = (2 if provider.graph else 1) * (1.5 if provider.forward else 1)
            total += ways * timed + 6 * one + 0.05
        return total


def root_job(k: int) -> str:
    """The k x k problem alone, as a journal has it."""
    return f"root {k}"


def plan() -> list[Case]:
    """Every case once, the most wanted first."""
    found: dict[str, Case] = {}
    for case in _cases():
        found.setdefault(case.key, case)
    return list(found.values())


def _cases() -> Iterator[Case]:
    for n, m in TARGET_SHAPES:  # an SVD of the larger one costs as much as twenty cases
        every = EVERY if (n, m) == CENTRE else tuple(x for x in EVERY if x != p.SVDVALS)
        yield Case("target", n, m, "bfloat16", every)
    for dtype in ("bfloat16", "float32"):
        yield Case("memory", *MEMORY_SHAPE, dtype, (p.OURS, p.HIGHEST, p.COMPOSED))
    for n, m in LITERAL_SHAPES:
        yield Case("paper", n, m, "bfloat16", (p.OURS, p.COMPOSED, *LITERAL))
    for n, m in LARGE_SHAPES:
        yield Case("large", n, m, "bfloat16", (*OURS[:2], *COMPOSITIONS, *BESIDE[1:2], p.MUON))
    for dtype in ("bfloat16", "float32"):
        yield Case("small", *SMALL_SHAPE, dtype, (GRID[0], p.CUDA, *GRID[1:]))
    for dtype in ("float32", "float16"):
        ours = (*OURS, p.CUDA) if dtype == "float32" else OURS
        for n, m in TARGET_SHAPES:
            yield Case("dtype", n, m, dtype, (*ours, *COMPOSITIONS, p.MUON, *BESIDE, p.UNIFORMITY))
    tall = (*OURS, *COMPOSITIONS, p.MUON, *BESIDE, p.EIGVALSH, p.UNIFORMITY, p.PDIST)
    for dtype in ("bfloat16", "float32"):
        yield Case("tall", 4096, 1024, dtype, tall)
    for dtype in ("bfloat16", "float32"):
        yield from by_interest("coarse", ROWS[::2], COLUMNS[1::2], dtype)
    for dtype in DTYPES:
        yield from by_interest("fill", ROWS, COLUMNS, dtype)


def by_interest(tier: str, rows: Sequence[int], columns: Sequence[int], dtype: str) -> list[Case]:
    """The grid, nearest to CENTRE first, in doublings; what costs as much as many others last."""

    def rank(case: Case) -> tuple[bool, float]:
        away = abs(math.log2(case.n / CENTRE[0])) + abs(math.log2(case.m / CENTRE[1]))
        return case.seconds() > EXPENSIVE, away

    return sorted((Case(tier, n, m, dtype, GRID) for n in rows for m in columns), key=rank)


def affordable(case: Case, seconds_left: float, slowness: float) -> bool:
    """Whether a case is begun; `slowness` is how much longer cases took than they were thought."""
    return case.seconds() * slowness <= seconds_left


def describe(cases: Sequence[Case]) -> str:
    """The plan as text, with when each case would begin."""
    lines, at = [], 0.0
    for case in cases:
        lines.append(f"{at:7.0f} s  {case.tier:7} {case.key:20} {', '.join(case.providers)}")
        at += case.seconds()
    return "\n".join([*lines, f"{at:7.0f} s  {len(cases)} cases"])
