"""A uniform sample of the rows of a stream: what a metric over pairs of rows is measured on."""

from typing import Self

import torch
from torch import Tensor

from wssl_fast import _checks as checks
from wssl_fast import functional
from wssl_fast.metrics._calls import kept, outside_graphs

GOLDEN = 0x9E3779B97F4A7C15
MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
WORD = 1 << 64


def row_keys(seed: int, stream: int, start: int, n: int, device: torch.device) -> Tensor:
    """Keys in [0, 1) of rows start .. start + n - 1 of a stream, float64 (n,).

    Numbers of the generator splitmix64 by position: the key of a row depends neither on how the
    stream is cut into batches nor on a generator's state. Source: Steele, Lea, Flood, OOPSLA 2014.
    """
    offset = _mixed(_mixed(seed % WORD) + stream) + GOLDEN * (start + 1)
    x = torch.arange(n, dtype=torch.int64, device=device) * _signed(GOLDEN) + _signed(offset)
    for places, factor in MIX:
        x = (x ^ _shifted(x, places)) * _signed(factor)
    x = x ^ _shifted(x, 31)
    return _shifted(x, 11).double() * 2.0**-53


def _mixed(x: int) -> int:
    for places, factor in MIX:
        x = (x ^ (x >> places)) * factor % WORD
    return x ^ (x >> 31)


def _signed(x: int) -> int:
    """A 64-bit word as the int64 of the same bits; int64 products wrap around as words do."""
    x %= WORD
    return x - WORD if x >= WORD // 2 else x


def _shifted(x: Tensor, places: int) -> Tensor:
    """Logical shift to the right, of int64."""
    return (x >> places) & ((1 << (64 - places)) - 1)


class RowSample:
    """Up to `capacity` rows of a stream, every subset of that size equally likely.

    Each row gets a pseudo-random key, and the rows with the largest keys are kept: merging two
    samples keeps the largest of both, so it is associative and runs in any map-reduce engine. A row
    is kept as it came, in the dtype of the first batch.

    Args:
        capacity: rows to keep, at least 1; fewer rows are kept all.
        seed: of the keys.
        stream: distinguishes streams that share a seed (a shard, a process). Two streams with the
            same seed and stream would keep rows of the same positions.

    Example:
        >>> import torch, wssl_fast as wf
        >>> z = torch.randn(1000, 8, generator=torch.Generator().manual_seed(0))
        >>> sample = wf.metrics.RowSample(100).update(z[:300]).update(z[300:])
        >>> sample
        RowSample(100 of 1000 rows, seed=0, stream=0)
        >>> sample.rows.shape
        torch.Size([100, 8])
    """

    def __init__(self, capacity: int, *, seed: int = 0, stream: int = 0) -> None:
        self.capacity = checks.integer("capacity", capacity, minimum=1)
        self.seed = checks.integer("seed", seed)
        self.stream = checks.integer("stream", stream)
        self.seen = 0
        self._keys: Tensor | None = None  # (k,)
        self._rows: Tensor | None = None  # (k, m)

    @property
    def rows(self) -> Tensor:
        """The rows kept, (min(seen, capacity), m), in the order of their keys."""
        return self._both()[1].clone()

    @outside_graphs
    def update(self, z: Tensor) -> Self:
        """Offers rows z (n, m) of any floating dtype; n = 0 is allowed. Returns itself."""
        z = checks.plain("z", z).detach()
        if z.dim() != 2:
            raise ValueError(f"z must have shape (n, m), got {tuple(z.shape)}")
        n = len(z)
        keys = row_keys(self.seed, self.stream, self.seen, n, z.device)
        if self._keys is not None and len(self._keys) == self.capacity:
            above = keys > self._keys[-1]  # of later rows a few
            keys, z = keys[above], z[above]
        self._keep(keys, z, n)
        return self

    @outside_graphs
    def merge(self, other: "RowSample") -> Self:
        """Takes in another sample of the same capacity. Returns itself."""
        if not isinstance(other, RowSample):
            raise TypeError(
                f"other must be wssl_fast.metrics.RowSample, got {type(other).__name__}"
            )
        if other.capacity != self.capacity:
            raise ValueError(
                "samples must have the same capacity to be merged, got "
                f"{self.capacity} and {other.capacity}"
            )
        if other._keys is not None and other._rows is not None:
            self._keep(other._keys, other._rows, other.seen)
        return self

    def uniformity(self, *, t: float = 2.0, normalize: bool = True) -> Tensor:
        """L_U over the pairs of the rows kept: see :func:`wssl_fast.uniformity`. ()"""
        return functional.uniformity(self._both()[1], t=t, normalize=normalize)

    def __repr__(self) -> str:
        kept = 0 if self._keys is None else len(self._keys)
        return f"RowSample({kept} of {self.seen} rows, seed={self.seed}, stream={self.stream})"

    def _both(self) -> tuple[Tensor, Tensor]:
        if self._keys is None or self._rows is None:
            raise ValueError("this sample has seen no rows yet: call update(z) first")
        return self._keys, self._rows

    def _keep(self, keys: Tensor, rows: Tensor, seen: int) -> None:
        """Offers rows out of `seen`; what fails on the way changes nothing."""
        if self._keys is not None and self._rows is not None:
            checks.columns("z", rows, self._rows.shape[1], "the rows kept")
            checks.same_kind("z", rows, "the rows kept", self._rows)
        with kept():
            if self._keys is not None and self._rows is not None:
                keys, rows = torch.cat([self._keys, keys]), torch.cat([self._rows, rows])
            order = keys.argsort(descending=True)[: self.capacity]
            keys, rows = keys[order], rows[order]
        self._keys, self._rows, self.seen = keys, rows, self.seen + seen
