"""What every method says of itself."""

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor


class Views(NamedTuple):
    """The same thing for both views of a batch."""

    a: Tensor
    b: Tensor


@dataclass(frozen=True)
class Method:
    """Settings and loss of a method; fields are what a configuration may set.

    A method compares what its trained branch returns for two views, `online` (n, m) each, with each
    other or with the outputs of a slowly moving copy, `target` (n, m) each, without gradient. The
    uniformity loss takes the projector's outputs of both views, in every method.
    """

    name: ClassVar[str]
    predictor: ClassVar[bool] = False  # a network between the online projector and the loss
    couples_rows: ClassVar[bool] = True  # False: a mean over rows, and so over processes
    paper_ridge: ClassVar[float] = 0.0  # what the W2 paper's code adds to this method's covariance
    w2_weight: ClassVar[float] = 1.0  # the paper's factor on W2, in the first epoch
    ema_decay: float | None = None  # tau of target <- tau target + (1 - tau) online, if any
    ema_final: float | None = None  # tau at the end of training; None: as at its start
    queue_rows: int = 0  # negatives kept from earlier batches

    def loss(self, online: Views, target: Views | None, queue: Tensor | None) -> Tensor:
        """The method's own loss, a scalar, without a uniformity loss."""
        raise NotImplementedError

    def decay(self, progress: float) -> float:
        """tau at `progress` in [0, 1] through training: a cosine from ema_decay to ema_final."""
        assert self.ema_decay is not None
        final = self.ema_decay if self.ema_final is None else self.ema_final
        return final - (final - self.ema_decay) * (math.cos(math.pi * progress) + 1) / 2
