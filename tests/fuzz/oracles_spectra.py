"""Matrix roots and ranks against the float64 reference."""

import math

import torch
from torch import Tensor

from tests.fuzz.cases import Case
from tests.fuzz.verdict import Verdict, smallest
from tests.tolerances import PRODUCTS, contract_tolerance, root_tolerance
from wssl_fast import reference
from wssl_fast.backends.eager.numerics import working_dtype

KAPPA = 1e4
"""Condition numbers up to which a root and its gradient are held to `root_tolerance`."""
RANKME = 1e-3
"""sigma under 1e-7 of the largest drops out of rankme's sum: k of them, 1e-7 log 1e7 each."""


def root(
    verdict: Verdict, case: Case, a: Tensor, value: Tensor, upstream: Tensor, grad: Tensor
) -> None:
    """A symmetric root is Hoelder continuous: |A^(1/2) - B^(1/2)|_2 <= |A - B|_2^(1/2). A is known
    to k units (eigenvalues under which count as 0), by Newton-Schulz to its shift of 2 |A|_F; 8 k
    for both of them. Each of its products rounds Q besides, |Q| <= 1.5 (2 unit |A|)^(-1/2) on null
    directions, by a unit or two, and Q A turns that towards A: the root of their number."""
    inverse = case.function == "matrix_inv_sqrt"
    name = "matrix_inv_sqrt" if inverse else "matrix_sqrt"
    k = a.shape[0]
    computed = torch.float32 if case.precision in ("highest", "high", "medium") else torch.float64
    computed = torch.float64 if a.dtype == torch.float64 else computed
    working = working_dtype(a)
    unit = max(torch.finfo(computed).eps, torch.finfo(working).eps)
    if case.solver == "newton_schulz":  # its shift is at the rounding of the entries given
        unit = max(unit, torch.finfo(a.dtype).eps)
    lam = torch.linalg.eigvalsh(a.double())
    top = max(lam[-1].item(), 0.0)
    kappa = top / lam[0].item() if lam[0] > 0 else math.inf
    want = getattr(reference, name)(a.to(working))
    got, want = verdict.in_range("value", value, want)
    floor = smallest(value.dtype) * k
    # products of depth k, as 2 sqrt(k) units
    allowed = root_tolerance(min(kappa, KAPPA), working) * max(1.0, math.sqrt(k) / 4)
    if case.solver == "newton_schulz" and kappa <= KAPPA:
        # (1 + x)^(-1/2) (1 + x / (2 (1 + x))) is 1 to x^2 / 2
        shift = 2 * torch.finfo(a.dtype).eps * a.double().norm().item() / lam[0].item()
        allowed += min(shift**2 / 2, 1.0)
    if kappa <= KAPPA:
        verdict.bound("value", (got - want).norm().item(), allowed * want.norm().item() + floor)
    elif not inverse:
        known = 8 * k * unit * max(top, torch.linalg.matrix_norm(a.double()).item())
        gap = torch.linalg.matrix_norm(got - want, ord=2).item()
        rounded = 0.0
        if case.solver == "newton_schulz":
            rounded = 2 * math.sqrt(PRODUCTS[computed]) * 1.5 * math.sqrt(unit / 2 * max(top, 0.0))
        verdict.bound("value of a singular matrix", gap, math.sqrt(known) + rounded + floor)

    truth = getattr(reference, name + "_grad")(a.to(working), upstream)
    got, want = verdict.in_range("gradient", grad, truth)
    if kappa <= KAPPA:
        allowed += torch.finfo(a.dtype).eps
        error = (got - want).norm().item()
        verdict.bound("gradient", error, allowed * want.norm().item() + smallest(a.dtype) * k)


def spectrum(
    verdict: Verdict, case: Case, z: Tensor, value: Tensor, upstream: Tensor, grad: Tensor
) -> None:
    """Accumulated in float64: eigenvalues to 10 units of |C|_F, rounded once; where rows or columns
    repeat, whose products round alike, to half a unit for each that is summed."""
    n, m = z.shape
    repeated = "clones" in case.traits or case.layout in ("same_row", "same_column")
    repeated = repeated or case.row_scales > 0  # the small rows, less the mean
    units = max(10, n / 2, m / 2) if repeated else 10
    unit = torch.finfo(value.dtype).eps
    size = z.double().square().sum().item() / n * torch.finfo(torch.float64).eps ** 2 * 1e6
    exact = reference.covariance_spectrum(z)
    noise = units * torch.finfo(torch.float64).eps * exact.norm().item() + size
    got, want = verdict.in_range("value", value, exact, noise)
    allowed = unit * want + noise + torch.finfo(value.dtype).tiny
    verdict.bound("value", ((got - want).abs() / allowed).max().item(), 1.0)
    verdict.that(bool((value[1:] <= value[:-1]).all()), "spectrum is not descending")
    # the upstream is constant: 2/n of the centred rows, whatever repeats
    x = z.double()
    truth = 2 / n * (x - x.mean(0)) * upstream[0].double()
    found, truth = verdict.in_range("gradient", grad, truth)
    given = torch.finfo(z.dtype).eps
    rounding = 2 / n * 64 * torch.finfo(torch.float64).eps * x.norm().item()
    allowed_norm = (
        (given + 1e-10) * truth.norm().item() + rounding + smallest(z.dtype) * math.sqrt(n * m)
    )
    verdict.bound("gradient", (found - truth).norm().item(), allowed_norm)


def rank(verdict: Verdict, case: Case, z: Tensor, value: Tensor, grad: Tensor) -> None:
    """Ranks are functions of the shares of a spectrum, so of no scale; gradients are compared with
    rank / |Zc|_F, their natural size, where a small one is left of it."""
    name = case.function
    want = getattr(reference, name)(z).item()
    tolerance = 1e-5 if name == "effective_rank" else RANKME
    verdict.bound("value", abs(value.item() - want), tolerance * max(want, 1.0))
    truth = getattr(reference, name + "_grad")(z)
    got, truth = verdict.in_range("gradient", grad, truth)
    x = z.double()
    x = x - x.mean(0) if name == "effective_rank" else x
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    if s[0] == 0:
        verdict.bound("gradient of nothing", got.norm().item(), 0.0)
        return
    natural = want / x.norm().item()
    allowed = max(contract_tolerance(z.dtype), 1e-5)
    # a Gram in float64 fades directions out under four times its noise level of 10 eps |C|_F, and
    # under what rounds in rows far from 0
    unit = torch.finfo(torch.float64).eps
    rows = (1024 * unit * z.double().norm()) ** 2
    faded = s.square() < 4 * torch.maximum(10 * unit * s.square().norm(), rows)
    unseen = (u[:, faded].T @ truth @ vh[faded].T).norm().item() if name != "rankme" else 0.0
    if name == "rankme":
        # the constant in its logarithm gives slopes to directions that no Gram in float64 sees:
        # compared above them
        upper = s > 1e-5 * s[0]
        got, truth = (u[:, upper].T @ g @ vh[upper].T for g in (got, truth))
        allowed += RANKME * math.sqrt(len(s))
    lost = smallest(z.dtype) * math.sqrt(z.numel())
    scale = max(truth.norm().item(), natural)
    verdict.bound("gradient", (got - truth).norm().item(), allowed * scale + unseen + lost)
