"""The operator library `wssl_fast::*`."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

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


def define(
    schema: str, implementation: Callable[..., Any], fake: Callable[..., Any]
) -> Callable[..., Any]:
    """Registers `schema` with its fake and one implementation for every device.

    The implementation receives plain tensors (no autograd, no autocast) and allocates what it
    returns. Returns the callable operator.
    """
    name = schema[: schema.index("(")]
    LIBRARY.define(schema)
    for key in ("CPU", "CUDA"):
        LIBRARY.impl(name, _guarded(implementation, fake), key)
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=LIBRARY)
    operator: Callable[..., Any] = getattr(getattr(torch.ops, NAMESPACE), name).default
    return operator


def differentiate(
    operator: Callable[..., Any],
    setup_context: Callable[..., None],
    backward: Callable[..., Any],
) -> None:
    """Attaches a backward to an operator made by `define`."""
    torch.library.register_autograd(
        operator,  # type: ignore[arg-type]
        backward,
        setup_context=setup_context,
        lib=LIBRARY,
    )


def forbid_double_backward(operator: Callable[..., Any], function: str) -> None:
    """A second derivative is a clear error, not a silent zero."""

    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    def backward(ctx: Any, *grads: Tensor) -> None:
        raise RuntimeError(
            f"wssl_fast.{function} has no double backward: its gradient is computed by a custom "
            "kernel that is not itself differentiable. Compute this term without "
            "create_graph=True, or detach its gradient."
        )

    differentiate(operator, setup_context, backward)
