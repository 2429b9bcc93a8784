"""Operator `matrix_root(a (b,k,k), inverse, solver, precision) -> (b,k,k)`: A^(1/2) or A^(-1/2).

Its backward solves the Lyapunov equation in the eigenbasis of `a` and needs nothing but `a`.
"""

from typing import Any

from torch import Tensor

from wssl_fast.backends.eager import sqrtm
from wssl_fast.backends.eager.numerics import working_dtype
from wssl_fast.ops._library import define, differentiate, forbid_double_backward


def _fake(a: Tensor, inverse: bool, solver: str, precision: str) -> Tensor:
    return a.new_empty(a.shape, dtype=working_dtype(a))


def _fake_backward(a: Tensor, grad: Tensor, inverse: bool) -> Tensor:
    return a.new_empty(a.shape)


matrix_root = define(
    "matrix_root(Tensor a, bool inverse, str solver, str precision) -> Tensor",
    sqrtm.forward,
    _fake,
)
_backward_op = define(
    "matrix_root_backward(Tensor a, Tensor grad, bool inverse) -> Tensor",
    sqrtm.backward,
    _fake_backward,
)


def _context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0])
    ctx.inverse = inputs[1]


def _autograd(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    (a,) = ctx.saved_tensors
    return _backward_op(a, grad, ctx.inverse), None, None, None


differentiate(matrix_root, "matrix_sqrt", _context, _autograd)
forbid_double_backward(_backward_op, "matrix_sqrt")
