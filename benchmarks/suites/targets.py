"""The ratios that are aimed at, read from rows."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.records import Row, pick
from benchmarks.suites.core import OURS
from benchmarks.suites.families import BARLOW, BARLOW_TWO_BATCHES, EIGVALSH, PDIST, SVDVALS

MEMORY_SHAPE = (512, 32768)
MEMORY_LIMIT = 8.0  # n^2 floats above the input and its gradient
FASTEST_FROM = 1024  # columns from which ours is to be the fastest wherever n <= m
EXPONENT_LIMIT = 1.05  # of time in m at fixed n
STEP_LIMIT = 0.03  # of a training step at STEP_CASE, what W2 adds
STEP_CASE = {"batch": 256, "dim": 8192}

W2_MIDDLE, W2_WIDE, W2_TALL = (512, 8192), (256, 32768), (4096, 1024)
UNIFORMITY = (4096, 1024)


@dataclass(frozen=True)
class Target:
    """A ratio that is aimed at: at least, or at most, `limit`."""

    text: str
    family: str
    shape: tuple[int, int]
    slower: str | Sequence[str] | None
    """Time of this provider, or of the fastest of these, over ours; None: ours over the floor."""
    limit: float

    def rows(self, table: Sequence[Row]) -> list[Row]:
        """Of its group, forward and backward."""
        return pick(table, group=self.family, shape=list(self.shape), mode="forward+backward")

    def ratio(self, table: Sequence[Row]) -> float:
        """NaN when a side was not timed."""
        found = {str(row["provider"]): row for row in self.rows(table)}
        ours = found.get(OURS, {}).get("p50_ms") or math.nan
        if self.slower is None:
            return found.get(OURS, {}).get("time_over_floor") or math.nan
        times = [found.get(name, {}).get("p50_ms") for name in self._slower]
        return min((time for time in times if time), default=math.nan) / ours

    def verdict(self, table: Sequence[Row]) -> str:
        """hit, missed, or why there is no ratio."""
        ratio = self.ratio(table)
        if not math.isnan(ratio):
            hit = ratio <= self.limit if self.slower is None else ratio >= self.limit
            return "hit" if hit else "**missed**"
        found = {str(row["provider"]): row for row in self.rows(table)}
        for name in (OURS, *self._slower):
            why = _why(found.get(name, {}))
            if why:
                return f"no ratio: {name} {why}"
        return "no ratio: not measured"

    @property
    def _slower(self) -> Sequence[str]:
        if self.slower is None:
            return ()
        return (self.slower,) if isinstance(self.slower, str) else self.slower

    @property
    def aim(self) -> str:
        """The limit in words."""
        return f"{'<=' if self.slower is None else '>='} {self.limit:g}"


def _why(row: Mapping[str, object]) -> str:
    if row.get("wrong"):
        return "is wrong"
    return "was not run" if row.get("skipped") else ""


def targets() -> Sequence[Target]:
    """All that are ratios within a group."""
    from benchmarks.peers import W2_FORMS

    forms = tuple(W2_FORMS)
    return (
        Target("Barlow Twins' loss, the same 512 rows", "W2", W2_MIDDLE, BARLOW, 15),
        Target("Barlow Twins' loss, 512 rows a view", "W2", W2_MIDDLE, BARLOW_TWO_BATCHES, 15),
        Target("`svdvals` autograd", "W2", W2_MIDDLE, SVDVALS, 10),
        Target("fastest right form of W2", "W2", W2_MIDDLE, forms, 1),
        Target("over the floor", "W2", W2_MIDDLE, None, 1.15),
        Target("fastest right form of W2", "W2", W2_WIDE, forms, 1),
        Target("over the floor", "W2", W2_WIDE, None, 1.3),
        Target("`eigvalsh` autograd", "W2", W2_TALL, EIGVALSH, 1),
        Target("over the floor", "W2", W2_TALL, None, 1.3),
        Target("`pdist`", "L_U", UNIFORMITY, PDIST, 25),
    )
