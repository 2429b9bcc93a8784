"""A symmetric matrix as the half of it that is worth sending.

The lower triangle of a (k, k) as ceil(k/2) rows of k + 1 numbers: row i (i + 1 numbers), and beside
it row k - 1 - i (k - i numbers) turned round.
"""

import torch
from torch import Tensor


def size(k: int) -> int:
    """How many numbers stand for a (k, k).

    >>> size(4), size(5)
    (10, 18)
    """
    return (k + 1) // 2 * (k + 1)


def fold(a: Tensor, out: Tensor) -> None:
    """The lower triangle of a (k, k) into out (size(k),)."""
    k = len(a)
    upper, lower = (k + 1) // 2, k // 2
    rows = out.view(upper, k + 1)
    rows[:, :k] = a[:upper].tril()
    rows[:, k] = 0
    rows[:lower, 1:] += a[upper:].flip(0, 1).triu()


def unfold(folded: Tensor, k: int) -> Tensor:
    """The symmetric matrix (k, k), contiguous."""
    upper, lower = (k + 1) // 2, k // 2
    rows = folded.view(upper, k + 1)
    out = torch.empty(k, k, dtype=folded.dtype, device=folded.device)
    out[:upper] = rows[:, :k].tril()
    out[upper:] = rows[:lower, 1:].triu().flip(0, 1)
    return out.add_(out.tril(-1).mT)
