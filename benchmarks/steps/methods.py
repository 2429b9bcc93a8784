"""The methods whose step is timed: their losses, settings, and needs beside a network.

A method compares what its trained branch returns for two views, `online` (n, m) each, with each
other or with the outputs of a slowly moving copy, `target` (n, m) each, without gradient. W2 takes
the projector's outputs of both views concatenated, (2n, m), in every method. Settings are the W2
paper's where it has them (its text and its code, statsle/WassersteinSSL).
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.peers import barlow_twins, vicreg


class Views(NamedTuple):
    """The same thing for both views of a batch."""

    a: Tensor
    b: Tensor


@dataclass(frozen=True)
class Method:
    """What every method says of itself; `loss` is the method."""

    name: ClassVar[str]
    predictor: ClassVar[bool] = False  # a network between the online projector and the loss
    w2_weight: float = 1.0  # factor on W2 in the loss
    paper_ridge: float = 0.0  # what the paper's code adds to the covariance in this method
    ema_decay: float | None = None  # tau of target <- tau target + (1 - tau) online, if any
    queue_rows: int = 0  # negatives kept from earlier batches

    def loss(self, online: Views, target: Views | None, queue: Tensor | None) -> Tensor:
        """The method's own loss, a scalar, without W2."""
        raise NotImplementedError


@dataclass(frozen=True)
class BarlowTwins(Method):
    """sum_i (1 - C_ii)^2 + lambda sum_{i != j} C_ij^2 (Zbontar et al. 2021, eq. 1).

    lambda = 0.08 and W2's weight 30, its value in the first epoch: the W2 paper's.
    """

    name: ClassVar[str] = "Barlow Twins"
    off_diagonal_weight: float = 0.08
    w2_weight: float = 30.0
    paper_ridge: float = 1e-12

    def loss(self, online: Views, target: Views | None, queue: Tensor | None) -> Tensor:
        return barlow_twins(*online, off_diagonal_weight=self.off_diagonal_weight)


@dataclass(frozen=True)
class VICReg(Method):
    """25 invariance + 25 variance + 1 covariance (Bardes et al. 2022, eqs. 1 to 6).

    The W2 paper has no VICReg: W2's weight of 1 is an assumption, and no part of the cost.
    """

    name: ClassVar[str] = "VICReg"

    def loss(self, online: Views, target: Views | None, queue: Tensor | None) -> Tensor:
        return vicreg(*online)


@dataclass(frozen=True)
class BYOL(Method):
    """2 - 2 cos(prediction of one view, target of the other), both ways (Grill et al. 2020, eq. 2).

    The target is the online branch averaged with decay 0.99, fixed: the W2 paper's, as is the
    weight.
    """

    name: ClassVar[str] = "BYOL"
    predictor: ClassVar[bool] = True
    w2_weight: float = 0.2
    ema_decay: float | None = 0.99

    def loss(self, online: Views, target: Views | None, queue: Tensor | None) -> Tensor:
        assert target is not None
        return _twice_one_minus_cosine(online.a, target.b) + _twice_one_minus_cosine(
            online.b, target.a
        )


@dataclass(frozen=True)
class MoCoV2(Method):
    """-log softmax of q.k+ among q.k+ and q.queue, over tau (He et al. 2020, eq. 1), both ways.

    Chen et al. 2020 (MoCo v2) add the projector and tau = 0.2. Two terms, a queue of 4,096 keys
    that takes those of both views, decay 0.99 at the first step and weight 1 are the W2 paper's.
    One device: no shuffled batch normalisation.
    """

    name: ClassVar[str] = "MoCo v2"
    temperature: float = 0.2
    paper_ridge: float = 1e-4
    ema_decay: float | None = 0.99
    queue_rows: int = 4096

    def loss(self, online: Views, target: Views | None, queue: Tensor | None) -> Tensor:
        assert target is not None
        assert queue is not None
        return info_nce(online.a, target.b, queue, self.temperature) + info_nce(
            online.b, target.a, queue, self.temperature
        )


def info_nce(q: Tensor, positive: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """Cross entropy of (n, 1 + K) similarities, the positive first; rows are normalised here."""
    q, positive = F.normalize(q, dim=1), F.normalize(positive, dim=1)
    of_positive = (q * positive).sum(1, keepdim=True)  # (n, 1)
    logits = torch.cat([of_positive, q @ negatives.T], dim=1) / temperature  # negatives: unit rows
    return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long, device=q.device))


def _twice_one_minus_cosine(p: Tensor, z: Tensor) -> Tensor:
    return 2 - 2 * F.cosine_similarity(p, z, dim=1).mean()


METHODS: dict[str, Method] = {
    method.name: method for method in (BarlowTwins(), VICReg(), BYOL(), MoCoV2())
}
