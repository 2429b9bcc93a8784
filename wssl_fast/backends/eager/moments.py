"""Mean and population covariance of a batch of rows, and their gradient.

    mu = mean_i x_i,  S = (1/n) sum_i (x_i - mu)(x_i - mu)^T
    dL/dx_i = (1/n) (dL/dmu + (x_i - mu) (dL/dS + dL/dS^T))

The product scales and centres rows while it packs them: no digit is lost to a large mean.
"""

import torch
from torch import Tensor

from wssl_fast.backends.eager import products
from wssl_fast.backends.eager.numerics import working_dtype
from wssl_fast.backends.eager.w2_covariance import tangent_epilogue


def forward(z: Tensor, normalize: bool) -> tuple[Tensor, Tensor]:
    """mean (m,), covariance (m, m) of z (n, m), in the dtype of results."""
    dtype = working_dtype(z)
    scale, mean = products.row_statistics(z, normalize)
    how = {"scale": scale if normalize else None, "mean": mean}
    s = products.symmetric_product(z, dtype, covariance=True, **how)
    if not bool(s.diagonal().isfinite().all()):  # sums that float32 cannot hold; or a NaN
        s = products.symmetric_product(z, torch.float64, covariance=True, **how)
    if not products.compiled(z):
        s = s.tril() + s.tril(-1).mT  # a GEMM is symmetric to its rounding
    return mean.to(dtype), s.div_(len(z)).to(dtype)


def backward(z: Tensor, grad_mean: Tensor, grad_cov: Tensor, normalize: bool) -> Tensor:
    """Gradient in z (n, m), in its dtype."""
    dtype, n = working_dtype(z), len(z)
    scale, mean = products.row_statistics(z, normalize)
    both = (grad_cov + grad_cov.mT).to(dtype) / n  # (m, m)
    shift = mean @ both.double() - grad_mean.double() / n  # (m,)
    dz = torch.empty(z.shape, dtype=z.dtype, device=z.device)
    one = torch.ones((), dtype=torch.float64, device=z.device)
    for start in range(0, n, products.CHUNK):
        part = slice(start, start + products.CHUNK)
        if normalize:
            x = (z[part].double() * scale[part, None]).to(dtype)
            t = x @ both
            tangent_epilogue(t, z[part], torch.ones_like(scale[part]), scale[part], shift, one)
        else:
            t = torch.addmm(-shift.to(dtype), z[part].to(dtype), both)
        dz[part] = t.to(z.dtype)
    return dz
