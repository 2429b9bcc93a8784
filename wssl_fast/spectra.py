"""The public functions of spectra: matrix roots, and what is left of a batch's spectrum.

Each checks its arguments, folds batch dimensions, and calls one operator. Dtypes, strides, NaN and
errors as in functional.py.
"""

from torch import Tensor

from wssl_fast import _checks as checks
from wssl_fast._calls import fold, unfold, wants_grad
from wssl_fast.ops import spectrum, sqrtm


def matrix_sqrt(a: Tensor, *, solver: str = "auto", precision: str = "auto") -> Tensor:
    r"""Square root of symmetric positive semi-definite matrices.

    .. math:: R R = A, \qquad R \succeq 0

    Args:
        a: (..., k, k); its symmetric part is used, eigenvalues up to k units of rounding of the
            largest count as 0.
        solver: `eigh` or `newton_schulz` (matrix products alone; adds a shift at rounding level).
        precision: `auto` and `double` compute in float64, the others in float32.

    Returns:
        (..., k, k). The gradient solves the Lyapunov equation R L + L R = dL/dR in the eigenbasis,
        in float64; it is symmetric, and 0 between null directions.

    Source: Higham, "Functions of Matrices", 2008, ch. 6; Lin & Maji, BMVC 2017, eq. (7).

    Example:
        >>> import torch, wssl_fast as wf
        >>> wf.matrix_sqrt(torch.tensor([[4.0, 0.0], [0.0, 9.0]]))
        tensor([[2., 0.],
                [0., 3.]])
    """
    return _matrix_root(a, False, solver, precision)


def matrix_inv_sqrt(a: Tensor, *, solver: str = "auto", precision: str = "auto") -> Tensor:
    r"""Inverse square root A^(-1/2) of symmetric positive semi-definite matrices; a pseudo-inverse
    where A is singular (with `eigh`; `newton_schulz` is bounded by its shift there).

    Arguments, result and source as in :func:`matrix_sqrt`.

    Example:
        >>> import torch, wssl_fast as wf
        >>> wf.matrix_inv_sqrt(torch.tensor([[4.0, 0.0], [0.0, 0.0]]))
        tensor([[0.5000, 0.0000],
                [0.0000, 0.0000]])
    """
    return _matrix_root(a, True, solver, precision)


def _matrix_root(a: Tensor, inverse: bool, solver: str, precision: str) -> Tensor:
    a = checks.square("a", a)
    solver = checks.choice("solver", solver, checks.SOLVERS)
    precision = checks.choice("precision", precision, checks.PRECISIONS)
    root: Tensor = sqrtm.matrix_root(fold(a), inverse, solver, precision)
    return unfold(root, a.shape[:-2])


def covariance_spectrum(z: Tensor) -> Tensor:
    r"""Eigenvalues of the covariance of the rows, descending: the leading min(n, m) of them.

    Args:
        z: rows (..., n, m), taken as given; normalise first for the spectrum on the sphere.

    Returns:
        (..., min(n, m)); the other m - min(n, m) are 0. Accumulated in float64 from the smaller of
        the Gram and covariance matrices. The gradient is unique for distinct eigenvalues and for
        symmetric functions of repeated ones.

    Source: the spectrum of Jing et al., ICLR 2022 (arXiv 2110.09348), section 3.

    Example:
        >>> import torch, wssl_fast as wf
        >>> wf.covariance_spectrum(torch.tensor([[2.0, 0.0], [-2.0, 0.0]]))
        tensor([4., 0.])
    """
    z = checks.rows("z", z)
    value: Tensor = spectrum.covariance_spectrum(fold(z), wants_grad(z))[0]
    return unfold(value, z.shape[:-2])


def effective_rank(z: Tensor) -> Tensor:
    r"""Effective rank of the covariance of the rows: the exponential of its spectrum's entropy.

    .. math:: \exp\Big(-\sum_i p_i \log p_i\Big), \qquad p_i = \lambda_i / \sum_j \lambda_j

    Args:
        z: rows (..., n, m), centred here, not normalised.

    Returns:
        (...), in [1, min(n, m)]; 0 where the covariance is 0. float64 inside.

    Source: Roy & Vetterli, EUSIPCO 2007, definition 1, of the covariance matrix.

    Example:
        >>> import torch, wssl_fast as wf
        >>> wf.effective_rank(torch.cat([torch.eye(3), -torch.eye(3)]))
        tensor(3.)
    """
    z = checks.rows("z", z)
    value: Tensor = spectrum.effective_rank(fold(z), wants_grad(z))[0]
    return unfold(value, z.shape[:-2])


def rankme(z: Tensor) -> Tensor:
    r"""RankMe: the exponential of the entropy of the singular values of the embeddings as given.

    .. math:: \exp\Big(-\sum_k p_k \log p_k\Big), \qquad
              p_k = \frac{\sigma_k(z)}{|\sigma(z)|_1} + 10^{-7}

    Args:
        z: embeddings (..., n, m), neither centred nor normalised.

    Returns:
        (...), in [1, min(n, m)] up to the constant. float64 inside.

    Source: Garrido et al., ICML 2023 (arXiv 2210.02885), eq. (2).

    Example:
        >>> import torch, wssl_fast as wf
        >>> wf.rankme(torch.eye(4))
        tensor(4.0000)
    """
    z = checks.rows("z", z)
    value: Tensor = spectrum.rankme(fold(z), wants_grad(z))[0]
    return unfold(value, z.shape[:-2])
