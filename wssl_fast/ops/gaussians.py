"""Operators on Gaussians: `batch_covariance`, `gaussian_w2`, `frechet_distance`.

batch_covariance(z (b,n,m), normalize) -> mean (b,m), cov (b,m,m)
gaussian_w2(mean_x (b,m), cov_x (b,m,m), mean_y (b,m), cov_y (b,m,m), squared)
    -> value (b), transport_x (b,m,m), transport_y (b,m,m)
frechet_distance(x (b,n_x,m), y (b,n_y,m), squared, eps, solver) -> value (b), left, right
    left, right: polar factor (b,n_x,n_y) and its transpose, or two transport maps (b,m,m)
"""

from typing import Any

import torch
from torch import Tensor

from wssl_fast.backends.eager import gaussians, moments
from wssl_fast.backends.eager.numerics import working_dtype
from wssl_fast.backends.eager.sqrtm import symmetric_part
from wssl_fast.ops._distance import finish, slope
from wssl_fast.ops._library import define, differentiate, forbid_double_backward, stack

Three = tuple[Tensor, Tensor, Tensor]


def _covariance(z: Tensor, normalize: bool) -> tuple[Tensor, Tensor]:
    pairs = [moments.forward(x, normalize) for x in z]
    return stack([p[0] for p in pairs]), stack([p[1] for p in pairs])


def _covariance_fake(z: Tensor, normalize: bool) -> tuple[Tensor, Tensor]:
    b, _, m = z.shape
    dtype = working_dtype(z)
    return z.new_empty(b, m, dtype=dtype), z.new_empty(b, m, m, dtype=dtype)


def _covariance_backward(z: Tensor, grad_mean: Tensor, grad_cov: Tensor, normalize: bool) -> Tensor:
    problems = zip(z, grad_mean, grad_cov, strict=True)
    return stack([moments.backward(x, gm, gc, normalize) for x, gm, gc in problems])


def _covariance_backward_fake(
    z: Tensor, grad_mean: Tensor, grad_cov: Tensor, normalize: bool
) -> Tensor:
    return z.new_empty(z.shape)


batch_covariance = define(
    "batch_covariance(Tensor z, bool normalize) -> (Tensor, Tensor)",
    _covariance,
    _covariance_fake,
)
_covariance_backward_op = define(
    "batch_covariance_backward(Tensor z, Tensor grad_mean, Tensor grad_cov, bool normalize) "
    "-> Tensor",
    _covariance_backward,
    _covariance_backward_fake,
)


def _covariance_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(inputs[0])
    ctx.normalize = inputs[1]


def _covariance_autograd(ctx: Any, grad_mean: Tensor, grad_cov: Tensor) -> tuple[Any, ...]:
    (z,) = ctx.saved_tensors
    return _covariance_backward_op(z, grad_mean, grad_cov, ctx.normalize), None


differentiate(batch_covariance, "batch_covariance", _covariance_context, _covariance_autograd)
forbid_double_backward(_covariance_backward_op, "batch_covariance")


def _gaussian(mean_x: Tensor, cov_x: Tensor, mean_y: Tensor, cov_y: Tensor, squared: bool) -> Three:
    mx, cx, my, cy = (t.double() for t in (mean_x, cov_x, mean_y, cov_y))
    gap = ((mx - my) ** 2).sum(-1)
    found = [
        gaussians.covariance_distance(symmetric_part(a), symmetric_part(b), "eigh")
        for a, b in zip(cx, cy, strict=True)
    ]
    values = [g + f[0] for g, f in zip(gap, found, strict=True)]
    return (
        finish(values, squared, working_dtype(mean_x)),
        stack([f[1] for f in found]),
        stack([f[2] for f in found]),
    )


def _gaussian_fake(
    mean_x: Tensor, cov_x: Tensor, mean_y: Tensor, cov_y: Tensor, squared: bool
) -> Three:
    b, m = mean_x.shape
    return (
        mean_x.new_empty(b, dtype=working_dtype(mean_x)),
        mean_x.new_empty(b, m, m, dtype=torch.float64),
        mean_x.new_empty(b, m, m, dtype=torch.float64),
    )


def _gaussian_backward(
    grad: Tensor, value: Tensor, mean_x: Tensor, cov_x: Tensor, mean_y: Tensor, cov_y: Tensor,
    transport_x: Tensor, transport_y: Tensor, squared: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    trace_x, trace_y = (c.double().diagonal(dim1=-2, dim2=-1).sum(-1) for c in (cov_x, cov_y))
    scale = (trace_x + trace_y).clamp_min(0).sqrt()
    c = slope(grad, value, squared, scale)[:, None]
    gap = c * 2 * (mean_x.double() - mean_y.double())
    eye = torch.eye(mean_x.shape[1], dtype=torch.float64, device=mean_x.device)
    dx, dy = c[..., None] * (eye - transport_x), c[..., None] * (eye - transport_y)
    dtype = mean_x.dtype
    return gap.to(dtype), dx.to(dtype), -gap.to(dtype), dy.to(dtype)


def _gaussian_backward_fake(
    grad: Tensor, value: Tensor, mean_x: Tensor, cov_x: Tensor, mean_y: Tensor, cov_y: Tensor,
    transport_x: Tensor, transport_y: Tensor, squared: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    mean, cov = mean_x.shape, transport_x.shape
    return (
        mean_x.new_empty(mean),
        mean_x.new_empty(cov),
        mean_x.new_empty(mean),
        mean_x.new_empty(cov),
    )


gaussian_w2 = define(
    "gaussian_w2(Tensor mean_x, Tensor cov_x, Tensor mean_y, Tensor cov_y, bool squared) "
    "-> (Tensor, Tensor, Tensor)",
    _gaussian,
    _gaussian_fake,
)
_gaussian_backward_op = define(
    "gaussian_w2_backward(Tensor grad, Tensor value, Tensor mean_x, Tensor cov_x, Tensor mean_y, "
    "Tensor cov_y, Tensor transport_x, Tensor transport_y, bool squared) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    _gaussian_backward,
    _gaussian_backward_fake,
)


def _gaussian_context(ctx: Any, inputs: tuple[Any, ...], output: Three) -> None:
    ctx.save_for_backward(*inputs[:4], *output)
    ctx.squared = inputs[4]


def _gaussian_autograd(ctx: Any, grad: Tensor, *unused: Tensor) -> tuple[Any, ...]:
    mean_x, cov_x, mean_y, cov_y, value, kx, ky = ctx.saved_tensors
    given = (mean_x, cov_x, mean_y, cov_y)
    return *_gaussian_backward_op(grad, value, *given, kx, ky, ctx.squared), None


differentiate(gaussian_w2, "gaussian_w2", _gaussian_context, _gaussian_autograd)
forbid_double_backward(_gaussian_backward_op, "gaussian_w2")


def _frechet(x: Tensor, y: Tensor, squared: bool, eps: float, solver: str) -> Three:
    found = [gaussians.frechet_forward(a, b, eps, solver) for a, b in zip(x, y, strict=True)]
    return (
        finish([f.value for f in found], squared, working_dtype(x)),
        stack([f.left for f in found]),
        stack([f.right for f in found]).clone(memory_format=torch.contiguous_format),
    )


def _frechet_fake(x: Tensor, y: Tensor, squared: bool, eps: float, solver: str) -> Three:
    (b, n_x, m), n_y = x.shape, y.shape[1]
    gram = gaussians.gram_formulation(n_x, n_y, m, eps)
    p, q = (n_x, n_y) if gram else (m, m)
    return (
        x.new_empty(b, dtype=working_dtype(x)),
        x.new_empty(b, p, q, dtype=torch.float64),
        x.new_empty(b, q, p, dtype=torch.float64),
    )


def _frechet_backward(
    grad: Tensor, value: Tensor, x: Tensor, y: Tensor, left: Tensor, right: Tensor,
    squared: bool, eps: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    scale = (
        None if squared else stack([gaussians.spread(a, b, eps) for a, b in zip(x, y, strict=True)])
    )
    problems = zip(x, y, left, right, slope(grad, value, squared, scale), strict=True)
    pairs = [gaussians.frechet_backward(a, b, le, ri, eps, c) for a, b, le, ri, c in problems]
    return stack([p[0] for p in pairs]), stack([p[1] for p in pairs])


def _frechet_backward_fake(
    grad: Tensor, value: Tensor, x: Tensor, y: Tensor, left: Tensor, right: Tensor,
    squared: bool, eps: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return x.new_empty(x.shape), y.new_empty(y.shape)


frechet_distance = define(
    "frechet_distance(Tensor x, Tensor y, bool squared, float eps, str solver) "
    "-> (Tensor, Tensor, Tensor)",
    _frechet,
    _frechet_fake,
)
_frechet_backward_op = define(
    "frechet_distance_backward(Tensor grad, Tensor value, Tensor x, Tensor y, Tensor left, "
    "Tensor right, bool squared, float eps) -> (Tensor, Tensor)",
    _frechet_backward,
    _frechet_backward_fake,
)


def _frechet_context(ctx: Any, inputs: tuple[Any, ...], output: Three) -> None:
    ctx.save_for_backward(*inputs[:2], *output)
    ctx.squared, ctx.eps = inputs[2:4]


def _frechet_autograd(ctx: Any, grad: Tensor, *unused: Tensor) -> tuple[Any, ...]:
    x, y, value, left, right = ctx.saved_tensors
    dx, dy = _frechet_backward_op(grad, value, x, y, left, right, ctx.squared, ctx.eps)
    return dx, dy, None, None, None


differentiate(frechet_distance, "frechet_distance", _frechet_context, _frechet_autograd)
forbid_double_backward(_frechet_backward_op, "frechet_distance")
