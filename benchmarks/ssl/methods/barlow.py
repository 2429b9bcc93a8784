"""Barlow Twins (Zbontar et al. 2021)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from benchmarks.peers import barlow_twins
from benchmarks.ssl.methods.base import Method, Views


@dataclass(frozen=True)
class BarlowTwins(Method):
    """sum_i (1 - C_ii)^2 + lambda sum_{i != j} C_ij^2, eq. 1, unscaled.

    C is the cross-correlation of the two views' columns, each normalised over the batch.
    lambda = 0.08 and W2's weight 30, its value at the first epoch: the W2 paper's.
    """

    name: ClassVar[str] = "Barlow Twins"
    paper_ridge: ClassVar[float] = 1e-12
    w2_weight: ClassVar[float] = 30.0
    off_diagonal_weight: float = 0.08

    def loss(self, online: Views, target: Views | None, queue: Tensor | None) -> Tensor:
        return barlow_twins(*online, off_diagonal_weight=self.off_diagonal_weight)
