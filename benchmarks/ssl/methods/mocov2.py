"""MoCo v2 (He et al. 2020; Chen et al. 2020)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.ssl.methods.base import Method, Views


@dataclass(frozen=True)
class MoCoV2(Method):
    """-log softmax of q.k+ among q.k+ and q.queue, over tau (He et al. 2020, eq. 1), both ways.

    Chen et al. 2020 (MoCo v2) add the projector and tau = 0.2. Two terms, a queue of 4,096 keys
    that takes those of both views, a decay from 0.99 to 0.999 by a cosine and weight 1 are the W2
    paper's. No shuffled batch normalisation: with several processes its statistics are global.
    """

    name: ClassVar[str] = "MoCo v2"
    couples_rows: ClassVar[bool] = False
    paper_ridge: ClassVar[float] = 1e-4
    temperature: float = 0.2
    ema_decay: float | None = 0.99
    ema_final: float | None = 0.999
    queue_rows: int = 4096

    def __post_init__(self) -> None:
        if self.queue_rows < 1 or int(self.queue_rows) != self.queue_rows:
            raise ValueError(f"queue_rows must be a whole number from 1, got {self.queue_rows}")
        if self.temperature <= 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")

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
