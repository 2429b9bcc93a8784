"""BYOL (Grill et al. 2020)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from benchmarks.ssl.methods.base import Method, Views


@dataclass(frozen=True)
class BYOL(Method):
    """2 - 2 cos(prediction of one view, target of the other), both ways, eq. 2.

    The target is the online branch averaged with decay 0.99, fixed: the W2 paper's, as is the
    weight.
    """

    name: ClassVar[str] = "BYOL"
    predictor: ClassVar[bool] = True
    couples_rows: ClassVar[bool] = False
    w2_weight: ClassVar[float] = 0.2
    ema_decay: float | None = 0.99

    def loss(self, online: Views, target: Views | None, queue: Tensor | None) -> Tensor:
        assert target is not None
        return _twice_one_minus_cosine(online.a, target.b) + _twice_one_minus_cosine(
            online.b, target.a
        )


def _twice_one_minus_cosine(p: Tensor, z: Tensor) -> Tensor:
    return 2 - 2 * F.cosine_similarity(p, z, dim=1).mean()
