"""L_U and alignment of the rows of all processes, and their gradients in the rows of this one.

L_U: the rows are gathered, and each process takes its own against all. Its sums are relative to
its own largest exponent, so that nothing has to be agreed on before they are added up.
Alignment: a mean over rows; one number is exchanged.
"""

import torch
from torch import Tensor

from wssl_fast.backends.eager import alignment as alignment_backend
from wssl_fast.backends.eager import uniformity as uniformity_backend
from wssl_fast.backends.eager.numerics import working_dtype
from wssl_fast.backends.eager.uniformity import PairSums
from wssl_fast.distributed.team import Opening, Team


def uniformity(
    team: Team, z: Tensor, opening: Opening, t: float, normalize: bool, with_grad: bool
) -> tuple[Tensor, Tensor]:
    """One problem, z (counts[rank], m): L_U float64 (), and `team.size` times its derivative in z
    in the dtype of results, or (0, 0)."""
    n = sum(opening.counts)
    sums = _own_pairs(team, z, opening.counts, t, normalize, with_grad)
    every = team.gather_values("sums over pairs", lambda: _present(sums).total, 2).to(z.device)
    parts, exponents = every.unbind(1)
    largest = exponents.max()
    total = (parts * (exponents - largest).exp()).sum()  # over ordered pairs: each pair twice
    value = total.log() + largest - torch.tensor(n * (n - 1), dtype=torch.float64).log()
    z = z.to(working_dtype(z))
    if not with_grad or not len(z):
        return value, torch.zeros_like(z if with_grad else z[:0, :0])
    exponent = _present(sums).total[1]
    pairs = total * (largest - exponent).exp() / 2  # relative to what the moments are relative to
    own = _present(sums)._replace(total=torch.stack([pairs, exponent]))
    size = torch.full_like(value, team.size)
    return value, uniformity_backend.backward(z, own, size, t, normalize)


def _own_pairs(
    team: Team, z: Tensor, counts: list[int], t: float, normalize: bool, with_grad: bool
) -> PairSums | None:
    rows = team.gather_rows("rows", z, counts)
    first = sum(counts[: team.rank])
    own = slice(first, first + len(z))
    return team.attempt(lambda: uniformity_backend.strip(rows, own, t, normalize, with_grad))


def _present(sums: PairSums | None) -> PairSums:
    assert sums is not None  # without them the exchange of sums has raised
    return sums


def alignment(
    team: Team,
    x: Tensor,
    y: Tensor,
    opening: Opening,
    alpha: float,
    normalize: bool,
    with_grad: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """One problem, x and y (counts[rank], m): A float64 (), and `team.size` times its derivatives
    in x and y in the dtype of results, or (0, 0)."""
    n = sum(opening.counts)
    x, y = x.to(working_dtype(x)), y.to(working_dtype(y))

    def work() -> Tensor:
        if not len(x):
            return x.new_zeros(1, dtype=torch.float64)
        return (alignment_backend.forward(x, y, alpha, normalize) * len(x))[None]

    total = team.add_up("the sum", work, (1,), torch.float64, x.device, everywhere=True)
    assert total is not None
    value = total[0] / n
    if not with_grad or not len(x):
        shape = x if with_grad else x[:0, :0]
        return value, torch.zeros_like(shape), torch.zeros_like(shape)
    share = torch.where(value.isnan(), value, team.size * len(x) / n)
    return value, *alignment_backend.backward(x, y, share, alpha, normalize)
