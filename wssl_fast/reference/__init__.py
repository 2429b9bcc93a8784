"""The float64 truth, in plain PyTorch.

Every function computes in float64 on the CPU, whatever dtype and device its input has, from the
singular values of the centred rows and never from a squared matrix, so that a direction at 1e-6 of
the largest keeps all its digits. Gradients are explicit (`*_grad`), because autograd through a
decomposition divides by gaps between singular values. NaN or inf in a problem gives NaN for that
problem. Slow on purpose; nothing else in the package imports it.

Symbols: z (n x m) raw rows, X = D z unit rows, mu their mean, Xc = X - 1 mu^T, S = Xc^T Xc / n.
"""

from wssl_fast.reference._gaussians import (
    batch_covariance,
    frechet_distance,
    frechet_distance_grad,
    gaussian_w2,
    gaussian_w2_grad,
)
from wssl_fast.reference._pairs import alignment, alignment_grad, uniformity, uniformity_grad
from wssl_fast.reference._roots import (
    matrix_inv_sqrt,
    matrix_inv_sqrt_grad,
    matrix_sqrt,
    matrix_sqrt_grad,
)
from wssl_fast.reference._spectra import (
    covariance_spectrum,
    covariance_spectrum_grad,
    effective_rank,
    effective_rank_grad,
    rankme,
    rankme_grad,
)
from wssl_fast.reference._wasserstein import (
    polar_factor,
    polar_weights,
    relative_spectrum,
    wasserstein_uniformity,
    wasserstein_uniformity_grad,
)

__all__ = [
    "alignment",
    "alignment_grad",
    "batch_covariance",
    "covariance_spectrum",
    "covariance_spectrum_grad",
    "effective_rank",
    "effective_rank_grad",
    "frechet_distance",
    "frechet_distance_grad",
    "gaussian_w2",
    "gaussian_w2_grad",
    "matrix_inv_sqrt",
    "matrix_inv_sqrt_grad",
    "matrix_sqrt",
    "matrix_sqrt_grad",
    "polar_factor",
    "polar_weights",
    "rankme",
    "rankme_grad",
    "relative_spectrum",
    "uniformity",
    "uniformity_grad",
    "wasserstein_uniformity",
    "wasserstein_uniformity_grad",
]
