"""SimCLR (Chen et al. 2020)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from benchmarks.peers import simclr
from benchmarks.ssl.methods.base import Method, Views


@dataclass(frozen=True)
class SimCLR(Method):
    """NT-Xent: -log exp(s_ij / tau) / sum_{k != i} exp(s_ik / tau), eq. 1, mean over 2n anchors.

    tau = 0.5, from SimCLR's training on CIFAR-10 (appendix B.9). The W2 paper has SimCLR without a
    uniformity loss only: the weight 1 of W2 is an assumption.
    """

    name: ClassVar[str] = "SimCLR"
    temperature: float = 0.5

    def loss(self, online: Views, target: Views | None, queue: Tensor | None) -> Tensor:
        return simclr(*online, temperature=self.temperature)
