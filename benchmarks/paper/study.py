"""A study: something measured into rows, a picture of rows, and what was published of it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from matplotlib.figure import Figure

from benchmarks.paper.published import Comparison, Row

T = TypeVar("T")


@dataclass(frozen=True)
class Context:
    """What a study is measured with.

    Attributes:
        quick: sizes that take seconds; no figures to quote.
        device: where rows live and both metrics are computed.
        seed: of every generator; the same seed gives the same rows whatever else is run.
        track: shows progress over an iterable of cases.
        runs: folders of training runs, for the figures drawn from them.
    """

    quick: bool = False
    device: str = "cpu"
    seed: int = 0
    track: Callable[[Sequence[T]], Iterable[T]] = iter  # type: ignore[assignment]
    runs: Sequence[Path] = ()

    def size(self, full: int, quick: int) -> int:
        """A sample size: the paper's, or a small one."""
        return quick if self.quick else full

    def generator(self, *case: int) -> torch.Generator:
        """One generator a case, from the seed and the numbers that name the case."""
        seed = self.seed
        for number in case:
            seed = (seed * 1_000_003 + number) % 2**31
        return torch.Generator(self.device).manual_seed(seed)


def nothing_published(rows: Sequence[Row]) -> list[Comparison]:
    """For a figure of which no number was printed."""
    return []


@dataclass(frozen=True)
class Study:
    """One figure of the paper, or one beyond it.

    Attributes:
        name: as on the command line.
        title: one line.
        measure: the rows that are plotted, all with the same columns.
        draw: the picture, from rows alone.
        compare: published numbers beside the rows'.
    """

    name: str
    title: str
    measure: Callable[[Context], Iterator[Row]]
    draw: Callable[[Sequence[Row]], Figure]
    compare: Callable[[Sequence[Row]], list[Comparison]] = nothing_published
