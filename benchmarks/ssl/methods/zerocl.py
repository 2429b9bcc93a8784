"""Zero-CL (Zhang et al. 2022)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

import wssl_fast as wf
from benchmarks.ssl.methods.base import Method, Views


@dataclass(frozen=True)
class ZeroCL(Method):
    """Agreement of ZCA-whitened instances plus agreement of ZCA-whitened features.

    Zhang, Zhu, Yan, Zhao, Yang, "Zero-CL: Instance and Feature decorrelation for negative-free
    symmetric contrastive learning", ICLR 2022. With Z the rows of one view standardised over their
    features, N x d, and F the columns standardised over the batch:

        instances  S = Z Z^T / d  (N x N),  H = S_e^(-1/2) Z,  L_I = sum_i (1 - h_i^A.h_i^B / d)^2
        features   S = F^T F / N  (d x d),  E = F S_e^(-1/2),  L_F = sum_j (1 - e_j^A.e_j^B / N)^2

    S_e = (1 - e) S + e I, and no gradient goes through S_e^(-1/2), as in the code that the paper's
    authors gave out, which trains on one of the two terms at a time, with e from 1e-4 to 0.1 by
    version. The paper's Zero-CL is both; their sum, 1 : 1, and e = 0.01 are this file's choice.
    The W2 paper's code has no Zero-CL, so what its rows were trained with is not known. W2's weight
    is the paper's.
    """

    name: ClassVar[str] = "Zero-CL"
    w2_weight: ClassVar[float] = 30.0
    instance_weight: float = 1.0
    feature_weight: float = 1.0
    shrinkage: float = 0.01

    def loss(self, online: Views, target: Views | None, queue: Tensor | None) -> Tensor:
        instances = _agreement(*(self._whitened(z) for z in online))
        features = _agreement(*(self._whitened(z.T) for z in online))
        return self.instance_weight * instances + self.feature_weight * features

    def _whitened(self, z: Tensor) -> Tensor:
        """Rows standardised, then decorrelated: (k, p) -> (k, p), S_e^(-1/2) of k x k."""
        x = (z - z.mean(1, keepdim=True)) / (z.std(1, keepdim=True) + 1e-5)
        with torch.no_grad():
            identity = torch.eye(len(x), dtype=x.dtype, device=x.device)
            second_moment = x @ x.T / x.shape[1]
            shrunk = (1 - self.shrinkage) * second_moment + self.shrinkage * identity
            whitening = wf.matrix_inv_sqrt(shrunk)
        return whitening @ x


def _agreement(a: Tensor, b: Tensor) -> Tensor:
    """sum_i (1 - a_i.b_i / p)^2 over rows (k, p)."""
    return (1 - (a * b).mean(1)).square().sum()
