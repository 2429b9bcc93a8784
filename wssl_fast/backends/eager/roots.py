"""Inverse square root of a symmetric positive semi-definite matrix, with what W2 needs beside it.

Both solvers answer for rounding: `error` estimates how far the polar factor built from this root
is off, from the noise level that the caller knows, so that a caller may repeat in float64.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from wssl_fast.backends.eager.eigen import eigh, eigvalsh
from wssl_fast.backends.eager.newton_schulz import FLOOR, inverse_sqrt
from wssl_fast.backends.eager.numerics import (
    ACCEPTED_ERROR,
    ACCEPTED_LOOKED_UP,
    CLONES,
    DROWNED_SHARE,
    UNSURE,
    UNSURE_SHARE,
    soft_step,
)
from wssl_fast.backends.eager.products import symmetric_product


class Root(NamedTuple):
    inverse: Tensor
    """(a + eps I)^(-1/2), null directions 0, in the dtype of a. (k, k)"""
    diagonal: Tensor
    """Diagonal of `inverse` a, which is that of a^(1/2) without a ridge, float64. (k,)"""
    distance: Tensor
    """|(a + eps I)^(1/2) - target I|_F^2, float64. ()"""
    error: Tensor
    """Estimated relative error of the polar factor: rms over directions of noise / (2 lambda),
    at most 1 each, float64. ()"""


def resolve_solver(solver: str, device: torch.device) -> str:
    """`auto`: eigh on a CPU, where LAPACK wins at every size measured (docs/newton_schulz.md);
    newton_schulz, which is matrix products alone, on an accelerator."""
    if solver != "auto":
        return solver
    return "eigh" if device.type == "cpu" else "newton_schulz"


def accepted_error(precision: str, solver: str, device: torch.device) -> float:
    """Estimated error, `Root.error`, up to which a float32 pass stands."""
    looked_up = precision == "auto" and resolve_solver(solver, device) == "eigh"
    return ACCEPTED_LOOKED_UP if looked_up else ACCEPTED_ERROR


def inverse_root(
    a: Tensor,
    noise: Tensor,
    *,
    target: float,
    eps: float,
    solver: str,
    basis: bool = True,
    clones: bool = True,
    ritz: Callable[[Tensor], Tensor] | None = None,
) -> Root:
    """Root of a (k, k), whose eigenvalues are uncertain by `noise`; a is consumed.

    A matrix with a NaN or an infinity gives NaN everywhere. Without `basis` only `distance` and
    `error` are meant. `clones` says that equal rows may have rounded alike in a (not in a Gram
    matrix, where they are equal entries). `ritz(u)` evaluates u^T a u (q, q) in float64 from the
    rows, not from a; eigh uses it on the few directions that a itself leaves unsure.
    """
    finite = a.sum(dtype=torch.float64).isfinite()  # one pass; a sum keeps every NaN and infinity
    if not bool(finite):
        a.zero_()
    if resolve_solver(solver, a.device) == "eigh":
        root = _by_eigh(a, noise, target, eps, basis or ritz is not None, ritz)
    else:
        root = _by_newton_schulz(a, noise, target, eps, clones)
    if bool(finite):
        return root
    # more digits do not help a NaN: error 0
    nan = torch.full_like(root.distance, torch.nan)
    return Root(root.inverse.fill_(torch.nan), root.diagonal, nan, torch.zeros_like(nan))


def _by_eigh(
    a: Tensor,
    noise: Tensor,
    target: float,
    eps: float,
    basis: bool,
    ritz: Callable[[Tensor], Tensor] | None,
) -> Root:
    if basis:
        eigenvalues, vectors = eigh(a)
    else:
        eigenvalues, vectors = eigvalsh(a), a[:, :0]
    lam, level, known = eigenvalues.double(), noise, 0
    noise = level.expand(len(a))
    if ritz is not None:
        lam, noise, known = _refine(lam, vectors, noise, ritz)
    weight = soft_step(lam + eps, noise)  # a ridge above the noise makes every direction count
    distance = (((lam * weight + eps).clamp_min(0).sqrt() - target) ** 2).sum()
    ridged = (lam + eps).clamp_min(0)
    error = _relative_error(ridged, noise)
    if known:
        error = torch.hypot(error, _mixing(ridged, weight, level, known))
    if not basis:
        return Root(a, lam, distance, error)
    f = torch.where(weight > 0, weight * ridged.rsqrt(), 0.0)
    vectors.mul_(f.sqrt().to(a.dtype))  # V f V^T = (V f^(1/2)) (V f^(1/2))^T: half a product
    diagonal = (vectors.square() @ lam.to(a.dtype)).double()
    return Root(symmetric_product(vectors, a.dtype), diagonal, distance, error)


def _refine(
    lam: Tensor, vectors: Tensor, noise: Tensor, ritz: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, int]:
    """Eigenvalues (k,) and noise (k,) after a Rayleigh-Ritz step on the unsure directions, whose
    vectors are turned in place; and how many those are, the first ones.

    The rows know what their Gram has squared away: u^T Xc is small for a small direction, but has
    its digits. A batch with n near m has a few such directions (Marchenko-Pastur), a collapsed one
    has many, and is left to float64. What remains is the part of large directions in u, a few eps:
    it shifts lambda by eps sqrt(lambda lambda_max) + eps^2 lambda_max.
    """
    k, unit = len(lam), torch.finfo(vectors.dtype).eps
    unsure = int((noise > 2 * UNSURE * lam).sum())  # ascending: the first ones
    drowned = int((noise > 8 * lam).sum())
    if not 0 < unsure <= UNSURE_SHARE * k or drowned > DROWNED_SHARE * unsure:
        return lam, noise, 0
    exact, turn = eigh(ritz(vectors[:, :unsure]))
    vectors[:, :unsure] = vectors[:, :unsure] @ turn.to(vectors.dtype)
    left = 4 * unit * (exact.clamp_min(0) * lam[-1]).sqrt() + (4 * unit) ** 2 * lam[-1]
    return torch.cat([exact, lam[unsure:]]), torch.cat([left, noise[unsure:]]), unsure


def _by_newton_schulz(a: Tensor, noise: Tensor, target: float, eps: float, clones: bool) -> Root:
    k = a.shape[-1]
    a.diagonal().add_(eps)
    norm = torch.linalg.vector_norm(a, dtype=torch.float64)
    trace = a.diagonal().sum(dtype=torch.float64)
    # the bare iteration stands eigenvalues down to -2 units of rounding; what may lie below is
    # shifted up
    unit = torch.finfo(a.dtype).eps * norm
    shift = torch.maximum((CLONES if clones else 0.0) * unit, noise - 2 * unit).clamp_min(0)
    q, inverse = _shifted_with_inverse(a, shift)
    for factor in (1, 8, 64):
        # no positive eigenvalue does that: products that are alike have rounded alike
        if bool(inverse > 2 / (FLOOR[a.dtype] * norm)):
            q, inverse = _shifted_with_inverse(a, torch.maximum(shift, CLONES * factor * unit))
    whole = soft_step(norm, noise)  # a matrix that is noise altogether has no directions
    q.mul_(whole.to(q.dtype))
    y = q @ a  # (a + eps I)^(1/2); <Q, a> and not tr a^(1/2): a null direction adds 0
    diagonal = y.diagonal().double() - eps * q.diagonal()
    # |Y|_F^2 is tr a, which has no rounding of Q in it; where the distance is a small difference,
    # near the optimum, its square is taken instead
    far = whole * trace - 2 * target * y.diagonal().sum(dtype=torch.float64) + k * target**2
    y.diagonal().sub_(target)
    near = torch.linalg.vector_norm(y, dtype=torch.float64) ** 2
    distance = torch.where(near > k * target**2, far, near)
    error = (0.5 * noise * inverse).clamp_max(1.0)
    return Root(q, diagonal, distance, error)


def _shifted_with_inverse(a: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """`shifted_inverse_sqrt` Q of a (k, k), and the root mean square of the eigenvalues of Q^2,
    1 / lambda, from |Q^2 v| on fixed probes: two thin products. (k, k), ()"""
    q = shifted_inverse_sqrt(a[None], shift.to(a.dtype)[None, None, None])[0]
    generator = torch.Generator().manual_seed(len(a))
    probe = torch.randn(len(a), 8, generator=generator, dtype=torch.float64).to(a)
    square = torch.linalg.vector_norm(q @ (q @ probe), dtype=torch.float64)
    return q, square / (8 * len(a)) ** 0.5


def shifted_inverse_sqrt(a: Tensor, shift: Tensor) -> Tensor:
    """(a + shift I)^(-1/2) and the first-order correction of the shift. a (b,k,k), shift (b,1,1)

    The shift keeps an eigenvalue positive that rounding made negative. On directions that are
    there, q (1 + shift q^2 / 2) leaves 3/8 (shift / lambda)^2 of it; on a null one it is 1.5 q,
    bounded.
    """
    shifted = a.clone()
    shifted.diagonal(dim1=-2, dim2=-1).add_(shift[..., 0])
    q = inverse_sqrt(shifted)
    q = torch.baddbmm(q, (q * (shift / 2)) @ q, q)  # shift q^2 is at most 2, q^2 may overflow
    return (q + q.mT).mul_(0.5)


def _mixing(lam: Tensor, weight: Tensor, noise: Tensor, known: int) -> Tensor:
    """Relative error of the polar factor from what a symmetric error of norm `noise` mixes between
    the first `known` directions, whose eigenvalues are exact, and the others. ()

    An entry E_ij turns G^(-1/2) by E_ij / (s_i s_j (s_i + s_j)), s = sqrt(lambda), and the polar
    factor by s_j times that; noise / sqrt k is the root mean square of the entries in a row.
    """
    s, k = lam.sqrt(), len(lam)
    turns = weight[:known, None] / (s[:known, None] * (s[:known, None] + s[known:]))
    total: Tensor = torch.linalg.vector_norm(turns.nan_to_num(0.0))  # null ones: 0 / 0
    return noise / k * total


def _relative_error(lam: Tensor, noise: Tensor) -> Tensor:
    each = (noise / (2 * lam)).nan_to_num(0.0, posinf=1.0).clamp_max(1.0)
    return each.square().mean().sqrt()
