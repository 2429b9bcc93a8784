"""wssl_fast: the Gaussian 2-Wasserstein uniformity loss of self-supervised learning, fast.

>>> import torch, wssl_fast as wf
>>> z = torch.randn(256, 1024, requires_grad=True)
>>> loss = wf.wasserstein_uniformity(z)
>>> loss.backward()
"""

from wssl_fast import metrics, nn, reference
from wssl_fast.functional import (
    alignment,
    batch_covariance,
    frechet_distance,
    gaussian_w2,
    uniformity,
    wasserstein_uniformity,
)
from wssl_fast.spectra import (
    covariance_spectrum,
    effective_rank,
    matrix_inv_sqrt,
    matrix_sqrt,
    rankme,
)

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "alignment",
    "batch_covariance",
    "covariance_spectrum",
    "effective_rank",
    "frechet_distance",
    "gaussian_w2",
    "matrix_inv_sqrt",
    "matrix_sqrt",
    "metrics",
    "nn",
    "rankme",
    "reference",
    "uniformity",
    "wasserstein_uniformity",
]
