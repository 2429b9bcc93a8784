"""The inverse square root by symmetric matrix products: Newton-Schulz in Gram form.

With R_0 = A/|A|_F and odd quintics x p(x^2), p(r) = c0 + c1 r + c2 r^2:

    P_j = p_j(R_j),   R_(j+1) = P_j R_j P_j,   Q_(j+1) = Q_j P_j,   Q_0 = I

so that R_j = Q_j R_0 Q_j, and R -> I where the spectrum of R_0 lies in [BOTTOM^2, 1]. Everything
commutes and is symmetric; R is carried, never evaluated again from Q. The quintics are minimax
ones after Polar Express (Amsel, Persson, Musco, Gower, arXiv 2505.16932), but optimal on
[max(l, u/10), u] rather than on all of [l, u]: what a wider optimum wins in gain it loses by
pushing the largest directions down to l on the way, where rounding meets them.
docs/newton_schulz.md has the measurements behind each choice.
"""

import math

import torch
from torch import Tensor

Quintic = tuple[float, float, float]

# Printed by `python -m benchmarks.studies.newton_schulz --coefficients`, which derives them in
# benchmarks.studies.quintics.committed_schedule.
_FIRST = (5.598096410230267, -13.842122316857479, 9.684891220896333)
_LIFT = (3.851679713715477, -4.508499859037027, 1.4932884644719095)
_TAYLOR = (1.875, -1.25, 0.375)
SCHEDULES: dict[torch.dtype, tuple[Quintic, ...]] = {
    torch.float32: (
        _FIRST,
        *(_LIFT,) * 3,
        (2.684546855262576, -2.427609485940192, 0.7270122758676145),
        (1.9047862930954411, -1.2816721285480206, 0.3773041875279309),
        _TAYLOR,
    ),
    torch.float64: (
        _FIRST,
        *(_LIFT,) * 10,
        (3.033002210407907, -3.035475263385029, 0.9485788924631171),
        (1.9422049134135944, -1.321609330264217, 0.38129107782931604),
        *(_TAYLOR,) * 2,
    ),
}
"""Quintics (c0, c1, c2) of each step."""

BOTTOM: dict[torch.dtype, float] = {
    torch.float32: math.sqrt(10 * torch.finfo(torch.float32).eps),
    torch.float64: math.sqrt(20 * torch.finfo(torch.float64).eps),
}
"""The schedule takes [BOTTOM, 1] to 1: sqrt(lambda/|A|_F) from BOTTOM up has its full weight."""

FLOOR: dict[torch.dtype, float] = {
    dtype: math.prod(step[0] for step in schedule) ** -2 for dtype, schedule in SCHEDULES.items()
}
"""No eigenvalue of Q exceeds (FLOOR |A|_F)^(-1/2), what the schedule does to a null direction.

1.1e-7 for float32 and 1.4e-16 for float64: 0.9 and 0.6 of a unit of rounding of |A|_F, which is
what a Gram matrix accumulated in that dtype is uncertain by."""

# |R|_F over sqrt(k) that no positive spectrum reaches (every image stays below 1.4535^2 = 2.1)
_OVERSHOOT = 4.0


def inverse_sqrt(a: Tensor, *, shift: float | None = None, steps: int | None = None) -> Tensor:
    """Q = (A + shift |A|_F I)^(-1/2) of symmetric positive semi-definite matrices.

    The weight q(lambda) sqrt(lambda) of a direction is 1 for lambda >= BOTTOM^2 |A|_F, to the
    rounding of the products, and falls smoothly and monotonically to 0 below; without a shift
    nothing else bends it. Each matrix of the batch has its own scale. Matrix products in the dtype
    of `a`: 25 for float32, 57 for float64 (`product_count`). On a GPU, float32 products must be
    float32 (`torch.backends.cuda.matmul.allow_tf32` off): rounding above FLOOR is amplified.

    Args:
        a: (b, k, k), float32 or float64, symmetric positive semi-definite up to rounding, with
            structural null vectors lifted by the caller. Any finite scale.
        shift: what is added to the diagonal, over |A|_F; None adds nothing and leaves the bound
            at zero to the schedule: |Q| <= (FLOOR |A|_F)^(-1/2).
        steps: how many steps of the schedule; None for all of them, more repeats the last one.
            After a few, Q A Q has its spectrum lifted but not yet at 1: a first pass over rows.

    Returns:
        Q (b, k, k), symmetric, in the dtype of `a`; 0 for a zero matrix. NaN for a problem with
        NaN or inf in it, and for that one alone. An eigenvalue below -FLOOR |A|_F, which rounding
        does not make, loses accuracy for its problem but stays finite: R is scaled back.

    Raises:
        TypeError: a dtype other than float32 and float64.
        ValueError: `steps` below 1, or a negative `shift`.

    >>> a = torch.diag_embed(torch.tensor([[4.0, 1.0, 0.25]]))
    >>> inverse_sqrt(a).diagonal(dim1=-2, dim2=-1)
    tensor([[0.5000, 1.0000, 2.0000]])
    """
    if a.dtype not in SCHEDULES:
        raise TypeError(f"a: dtype {a.dtype} given, float32 or float64 expected")
    if steps is not None and steps < 1:
        raise ValueError(f"steps: {steps} given, at least 1 expected")
    if shift is not None and not shift >= 0:
        raise ValueError(f"shift: {shift} given, at least 0 expected")
    schedule = SCHEDULES[a.dtype]
    count = len(schedule) if steps is None else steps
    r, scale = _scaled(a, 0.0 if shift is None else shift)
    limit = _OVERSHOOT * math.sqrt(a.shape[-1])
    q = None
    for j in range(count):
        c0, c1, c2 = schedule[min(j, len(schedule) - 1)]
        p = torch.baddbmm(r, r, r, beta=c1, alpha=c2)
        p.diagonal(dim1=-2, dim2=-1).add_(c0)
        q = p if q is None else torch.bmm(q, p)
        if j + 1 < count:
            r = torch.bmm(torch.bmm(r, p), p)
            back = (limit / _norm(r)).clamp(max=1)  # (b, 1, 1), 1 unless a is indefinite
            r = (r + r.mT).mul_(back / 2)
            q.mul_(back.sqrt())
    assert q is not None
    return (q + q.mT).mul_(scale / 2)


def product_count(steps: int) -> int:
    """k x k products of `inverse_sqrt`: 4 a step, without Q in the first and R in the last.

    >>> product_count(7)
    25
    """
    return 4 * steps - 3


def _scaled(a: Tensor, shift: float) -> tuple[Tensor, Tensor]:
    """R_0 = (A/|A|_F + shift I)/(1 + shift), and the factor that takes its root back, (b, 1, 1)."""
    peak = torch.linalg.vector_norm(a, ord=math.inf, dim=(-2, -1), keepdim=True)
    zero = peak == 0
    r = a / torch.where(zero, 1, peak)  # entries in [-1, 1]: no scale over- or underflows
    norm = _norm(r).clamp(min=1)  # 0 for the zero matrix alone
    r = r.div_(norm * (1 + shift))
    if shift:
        r.diagonal(dim1=-2, dim2=-1).add_(shift / (1 + shift))
    factor = torch.rsqrt(peak) * torch.rsqrt(norm * (1 + shift))
    return r, torch.where(zero, 0, factor)


def _norm(a: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(a, dim=(-2, -1), keepdim=True)
    return norm
