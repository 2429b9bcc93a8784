"""How close is close: every tolerance of the tests, each a rule with its reason.

Truth is `wssl_fast.reference` on the very numbers that were given (half and single precision are
rounded first, then both sides see the same input). Values compare absolutely (W2 lies in
[0, sqrt 2]); gradients by `gradient_error`.
"""

import math

import torch
from torch import Tensor

from wssl_fast import reference
from wssl_fast.backends.eager.newton_schulz import SCHEDULES, product_count

PRECISIONS = ("auto", "double", "highest", "high", "medium")
ONE_PASS = ("highest", "high")
PRODUCTS = {dtype: product_count(len(schedule)) for dtype, schedule in SCHEDULES.items()}
"""Matrix products of Newton-Schulz, each rounded."""


def value_tolerance(precision: str, dtype: torch.dtype = torch.float32) -> float:
    """Largest |W2 - W2_64|."""
    if dtype == torch.float64:
        # a Gram in float64 sees sigma down to sqrt(eps) = 1.5e-8 of the largest; k directions
        # under it move T/sqrt(m) by k/sqrt(k m) of that, 1e-8, and W2 by the same over W2
        return 1e-7
    if precision == "medium":
        # bfloat16 products: 2^-8 relative, averaged down by the sum over directions
        return 1e-2
    if precision in ONE_PASS:
        # a float32 Gram, on the directions that it sees; add `unseen` for the others
        return 1e-4
    # what float32 rows carry once nothing is squared in float32: a few eps on every sigma,
    # and the outer root of a W2 of 1e-2 multiplies by 50
    return 1e-5


def w2_tolerance(
    z: Tensor,
    want: float,
    precision: str,
    *,
    normalize: bool = True,
    eps: float = 0.0,
    solver: str = "eigh",
) -> float:
    """Largest |W2 - want| of the rows z: relative on raw rows, where W2 has no upper bound."""
    bound = value_tolerance(precision, z.dtype) * max(1.0, want)
    newton_schulz = solver == "newton_schulz"
    if z.dtype == torch.float64:
        bound += unseen(
            z, normalize=normalize, below=seen_from(z, normalize), eps=eps, ridge_too=newton_schulz
        )
    elif precision in (*ONE_PASS, "medium"):
        bound += unseen(z, normalize=normalize, eps=eps, ridge_too=newton_schulz)
        if newton_schulz:
            bound += null_directions(z, want, normalize=normalize)
        elif z.shape[0] > z.shape[1] and (few_directions(z, normalize) or _equal_columns(z)):
            bound += clones(z, want, normalize=normalize)
    elif newton_schulz and precision == "auto":
        bound += alike(z, want, normalize=normalize, eps=eps)
    return bound


def seen_from(z: Tensor, normalize: bool) -> float:
    """Smallest sigma / sigma_max that a solver in float64 counts in full: four times the noise
    level of 10 eps |C|_F, under which it fades a direction out; a Gram matrix is centred after its
    product, mean and all."""
    rows = used_rows(z, normalize)
    centred = rows - rows.mean(0)
    top = top_eigenvalue(centred)
    multiplied = rows if len(rows) <= z.shape[1] else centred
    noise = 10 * torch.finfo(torch.float64).eps * gram_norm(multiplied)
    return math.sqrt(4 * noise / top) if top > 0 else 0.0


def few_directions(z: Tensor, normalize: bool) -> bool:
    """Whether rows repeat up to their sign, four times on average or more."""
    return _repeat(used_rows(z, normalize))


def alike(z: Tensor, want: float, *, normalize: bool = True, eps: float = 0.0) -> float:
    """What W2 by float32 Newton-Schulz gains where columns are equal and a ridge carries all of k
    directions: each product of depth k is a sum of equal terms, which round to one side, k eps / 2
    at most, T by that of each product, and W2 by dT / (sqrt m W2). (auto looks at the noise of its
    matrix, not at that of the iteration.)"""
    columns = used_rows(z, normalize).mT
    if eps == 0 or not _repeat(columns):
        return 0.0
    n, m = z.shape
    relative = PRODUCTS[torch.float32] * min(n, m) * torch.finfo(torch.float32).eps / 2
    lam = reference.relative_spectrum(z, normalize=normalize).square()
    rows = used_rows(z, normalize)
    lam = lam * top_eigenvalue(rows - rows.mean(0))
    trace = (lam + eps).sqrt().sum().item()
    return relative * trace / (math.sqrt(m) * max(want, 1e-2))


def _equal_columns(z: Tensor) -> bool:
    return len(z.mT.unique(dim=0)) < z.shape[1]


def _repeat(rows: Tensor) -> bool:
    first = rows.gather(1, rows.abs().argmax(dim=1, keepdim=True))
    return len((rows * first.sign()).round(decimals=6).unique(dim=0)) <= len(rows) / 4


def clones(z: Tensor, want: float, *, normalize: bool = True) -> float:
    """What W2 gains where rows repeat, or columns, whose products round alike and leave null
    directions of a covariance at up to 5 eps |C|_F (benchmarks/studies/gram_noise.py) and of either
    sign: those that are positive look like signal, a half and two standard deviations."""
    relative, rows = reference.relative_spectrum(z, normalize=normalize), used_rows(z, normalize)
    noise = 5 * torch.finfo(torch.float32).eps * gram_norm(rows)
    count = int((relative.square() * top_eigenvalue(rows - rows.mean(0)) < noise).sum())
    positive = min(count, count / 2 + math.sqrt(count))
    return math.sqrt(noise) * positive / (math.sqrt(z.shape[-1]) * max(want, 1e-2))


def null_directions(z: Tensor, want: float, *, normalize: bool = True) -> float:
    """What W2 gains where a solver without eigenvalues to cut meets directions that are null.

    Each enters T with lambda q(lambda), lambda from rounding, within nu = 1.25 eps |C|_F of a
    float32 Gram and half of that in the mean square, q up to 1.5 nu^(-1/2). Their signs are random,
    so that k of them add sqrt(k) nu q / 2; and q falls with lambda, by q / 2 nu at 0, which adds
    k nu q / 8. dW2 = dT / (sqrt m W2). Where rows repeat, a covariance rounds alike: four times nu.
    """
    relative, rows = reference.relative_spectrum(z, normalize=normalize), used_rows(z, normalize)
    alike = z.shape[0] > z.shape[1] and few_directions(z, normalize)
    noise = (5 if alike else 1.25) * torch.finfo(torch.float32).eps * gram_norm(rows)
    count = int((relative.square() * top_eigenvalue(rows - rows.mean(0)) < noise).sum())
    gain = 1.5 * math.sqrt(noise) * (math.sqrt(count) / 2 + count / 8)
    return gain / (math.sqrt(z.shape[-1]) * max(want, 1e-2))


def gram_norm(rows: Tensor) -> float:
    """Frobenius norm of rows^T rows / n, which is that of rows rows^T / n."""
    n, m = rows.shape
    product = rows @ rows.mT if n <= m else rows.mT @ rows
    return product.norm().item() / n


def top_eigenvalue(rows: Tensor) -> float:
    """The largest of rows^T rows / n."""
    n, m = rows.shape
    product = rows @ rows.mT if n <= m else rows.mT @ rows
    return max(torch.linalg.eigvalsh(product)[-1].item(), 0.0) / n


def used_rows(z: Tensor, normalize: bool) -> Tensor:
    """Unit rows, or the rows as they are, in float64."""
    z = z.detach().double().cpu()
    return torch.nn.functional.normalize(z, dim=-1, eps=1e-300) if normalize else z


def unseen(
    z: Tensor,
    *,
    normalize: bool = True,
    below: float = 5e-3,
    eps: float = 0.0,
    ridge_too: bool = False,
) -> float:
    """What W2 gains when every direction below `below` sigma_max drops out of T = tr S^(1/2).

    A float32 Gram knows its eigenvalues to nu = 0.75 eps |C|_F, that is sqrt(nu) = 6e-4 to 1.2e-3
    of sigma_max for 4 to 50 equal directions. A solver that keeps such noise out of the value
    (weight 0 up to nu, 1 from 4 nu) loses what lies there, up to twice that; |C|_F doubles it.
    `ridge_too`: also the ridge that such a direction stands on, which Newton-Schulz sees as part of
    its eigenvalue; the eigensolver adds it afterwards.
    """
    relative = reference.relative_spectrum(z, normalize=normalize)
    rows = z.double() if not normalize else torch.nn.functional.normalize(z.double(), eps=1e-300)
    top = torch.linalg.matrix_norm(rows - rows.mean(dim=0), ord=2)
    sigma = relative * top / math.sqrt(z.shape[0])
    if ridge_too:
        sigma = (sigma.square() + eps).sqrt()
    trace = (sigma * (relative < below)).sum()
    value = reference.wasserstein_uniformity(z, normalize=normalize, eps=eps)
    return (trace / math.sqrt(z.shape[1]) / value.clamp_min(1e-2)).item()


def resolution(precision: str, dtype: torch.dtype = torch.float32) -> float:
    """Smallest sigma/sigma_max whose direction the gradient must still push as the truth does."""
    if dtype == torch.float64 or precision == "double":
        # lambda at 1e-12 of the largest against float64's 2e-16 k: the root's weight is off by
        # 1e-3; also where float32 rows stop meaning anything (their rounding is 6e-8 an entry)
        return 1e-6
    if precision == "auto":
        # what two float32 passes over the rows reach: eps over the first pass's 4e-3
        return 3e-5
    # A float32 Gram knows each eigenvalue to nu = 0.75 eps |C|_F and so the weight of a direction
    # to nu / (2 lambda): 1e-3 at sigma = 1e-2 sigma_max, 0.1 at 1e-3 sigma_max. Measured with the
    # Gram in float32 and all else in float64: 2e-4 above 1e-2, 1e-2 above 1e-3.
    return 1e-2


def resolution_of(
    z: Tensor, precision: str, *, normalize: bool = True, solver: str = "eigh"
) -> float:
    """`resolution`, and where that is more what the rows z allow, far from their mean.

    It is relative to the largest singular value, as long as that is the largest thing there is. An
    eigenvalue of the matrix that is solved is known to NOISE eps |Cc|_F; in a Gram matrix, which is
    centred after the product, to 10 eps64 |C|_F besides, mean included; in a covariance to the
    rounding of the mean; Newton-Schulz rounds it by a unit again in each of its products. The
    weight of a direction is off by the half of that over its lambda, and turned towards its
    neighbours by as much.
    """
    n, m = z.shape[-2:]
    x = used_rows(z, normalize)
    mean = x.mean(dim=0)
    centred = x - mean
    top = top_eigenvalue(centred)
    if top == 0:
        return resolution(precision, z.dtype)
    single = precision in ONE_PASS and z.dtype != torch.float64
    eps64 = torch.finfo(torch.float64).eps
    solved = 1.25 * torch.finfo(torch.float32).eps if single else 10 * eps64
    if solver == "newton_schulz" and not single:
        solved += PRODUCTS[torch.float64] * eps64
    noise = solved * gram_norm(centred)
    rounding = (1024 * eps64) ** 2 * mean.square().sum().item()
    noise += 10 * eps64 * gram_norm(x) if n <= m else rounding
    allowed = gradient_tolerance(precision, torch.promote_types(z.dtype, torch.float32))
    return max(resolution(precision, z.dtype), math.sqrt(noise / (allowed * top)))


def gradient_tolerance(
    precision: str, dtype: torch.dtype = torch.float32, *, solver: str = "eigh", k: int = 64
) -> float:
    """Largest `gradient_error` down to `resolution(precision)`; medium answers to its cosine."""
    # the gradient comes back in the input's dtype: half a unit in the last place for each entry
    rounding = torch.finfo(dtype).eps / 2 if dtype.itemsize < 4 else 0.0
    if precision in ONE_PASS and dtype != torch.float64:
        if solver == "newton_schulz":
            # On directions that the Gram cannot see Q is (1e-7 |G|_F)^(-1/2), from the shift that
            # keeps the iteration stable, and nothing cuts it off: float32 rounds sums of k = 64
            # such terms at eps sqrt(k / 1e-7) = 3e-3; four of them (a, its centring, d, W z)
            return 1.2e-2 * max(1.0, math.sqrt(k / 64)) + rounding
        # nu / (2 lambda) at the resolution itself, see there
        return 1e-3 + rounding
    # at the resolution itself the weight of the last directions is off by a few 1e-3
    # (measured for two float32 passes: 1.6e-3 at 3e-5), the others agree to 1e-5
    return 3e-3 + rounding


def contract_tolerance(dtype: torch.dtype) -> float:
    """Relative Frobenius error of values and gradients on well-conditioned batches of ten rows.

    float32 or float64 inside: condition numbers of at most 1e2 in sigma, of which a Gram makes 1e4
    in lambda and a gradient sees the root: 1e3 units. What comes back in half precision is rounded
    to it once more.
    """
    working = torch.float64 if dtype == torch.float64 else torch.float32
    rounding = torch.finfo(dtype).eps if dtype.itemsize < 4 else 0.0
    return 1e3 * torch.finfo(working).eps + rounding


def root_tolerance(kappa: float, dtype: torch.dtype = torch.float32) -> float:
    """Relative Frobenius error of A^(1/2) and A^(-1/2), lambda_max/lambda_min = kappa.

    A itself is known to a few eps |A|. The root divides that by 2 sqrt(lambda_min), which is
    sqrt(kappa)/2 times eps |A^(1/2)|; the inverse root by the same again: kappa.
    """
    return 32 * torch.finfo(dtype).eps * max(1.0, kappa)


MEDIUM_COSINE = 0.99
"""bfloat16 products keep the direction, above 1e-3 sigma_max, not the third digit."""

FLOOR = 1e-2
"""Gradient errors are never taken relative to less than FLOOR times the polar part's norm.

The gradient is what the tangent projection leaves of c P, c = 2/(n sqrt m), |P|_F = sqrt(n k). At
the optimum P is parallel to X and nothing is left, while P itself is still computed to a few eps
times its own norm: an error relative to what is left would ask for digits that do not exist. A
hundredth keeps the floor (3e-3 * 1e-2 = 3e-5 of |c P|) within 100 times float32's rounding.
"""


def by_direction(grad: Tensor, z: Tensor, normalize: bool = True) -> Tensor:
    """`r_i grad_i` in float64: the gradient in the direction of each row.

    With rows of norm 1e-20 and 1e15 in one batch their gradients differ by 1e35, and a plain norm
    would look at the shortest rows alone.
    """
    grad = grad.detach().double().cpu()
    if not normalize:
        return grad
    return grad * z.detach().double().cpu().norm(dim=-1, keepdim=True)


def gradient_error(
    grad: Tensor,
    z: Tensor,
    *,
    normalize: bool = True,
    above: float = 0.0,
    null: bool = True,
    eps: float = 0.0,
) -> float:
    """Relative error of a gradient of W2^2 in z (n x m), on directions from `above` sigma_max up.

    Frobenius norm over `by_direction`, relative to the truth's, floored by FLOOR. Where the batch
    has directions under `above`, the error is taken between the left and right singular vectors
    above it; likewise on a batch with exactly null directions where `null` is False, for a solver
    whose Gram cannot tell them from noise (otherwise their weight must be 0, as the truth's). On
    unit rows each row's error along its own x_i is left out there, since the tangent projection
    moves what the solver did to the lower directions into it.
    """
    gap, size, floor = gradient_gap(grad, z, normalize=normalize, above=above, null=null, eps=eps)
    return gap / max(size, floor)


def gradient_gap(
    grad: Tensor,
    z: Tensor,
    *,
    normalize: bool = True,
    above: float = 0.0,
    null: bool = True,
    eps: float = 0.0,
) -> tuple[float, float, float]:
    """What `gradient_error` is made of: norms of the difference and of the truth, and the floor."""
    got, want = _compared(grad, z, normalize, above, null, eps)
    n, m = z.shape[-2:]
    polar = reference.polar_factor(z, normalize=normalize, resolution=above).norm().item()
    # with no direction at all (one row, constant rows) the floor is that of one: nothing is pushed
    floor = FLOOR * 2 / (n * math.sqrt(m)) * max(polar, math.sqrt(n))
    return (got - want).norm().item(), want.norm().item(), floor


def gradient_cosine(grad: Tensor, z: Tensor, *, normalize: bool = True, above: float = 0) -> float:
    """Cosine between a gradient of W2^2 and the truth, over the directions above `above`."""
    got, want = _compared(grad, z, normalize, above, null=False)
    return (torch.sum(got * want) / (got.norm() * want.norm())).item()


def _compared(
    grad: Tensor, z: Tensor, normalize: bool, above: float, null: bool, eps: float = 0.0
) -> tuple[Tensor, Tensor]:
    got = by_direction(grad, z, normalize)
    truth = reference.wasserstein_uniformity_grad(z, normalize=normalize, squared=True, eps=eps)
    want = by_direction(truth, z, normalize)
    relative = reference.relative_spectrum(z, normalize=normalize)
    upper = (relative >= above) & (relative > 0)
    rank = min(z.shape[-2] - 1, z.shape[-1])  # centring costs one direction, always
    whole = upper.sum() == ((relative > 0).sum() if null else rank)
    if bool(whole):
        return got, want
    x = z.detach().double().cpu()
    x = torch.nn.functional.normalize(x, dim=-1, eps=1e-300) if normalize else x
    u, _, vh = torch.linalg.svd(x - x.mean(dim=0), full_matrices=False)
    left, right = u[:, upper], vh[upper].T  # (n, upper), (m, upper)
    along = torch.nn.functional.normalize(x @ right, dim=-1, eps=1e-300)

    def seen(grad: Tensor) -> Tensor:
        grad = grad @ right
        if normalize:
            grad = grad - (grad * along).sum(dim=-1, keepdim=True) * along
        return left.T @ grad

    return seen(got), seen(want)
