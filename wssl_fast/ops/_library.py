"""The operator library `wssl_fast::*`."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from wssl_fast.ops import _transforms
from wssl_fast.ops._arithmetic import plain_arithmetic

NAMESPACE = "wssl_fast"
LIBRARY = torch.library.Library(NAMESPACE, "DEF")

P = ParamSpec("P")
R = TypeVar("R")


def stack(problems: list[Tensor]) -> Tensor:
    """torch.stack; a batch of one is not copied unless it must be made contiguous."""
    return problems[0].contiguous()[None] if len(problems) == 1 else torch.stack(problems)


def _guarded(fn: Callable[P, R], fake: Callable[P, R]) -> Callable[P, R]:
    @functools.wraps(fn)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        first = next(a for a in args if isinstance(a, Tensor))
        if first.shape[0] == 0:  # a batch of no problems: outputs without elements
            return fake(*args, **kwargs)
        device = first.device.type
        with torch.no_grad(), plain_arithmetic(device):
            return fn(*args, **kwargs)

    return call


class Operator:
    """A registered operator; call it with all of its arguments, in order.

    Plain and compiled calls go to the dispatcher, those under torch.func to _transforms.py.
    """

    def __init__(self, overload: torch._ops.OpOverload) -> None:
        self.overload = overload
        self.function = ""  # the public one that it belongs to, for errors
        self.transformed: Callable[..., Any] | None = None
        names = [argument.name for argument in overload._schema.arguments]
        self.with_grad = names.index("with_grad") if "with_grad" in names else None

    def __call__(self, *arguments: Any) -> Any:
        transformed = _transforms.active()
        if transformed or _transforms.forward_mode():
            if torch.compiler.is_compiling():
                torch._dynamo.graph_break(msg="torch.func transforms of wssl_fast run uncompiled")
            if not transformed:
                _transforms.refuse_tangents(self.function, arguments)
            else:
                assert self.transformed is not None
                return _transforms.untraced(self.transformed)(*self._for_a_gradient(arguments))
        return self.overload(*arguments)

    def _for_a_gradient(self, arguments: _transforms.Arguments) -> _transforms.Arguments:
        """A tensor wrapped by transforms does not say whether one of them wants a gradient."""
        at = self.with_grad
        return arguments if at is None else (*arguments[:at], True, *arguments[at + 1 :])


def define(schema: str, implementation: Callable[..., Any], fake: Callable[..., Any]) -> Operator:
    """Registers `schema` with its fake and one implementation for every device.

    The implementation receives plain tensors (no autograd, no autocast) and allocates what it
    returns. Every tensor has the batch of problems as its first dimension.
    """
    name = schema[: schema.index("(")]
    LIBRARY.define(schema)
    operator = Operator(getattr(getattr(torch.ops, NAMESPACE), name).default)
    for key in ("CPU", "CUDA"):
        LIBRARY.impl(name, _guarded(implementation, fake), key)
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=LIBRARY)
    return operator


def differentiate(
    operator: Operator,
    function: str,
    setup_context: Callable[..., None],
    backward: Callable[..., Any],
) -> None:
    """Attaches a backward to an operator made by `define`, of the public `function`."""
    at = operator.with_grad
    if at is not None:
        setup_context, backward = _with_what_a_backward_needs(at, function, setup_context, backward)
    torch.library.register_autograd(
        operator.overload, backward, setup_context=setup_context, lib=LIBRARY
    )
    operator.function = function
    operator.transformed = _transforms.transformed(
        operator, operator.overload, function, setup_context, backward
    )


def _with_what_a_backward_needs(
    at: int, function: str, setup_context: Callable[..., None], backward: Callable[..., Any]
) -> tuple[Callable[..., None], Callable[..., Any]]:
    """An error for a graph that was captured without a gradient (argument `at` is False in it) and
    is given inputs that want one."""

    def setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        setup_context(ctx, inputs, output)
        ctx.has_gradient = inputs[at]

    def run(ctx: Any, *grads: Tensor) -> Any:
        if not ctx.has_gradient:
            raise RuntimeError(
                f"wssl_fast.{function} was captured (torch.export, make_fx, torch.jit.trace) with "
                "inputs that require no gradient, and prepared none. Capture it with inputs that "
                "do."
            )
        return backward(ctx, *grads)

    return setup, run


def forbid_double_backward(operator: Operator, function: str) -> None:
    """A second derivative is a clear error, not a silent zero."""

    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    def backward(ctx: Any, *grads: Tensor) -> None:
        raise RuntimeError(
            f"wssl_fast.{function} has no double backward: its gradient is computed by a custom "
            "kernel that is not itself differentiable. Compute this term without "
            "create_graph=True, or detach its gradient."
        )

    differentiate(operator, function, setup_context, backward)
