"""Operators on spectra.

covariance_spectrum(z (b,n,m), with_grad) -> eigenvalues (b,k), directions (b,k,k), k = min(n, m)
effective_rank(z (b,n,m), with_grad) -> rank (b), matrix (b,k,k) of its gradient
rankme(z (b,n,m), with_grad) -> rank (b), matrix (b,k,k) of its gradient
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from wssl_fast.backends.eager import spectrum
from wssl_fast.backends.eager.numerics import working_dtype
from wssl_fast.ops._library import define, differentiate, forbid_double_backward, stack

Pair = tuple[Tensor, Tensor]


def _spectrum(z: Tensor, with_grad: bool) -> Pair:
    found = [spectrum.decompose(x, centred=True) for x in z]
    keep = slice(None) if with_grad else slice(0)
    return (
        stack([f[0] for f in found]).to(working_dtype(z)),
        stack([f[1][keep, keep] for f in found]),
    )


def _spectrum_fake(z: Tensor, with_grad: bool) -> Pair:
    b, n, m = z.shape
    k = torch.sym_min(n, m)
    kept = k if with_grad else 0
    return (
        z.new_empty(b, k, dtype=working_dtype(z)),
        z.new_empty(b, kept, kept, dtype=torch.float64),
    )


def _spectrum_backward(grad: Tensor, z: Tensor, directions: Tensor) -> Tensor:
    one = torch.ones((), dtype=torch.float64, device=z.device)
    matrices = [
        spectrum.spectral_matrix(v, g.double(), z.shape[1])
        for v, g in zip(directions, grad, strict=True)
    ]
    return stack([spectrum.apply_matrix(x, w, True, one) for x, w in zip(z, matrices, strict=True)])


def _spectrum_backward_fake(grad: Tensor, z: Tensor, directions: Tensor) -> Tensor:
    return z.new_empty(z.shape)


covariance_spectrum = define(
    "covariance_spectrum(Tensor z, bool with_grad) -> (Tensor, Tensor)",
    _spectrum,
    _spectrum_fake,
)
_spectrum_backward_op = define(
    "covariance_spectrum_backward(Tensor grad, Tensor z, Tensor directions) -> Tensor",
    _spectrum_backward,
    _spectrum_backward_fake,
)


def _spectrum_context(ctx: Any, inputs: tuple[Any, ...], output: Pair) -> None:
    ctx.save_for_backward(inputs[0], output[1])


def _spectrum_autograd(ctx: Any, grad: Tensor, *unused: Tensor) -> tuple[Any, ...]:
    z, directions = ctx.saved_tensors
    return _spectrum_backward_op(grad, z, directions), None


differentiate(covariance_spectrum, "covariance_spectrum", _spectrum_context, _spectrum_autograd)
forbid_double_backward(_spectrum_backward_op, "covariance_spectrum")


def _rank_fake(z: Tensor, with_grad: bool) -> Pair:
    b, n, m = z.shape
    k = torch.sym_min(n, m) if with_grad else 0
    return (
        z.new_empty(b, dtype=working_dtype(z)),
        z.new_empty(b, k, k, dtype=torch.float64),
    )


def _rank_backward(grad: Tensor, z: Tensor, matrix: Tensor, centred: bool) -> Tensor:
    problems = zip(z, matrix, grad.double(), strict=True)
    return stack([spectrum.apply_matrix(x, w, centred, g) for x, w, g in problems])


def _rank_backward_fake(grad: Tensor, z: Tensor, matrix: Tensor, centred: bool) -> Tensor:
    return z.new_empty(z.shape)


_rank_backward_op = define(
    "spectral_rank_backward(Tensor grad, Tensor z, Tensor matrix, bool centred) -> Tensor",
    _rank_backward,
    _rank_backward_fake,
)
forbid_double_backward(_rank_backward_op, "effective_rank")


def _register(name: str, backend: Callable[[Tensor, bool], Pair], centred: bool) -> Any:
    def implementation(z: Tensor, with_grad: bool) -> Pair:
        found = [backend(x, with_grad) for x in z]
        return (
            stack([f[0] for f in found]).to(working_dtype(z)),
            stack([f[1] for f in found]),
        )

    operator = define(
        f"{name}(Tensor z, bool with_grad) -> (Tensor, Tensor)", implementation, _rank_fake
    )

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Pair) -> None:
        ctx.save_for_backward(inputs[0], output[1])

    def backward(ctx: Any, grad: Tensor, *unused: Tensor) -> tuple[Any, ...]:
        z, matrix = ctx.saved_tensors
        return _rank_backward_op(grad, z, matrix, centred), None

    differentiate(operator, name, setup_context, backward)
    return operator


effective_rank = _register("effective_rank", spectrum.effective_rank, centred=True)
rankme = _register("rankme", spectrum.rankme, centred=False)
