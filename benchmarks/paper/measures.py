"""Sampled rows, and W2 and L_U of many of them in bounded memory.

A batch is its support: the columns that are not zero everywhere, beside the number of columns in
all. Columns of zeros add nothing to a distance and a null eigenvalue each to the covariance, so
both metrics are those of the padded rows (a test holds them to it), at a fraction of the cost.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

import wssl_fast as wf
from wssl_fast.metrics import Moments

BLOCK = 8192


@dataclass(frozen=True)
class Rows:
    """Rows x (n, d) of which m - d further columns are zero."""

    x: Tensor
    m: int

    @property
    def n(self) -> int:
        return self.x.shape[0]

    @property
    def d(self) -> int:
        return self.x.shape[1]

    def padded(self) -> Tensor:
        """All m columns. (n, m)"""
        return torch.nn.functional.pad(self.x, (0, self.m - self.d))


def split(m: int, eta: float) -> tuple[int, int]:
    """Dimensions that are left, and in all, after a share eta of m has been zeroed: int(m (1 -
    eta)) and int(m eta), each cut off on its own as the authors do. In floating point
    200 (1 - 0.8) is 39.99..., so eta = 80 % leaves 39 of 199 dimensions, not 40 of 200."""
    left, zeroed = int(m * (1 - eta)), int(m * eta)
    return left, left + zeroed


def sphere(n: int, d: int, m: int | None = None, *, generator: torch.Generator) -> Rows:
    """n float32 rows uniform on the unit sphere of their first d columns, the other m - d zero:
    zeroed and then normalised, in this order. Filled block by block."""
    x = torch.empty(n, d, device=generator.device)
    for block in x.split(BLOCK):
        block.normal_(generator=generator)
        block.div_(torch.linalg.vector_norm(block, dim=1, keepdim=True))
    return Rows(x, d if m is None else m)


def w2(rows: Rows) -> float:
    """W2 of rows as they are, not normalised, from moments accumulated in float64.

    |mu|^2 + |S^(1/2) - I/sqrt m|_F^2 over the support, and 1/m for each column of zeros. From
    `Moments`, or from the n x n Gram matrix of the centred rows where that is smaller, summed over
    blocks of columns: no float64 copy of the rows.
    """
    n, d, m = rows.n, rows.d, rows.m
    if d <= n:
        moments = Moments(normalize=False)
        for block in rows.x.split(BLOCK):
            moments.update(block)
        mean, eigenvalues = moments.mean, moments.covariance_spectrum()
    else:
        mean = torch.cat([b.mean(0, dtype=torch.float64) for b in rows.x.split(BLOCK, dim=1)])
        gram = torch.zeros(n, n, dtype=torch.float64, device=rows.x.device)
        for block, shift in zip(rows.x.split(BLOCK, dim=1), mean.split(BLOCK), strict=True):
            centred = block.double() - shift
            gram.addmm_(centred, centred.mT)
        eigenvalues = torch.linalg.eigvalsh(gram / n).clamp_min(0)
    distance = (eigenvalues.sqrt() - 1 / math.sqrt(m)).square().sum() + (m - min(n, d)) / m
    return math.sqrt(float(mean.square().sum() + distance))


def uniformity(rows: Rows, *, t: float = 2.0) -> float:
    """L_U of rows as they are, by blocks of pairs: never n x n in memory."""
    return float(wf.uniformity(rows.x, t=t, normalize=False))
