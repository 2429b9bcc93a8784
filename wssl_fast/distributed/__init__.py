"""The losses of a batch that is spread over the processes of a torch.distributed group.

Called by the public functions for `group=`. Each process gives its own rows, any number of them;
all get the value of the whole batch, and the gradient in their own rows times the number of
processes, which is what DistributedDataParallel averages to the gradient of the whole batch
(docs/distributed.md).

    exchange.py   every collective, and nothing else
    team.py       agreement before, and errors that reach every process
    leader.py     one process decides, all contribute
    w2.py, pairwise.py   who holds and computes what
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from wssl_fast import _checks as checks
from wssl_fast._calls import wants_grad
from wssl_fast.backends import choice
from wssl_fast.backends.eager.numerics import working_dtype
from wssl_fast.distributed import pairwise, w2
from wssl_fast.distributed.exchange import ExchangeError
from wssl_fast.distributed.team import Opening, Team
from wssl_fast.ops._arithmetic import plain_arithmetic

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["ExchangeError", "alignment", "spans", "uniformity", "wasserstein_uniformity"]

Rows = Callable[[], Tensor]
"""Makes this process's rows (..., n, m); what is wrong with them becomes an error everywhere."""

P = ParamSpec("P")
R = TypeVar("R")


def _outside_graphs(function: Callable[P, R]) -> Callable[P, R]:
    """torch.compile breaks its graph at the call and runs it as it is."""
    disabled: Callable[P, R] = torch.compiler.disable(function)
    return disabled


def spans(group: object) -> bool:
    """Whether `group` is more than this process alone.

    Raises:
        TypeError: it is not a process group.
        ValueError: it does not have this process as a member.
    """
    if not dist.is_available() or not isinstance(group, dist.ProcessGroup):
        if dist.is_available() and _is_no_member(group):
            raise ValueError("group does not have this process as a member")
        raise TypeError(
            "group must be a torch.distributed.ProcessGroup, or None for this process alone, got "
            f"{type(group).__name__}"
        )
    if dist.get_rank(group) < 0:
        raise ValueError("group does not have this process as a member")
    return dist.get_world_size(group) > 1


def _is_no_member(group: object) -> bool:
    """Whether this is what `new_group` returns to a process outside."""
    outside = dist.GroupMember.NON_GROUP_MEMBER
    return type(group) is type(outside) and bool(group == outside)


@_outside_graphs
def wasserstein_uniformity(
    group: "ProcessGroup",
    rows: Rows,
    *,
    normalize: bool,
    squared: bool,
    eps: float,
    solver: str,
    precision: str,
    **told: object,
) -> Tensor:
    """W2 as in :func:`wssl_fast.wasserstein_uniformity`, of the rows of all processes.

    `told` is compared among the processes, and nothing else.
    """
    settings = w2.Settings(bool(normalize), bool(squared), eps, solver, precision)
    team = Team(group, "wasserstein_uniformity")

    def prepare() -> list[Tensor]:
        z = _rows(team, "z", rows())
        checks.flag("normalize", normalize)
        checks.flag("squared", squared)
        checks.number("eps", eps, minimum=0.0)
        checks.choice("solver", solver, checks.SOLVERS)
        checks.choice("precision", precision, checks.PRECISIONS)
        return [z]

    (z,), opening = team.agree({**settings._asdict(), **told}, prepare)
    _enough_rows("z", opening, 1)
    return _each_problem([z], lambda x: w2.value_and_gradient(team, x, opening, settings))


@_outside_graphs
def uniformity(
    group: "ProcessGroup", rows: Rows, *, t: float, normalize: bool, **told: object
) -> Tensor:
    """L_U as in :func:`wssl_fast.uniformity`, of the rows of all processes."""
    team = Team(group, "uniformity")

    def prepare() -> list[Tensor]:
        z = _rows(team, "z", rows())
        checks.number("t", t, minimum=0.0, exclusive=True)
        checks.flag("normalize", normalize)
        return [z]

    (z,), opening = team.agree({"t": t, "normalize": bool(normalize), **told}, prepare)
    _enough_rows("z", opening, 2)
    wanted = wants_grad(z)
    return _each_problem(
        [z], lambda x: pairwise.uniformity(team, x, opening, t, bool(normalize), wanted)
    )


@_outside_graphs
def alignment(
    group: "ProcessGroup",
    x: Tensor,
    y: Tensor,
    *,
    alpha: float,
    normalize: bool,
    **told: object,
) -> Tensor:
    """A as in :func:`wssl_fast.alignment`, of the pairs of all processes."""
    team = Team(group, "alignment")

    def prepare() -> list[Tensor]:
        pair = [_rows(team, "x", x), _rows(team, "y", y)]
        checks.same_shape("x", pair[0], "y", pair[1])
        checks.number("alpha", alpha, minimum=0.0, exclusive=True)
        checks.flag("normalize", normalize)
        return pair

    pair, opening = team.agree({"alpha": alpha, "normalize": bool(normalize), **told}, prepare)
    _enough_rows("x", opening, 1)
    wanted = wants_grad(*pair)
    return _each_problem(
        pair, lambda a, b: pairwise.alignment(team, a, b, opening, alpha, bool(normalize), wanted)
    )


def _rows(team: Team, name: str, rows: object) -> Tensor:
    z = checks.rows(name, checks.plain(name, rows), minimum_rows=0)
    team.check_device(name, z.device)
    if choice.requested() not in ("auto", "eager"):
        raise ValueError(
            f"backend {choice.requested()} was asked for by name, but a group computes by PyTorch "
            "calls (eager) on every device"
        )
    return z


def _enough_rows(name: str, opening: Opening, minimum: int) -> None:
    """The same error on every process: all know all counts."""
    if sum(opening.counts) < minimum:
        raise ValueError(
            f"{name} must have at least {minimum} row(s) in all processes of group together, got "
            f"{opening.counts}"
        )


def _each_problem(tensors: list[Tensor], compute: Callable[..., tuple[Tensor, ...]]) -> Tensor:
    """Values (...) of problems (..., n, m), one after the other, with their gradients attached."""
    z = tensors[0]
    dtype, shape = working_dtype(z), z.shape[:-2]
    count = math.prod(shape)
    folded = (t.detach().reshape(count, *t.shape[-2:]) for t in tensors)
    problems = zip(*folded, strict=True)
    with torch.no_grad(), plain_arithmetic(z.device.type):
        found = [compute(*problem) for problem in problems]
    if not found:  # a batch of no problems
        found_values, gradients = z.new_empty(0, dtype=dtype), [z.detach().to(dtype)] * len(tensors)
    else:
        found_values, *gradients = (torch.stack(each) for each in zip(*found, strict=True))
    values = found_values.to(dtype).reshape(shape)
    if not wants_grad(*tensors):
        return values
    gradients = [g.reshape(t.shape) for g, t in zip(gradients, tensors, strict=True)]
    value: Tensor = _WithGradients.apply(  # type: ignore[no-untyped-call]
        values, len(tensors), *tensors, *gradients
    )
    return value


class _WithGradients(torch.autograd.Function):
    """Values whose gradients are known already: (values, count, *inputs, *gradients) -> values."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, count: int, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors[count:])
        ctx.dtypes = [t.dtype for t in tensors[:count]]
        return values.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        upstream = grad[..., None, None]
        gradients = [
            (upstream * saved).to(dtype)
            for saved, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return None, None, *gradients, *(None for _ in gradients)
