"""Frechet distance, Gaussian W2 and covariance against the float64 reference."""

import math

import torch
from torch import Tensor

from tests.fuzz.cases import Case
from tests.fuzz.oracles_pairs import rows_used
from tests.fuzz.verdict import Verdict, smallest
from tests.tolerances import PRODUCTS, by_direction, contract_tolerance
from wssl_fast import reference

EPS64 = torch.finfo(torch.float64).eps
DISTANCE = 1e-5
"""W2^2 between Gaussians, relative to tr Sx + tr Sy: a float64 product of two factors drops what
is under 5e-8 of them, k such directions on both sides, k <= 300."""
HEALTHY, NULL = 1e-3, 1e-11
"""A map between two batches is compared where its singular values are above this share of the
first, a float64 Gram of it then has 1e6 units, 2e-10 of weight; or under that one, exactly null."""


def moments_of(z: Tensor) -> tuple[Tensor, float, float]:
    """Centred rows over sqrt n, tr S, and the mean square of a row before centring."""
    z = z.double()
    centred = (z - z.mean(0)) / math.sqrt(len(z))
    return centred, centred.square().sum().item(), z.square().sum().item() / len(z)


def is_healthy(cross: Tensor, null: float = NULL) -> bool:
    """Whether every singular value of a product is above HEALTHY, or under `null`."""
    s = torch.linalg.svdvals(cross)
    return bool(s[0] > 0) and bool(((s > HEALTHY * s[0]) | (s < null * s[0])).all())


def in_twilight(xc: Tensor, yc: Tensor) -> float:
    """Share of the spreads in directions that are null in the product but for a trace: a trace of
    one factor may come with more of the other."""
    u, s, vh = torch.linalg.svd(xc @ yc.mT, full_matrices=False)
    twilight = (s < NULL * s[0]) & (s > 4 * EPS64 * s[0])
    left, right = u[:, twilight].mT @ xc, vh[twilight] @ yc
    return (left.norm() / xc.norm() + right.norm() / yc.norm()).item()


def distance(
    verdict: Verdict, value: Tensor, want: Tensor, spread: float, offset: float, squared: bool
) -> bool:
    """W2 or W2^2; whether it is in the range of its dtype. `want` is W2^2. Means are subtracted in
    float64, which leaves 64 units of the rows' size."""
    got, truth = verdict.in_range("value", value, want if squared else want.sqrt())
    if truth == 0 and want != 0:
        return False
    square = got if squared else got.square()
    rounding = 4 * torch.finfo(value.dtype).eps * want.item() + torch.finfo(value.dtype).tiny
    allowed = DISTANCE * spread + 64 * EPS64 * offset + rounding
    verdict.bound("value", abs((square - want).item()), allowed)
    return True


def frechet(
    verdict: Verdict,
    case: Case,
    pair: tuple[Tensor, Tensor],
    value: Tensor,
    grads: tuple[Tensor, ...],
) -> None:
    x, y = pair
    m = x.shape[1]
    want = reference.frechet_distance(x, y, eps=case.eps)
    (xc, tx, size_x), (yc, ty, size_y) = moments_of(x), moments_of(y)
    spread, offset = tx + ty + 2 * m * case.eps, size_x + size_y
    distance(verdict, value, want, spread, offset, case.squared)

    w2 = want.sqrt().item()
    noise = DISTANCE * spread + 64 * EPS64 * offset
    near = not case.squared and w2**2 <= 1e3 * noise  # of a root that is rounding
    slope = 1.0 if case.squared else 0.5 / w2 if w2 > 0 else 0.0
    # rows of many scales: what is null in the product may weigh on one side of it
    healthy = case.eps == 0 and case.row_scales == 0 and is_healthy(xc @ yc.mT)
    # rows that are equal but for a few roundings have a direction that is rounding
    healthy = healthy and min(tx / size_x, ty / size_y) > (1e8 * EPS64) ** 2
    weak = in_twilight(xc, yc) if healthy else 0.0
    truths = reference.frechet_distance_grad(x, y, squared=True, eps=case.eps)
    for z, grad, truth in zip(pair, grads, truths, strict=True):
        n = len(z)
        if near:
            verdict.that(bool(grad.isfinite().all()), "gradient is finite")
            continue
        got, truth = verdict.in_range("gradient", grad, truth * slope)
        natural = (
            slope
            * 2
            / math.sqrt(n)
            * (math.sqrt(tx) + math.sqrt(ty) + w2 + math.sqrt(m * case.eps))
        )
        lost = smallest(z.dtype) * math.sqrt(n * m) + slope * 64 * EPS64 * math.sqrt(offset / n)
        # Newton-Schulz corrects its shift by half; that is the noise of ten units less two, and an
        # eigenvalue that is null may be two below 0
        most = 1.5 * math.sqrt(10 / 6) if case.solver == "newton_schulz" else 1.5
        verdict.bound("gradient is bounded", got.norm().item(), most * natural + lost)
        if healthy:
            allowed = max(contract_tolerance(z.dtype), 1e-7) * max(
                truth.norm().item(), 1e-2 * natural
            )
            if case.solver == "newton_schulz":
                # null directions, Q <= 1.5 (10 eps64)^(-1/2): eps64 of that in each product, which
                # in matrices of two or three rows all have one sign. Products of equal columns
                # or rows do, too: half a unit each
                alike = case.layout in ("same_row", "same_column")
                units = max(1.0, max(m, len(x), len(y)) / 20 if alike else 0.0)
                allowed += (
                    1.5 * PRODUCTS[torch.float64] * math.sqrt(units * EPS64 * m / 10) * natural
                )
            allowed += weak * natural
            verdict.bound("gradient", (got - truth).norm().item(), allowed + lost)


def gaussian(
    verdict: Verdict,
    case: Case,
    given: tuple[Tensor, ...],
    value: Tensor,
    grads: tuple[Tensor, ...],
) -> None:
    want = reference.gaussian_w2(*given, squared=True)
    m = given[0].shape[0]
    traces = [c.double().trace().item() for c in given[1::2]] + ([1.0] if len(given) == 2 else [])
    spread = sum(traces)
    in_range = distance(verdict, value, want, spread, 0.0, case.squared)
    w2 = want.sqrt().item()
    if not in_range or (not case.squared and w2**2 <= 1e3 * DISTANCE * spread):
        for grad in grads:
            verdict.that(not bool(grad.isnan().any()), "gradient is no NaN")
        return
    roots = [_root(c) for c in given[1::2]]
    cross = roots[0] if len(roots) == 1 else roots[0] @ roots[1]
    healthy = is_healthy(cross, null=0.0)
    truths = reference.gaussian_w2_grad(*given, squared=True)
    slope = 1.0 if case.squared else 0.5 / w2
    for t, grad, truth in zip(given, grads, truths, strict=False):
        if not healthy and t.dim() == 2:  # the map to a singular covariance is not bounded
            verdict.that(not bool(grad.isnan().any()), "gradient is no NaN")
            continue
        got, truth = verdict.in_range("gradient", grad, truth * slope)
        allowed = max(contract_tolerance(t.dtype), 1e-7) * max(truth.norm().item(), slope * 1e-2)
        allowed += smallest(t.dtype) * m
        verdict.bound("gradient", (got - truth).norm().item(), allowed)


def _root(cov: Tensor) -> Tensor:
    return reference.matrix_sqrt(cov.double())


def covariance(
    verdict: Verdict,
    case: Case,
    z: Tensor,
    outputs: tuple[Tensor, ...],
    upstream: tuple[Tensor, ...],
    grad: Tensor,
) -> None:
    """Entries of the covariance are sums of n products: 2 sqrt(n) units, as in test_native.py, of
    sqrt(S_ii S_jj); n / 2 where rows are 0 beside others, and their products all round alike. The
    gradient is a product of the rows as they are, less that of their mean."""
    n, m = z.shape
    leaf = z.double().requires_grad_()
    mean, cov = reference.batch_covariance(leaf, normalize=case.normalize)
    x = rows_used(z, True)[0] if case.normalize else z.double()
    unit = torch.finfo(outputs[0].dtype).eps
    size = x.abs().mean(0)  # (m,)
    got, want = verdict.in_range("mean", outputs[0], mean.detach())
    floor = torch.finfo(outputs[0].dtype).tiny
    off = (got - want).abs() / (unit * want.abs() + n * EPS64 * size + floor)
    verdict.bound("mean", off.max().item(), 1.0)
    got, want = verdict.in_range("covariance", outputs[1], cov.detach())
    std, off = cov.detach().diagonal().clamp_min(0).sqrt(), 4 * EPS64 * n * size  # of the mean
    alike = case.row_scales > 0 or case.spectrum == "one_hot"
    alike = alike or "zero_rows" in case.traits or "clones" in case.traits
    summed = max(2 * math.sqrt(n), n / 2 if alike else 0)
    allowed = unit * (summed + 4) * std[:, None] * std + floor * math.sqrt(n)
    allowed += off[:, None] * off + off[:, None] * std + std[:, None] * off
    verdict.bound("covariance", ((got - want).abs() / allowed).max().item(), 1.0)
    verdict.that(torch.equal(outputs[1], outputs[1].mT), "covariance is not symmetric")

    up_mean, up_cov = (u.double() for u in upstream)
    (truth,) = torch.autograd.grad((mean * up_mean).sum() + (cov * up_cov).sum(), leaf)
    both = (up_cov + up_cov.mT) / n
    length = z.double().norm(dim=1, keepdim=True)
    if case.normalize:  # a row of zeros has no gradient
        truth = torch.where(length > 0, truth, 0.0)
    got, want = verdict.in_range("gradient", grad, truth)
    gap = by_direction(got - want, z, case.normalize)
    terms = x.norm(dim=1) * both.norm() + (x.mean(0) @ both).norm() + up_mean.norm() / n
    allowed = (unit * (2 * math.sqrt(m) + 8) * terms).norm().item()
    allowed += torch.finfo(z.dtype).eps * by_direction(want, z, case.normalize).norm().item()
    radius = length.norm().item() if case.normalize else math.sqrt(n)
    floor = max(floor, smallest(z.dtype))  # it is rounded to that dtype
    verdict.bound("gradient", gap.norm().item(), allowed + floor * radius * math.sqrt(m))
