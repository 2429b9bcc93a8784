"""When a long run is flat: memory, threads, open files and Python objects, by rules with reasons.

All rules are about samples taken after a warm-up, over which caches fill and thread pools start.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from scipy.stats import theilslopes

MIB = 2**20

LEAST_LEAK = 32
"""Bytes: glibc's malloc hands out no smaller block. What leaks once a call leaks that at least."""

ALLOCATOR = 1 * MIB
"""What may be taken after a warm-up without a leak: Python takes memory in arenas of 1 MiB, malloc
extends its heap by 128 KiB, whenever the mix of sizes in use first needs one more."""


@dataclass(frozen=True)
class Verdict:
    """One rule, what it allows and what was found."""

    name: str
    found: float
    allowed: float
    unit: str

    @property
    def flat(self) -> bool:
        return self.found <= self.allowed


def slope(calls: Sequence[float], values: Sequence[float]) -> float:
    """Theil and Sen's: the median over all pairs of samples. A single step does not tilt it."""
    return float(theilslopes(values, calls).slope)


def memory(calls: Sequence[float], resident: Sequence[float]) -> list[Verdict]:
    """Resident bytes after `calls`: how fast they rise, and by how much the second half lies above
    the first.

    A leak of LEAST_LEAK bytes a call gives that slope, and half of it times the run between the
    medians of the halves; half of either is allowed, and ALLOCATOR at least.
    """
    length = calls[-1] - calls[0]
    tilt = slope(calls, resident)
    first, second = _halves(resident)
    return [
        Verdict("memory, slope a million calls", tilt * 1e6 / MIB,
                max(LEAST_LEAK / 2, ALLOCATOR / length) * 1e6 / MIB, "MiB"),
        Verdict("memory, second half over first", (median(second) - median(first)) / MIB,
                max(LEAST_LEAK / 4 * length, ALLOCATOR) / MIB, "MiB"),
    ]  # fmt: skip


def constant(name: str, values: Sequence[int]) -> Verdict:
    """Threads and open files: how far they ever are from the first sample."""
    return Verdict(name, max(abs(v - values[0]) for v in values), 0, "")


def objects(counts: Mapping[str, Sequence[int]], turns: float) -> Verdict:
    """Python objects by type, `turns` calls of each kind: the type that grows most.

    A kind of call that leaves one object behind each time adds turns / 2 between the middles of the
    halves; half of that is allowed, to caches that fill late.
    """
    grown = {}
    for name, values in counts.items():
        first, second = _halves(values)
        grown[name] = median(second) - median(first)
    worst = max(grown, key=lambda name: grown[name])
    name = f"objects: {worst}" if grown[worst] > 0 else "objects"
    return Verdict(name, grown[worst], turns / 4, "")


def _halves(values: Sequence[float]) -> tuple[Sequence[float], Sequence[float]]:
    middle = len(values) // 2
    return values[:middle], values[len(values) - middle :]
