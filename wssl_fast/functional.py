"""The public functions of embeddings. Each checks its arguments, folds batch dimensions, and calls
one operator.

Common to all: rows of `z` are embeddings, (..., n, m) with leading dimensions of independent
problems. dtype float64, float32, float16 or bfloat16; products accumulate in float32 or better; the
result is float64 for float64 input and float32 otherwise, the gradient has the dtype of the input.
Any strides. No input is mutated. NaN or inf in a problem gives NaN for that problem, in value and
gradient. torch.func transforms in reverse mode; a second or a forward-mode derivative raises
`RuntimeError`. Wrong input raises `ValueError` or `TypeError` that names the argument, what was
given and what is expected.

`group` (wasserstein_uniformity, uniformity, alignment): None, this process alone; or a
`torch.distributed` ProcessGroup, over whose processes the rows are spread. Each gives its own
rows, any number of them, none included, but the same leading dimensions, m and dtype; all get the
value of the whole batch. The gradient in the local rows is that of the whole batch times the
number of processes, so that the average which DistributedDataParallel takes is the gradient that
one process would have. All processes of the group have to make the call; wrong input on one of
them is an error on all. Everything is exchanged in the forward (docs/distributed.md).
"""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wssl_fast import _checks as checks
from wssl_fast._calls import fold, unfold, wants_grad
from wssl_fast.backends import choice
from wssl_fast.ops import gaussians, pairwise, w2

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def _spans(group: object) -> bool:
    """Whether rows are spread over several processes. What that takes is imported when needed: it
    brings the compiler along, which takes a second."""
    from wssl_fast import distributed

    return distributed.spans(group)


def wasserstein_uniformity(
    z: Tensor,
    *,
    normalize: bool = True,
    squared: bool = False,
    eps: float = 0.0,
    solver: str = "auto",
    precision: str = "auto",
    group: "ProcessGroup | None" = None,
) -> Tensor:
    r"""Gaussian 2-Wasserstein uniformity loss: the distance of the rows from N(0, I/m).

    .. math:: W_2 = \sqrt{|\mu|^2 + 1 + \operatorname{tr}\Sigma
              - \tfrac{2}{\sqrt m} \operatorname{tr}\Sigma^{1/2}}

    with mean mu and population covariance Sigma (1/n) of the rows, normalised to length 1 first.
    On unit rows it lies in [0, sqrt 2], and not below `sqrt(2 - 2 sqrt(min(n - 1, m) / m))`.
    Minimising it spreads embeddings over every direction of the sphere; the paper's metric is -W2.

    Args:
        z: embeddings (..., n, m), n >= 1. Concatenate both views along n, as the authors do.
        normalize: scale rows to unit length first. A row of zeros stays zero, with gradient zero.
        squared: return W2 squared, whose gradient is smooth at the optimum W2 = 0. Unsquared, the
            slope 1/(2 W2) is held at its value at W2 = sqrt(unit roundoff) below that: the gradient
            is finite, and zero at the optimum.
        eps: ridge >= 0, Sigma + eps I in every term. It changes the value; 0 needs none.
        solver: `eigh` or `newton_schulz` for the root of the min(n, m)-sized matrix; `auto` is eigh
            on a CPU and newton_schulz on a GPU.
        precision: `auto`: float32, repeated in float64 only where the spectrum needs it, so that
            directions down to 3e-5 of the largest singular value are pushed rightly. `double`:
            float64 inside, down to 1e-6. `highest`, `high`, `medium`: one float32 pass, right
            to 1e-3 on directions above 1e-2, by newton_schulz to about 1e-2 (a CPU computes all
            three in float32; on a GPU `high` and `medium` round float32 rows to 16 bits for the
            Gram matrix: docs/gpu.md).
        group: processes that the rows are spread over; the formulation follows from the rows of
            all. It runs as PyTorch calls on every device (`high` and `medium` as `highest`).

    Returns:
        (...), float32, or float64 for float64 input.

    Exactly null directions (duplicated rows, dead features) have no unique gradient and get none.
    Constant rows are stationary: W2 = sqrt 2 there, gradient 0.

    Source: Fang, Li, Sun, Wang, "Rethinking The Uniformity Metric in Self-Supervised Learning",
    ICLR 2024, eq. (5). With n <= m it costs two products with z and one n x n eigenproblem; no
    m x m matrix exists (docs/mathematics.md). Not the 1-D Wasserstein uniformity of arXiv
    2405.18045.

    Example:
        >>> import torch, wssl_fast as wf
        >>> z = torch.eye(4).repeat(2, 1)          # 8 unit rows along 4 axes: mean 1/4 (1, 1, 1, 1)
        >>> wf.wasserstein_uniformity(z, squared=True)
        tensor(0.5000)
        >>> wf.wasserstein_uniformity(torch.cat([z, -z]))       # isotropic: the optimum
        tensor(0.)
        >>> wf.wasserstein_uniformity(torch.ones(8, 4))         # collapsed to a point
        tensor(1.4142)
    """
    if group is not None and _spans(group):
        from wssl_fast import distributed

        return distributed.wasserstein_uniformity(
            group,
            lambda: z,
            normalize=normalize,
            squared=squared,
            eps=eps,
            solver=solver,
            precision=precision,
        )
    z = checks.rows("z", z)
    normalize, squared = checks.flag("normalize", normalize), checks.flag("squared", squared)
    eps = checks.number("eps", eps, minimum=0.0)
    solver = checks.choice("solver", solver, checks.SOLVERS)
    precision = checks.choice("precision", precision, checks.PRECISIONS)
    operator = w2.gram if z.shape[-2] <= z.shape[-1] else w2.covariance
    value: Tensor = operator(
        fold(z), normalize, squared, eps, solver, precision, wants_grad(z), choice.requested()
    )[0]
    return unfold(value, z.shape[:-2])


def uniformity(
    z: Tensor,
    *,
    t: float = 2.0,
    normalize: bool = True,
    group: "ProcessGroup | None" = None,
) -> Tensor:
    r"""Uniformity loss L_U of Wang & Isola: log mean Gaussian potential over pairs of rows.

    .. math:: L_U = \log \frac{2}{n(n-1)} \sum_{j<i} e^{-t |x_i - x_j|^2}

    Args:
        z: embeddings (..., n, m), n >= 2 (a mean over pairs).
        t: > 0, inverse squared length.
        normalize: scale rows to unit length first.
        group: processes that the rows are spread over, n >= 2 of all together.

    Returns:
        (...). Never n x n in memory: pairs are visited by blocks; the gradient is gathered on the
        way and kept, (n, m). Sums are float64; with large t they are shifted so as not to
        underflow.

    Source: Wang & Isola, ICML 2020 (arXiv 2005.10242), eq. (3).

    Example:
        >>> import torch, wssl_fast as wf
        >>> wf.uniformity(torch.tensor([[3.0, 0.0], [-1.0, 0.0]]))      # antipodal: -t * 4
        tensor(-8.)
    """
    if group is not None and _spans(group):
        from wssl_fast import distributed

        return distributed.uniformity(group, lambda: z, t=t, normalize=normalize)
    z = checks.rows("z", z, minimum_rows=2)
    t = checks.number("t", t, minimum=0.0, exclusive=True)
    normalize = checks.flag("normalize", normalize)
    value: Tensor = pairwise.uniformity(fold(z), t, normalize, wants_grad(z), choice.requested())[0]
    return unfold(value, z.shape[:-2])


def alignment(
    x: Tensor,
    y: Tensor,
    *,
    alpha: float = 2.0,
    normalize: bool = True,
    group: "ProcessGroup | None" = None,
) -> Tensor:
    r"""Alignment loss: mean distance of paired rows, to the power alpha.

    .. math:: A = \frac1n \sum_i |x_i - y_i|^\alpha

    Args:
        x, y: embeddings of two views (..., n, m), same shape and dtype; rows are paired.
        alpha: > 0. At x_i = y_i the gradient is 0.
        normalize: scale rows to unit length first.
        group: processes that the pairs are spread over.

    Returns:
        (...); differences before squares, so close pairs keep their digits.

    Source: Wang & Isola, ICML 2020 (arXiv 2005.10242), eq. (2).

    Example:
        >>> import torch, wssl_fast as wf
        >>> wf.alignment(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 5.0]]))
        tensor(2.)
    """
    if group is not None and _spans(group):
        from wssl_fast import distributed

        return distributed.alignment(group, x, y, alpha=alpha, normalize=normalize)
    x, y = checks.rows("x", x), checks.rows("y", y)
    checks.same_shape("x", x, "y", y)
    alpha = checks.number("alpha", alpha, minimum=0.0, exclusive=True)
    normalize = checks.flag("normalize", normalize)
    value: Tensor = pairwise.alignment(fold(x), fold(y), alpha, normalize)
    return unfold(value, x.shape[:-2])


def frechet_distance(
    x: Tensor,
    y: Tensor,
    *,
    squared: bool = True,
    eps: float = 0.0,
    solver: str = "auto",
    precision: str = "auto",
) -> Tensor:
    r"""Frechet distance: W2 (squared by default, as in FID) between the Gaussians of two batches.

    .. math:: W_2^2 = |\mu_x - \mu_y|^2 + \operatorname{tr}\Sigma_x + \operatorname{tr}\Sigma_y
              - 2 \operatorname{tr}(\Sigma_x^{1/2} \Sigma_y \Sigma_x^{1/2})^{1/2}

    Args:
        x, y: rows (..., n_x, m) and (..., n_y, m), taken as given, not normalised.
        squared: return the square, smooth at 0.
        eps: ridge >= 0 on both covariances.
        solver: as in :func:`wasserstein_uniformity`.
        precision: accepted for symmetry; this function always accumulates in float64.

    Returns:
        (...). With n_x, n_y <= m and no ridge the last trace is the nuclear norm
        |Xc Yc^T|_* / sqrt(n_x n_y): no m x m matrix exists.

    Source: Dowson & Landau 1982, eq. (4); Heusel et al. 2017 (FID), eq. (6).

    Example:
        >>> import torch, wssl_fast as wf
        >>> x = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
        >>> wf.frechet_distance(x, x + 2)                  # a shift by 2 in each of 8 dimensions
        tensor(32.)
    """
    x, y = checks.rows("x", x), checks.rows("y", y)
    if x.shape[:-2] != y.shape[:-2] or x.shape[-1] != y.shape[-1]:
        raise ValueError(
            "x and y must agree in all dimensions but the number of rows, got "
            f"{tuple(x.shape)} and {tuple(y.shape)}"
        )
    checks.same_kind("x", x, "y", y)
    squared = checks.flag("squared", squared)
    eps = checks.number("eps", eps, minimum=0.0)
    solver = checks.choice("solver", solver, checks.SOLVERS)
    checks.choice("precision", precision, checks.PRECISIONS)
    value: Tensor = gaussians.frechet_distance(fold(x), fold(y), squared, eps, solver)[0]
    return unfold(value, x.shape[:-2])


def gaussian_w2(
    mean_x: Tensor,
    cov_x: Tensor,
    mean_y: Tensor | None = None,
    cov_y: Tensor | None = None,
    *,
    squared: bool = False,
) -> Tensor:
    r"""2-Wasserstein distance between N(mean_x, cov_x) and N(mean_y, cov_y), from moments.

    Args:
        mean_x: (..., m). cov_x: (..., m, m), positive semi-definite; its symmetric part is used,
            negative eigenvalues count as 0.
        mean_y, cov_y: the second Gaussian; by default N(0, I/m), the target of W2.
        squared: return the square.

    Returns:
        (...), float64 inside. The gradient in a covariance is I minus the optimal transport map,
        0 in its null directions.

    Source: Dowson & Landau 1982, eq. (4); Bhatia, Jain, Lim 2019, eq. (2).

    Example:
        >>> import torch, wssl_fast as wf
        >>> wf.gaussian_w2(torch.tensor([3.0, 4.0]), torch.eye(2) / 2)
        tensor(5.)
    """
    cov_x = checks.square("cov_x", cov_x)
    squared = checks.flag("squared", squared)
    m = cov_x.shape[-1]
    mean_y = cov_x.new_zeros(m) if mean_y is None else mean_y
    target = cov_y is None  # in float64: 1/m rounded to half precision would be another
    if cov_y is None:
        cov_y = torch.eye(m, dtype=torch.float64, device=cov_x.device) / m
    cov_y = checks.square("cov_y", cov_y)
    batch = cov_x.shape[:-2]
    means, covs = [], []
    for name, mean, cov in (("x", mean_x, cov_x), ("y", mean_y, cov_y)):
        checks.floating(f"mean_{name}", mean)
        checks.same_kind(f"mean_{name}", mean, "cov_x", cov_x)
        if not (target and cov is cov_y):
            checks.same_kind(f"cov_{name}", cov, "cov_x", cov_x)
        if mean.dim() < 1 or mean.shape[-1] != m or cov.shape[-1] != m:
            raise ValueError(
                f"mean_{name} and cov_{name} must have shapes (..., {m}) and (..., {m}, {m}) to "
                f"match cov_x, got {tuple(mean.shape)} and {tuple(cov.shape)}"
            )
        batch = torch.broadcast_shapes(batch, mean.shape[:-1], cov.shape[:-2])
        means.append(mean)
        covs.append(cov)
    (mx, my), (cx, cy) = (
        [t.expand(*batch, m).reshape(math.prod(batch), m) for t in means],
        [t.expand(*batch, m, m).reshape(math.prod(batch), m, m) for t in covs],
    )
    value: Tensor = gaussians.gaussian_w2(mx, cx, my, cy, squared)[0]
    return unfold(value, batch)


def batch_covariance(z: Tensor, *, normalize: bool = False) -> tuple[Tensor, Tensor]:
    r"""Mean and population covariance (1/n) of the rows.

    .. math:: \mu = \tfrac1n \sum_i z_i, \qquad
              \Sigma = \tfrac1n \sum_i (z_i - \mu)(z_i - \mu)^T

    Args:
        z: rows (..., n, m).
        normalize: scale rows to unit length first.

    Returns:
        mean (..., m) and covariance (..., m, m), exactly symmetric. Rows are centred before they
        are multiplied (mean in float64), so a large mean costs no digit.

    Example:
        >>> import torch, wssl_fast as wf
        >>> mean, cov = wf.batch_covariance(torch.tensor([[1.0, 0.0], [3.0, 0.0]]))
        >>> mean, cov
        (tensor([2., 0.]), tensor([[1., 0.],
                [0., 0.]]))
    """
    z = checks.rows("z", z)
    normalize = checks.flag("normalize", normalize)
    mean, cov = gaussians.batch_covariance(fold(z), normalize)
    return unfold(mean, z.shape[:-2]), unfold(cov, z.shape[:-2])
