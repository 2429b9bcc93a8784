"""A^(1/2) and A^(-1/2) of symmetric positive semi-definite matrices, and their gradients.

With R = A^(1/2) = V diag(r) V^T and the symmetric upstream matrix Gr, in the basis V:

    root         : L solves R L + L R = Gr      ->  L_ij = Gr_ij / (r_i + r_j)
    inverse root : dA = -L of R^(-1) Gr R^(-1)  ->  -Gr_ij / (r_i r_j (r_i + r_j))

and 0 between two null directions. From a live i to a null j the inverse root, a pseudo-inverse
there, has the derivative Gr_ij / r_i^3 along changes that keep the rank.
"""

import torch
from torch import Tensor

from wssl_fast.backends.eager.eigen import eigh
from wssl_fast.backends.eager.numerics import working_dtype
from wssl_fast.backends.eager.roots import resolve_solver, shifted_inverse_sqrt


def compute_dtype(a: Tensor, precision: str) -> torch.dtype:
    """float64 for `double` and `auto`: a matrix that is given, not accumulated, keeps digits that
    a float32 eigensolver would lose. float32 for the settings that name float32 products."""
    if a.dtype == torch.float64 or precision in ("auto", "double"):
        return torch.float64
    return torch.float32


def forward(a: Tensor, inverse: bool, solver: str, precision: str) -> Tensor:
    """Root of the symmetric parts of a (b, k, k), in the dtype of results."""
    dtype = compute_dtype(a, precision)
    s = symmetric_part(a.to(dtype))
    if resolve_solver(solver, a.device) == "newton_schulz":
        # entries of `a` are rounded to its dtype: that makes eigenvalues of -eps |a|_F
        norm = torch.linalg.vector_norm(s, dim=(-2, -1), keepdim=True, dtype=torch.float64)
        q = shifted_inverse_sqrt(s, (2 * torch.finfo(a.dtype).eps * norm).to(dtype))
        return symmetric_part(q if inverse else q @ s).to(working_dtype(a))
    safe, finite = finite_or_zero(s)
    eigenvalues, v = eigh(safe)
    r = live_root(eigenvalues, working_dtype(a))
    f = torch.where(r > 0, r.reciprocal(), 0.0) if inverse else r
    root = (v * f[:, None, :]) @ v.mT
    return torch.where(finite, root, torch.nan).to(working_dtype(a))


def backward(a: Tensor, grad: Tensor, inverse: bool) -> Tensor:
    """Gradient in a, symmetric, float64 inside, in the dtype of a. a, grad (b, k, k)."""
    safe, finite = finite_or_zero(symmetric_part(a.double()))
    eigenvalues, v = eigh(safe)
    r = live_root(eigenvalues, working_dtype(a))  # (b, k)
    g = v.mT @ symmetric_part(grad.double()) @ v
    ri, rj = r[:, :, None], r[:, None, :]
    if inverse:
        both = (ri > 0) & (rj > 0)
        high = torch.maximum(ri, rj)
        divided = torch.where(both, -1 / (ri * rj * (ri + rj)), high**-3)
    else:
        divided = 1 / (ri + rj)
    divided = torch.where((ri > 0) | (rj > 0), divided, 0.0)
    return torch.where(finite, v @ (divided * g) @ v.mT, torch.nan).to(a.dtype)


def live_root(eigenvalues: Tensor, given: torch.dtype) -> Tensor:
    """sqrt of eigenvalues (b, k); 0 up to k times the unit of the dtype the matrix was given in,
    below which its own entries say nothing."""
    k = eigenvalues.shape[-1]
    floor = k * torch.finfo(given).eps * eigenvalues.amax(-1, keepdim=True)
    return torch.where(eigenvalues > floor.clamp_min(0), eigenvalues, 0.0).sqrt()


def symmetric_part(a: Tensor) -> Tensor:
    return (a + a.mT) / 2


def finite_or_zero(a: Tensor) -> tuple[Tensor, Tensor]:
    """a with problems that are not finite replaced by 0, and which are finite. (b,k,k), (b,1,1)"""
    finite = a.isfinite().flatten(1).all(1)[:, None, None]
    return torch.where(finite, a, 0.0), finite
