"""VICReg (Bardes et al. 2022)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from benchmarks.peers import vicreg
from benchmarks.ssl.methods.base import Method, Views


@dataclass(frozen=True)
class VICReg(Method):
    """25 invariance + 25 variance + 1 covariance, eqs. 1 to 6.

    The W2 paper has no VICReg: W2's weight of 1 is an assumption.
    """

    name: ClassVar[str] = "VICReg"
    invariance_weight: float = 25.0
    variance_weight: float = 25.0
    covariance_weight: float = 1.0

    def loss(self, online: Views, target: Views | None, queue: Tensor | None) -> Tensor:
        return vicreg(
            *online,
            invariance_weight=self.invariance_weight,
            variance_weight=self.variance_weight,
            covariance_weight=self.covariance_weight,
        )
