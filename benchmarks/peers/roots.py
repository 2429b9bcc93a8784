"""Roots of a matrix without its eigenvectors, and W2 = tr S^(1/2) through them.

W2 takes the root of the smaller of S and the Gram matrix (equal traces), the best that a user of
these can do: published as roots of a covariance, they would need one of m x m.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from numpy.polynomial import Polynomial
from torch import Tensor
from torch.nn import functional as F

# The best settings in float32 on healthy batches with k = 256: more terms cancel in P and Q, more
# steps gain nothing. The sources' own (degree 5 and 8 steps; 5 steps) are off by 0.3 to 0.7 there.
PADE_DEGREE = 8
LYAPUNOV_STEPS = 12
ISQRT_STEPS = 12

CUBIC = (1.5, -0.5, 0.0)  # Newton-Schulz

Step = Sequence[float]  # of p(R) = a I + b R + c R^2


def pade_w2(
    z: Tensor,
    *,
    squared: bool = False,
    normalize: bool = True,
    degree: int = PADE_DEGREE,
    lyapunov_steps: int = LYAPUNOV_STEPS,
) -> Tensor:
    """W2 by `pade_root`, gradient by its Lyapunov backward."""
    return _w2(z, lambda a: pade_root(a, degree, lyapunov_steps).trace(), squared, normalize)


def isqrt_cov_w2(
    z: Tensor, *, squared: bool = False, normalize: bool = True, steps: int = ISQRT_STEPS
) -> Tensor:
    """W2 by iSQRT-COV (Li et al. 2018), gradient by autograd through the iteration."""
    return _w2(z, lambda a: coupled_roots(a, [CUBIC] * steps)[0].trace(), squared, normalize)


def _w2(
    z: Tensor, trace_root: Callable[[Tensor], Tensor], squared: bool, normalize: bool
) -> Tensor:
    x = F.normalize(z, dim=1) if normalize else z
    n, m = x.shape
    mean = x.mean(0)
    centred = x - mean
    a = (centred @ centred.T if n <= m else centred.T @ centred) / n  # (k, k)
    squared_distance = mean.square().sum() + 1 + a.trace() - 2 / math.sqrt(m) * trace_root(a)
    return squared_distance if squared else squared_distance.clamp(min=0).sqrt()


def pade_root(a: Tensor, degree: int = PADE_DEGREE, lyapunov_steps: int = LYAPUNOV_STEPS) -> Tensor:
    """A^(1/2), k x k (Song, Sebe, Wang, "Fast Differentiable Matrix Square Root", ICLR 2022, MPA).

    sqrt|A|_F Q^-1 P, P/Q the diagonal Pade approximant of sqrt(1 - x) at x = I - A/|A|_F (section
    3.1). Backward: B X + X B = dA^(1/2), B = A^(1/2), by Newton-Schulz for the matrix sign (section
    3.2). The source has degree 5 and 8 steps.
    """
    return _PadeRoot.apply(a, degree, lyapunov_steps)


def pade_inverse_root(a: Tensor, degree: int = PADE_DEGREE) -> Tensor:
    """A^(-1/2) = P^-1 Q / sqrt|A|_F, as in `pade_root` (its extension, arXiv 2201.12543)."""
    norm = torch.linalg.matrix_norm(a)
    p, q = _numerator_and_denominator(a / norm, degree)
    return torch.linalg.solve(p, q) / norm.sqrt()


class _PadeRoot(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, degree: int, lyapunov_steps: int) -> Tensor:
        norm = torch.linalg.matrix_norm(a)
        p, q = _numerator_and_denominator(a / norm, degree)
        root = norm.sqrt() * torch.linalg.solve(q, p)
        ctx.save_for_backward(root)
        ctx.steps = lyapunov_steps
        return root

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (root,) = ctx.saved_tensors
        norm = torch.linalg.matrix_norm(root)
        b, c = root / norm, grad / norm
        identity = torch.eye(len(b), dtype=b.dtype, device=b.device)
        for _ in range(ctx.steps):
            square = b @ b
            rest = 3 * identity - square
            c = (b @ c @ b - square @ c + c @ rest) / 2
            b = b @ rest / 2
        return c / 2, None, None


def _numerator_and_denominator(a: Tensor, degree: int) -> tuple[Tensor, Tensor]:
    identity = torch.eye(len(a), dtype=a.dtype, device=a.device)
    p_coefficients, q_coefficients = _pade_coefficients(degree)
    x, power = identity - a, identity
    p = p_coefficients[0] * identity
    q = q_coefficients[0] * identity
    for p_i, q_i in zip(p_coefficients[1:], q_coefficients[1:], strict=True):
        power = power @ x
        p, q = p + p_i * power, q + q_i * power
    return p, q


@cache
def _pade_coefficients(degree: int) -> tuple[list[float], list[float]]:
    """P and Q in x: sum_j C(N, 2j) (1 - x)^j and sum_j C(N, 2j + 1) (1 - x)^j, N = 2 degree + 1.

    Even and odd part of (1 + s)^N in s = sqrt(1 - x); both are 2^(N-1) at x = 0.
    """
    order = 2 * degree + 1
    of_x = Polynomial([1.0, -1.0])

    def coefficients(first: int) -> list[float]:
        terms = [float(math.comb(order, 2 * j + first)) for j in range(degree + 1)]
        return [float(c) / 2 ** (order - 1) for c in Polynomial(terms)(of_x).coef]

    return coefficients(0), coefficients(1)


def coupled_roots(a: Tensor, steps: Sequence[Step]) -> tuple[Tensor, Tensor]:
    """A^(1/2) and A^(-1/2), k x k: Y <- Y p(Z Y), Z <- p(Z Y) Z from Y = A/|A|_F, Z = I.

    The polynomial iteration for the sign of [[0, A], [I, 0]], block by block (Higham, "Functions
    of Matrices", 2008, section 6.7). With p(R) = (3 I - R)/2 it is iSQRT-COV: Li, Xie, Wang, Gao,
    "Towards Faster Training of Global Covariance Pooling Networks by Iterative Matrix Square Root
    Normalization", CVPR 2018, eqs. 5 to 7, where the norm may be Frobenius' or the trace; the
    former is smaller, so its start is closer.
    """
    norm = torch.linalg.matrix_norm(a)
    identity = torch.eye(len(a), dtype=a.dtype, device=a.device)
    y, z = a / norm, identity
    for first, second, third in steps:
        r = z @ y
        p = first * identity + second * r
        if third:
            p = p + third * (r @ r)
        y, z = y @ p, p @ z
    return y * norm.sqrt(), z / norm.sqrt()


def eigh_inverse_root(a: Tensor) -> Tensor:
    """A^(-1/2) by eigh; 0 below k eps lambda_max, `torch.linalg.pinv`'s rule."""
    values, vectors = torch.linalg.eigh(a)
    least = len(a) * torch.finfo(a.dtype).eps * values[-1]
    inverse = torch.where(values > least, values.clamp(min=least).rsqrt(), 0.0)
    return vectors * inverse @ vectors.T
