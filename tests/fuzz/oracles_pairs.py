"""L_U and alignment against the float64 reference.

Unit roundoff is that of the dtype that sums are taken in, float32 or float64. Both functions are
sums of differences between rows, so their errors are counted in roundings of the rows.
"""

import math

import torch
from torch import Tensor

from tests.fuzz.cases import Case
from tests.fuzz.verdict import Verdict, smallest
from tests.tolerances import by_direction
from wssl_fast import reference
from wssl_fast.backends.eager.numerics import working_dtype
from wssl_fast.backends.eager.uniformity import SHARPEST


def rows_used(z: Tensor, normalize: bool) -> tuple[Tensor, Tensor]:
    """Unit rows and their lengths, or raw rows less their mean and ones, in float64."""
    z = z.double()
    if not normalize:
        return z - z.mean(0), torch.ones(len(z), dtype=z.dtype)
    length = z.norm(dim=1)
    return torch.where(length[:, None] > 0, z / length[:, None], 0.0), length


def uniformity(verdict: Verdict, case: Case, z: Tensor, value: Tensor, grad: Tensor) -> None:
    """An exponent -t |x_i - x_j|^2 comes from a product of depth m, whose rounding errors are
    random in sign, 2 sqrt(m) units as in tests/test_native.py, and from rounded rows, 2 units each:
    t |x|^2 (4 sqrt(m) + 8) units. The value is off by that, its gradient by that share of each
    pair's force, and by n rounded terms of V, which cancel."""
    n, m = z.shape
    how = {"t": case.t, "normalize": case.normalize}
    unit = torch.finfo(working_dtype(z)).eps
    want = reference.uniformity(z, **how)
    x, length = rows_used(z, case.normalize)
    largest = x.norm(dim=1).max()
    exponent = (case.t * unit * largest**2 * (4 * math.sqrt(m) + 8)).item()
    if 4 * case.t * largest**2 > SHARPEST / unit:
        # the nearest rows then count as equal up to an exponent of 1 at the sharpest kernel
        exponent += (4 * case.t * unit / SHARPEST * largest**2).item()
    got, truth = verdict.in_range("value", value, want, exponent)
    if truth != 0 or want == 0:
        rounding = 16 * unit * (1 + abs(want.item()))
        verdict.bound("value", abs((got - truth).item()), exponent + rounding)

    found, want_grad = verdict.in_range("gradient", grad, reference.uniformity_grad(z, **how))
    gap = by_direction(found, z, case.normalize) - by_direction(want_grad, z, case.normalize)
    rows = x if case.normalize else z.double()  # as the reference has them, to its last digit
    distance = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
    e = -case.t * distance.square()
    e.fill_diagonal_(-torch.inf)
    p = (e - want - math.log(n * (n - 1) / 2)).exp()  # (n, n), each pair twice
    if exponent > 0.3:  # which pairs are nearest is rounding: bounded by their sum
        force = (p.sum(1) * 2 * largest).norm() * math.exp(min(exponent, 700.0))
        verdict.bound("gradient is bounded", gap.norm().item(), (4 * case.t * force).item())
        return
    force = (
        2 * exponent * (p * distance).sum(1) + unit * (2 * math.sqrt(n) + 8) * p.sum(1) * largest
    )
    lost = 16 * torch.finfo(torch.float64).eps * z.double().abs().max()  # of a mean in float64
    lost += math.sqrt(m) * torch.finfo(z.dtype).tiny  # products may take subnormal entries as 0
    force = force + (0.0 if case.normalize else lost * p.sum(1))
    allowed = (2 * case.t * force).norm().item()
    given = torch.finfo(z.dtype).eps / 2
    allowed += given * by_direction(want_grad, z, case.normalize).norm().item()
    allowed += smallest(z.dtype) * math.sqrt(m) * length.norm().item()
    verdict.bound("gradient", gap.norm().item(), allowed)


def alignment(
    verdict: Verdict,
    case: Case,
    pair: tuple[Tensor, Tensor],
    value: Tensor,
    grads: tuple[Tensor, ...],
) -> None:
    """Unit rows are rounded, 4 units in both together, raw ones exact; their difference is rounded
    once more. Row by row: |x - y|^alpha, and its slope times (|alpha - 1| + 2) such shares."""
    how = {"alpha": case.alpha, "normalize": case.normalize}
    unit, alpha = torch.finfo(working_dtype(pair[0])).eps, case.alpha
    want = reference.alignment(*pair, **how)
    got, truth = verdict.in_range("value", value, want)
    if case.normalize:
        (x, _), (y, _) = rows_used(pair[0], True), rows_used(pair[1], True)
    else:
        x, y = pair[0].double(), pair[1].double()
    length = (x - y).norm(dim=1)
    off = 4 * unit * (length + (1 if case.normalize else 0))
    spread = ((length + off) ** alpha - (length - off).clamp_min(0) ** alpha).mean().item()
    if truth != 0 or want == 0:
        floor = torch.finfo(value.dtype).tiny
        verdict.bound("value", abs((got - truth).item()), spread + 4 * unit * want.item() + floor)

    n, m = pair[0].shape
    apart = length > 100 * off
    share = 2 * (abs(alpha - 1) + 2) * off / length.clamp_min(1e-300) + 8 * unit
    for z, grad, one in zip(pair, grads, reference.alignment_grad(*pair, **how), strict=True):
        # a difference of rounded rows that are nearly equal may point anywhere
        verdict.that(not bool(grad.isnan().any()), "gradient is no NaN")
        known = (torch.where(apart[:, None], g, 0.0) for g in (grad, one))
        found, want_grad = verdict.in_range("gradient", *known)
        gap = by_direction(found - want_grad, z, case.normalize)
        slope = (
            alpha / n * length.clamp_min(1e-300) ** (alpha - 1)
        )  # of a row, before its projection
        radius = z.double().norm(dim=1) if case.normalize else torch.ones(n).double()
        allowed = slope * (share + torch.finfo(z.dtype).eps)
        allowed = allowed + radius * smallest(z.dtype) * math.sqrt(m)
        ratio = torch.where(apart, gap.norm(dim=1) / allowed, 0.0)
        verdict.bound("gradient", ratio.max().item(), 1.0)
