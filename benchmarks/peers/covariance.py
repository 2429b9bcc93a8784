"""W2 through an eigendecomposition of S or a singular value decomposition of the centred rows."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def literal_w2(
    z: Tensor, *, squared: bool = False, normalize: bool = True, eps: float = 0.0
) -> Tensor:
    """The paper's own loss: S^(1/2) = Q diag(sqrt|s|) Q^T in full, then its trace.

    Source: statsle/WassersteinSSL, code/BarlowTwins/module.py, `calc_wasserstein_loss`, with its
    `torch.eig` (gone from PyTorch) replaced as its authors advise, by `torch.linalg.eigh`. Autograd
    through the eigenvectors divides by differences of eigenvalues and through sqrt by zero
    eigenvalues: NaN for n <= m as soon as an eigenvalue is exactly 0 or two are equal.
    `eps` is the ridge of the source (0 for BYOL, 1e-12 for Barlow Twins, 1e-4 for MoCo).
    """
    x = F.normalize(z, dim=1) if normalize else z
    n, m = x.shape
    mean = x.mean(0)
    centred = x - mean
    covariance = centred.T @ centred / n + eps * torch.eye(m, dtype=x.dtype, device=x.device)
    s, q = torch.linalg.eigh(covariance)
    root = q @ torch.sqrt(torch.diag(s.abs())) @ q.T
    squared_distance = mean.square().sum() + 1 + torch.trace(covariance - 2 / math.sqrt(m) * root)
    return squared_distance if squared else squared_distance.sqrt()


def eigvalsh_w2(z: Tensor, *, squared: bool = False, normalize: bool = True) -> Tensor:
    """The eigenvalues of S alone, clamped: `eigvalsh`'s gradient needs no eigenvalue differences.

    Only tr S^(1/2) enters W2, so the square root itself is never formed. The clamp at the dtype's
    smallest normal number keeps sqrt'(0) out of the backward.
    """
    x = F.normalize(z, dim=1) if normalize else z
    n, m = x.shape
    mean = x.mean(0)
    centred = x - mean
    covariance = centred.T @ centred / n
    eigenvalues = torch.linalg.eigvalsh(covariance).clamp(min=torch.finfo(x.dtype).tiny)
    trace_root = eigenvalues.sqrt().sum()
    squared_distance = mean.square().sum() + 1 + covariance.trace() - 2 / math.sqrt(m) * trace_root
    return squared_distance if squared else squared_distance.clamp(min=0).sqrt()


def svdvals_w2(z: Tensor, *, squared: bool = False, normalize: bool = True) -> Tensor:
    """The honest opponent: tr S^(1/2) = |Xc|_* / sqrt(n), a nuclear norm of the centred rows.

    No matrix is squared, so the value and the polar-factor gradient are exact to float32 on every
    spectrum; the price is a singular value decomposition of n x m.
    """
    x = F.normalize(z, dim=1) if normalize else z
    n, m = x.shape
    mean = x.mean(0)
    centred = x - mean
    nuclear = torch.linalg.svdvals(centred).sum()
    squared_distance = (
        mean.square().sum() + 1 + centred.square().sum() / n - 2 / math.sqrt(n * m) * nuclear
    )
    return squared_distance if squared else squared_distance.clamp(min=0).sqrt()
