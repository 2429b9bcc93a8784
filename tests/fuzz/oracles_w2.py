"""W2 against the float64 reference, within tests/tolerances.py."""

import math

import torch
from torch import Tensor

from tests.fuzz.cases import Case
from tests.fuzz.verdict import Verdict, smallest
from tests.tolerances import (
    ONE_PASS,
    by_direction,
    gradient_gap,
    gradient_tolerance,
    gram_norm,
    resolution_of,
    top_eigenvalue,
    used_rows,
    w2_tolerance,
)
from wssl_fast import reference
from wssl_fast.backends.eager.newton_schulz import FLOOR


def precision_of(case: Case) -> str:
    """What is promised: a CPU computes `medium` in float32 like the others, float64 in float64."""
    if case.dtype == "float64":
        return "double"
    return "highest" if case.precision == "medium" else case.precision


def value(verdict: Verdict, case: Case, z: Tensor, got: Tensor, what: str = "value") -> None:
    """W2, or W2^2, of one problem z (n, m)."""
    how = {"normalize": case.normalize, "eps": case.eps}
    want = reference.wasserstein_uniformity(z, **how)
    got, truth = verdict.in_range(what, got, want**2 if case.squared else want)
    if truth == 0 and want != 0:
        return  # out of range
    root = got.sqrt() if case.squared else got
    bound = w2_tolerance(z, want.item(), precision_of(case), solver=case.solver, **how)
    verdict.bound(what, abs((root - want).item()), bound)


def gradient(verdict: Verdict, case: Case, z: Tensor, got: Tensor) -> None:
    """The gradient of one problem in z (n, m)."""
    n, m = z.shape
    how = {"normalize": case.normalize, "eps": case.eps}
    want = reference.wasserstein_uniformity(z, **how).item()
    truth = reference.wasserstein_uniformity_grad(z, squared=True, **how)
    slope = 1.0 if case.squared else 0.5 / max(want, torch.finfo(torch.float32).eps ** 0.5)
    beyond = (truth * slope).abs() > 0.9 * torch.finfo(got.dtype).max
    got, _ = verdict.in_range("gradient", got, truth * slope)
    if not case.squared and want <= 1e-2:
        return  # near the optimum its slope is held: finite is all that is promised
    got = torch.where(beyond, truth, got / slope)

    lengths = z.double().norm(dim=1) if case.normalize else torch.ones(n).double()
    if case.eps == 0 and (case.normalize or case.squared):
        # raw rows stand in their gradient beside P, and are rounded there
        lost = 0.0 if case.normalize else math.sqrt(m) * z.double().norm().item()
        lost *= (4 + math.sqrt(min(n, m))) * torch.finfo(z.dtype).eps
        pushed = polar_norm(case, z, got)
        verdict.bound("gradient is bounded", pushed, 1.5 * math.sqrt(n * min(n, m)) + lost)

    precision, dtype = precision_of(case), z.dtype
    above = resolution_of(z, precision, normalize=case.normalize, solver=case.solver)
    gap, size, floor = gradient_gap(got, z, above=above, null=precision not in ONE_PASS, **how)
    most = gradient_tolerance(precision, dtype, solver=case.solver, k=min(n, m))
    allowed = most * max(size, floor)
    # the reason of FLOOR, a hundred roundings of |P|, whatever is asked of what is above it
    allowed = max(allowed, gradient_tolerance("auto") * floor)
    if reference.relative_spectrum(z, normalize=case.normalize).max() == 0:
        allowed = floor  # nothing to resolve: bounded, as in tests/test_zoo.py
    # entries that round to a subnormal or to 0 have lost half of the smallest one
    allowed += smallest(dtype) / 2 / slope * math.sqrt(m) * lengths.norm().item()
    if precision in ONE_PASS and n <= m:
        allowed += rounded_weights(z, case.normalize, case.solver)
    if case.solver == "newton_schulz" and n > m:
        allowed += cancelled_mean(z, case.normalize)
    # all of the gradient is rounded to the dtype, what lies along the mean as well
    # and computed in float64, in up to eight steps
    given = torch.finfo(dtype).eps + 8 * torch.finfo(torch.float64).eps
    allowed += given * by_direction(truth, z, case.normalize).norm().item()
    verdict.bound("gradient", gap, allowed)


def rounded_weights(z: Tensor, normalize: bool, solver: str) -> float:
    """Of Gram weights A = G^(-1/2) H in float32: A 1 = 0 to 2 eps |A|_F, times the mean. Null
    directions are not in A by eigh, and up to (FLOOR |G|_F)^(-1/2) by Newton-Schulz."""
    n, m = z.shape
    rows = used_rows(z, normalize)
    mean = rows.mean(0)
    top = top_eigenvalue(rows - mean)
    lam = reference.relative_spectrum(z, normalize=normalize).square() * top
    unit = torch.finfo(torch.float32).eps
    if solver == "newton_schulz":
        lam = lam.clamp_min(FLOOR[torch.float32] * lam.norm().item())
    lam = lam[lam > (0.0 if solver == "newton_schulz" else unit * top)]
    size = lam.reciprocal().sum().sqrt().item() * mean.norm().item()
    return 2 * unit * size * 2 / (n * math.sqrt(m))


def cancelled_mean(z: Tensor, normalize: bool) -> float:
    """Of P = z Q - mu Q in float64, where Newton-Schulz leaves Q at 1.5 noise^(-1/2) on null
    directions, noise at least (1024 eps |mu|)^2: both products round to eps |mu| |Q|_F a row."""
    n, m = z.shape
    rows = used_rows(z, normalize)
    mean = rows.mean(0)
    lam = reference.relative_spectrum(z, normalize=normalize).square() * top_eigenvalue(rows - mean)
    unit = torch.finfo(torch.float64).eps
    noise = max((1024 * unit) ** 2 * mean.square().sum().item(), 10 * unit * gram_norm(rows - mean))
    if noise == 0:
        return 0.0
    size = 1.5 * math.sqrt(int((lam < noise).sum()) / noise)
    return 2 * unit * mean.norm().item() * size * math.sqrt(n) * 2 / (n * math.sqrt(m))


def polar_norm(case: Case, z: Tensor, grad: Tensor) -> float:
    """|P|_F, or that of its tangent part on unit rows, inside a gradient of W2^2."""
    n, m = z.shape
    if case.normalize:
        return (grad * z.double().norm(dim=1, keepdim=True)).norm().item() * n * math.sqrt(m) / 2
    return (math.sqrt(m) * (z.double() - n / 2 * grad)).norm().item()
