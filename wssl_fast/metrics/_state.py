"""Streamed moments: one float64 vector, and what is added to it.

    [ n,  sum_i |z_i|,  mean (m),  second moment about the mean (m x m), row by row ]

One vector, so that processes, files and map-reduce engines pass one thing around. x_i are the rows
that count: z_i / |z_i|, or z_i itself. With state a, a block of rows b and delta = mu_b - mu_a,
Chan's update

    M <- M_a + M_b + n_a n_b / (n_a + n_b) delta delta^T

is M_a + sum_i (x_i - c)(x_i - c)^T for c = mu_b - sqrt(n_a / (n_a + n_b)) delta, because that sum
is M_b + n_b (mu_b - c)(mu_b - c)^T. So a block costs one symmetric product, which subtracts c while
it packs, and one addition to M; nothing is ever subtracted from a sum of squares. A sum is a new
vector: whatever ends an update half way, the state is the one before.

Source: Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample
variances", 1979, eq. (2.1), here for matrices.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from wssl_fast.backends.eager import products
from wssl_fast.backends.eager.numerics import SAFE_NORM
from wssl_fast.metrics._calls import outside_graphs

BLOCK = 8192
"""Rows of one product. Adding its result to M is a sweep over m^2 numbers, which 8,192 rows make
small beside the product, whatever m is (docs/metrics.md)."""

STRIP = 256
"""Rows of M that are merged at once: the product needs memory of its own."""

HEAD = 2


class Views(NamedTuple):
    """Parts of a state vector; writing to them writes to it. All float64."""

    rows: Tensor
    """()"""
    norm_sum: Tensor
    """()"""
    mean: Tensor
    """(m,)"""
    scatter: Tensor
    """M, sum_i (x_i - mu)(x_i - mu)^T. (m, m)"""


def empty(m: int, device: torch.device | str | None = None) -> Tensor:
    """The state of no rows. (2 + m + m^2,)"""
    return torch.zeros(HEAD + m + m * m, dtype=torch.float64, device=device)


def views(state: Tensor) -> Views:
    m = (math.isqrt(4 * (len(state) - HEAD) + 1) - 1) // 2
    return Views(state[0], state[1], state[HEAD : HEAD + m], state[HEAD + m :].view(m, m))


def added(state: Tensor, z: Tensor, normalize: bool, precision: str) -> Tensor:
    """The state and rows z (n, m) of any floating dtype and strides, on its device."""
    for start in range(0, len(z), BLOCK):
        state = _with_block(state, z[start : start + BLOCK], normalize, precision)
    return state


def _with_block(state: Tensor, z: Tensor, normalize: bool, precision: str) -> Tensor:
    v = views(state)
    inverse_norm, mean = products.row_statistics(z, normalize=True)
    norms = torch.where(inverse_norm > 0, inverse_norm.reciprocal(), inverse_norm)  # 0, NaN stay
    double = precision == "double" or z.dtype == torch.float64
    if not normalize:
        mean = z.mean(0, dtype=torch.float64)
    total = v.rows + len(z)
    delta = mean - v.mean
    centre = mean - (v.rows / total).sqrt() * delta
    if not normalize:
        # rows of 1e15, or so far from those before, have squares that float32 cannot hold, rows of
        # 1e-20 squares that vanish
        largest = max(float(norms.max()), float(centre.norm()))
        double = double or not SAFE_NORM[0] <= largest <= SAFE_NORM[1]
    out = torch.empty_like(state)
    step = views(out)
    product = products.symmetric_product(
        z,
        torch.float64 if double else torch.float32,
        covariance=True,
        scale=inverse_norm if normalize else None,
        mean=centre,
        out=step.scatter if double else None,
    )
    if not double:
        step.scatter.copy_(product)
    step.mean.copy_(delta * (len(z) / total))
    step.norm_sum.copy_(norms.sum())
    step.rows.fill_(len(z))
    return out.add_(state)


def _merge_(state: Tensor, other: Tensor) -> None:
    """Chan's merge of two states of one width, into the first."""
    a, b = views(state), views(other)
    total = a.rows + b.rows
    share = torch.where(total > 0, b.rows / total, 0.0)
    delta = b.mean - a.mean
    step = (a.rows * share).sqrt() * delta
    a.scatter.add_(b.scatter)
    # addr_ would fuse product and sum in all but the last columns: not symmetric bit by bit
    for rows, part in zip(a.scatter.split(STRIP), step.split(STRIP), strict=True):
        rows.add_(torch.outer(part, step))
    a.mean.add_(share * delta)
    a.norm_sum.add_(b.norm_sum)
    a.rows.copy_(total)


@outside_graphs
def merged(states: Tensor | Sequence[Tensor]) -> Tensor:
    """One state (l,) of several (w, l), in their order."""
    out = states[0].clone()
    for other in states[1:]:
        _merge_(out, other)
    return out
