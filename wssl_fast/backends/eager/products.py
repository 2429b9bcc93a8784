"""Symmetric products and row statistics: compiled where csrc/cpu is built, PyTorch elsewhere."""

import torch
from torch import Tensor

from wssl_fast.backends import native

# Rows or columns converted at a time where a whole converted copy would cost n m elements.
CHUNK = 1024


def compiled(*tensors: Tensor) -> bool:
    """Whether the compiled passes of csrc/cpu take these tensors: on the CPU, and not empty."""
    return native.available() and all(t.device.type == "cpu" and t.numel() for t in tensors)


def symmetric_product(
    z: Tensor,
    dtype: torch.dtype,
    *,
    covariance: bool = False,
    scale: Tensor | None = None,
    mean: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Y Y^T (n, n), or Y^T Y (m, m) when `covariance`; Y = diag(scale) z - 1 mean^T, accumulated
    and returned in `dtype`, in a contiguous `out` of it if given. scale (n,) and mean (m,) are
    float64. No (n, m) copy is made."""
    if compiled(z):
        return native.symmetric_product(
            z, covariance=covariance, scale=scale, mean=mean, dtype=dtype, out=out
        )
    if z.dtype == dtype and scale is None and mean is None:
        return torch.mm(z.mT, z, out=out) if covariance else torch.mm(z, z.mT, out=out)
    n, m = z.shape
    k = m if covariance else n
    out = torch.empty(k, k, dtype=dtype, device=z.device) if out is None else out
    out.zero_()
    for start in range(0, n if covariance else m, CHUNK):
        part = slice(start, start + CHUNK)
        y = z[part] if covariance else z[:, part]
        y = y.to(torch.float64 if scale is not None or mean is not None else dtype)
        if scale is not None:
            y = y * (scale[part] if covariance else scale)[:, None]
        if mean is not None:
            y = y - (mean if covariance else mean[part])
        y = y.to(dtype)
        out.addmm_(y.mT, y) if covariance else out.addmm_(y, y.mT)
    return out


def row_statistics(z: Tensor, normalize: bool) -> tuple[Tensor, Tensor]:
    """inv_norm (n,) and mean (m,), float64.

    inv_norm is 1/|z_i|, 0 for a row of zeros and NaN for a row that is not finite; ones when
    not `normalize`. mean is the mean of the rows times inv_norm.
    """
    if normalize and compiled(z):
        return native.row_pass(z)
    if not normalize:
        ones = torch.ones(z.shape[0], dtype=torch.float64, device=z.device)
        return ones, z.mean(0, dtype=torch.float64)
    inv_norm = inverse_norms(z)
    mean = torch.zeros(z.shape[1], dtype=torch.float64, device=z.device)
    for start in range(0, z.shape[0], CHUNK):
        part = slice(start, start + CHUNK)
        mean += inv_norm[part] @ z[part].double()
    return inv_norm, mean / z.shape[0]


def unit_rows(z: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """1/|z_i| float64 (n,), and the rows times that (n, m) contiguous in `dtype`; zero rows stay
    zero."""
    scale = inverse_norms(z)
    if z.device.type == "cpu" and bool(scale.max() < torch.finfo(dtype).max):
        x = z.to(dtype) * scale.to(dtype)[:, None]
    else:  # also where a norm is NaN, and where a look would wait for the device
        x = (z.double() * scale[:, None]).to(dtype)
    return scale, x.contiguous()


def inverse_norms(z: Tensor) -> Tensor:
    """1/|z_i| in float64, safe from overflow and underflow of the squares; 0 for zero rows. (n,)"""
    if compiled(z):
        return native.row_pass(z)[0]
    out = torch.empty(z.shape[0], dtype=torch.float64, device=z.device)
    for start in range(0, z.shape[0], CHUNK):
        x = z[start : start + CHUNK].double()
        largest = x.abs().amax(-1)
        norm = largest * torch.linalg.vector_norm(
            x / torch.where(largest > 0, largest, 1.0)[:, None], dim=-1
        )
        inv = torch.where(norm > 0, norm.reciprocal(), norm)  # NaN stays NaN, 0 stays 0
        out[start : start + CHUNK] = torch.where(norm.isinf(), torch.nan, inv)
    return out
