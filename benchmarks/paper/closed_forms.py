"""What the paper's figures would show without sampling: closed forms, and how far samples stray.

All of unit rows uniform on a d-dimensional sub-sphere of m dimensions (d = m: the whole sphere),
unless it says otherwise. eta = 1 - d/m is the share of collapsed dimensions. Derivations:
docs/paper.md; each is held to float64 samples or integrals in tests/paper/test_closed_forms.py.
"""

import math

import numpy as np
from scipy import integrate, special, stats


def sphere_w2(d: int, m: int) -> float:
    """sqrt(2 - 2 sqrt(d/m)): S is I/d on the sub-sphere, so tr S^(1/2) = sqrt d."""
    return math.sqrt(2 - 2 * math.sqrt(d / m))


def sphere_uniformity(d: int, t: float = 2.0) -> float:
    """L_U = -2t + log 0F1(; d/2; t^2), the mean of exp(-t |x-y|^2) = e^(-2t) exp(2t <x,y>).

    0F1(; d/2; t^2) is the sphere's moment generating function at 2t; it grows as e^(2t), and is
    taken in logarithms through the exponentially scaled Bessel function I_(d/2-1)(2t).
    """
    return -2 * t + _log_0f1(d / 2, t * t)


def _log_0f1(b: float, x: float) -> float:
    """log 0F1(; b; x) for x > 0: Gamma(b) x^((1-b)/2) I_(b-1)(2 sqrt x), or its power series where
    the Bessel function underflows (b much larger than x)."""
    root = math.sqrt(x)
    scaled = special.ive(b - 1, 2 * root)
    if scaled > 1e-200:
        return float(special.gammaln(b) + (1 - b) * math.log(root) + math.log(scaled) + 2 * root)
    term, total, k = 1.0, 1.0, 0
    while term > 1e-18 * total:
        k += 1
        term *= x / (k * (b + k - 1))
        total += term
    return math.log(total)


def uniformity_error(d: int, n: int, t: float = 2.0) -> float:
    """Standard error of L_U on n uniform points: sqrt(2 (R - 1))/n, R = E k^2 / (E k)^2.

    The mean of the kernel k over pairs is a U-statistic whose first-order term vanishes, since
    E_y k(x, y) is the same for every x on the sphere; its second-order term has the variance
    2 Var k / n^2, and a logarithm divides by the mean.
    """
    # log R; E k^2 is E k at 2t
    log_ratio = sphere_uniformity(d, 2 * t) - 2 * sphere_uniformity(d, t)
    return math.sqrt(2 * math.expm1(log_ratio)) / n


def marchenko_pastur_root(c: float) -> float:
    """Mean sqrt(lambda) over the Marchenko-Pastur law of ratio c = d/n, null eigenvalues included.

    1 - c/8 for small c; 8/(3 pi) at c = 1.
    """
    if c <= 0:
        return 1.0
    low, high = (1 - math.sqrt(c)) ** 2, (1 + math.sqrt(c)) ** 2
    # lambda = middle - half cos(angle) takes the square roots of the density's ends away
    middle, half = (low + high) / 2, (high - low) / 2

    def integrand(angle: float) -> float:
        lam = middle - half * math.cos(angle)
        return (half * math.sin(angle)) ** 2 / math.sqrt(lam) if lam > 0 else 0.0

    return float(integrate.quad(integrand, 0, math.pi, limit=200)[0] / (2 * math.pi * c))


def sampled_w2(d: int, m: int, n: int) -> float:
    """W2 to expect of n uniform points: Marchenko-Pastur with n - 1 degrees of freedom.

    Centring costs one degree of freedom and leaves tr S = 1 - |mu|^2, on average (n - 1)/n. For
    d = m this is `wf.metrics.w2_of_uniform`.
    """
    root = marchenko_pastur_root(d / (n - 1)) * math.sqrt((n - 1) / n)
    return math.sqrt(max(2 - 2 * math.sqrt(d / m) * root, 0.0))


def w2_squared_error(d: int, m: int, n: int) -> float:
    """How far W2^2 of n uniform points may lie from `sampled_w2`: four standard deviations and
    what the limit law leaves out, sqrt(d/m) (2 + 1/4) / n.

    With lambda = 1 + sqrt(c) x, c = d/n, and the trace fixed, sum sqrt(lambda) varies by
    -c/8 sum x^2, whose standard deviation over a real Wigner matrix is 2 (its semicircle on
    [-2, 2]) and whose mean exceeds the law's by 1. W2^2 is -2/sqrt(d m) times that sum.
    """
    return math.sqrt(d / m) * (2 + 1 / 4) / n


def cloned_features_w2(d: int, m: int, clones: int, *, n: int | None = None) -> float:
    """FCC: `clones` copies beside the rows, not normalised again, C = clones + 1 in all.

    W2^2 = C (|mu|^2 + tr S) + 1 - 2/sqrt m tr S^(1/2): the copies' covariance is C times one
    eigenvalue beside zeros, and the target N(0, I/(C m)) takes sqrt C back from its root.
    """
    once = sphere_w2(d, m) if n is None else sampled_w2(d, m, n)
    return math.sqrt(once**2 + clones)


def cloned_features_uniformity(d: int, clones: int, t: float = 2.0) -> float:
    """FCC: L_U of rows and `clones` copies, not normalised again, is L_U at (clones + 1) t."""
    return sphere_uniformity(d, (clones + 1) * t)


def padded_w2(d: int, m: int, zeros: int, *, n: int | None = None) -> float:
    """FBC: `zeros` appended features only turn sqrt m into sqrt(m + zeros); L_U does not change."""
    return sphere_w2(d, m + zeros) if n is None else sampled_w2(d, m + zeros, n)


def cloned_instances_uniformity(value: float, n: int, clones: int, t: float = 2.0) -> float:
    """ICC: L_U of n rows of L_U `value` after `clones` copies of each, C = clones + 1 in all.

    Of the C n (C n - 1)/2 pairs C^2 repeat each pair of old and n C (C - 1)/2 have distance 0.
    """
    c = clones + 1
    same = n * c * (c - 1) / 2
    old = c * c * n * (n - 1) / 2
    return math.log((old * math.exp(value) + same) / (old + same))


# one coordinate of the uniform sphere (lemma 4, theorem 2)


def coordinate_density(y: np.ndarray, m: int) -> np.ndarray:
    """Lemma 4: Gamma(m/2) / (sqrt(pi) Gamma((m-1)/2)) (1 - y^2)^((m-3)/2) on [-1, 1]."""
    log_scale = special.gammaln(m / 2) - special.gammaln((m - 1) / 2) - 0.5 * math.log(math.pi)
    with np.errstate(divide="ignore"):
        inside = np.log1p(-np.square(np.clip(y, -1, 1)))
    return np.exp(log_scale + (m - 3) / 2 * inside)


def coordinate_pair_density(x: np.ndarray, y: np.ndarray, m: int) -> np.ndarray:
    """(m-2)/(2 pi) (1 - x^2 - y^2)^((m-4)/2) inside the unit disc: two coordinates, m > 2."""
    square = x * x + y * y
    inside = np.where(square < 1, 1 - square, 0.0)
    return (m - 2) / (2 * math.pi) * inside ** ((m - 4) / 2)


def coordinate_divergence(m: int) -> float:
    """KL(Y_i | N(0, 1/m)) = log(sqrt(2/m) Gamma(m/2) / Gamma((m-1)/2))
    + (m-3)/2 (psi((m-1)/2) - psi(m/2)) + 1/2."""
    log_scale = 0.5 * math.log(2 / m) + special.gammaln(m / 2) - special.gammaln((m - 1) / 2)
    digammas = special.digamma((m - 1) / 2) - special.digamma(m / 2)
    return float(log_scale + (m - 3) / 2 * digammas + 0.5)


def coordinate_w2(m: int) -> float:
    """W2 between Y_i and N(0, 1/m), the L2 distance of their quantile functions, to 1e-6.

    With the probability written as Phi(x), x normal, the integrand is smooth: the gap of
    Q(Phi(x)), Q^2 a quantile of Beta(1/2, (m-1)/2), and x/sqrt m, both odd in x.
    """

    def integrand(x: float) -> float:
        upper = 2 * stats.norm.sf(x)
        gap = math.sqrt(stats.beta.isf(upper, 0.5, (m - 1) / 2)) - x / math.sqrt(m)
        return float(gap * gap * stats.norm.pdf(x))

    # past 12 the normal has 4e-33 left
    half = integrate.quad(integrand, 0, 12, limit=400, epsabs=1e-16, epsrel=1e-8)[0]
    return math.sqrt(2 * half)


def talagrand_bound(m: int) -> float:
    """T2: W2(Y_i, N(0, 1/m)) <= sqrt(2/m KL)."""
    return math.sqrt(2 / m * coordinate_divergence(m))
