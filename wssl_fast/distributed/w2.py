"""W2 of the rows of all processes, and its gradient in the rows of this one.

The mathematics is that of backends/eager/w2_gram.py and w2_covariance.py; here is who holds what.

Gram formulation, n <= m of the whole batch. C = X X^T is a sum over columns, so the batch is turned
(all-to-all): each process gets a slice of the columns of all rows, adds its share of C, and
multiplies its slice by the weights; turned back, that is the gradient. No process ever holds the
whole batch.

Covariance formulation, n > m. Mean and Xc^T Xc are sums over rows: nothing is turned or gathered.

Everything is exchanged in the forward, and the gradient computed there: a backward that waits for
nobody cannot wait in vain. What is kept for it has the shape of the local rows.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from wssl_fast.backends.eager import products, w2_covariance, w2_gram
from wssl_fast.backends.eager.numerics import working_dtype
from wssl_fast.backends.eager.state import State
from wssl_fast.backends.eager.w2_covariance import Scales
from wssl_fast.distributed.leader import Shares, solve_together
from wssl_fast.distributed.team import Opening, Team
from wssl_fast.ops._distance import finish, slope


class Settings(NamedTuple):
    normalize: bool
    squared: bool
    eps: float
    solver: str
    precision: str


def value_and_gradient(
    team: Team, z: Tensor, opening: Opening, settings: Settings
) -> tuple[Tensor, Tensor]:
    """One problem, z (counts[rank], m): W2 or its square (), and `team.size` times the derivative
    in z, in the dtype of results; (0, 0) if no process wants one."""
    gram = sum(opening.counts) <= z.shape[1]
    return (_gram if gram else _covariance)(team, z, opening, settings)


def _gram(team: Team, z: Tensor, opening: Opening, settings: Settings) -> tuple[Tensor, Tensor]:
    counts, m = opening.counts, z.shape[1]
    n, normalize = sum(counts), settings.normalize
    # half precision travels as such, and is worked with in float32
    columns = team.to_columns("columns of the rows", z, counts).to(working_dtype(z))  # (n, m_rank)

    def solve(shares: Shares) -> State:
        rows = _SpreadColumns(shares, n, m, columns.dtype)
        how = (settings.eps, settings.solver, settings.precision, opening.grad)
        return w2_gram.solve(rows, normalize, *how)

    found = solve_together(team, _Columns(columns, z, counts, team.rank), z.device, solve)
    value, factor = _finish(found.value, settings, columns.dtype, team.size)
    if not opening.grad:
        return value, columns[:0, :0]
    own = columns.new_empty(n, dtype=torch.float64) if found.state is None else found.state.scale
    scale = team.from_leader("the scales of the rows", own)
    state = State(found.value, found.weights, scale, scale[:0], found.deep)
    part = team.attempt(lambda: w2_gram.backward(columns, state, factor, normalize))
    team.settle()
    assert part is not None
    return value, team.to_rows("columns of the gradient", part, counts, m)


def _covariance(
    team: Team, z: Tensor, opening: Opening, settings: Settings
) -> tuple[Tensor, Tensor]:
    n, normalize = sum(opening.counts), settings.normalize
    z = z.to(working_dtype(z))
    scales = _scales(team, z, n, normalize, settings.eps)
    own = w2_covariance.Rows(z, scales, plain=not normalize and scales.unit == 1.0)

    def solve(shares: Shares) -> State:
        rows = _SpreadRows(shares, n, z.dtype, scales)
        how = (settings.eps, settings.solver, settings.precision, opening.grad)
        return w2_covariance.solve(rows, *how)

    found = solve_together(team, own, z.device, solve)
    value, factor = _finish(found.value, settings, z.dtype, team.size)
    if not opening.grad or not len(z):
        return value, torch.zeros_like(z if opening.grad else z[:0, :0])
    state = State(found.value, found.weights, scales.scale, scales.mean, found.deep)
    share = factor * len(z) / n
    return value, w2_covariance.backward(z, state, share, normalize)


def _finish(
    squared_value: Tensor, settings: Settings, dtype: torch.dtype, size: int
) -> tuple[Tensor, Tensor]:
    """The value, and what dW2^2/dz is to be multiplied by, float64 ()."""
    value = finish([squared_value], settings.squared, dtype)
    factor = size * slope(torch.ones_like(value), value, settings.squared)
    return value[0], factor[0]


class _Columns(w2_gram.Rows):
    """This process's columns (n, m_rank) of all rows; the norms are those of its rows z."""

    def __init__(self, columns: Tensor, z: Tensor, counts: list[int], rank: int) -> None:
        super().__init__(columns)
        self._rows, self._before = z, sum(counts[:rank])

    def inverse_norms(self) -> Tensor:
        norms = self.z.new_zeros(len(self.z), dtype=torch.float64)  # to be added up
        norms[self._before : self._before + len(self._rows)] = products.inverse_norms(self._rows)
        return norms


class _SpreadColumns:
    """A `w2_gram.Source` on the leader: n rows of m columns that are spread over processes."""

    def __init__(self, shares: Shares, n: int, m: int, dtype: torch.dtype) -> None:
        self._shares, self._n, self.m, self.dtype = shares, n, m, dtype

    def product(self, dtype: torch.dtype, *scale: Tensor) -> Tensor:
        return self._shares.ask("product", (self._n, self._n), dtype, *scale)

    def inverse_norms(self) -> Tensor:
        return self._shares.ask("inverse_norms", (self._n,), torch.float64)

    def ritz(self, u: Tensor, scale: Tensor) -> Tensor:
        q = u.shape[1]
        return self._shares.ask("ritz", (q, q), torch.float64, u, scale)


class _SpreadRows:
    """A `w2_covariance.Source` on the leader: n rows that are spread over processes."""

    def __init__(self, shares: Shares, n: int, dtype: torch.dtype, scales: Scales) -> None:
        self._shares, self.n, self.dtype, self.scales = shares, n, dtype, scales

    def product(self, dtype: torch.dtype) -> Tensor:
        m = len(self.scales.mean)
        return self._shares.ask("product", (m, m), dtype)

    def ritz(self, v: Tensor) -> Tensor:
        q = v.shape[1]
        return self._shares.ask("ritz", (q, q), torch.float64, v)


def _scales(team: Team, z: Tensor, n: int, normalize: bool, eps: float) -> Scales:
    """Those of all rows; `scale` of the rows z of this process."""
    m, size = z.shape[1], team.size
    own = team.attempt(lambda: _statistics(z, normalize))

    def work() -> Tensor:  # the sum of the rows, and a place for each process's extremes
        assert own is not None
        numbers = z.new_zeros(m + 2 * size, dtype=torch.float64)
        numbers[:m] = own.mean * len(z)
        numbers[m + team.rank] = own.unit
        numbers[m + size + team.rank] = own.in_range
        return numbers

    shape = (m + 2 * size,)
    total = team.add_up("the mean", work, shape, torch.float64, z.device, everywhere=True)
    assert total is not None
    assert own is not None
    largest = float(total[m : m + size].max())
    unit = 1.0 if normalize else w2_covariance.unit_of(largest, eps)
    fits = unit == 1.0 and bool(total[m + size :].all())
    return Scales(own.scale * unit, total[:m] * (unit / n), unit, fits)


def _statistics(z: Tensor, normalize: bool) -> Scales:
    """Scale, mean and range of the rows of one process; `unit` is their largest entry."""
    if not len(z):
        empty = z.new_zeros(z.shape[1], dtype=torch.float64)
        return Scales(empty[:0], empty, 0.0, True)
    scale, mean = products.row_statistics(z, normalize)
    largest = 0.0 if normalize else float(z.abs().amax())
    return Scales(scale, mean, largest, w2_covariance.in_range(scale, 1.0))
