"""The operators under torch.func: grad, vjp, jacrev and vmap, nested in any order.

PyTorch's own registration of a backward does not reach there (`register_autograd` makes an
autograd.Function without setup_context), so a transformed call goes through one that has it. vmap
needs no loop: every operator takes a batch of problems, and a vmapped dimension is folded into it.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

Arguments = tuple[Any, ...]


def active() -> bool:
    """Whether a torch.func transform is around this call."""
    return torch._C._are_functorch_transforms_active()


def untraced(call: Callable[..., Any]) -> Callable[..., Any]:
    """`call`, in which a running torch.compile is to find no frames of its own."""
    if "torch._dynamo" not in sys.modules:  # it takes a second to import
        return call
    disabled: Callable[..., Any] = torch.compiler.disable(call)
    return disabled


def forward_mode() -> bool:
    """Whether torch.autograd.forward_ad is."""
    return forward_ad._current_level >= 0


def refuse_tangents(function: str, arguments: Arguments) -> None:
    """An operator would drop the tangents of forward_ad without a word."""

    def refuse() -> None:
        for a in arguments:
            if isinstance(a, Tensor) and forward_ad.unpack_dual(a).tangent is not None:
                raise no_forward_mode(function)

    untraced(refuse)()  # a tensor that is traced has no tangent


def no_forward_mode(function: str) -> RuntimeError:
    return RuntimeError(
        f"wssl_fast.{function} has no forward-mode derivative (torch.func.jvp, jacfwd, hessian, "
        "torch.autograd.forward_ad), and no second derivative. Use reverse mode: backward, "
        "torch.func.grad, vjp or jacrev."
    )


def fold_vmapped(
    size: int, dims: Sequence[int | None], arguments: Arguments, operator: Callable[..., Any]
) -> tuple[Any, Any]:
    """The batching rule: (size, b, ...) as (size b, ...) in, and back out. A tensor that is not
    vmapped is the same for all."""

    def folded(a: Any, dim: int | None) -> Any:
        if not isinstance(a, Tensor):
            return a
        a = a[None].expand(size, *a.shape) if dim is None else a.movedim(dim, 0)
        return a.reshape(size * a.shape[1], *a.shape[2:])

    def unfolded(t: Tensor) -> Tensor:
        return t.reshape(size, problems, *t.shape[1:])

    # b, as t.shape[0] // size would be if size were never 0
    first, dim = next((a, d) for a, d in zip(arguments, dims, strict=True) if isinstance(a, Tensor))
    problems = first.shape[1] if dim == 0 else first.shape[0]
    output = operator(*map(folded, arguments, dims))
    if isinstance(output, Tensor):
        return unfolded(output), 0
    return tuple(map(unfolded, output)), (0,) * len(output)


def transformed(
    operator: Callable[..., Any],
    overload: Callable[..., Any],
    function: str,
    setup_context: Callable[..., None],
    backward: Callable[..., Any],
) -> Callable[..., Any]:
    """`overload` as torch.func takes it; `operator` is what calls either."""

    class Transformed(torch.autograd.Function):
        @staticmethod
        def forward(*arguments: Any) -> Any:
            return overload(*arguments)

        @staticmethod
        def setup_context(ctx: Any, inputs: Arguments, output: Any) -> None:
            setup_context(ctx, inputs, output)

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Any:
            return backward(ctx, *grads)

        @staticmethod
        def jvp(ctx: Any, *tangents: Tensor) -> Any:
            raise no_forward_mode(function)

        @staticmethod
        def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> Any:
            return fold_vmapped(info.batch_size, in_dims, arguments, operator)

    return Transformed.apply
