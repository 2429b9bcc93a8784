"""Operators `uniformity` (L_U) and `alignment`.

uniformity(z (b,n,m), t, normalize, with_grad, backend)
    -> value (b), moments (b,n,m), scale (b,n), total (b,2), shift (b,n)
alignment(x (b,n,m), y (b,n,m), alpha, normalize) -> value (b)
"""

from typing import Any

import torch
from torch import Tensor

from wssl_fast.backends import choice
from wssl_fast.backends.eager import alignment as alignment_backend
from wssl_fast.backends.eager import uniformity as uniformity_backend
from wssl_fast.backends.eager.numerics import working_dtype
from wssl_fast.backends.eager.uniformity import PairSums
from wssl_fast.ops._library import define, differentiate, forbid_double_backward, stack

Sums = tuple[Tensor, ...]


def _uniformity(
    z: Tensor, t: float, normalize: bool, with_grad: bool, backend: str = "auto"
) -> Sums:
    if choice.resolve(backend, z.device) != "eager":
        from wssl_fast.backends.triton import uniformity as kernels

        return tuple(kernels.forward(z, t, normalize, with_grad))
    sums = [uniformity_backend.forward(x, t, normalize, with_grad) for x in z]
    value, *kept = (stack(list(field)) for field in zip(*sums, strict=True))
    return (value.to(working_dtype(z)), *kept)


def _uniformity_fake(
    z: Tensor, t: float, normalize: bool, with_grad: bool, backend: str = "auto"
) -> Sums:
    b, n, m = z.shape
    moments = (b, n, m) if with_grad else (b, 0, 0)
    return (
        z.new_empty(b, dtype=working_dtype(z)),
        z.new_empty(moments, dtype=working_dtype(z)),
        z.new_empty(b, n, dtype=torch.float64),
        z.new_empty(b, 2, dtype=torch.float64),
        z.new_empty(b, n if with_grad else 0, dtype=torch.float64),
    )


def _uniformity_backward(
    grad: Tensor, z: Tensor, moments: Tensor, scale: Tensor, total: Tensor, shift: Tensor,
    t: float, normalize: bool, backend: str = "auto",
) -> Tensor:  # fmt: skip
    if choice.resolve(backend, z.device) != "eager":
        from wssl_fast.backends.triton import uniformity_rows as kernels

        return kernels.backward(grad, z, moments, scale, total, shift, t, normalize)
    return stack(
        [
            uniformity_backend.backward(
                z[i], PairSums(g, moments[i], scale[i], total[i], shift[i]), g, t, normalize
            )
            for i, g in enumerate(grad.double())
        ]
    )


def _uniformity_backward_fake(
    grad: Tensor, z: Tensor, moments: Tensor, scale: Tensor, total: Tensor, shift: Tensor,
    t: float, normalize: bool, backend: str = "auto",
) -> Tensor:  # fmt: skip
    return z.new_empty(z.shape)


uniformity = define(
    'uniformity(Tensor z, float t, bool normalize, bool with_grad, str backend="auto") '
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _uniformity,
    _uniformity_fake,
)
_uniformity_backward_op = define(
    "uniformity_backward(Tensor grad, Tensor z, Tensor moments, Tensor scale, Tensor total, "
    'Tensor shift, float t, bool normalize, str backend="auto") -> Tensor',
    _uniformity_backward,
    _uniformity_backward_fake,
)


def _uniformity_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(inputs[0], *output[1:])
    ctx.t, ctx.normalize, _, ctx.backend = inputs[1:]


def _uniformity_autograd(ctx: Any, grad: Tensor, *unused: Tensor) -> tuple[Tensor | None, ...]:
    dz = _uniformity_backward_op(grad, *ctx.saved_tensors, ctx.t, ctx.normalize, ctx.backend)
    return dz, None, None, None, None


differentiate(uniformity, "uniformity", _uniformity_context, _uniformity_autograd)
forbid_double_backward(_uniformity_backward_op, "uniformity")


def _alignment(x: Tensor, y: Tensor, alpha: float, normalize: bool) -> Tensor:
    values = [alignment_backend.forward(a, b, alpha, normalize) for a, b in zip(x, y, strict=True)]
    return stack(values).to(working_dtype(x))


def _alignment_fake(x: Tensor, y: Tensor, alpha: float, normalize: bool) -> Tensor:
    return x.new_empty(x.shape[0], dtype=working_dtype(x))


def _alignment_backward(
    grad: Tensor, x: Tensor, y: Tensor, alpha: float, normalize: bool
) -> tuple[Tensor, Tensor]:
    pairs = [
        alignment_backend.backward(a, b, g, alpha, normalize)
        for a, b, g in zip(x, y, grad.double(), strict=True)
    ]
    return stack([p[0] for p in pairs]), stack([p[1] for p in pairs])


def _alignment_backward_fake(
    grad: Tensor, x: Tensor, y: Tensor, alpha: float, normalize: bool
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), y.new_empty(y.shape)


alignment = define(
    "alignment(Tensor x, Tensor y, float alpha, bool normalize) -> Tensor",
    _alignment,
    _alignment_fake,
)
_alignment_backward_op = define(
    "alignment_backward(Tensor grad, Tensor x, Tensor y, float alpha, bool normalize) "
    "-> (Tensor, Tensor)",
    _alignment_backward,
    _alignment_backward_fake,
)


def _alignment_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.alpha, ctx.normalize = inputs[2:]


def _alignment_autograd(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, y = ctx.saved_tensors
    dx, dy = _alignment_backward_op(grad, x, y, ctx.alpha, ctx.normalize)
    return dx, dy, None, None


differentiate(alignment, "alignment", _alignment_context, _alignment_autograd)
forbid_double_backward(_alignment_backward_op, "alignment")
