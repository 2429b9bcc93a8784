"""Operators `w2_gram` and `w2_covariance`: one loss, two formulations with the same signature.

    w2_*(z (b,n,m), ...) -> value (b), weights (b,k,k), scale (b,n), mean (b,m or 0), deep (b)

`backend` is what was asked for; backends/choice.py says what that means for a device. value is W2
or W2^2. The rest is what the backward needs besides z: the weights (n x n in the Gram
formulation, m x m in the covariance formulation) and a few vectors.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from wssl_fast.backends import choice
from wssl_fast.backends.eager import w2_covariance, w2_gram
from wssl_fast.backends.eager.numerics import working_dtype
from wssl_fast.backends.eager.state import State, weights_dtype
from wssl_fast.ops._distance import finish, slope
from wssl_fast.ops._library import Operator, define, differentiate, forbid_double_backward, stack

Outputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def _by_kernels(backend: str, solver: str, z: Tensor) -> bool:
    """Whether GPU kernels compute this: eigh is PyTorch's on every device."""
    return solver != "eigh" and choice.resolve(backend, z.device) != "eager"


def _forward(module: ModuleType) -> Callable[..., Outputs]:
    gram = module is w2_gram

    def implementation(
        z: Tensor,
        normalize: bool,
        squared: bool,
        eps: float,
        solver: str,
        precision: str,
        with_grad: bool,
        backend: str,
    ) -> Outputs:
        if _by_kernels(backend, solver, z):
            from wssl_fast.backends.triton import w2 as kernels

            return kernels.forward(
                z, normalize, squared, eps, precision, with_grad, not gram, backend
            )
        states = [module.forward(x, normalize, eps, solver, precision, with_grad) for x in z]
        dtype = weights_dtype(z.dtype, precision)
        return (
            finish([s.value for s in states], squared, working_dtype(z)),
            stack([s.weights.to(dtype) for s in states]),
            stack([s.scale for s in states]),
            stack([s.mean for s in states]),
            stack([s.deep for s in states]),
        )

    return implementation


def _fake(gram: bool) -> Callable[..., Outputs]:
    def fake(
        z: Tensor,
        normalize: bool,
        squared: bool,
        eps: float,
        solver: str,
        precision: str,
        with_grad: bool,
        backend: str,
    ) -> Outputs:
        b, n, m = z.shape
        k = 0 if not with_grad else n if gram else m
        return (
            z.new_empty(b, dtype=working_dtype(z)),
            z.new_empty(b, k, k, dtype=weights_dtype(z.dtype, precision)),
            z.new_empty(b, n, dtype=torch.float64),
            z.new_empty(b, 0 if gram else m, dtype=torch.float64),
            z.new_empty(b, dtype=torch.bool),
        )

    return fake


def _backward(module: ModuleType) -> Callable[..., Tensor]:
    gram = module is w2_gram

    def implementation(
        grad: Tensor,
        value: Tensor,
        z: Tensor,
        weights: Tensor,
        scale: Tensor,
        mean: Tensor,
        deep: Tensor,
        normalize: bool,
        squared: bool,
        solver: str,
        backend: str,
    ) -> Tensor:
        if _by_kernels(backend, solver, z):
            from wssl_fast.backends.triton import w2 as kernels

            return kernels.backward(
                grad, value, z, weights, scale, mean, deep, normalize, squared, not gram
            )
        return stack(
            [
                module.backward(
                    z[i], State(value[i], weights[i], scale[i], mean[i], deep[i]), c, normalize
                )
                for i, c in enumerate(slope(grad, value, squared))
            ]
        )

    return implementation


def _fake_backward(
    grad: Tensor,
    value: Tensor,
    z: Tensor,
    weights: Tensor,
    scale: Tensor,
    mean: Tensor,
    deep: Tensor,
    normalize: bool,
    squared: bool,
    solver: str,
    backend: str,
) -> Tensor:
    return z.new_empty(z.shape)


def _register(name: str, module: ModuleType) -> Operator:
    operator = define(
        f"{name}(Tensor z, bool normalize, bool squared, float eps, str solver, str precision, "
        "bool with_grad, str backend) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
        _forward(module),
        _fake(gram=module is w2_gram),
    )
    operator_backward = define(
        f"{name}_backward(Tensor grad, Tensor value, Tensor z, Tensor weights, Tensor scale, "
        "Tensor mean, Tensor deep, bool normalize, bool squared, str solver, str backend) "
        "-> Tensor",
        _backward(module),
        _fake_backward,
    )

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Outputs) -> None:
        ctx.save_for_backward(inputs[0], *output)
        ctx.normalize, ctx.squared = inputs[1:3]
        ctx.solver, ctx.backend = inputs[4], inputs[7]

    def backward(ctx: Any, grad: Tensor, *unused: Tensor) -> tuple[Tensor | None, ...]:
        z, value, weights, scale, mean, deep = ctx.saved_tensors
        saved = (value, z, weights, scale, mean, deep)
        how = (ctx.normalize, ctx.squared, ctx.solver, ctx.backend)
        return operator_backward(grad, *saved, *how), *(None,) * 7

    differentiate(operator, "wasserstein_uniformity", setup_context, backward)
    forbid_double_backward(operator_backward, "wasserstein_uniformity")
    return operator


gram = _register("w2_gram", w2_gram)
covariance = _register("w2_covariance", w2_covariance)
