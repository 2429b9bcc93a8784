"""W2 composed from PyTorch calls: what the kernels have to beat.

`composed_w2` is the algorithm of the package as an expert would write it in PyTorch: two products
with z, a Newton-Schulz root by the committed schedule, an explicit gradient, no host
synchronisation. Float32 products stay float32; half-precision rows are multiplied as they are into
float32, which is exact, and so is cuBLAS's fastest. Written for healthy batches: one float32 pass,
no look at what it cannot resolve, the mean taken out of the Gram matrix. `fast=True` is the same in
TF32, less accurate. `muon_w2` takes the polar factor of the rows by Muon's five bfloat16 steps.

All take raw rows z (n x m) and return W2, differentiable once.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from wssl_fast.backends.eager.newton_schulz import SCHEDULES

MUON = (3.4445, -4.7750, 2.0315)  # Jordan et al., "Muon" (2024); torch.optim.Muon's defaults
MUON_STEPS = 5


def composed_w2(z: Tensor, *, fast: bool = False) -> Tensor:
    """W2 by the smaller of the Gram and the covariance matrix."""
    form: Any = _Gram if z.shape[0] <= z.shape[1] else _Covariance
    value: Tensor = form.apply(z, fast)
    return value


def muon_w2(z: Tensor) -> Tensor:
    """W2 with Muon's approximate polar factor, whose singular values are within 0.3 of 1."""
    value: Tensor = _Muon.apply(z)
    return value


def newton_schulz(a: Tensor) -> Tensor:
    """a^(-1/2), a (k, k) float32 positive definite: 25 products of k x k."""
    schedule = SCHEDULES[torch.float32]
    norm = torch.linalg.vector_norm(a)
    r = a / norm
    q = r  # replaced in the first step
    for j, (c0, c1, c2) in enumerate(schedule):
        p = torch.addmm(r, r, r, beta=c1, alpha=c2)
        p.diagonal().add_(c0)
        q = p if j == 0 else q @ p
        if j + 1 < len(schedule):
            r = p @ r @ p
            r = torch.lerp(r, r.mT, 0.5)
    return torch.lerp(q, q.mT, 0.5) * norm.rsqrt()


def gram_root(c: Tensor, m: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """From c = z z^T (n, n) float32 of raw rows z (n, m): W2, 1/|z_i|, Q = A^(-1/2), C = X X^T."""
    n = c.shape[0]
    inv = c.diagonal().rsqrt()
    c = inv[:, None] * c * inv
    mean = c.mean(0)
    g = (c - mean - (mean - mean.mean())[:, None]) / n
    q = newton_schulz(g + g.diagonal().mean() / n)  # 1/sqrt n, a null vector, lifted
    value = (2 - 2 / math.sqrt(m) * (q * g).sum()).clamp_min(0).sqrt()
    return value, inv, q, c


def gram_weights(q: Tensor, c: Tensor) -> Tensor:
    """B - diag rowsum(B C), B = H Q: W of backends/eager/w2_gram.py without -2/(n sqrt m)."""
    a = q - q.mean(0)
    a.diagonal().sub_((a * c).sum(1))
    return a


class _Gram(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, fast: bool) -> Tensor:
        with _float32_products(fast):
            value, inv, q, c = gram_root(_into_float32(z, z.mT), z.shape[1])
        if ctx.needs_input_grad[0]:
            a = gram_weights(q, c).mul_(inv).mul_(inv[:, None])
            ctx.save_for_backward(z, a, value)
            ctx.fast = fast
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        z, a, value = ctx.saved_tensors
        n, m = z.shape
        w = (grad / value * (-1 / (n * math.sqrt(m))) * a).to(z.dtype)
        with _float32_products(ctx.fast):
            return w @ z, None


class _Covariance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, fast: bool) -> Tensor:
        n, m = z.shape
        inv = torch.linalg.vector_norm(z, dim=1, keepdim=True, dtype=torch.float32).reciprocal()
        x = z * inv
        centred = x - x.mean(0)
        with _float32_products(fast):
            s = centred.mT @ centred / n
            q = newton_schulz(s)
        value = (2 - 2 / math.sqrt(m) * (q * s).sum()).clamp_min(0).sqrt()
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(z, inv, x, centred, q, value)
            ctx.fast = fast
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        z, inv, x, centred, q, value = ctx.saved_tensors
        n, m = z.shape
        with _float32_products(ctx.fast):
            p = centred @ q
        tangent = p - (p * x).sum(1, keepdim=True) * x
        return (grad / value * (-1 / (n * math.sqrt(m))) * inv * tangent).to(z.dtype), None


class _Muon(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        n, m = z.shape
        x = F.normalize(z.float(), dim=1)
        centred = x - x.mean(0)
        polar = _muon_polar(centred)
        value = (2 - 2 / math.sqrt(n * m) * (polar * centred).sum()).clamp_min(0).sqrt()
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(z, x, polar, value)
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        z, x, polar, value = ctx.saved_tensors
        n, m = z.shape
        tangent = polar - (polar * x).sum(1, keepdim=True) * x
        inv = torch.linalg.vector_norm(z, dim=1, keepdim=True, dtype=torch.float32).reciprocal()
        return (grad / value * (-1 / math.sqrt(n * m)) * inv * tangent).to(z.dtype)


def _muon_polar(x: Tensor) -> Tensor:
    """About U V^T of x = U S V^T, in bfloat16."""
    c0, c1, c2 = MUON
    y = (x / torch.linalg.vector_norm(x)).bfloat16()
    y = y.mT if y.shape[0] > y.shape[1] else y
    for _ in range(MUON_STEPS):
        gram = y @ y.mT
        update = torch.addmm(gram, gram, gram, beta=c1, alpha=c2)
        y = torch.addmm(y, update, y, beta=c0)
    return y.mT if x.shape[0] > x.shape[1] else y


def _into_float32(a: Tensor, b: Tensor) -> Tensor:
    """a b in float32. Half-precision operands stay: their products are exact in float32."""
    if a.dtype == torch.float32 or a.device.type != "cuda":
        return a.float() @ b.float()
    return torch.mm(a, b, out_dtype=torch.float32)


@contextmanager
def _float32_products(fast: bool) -> Iterator[None]:
    """Float32 products in TF32 if `fast`; the caller's setting otherwise (float32 by default)."""
    if not fast:
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
