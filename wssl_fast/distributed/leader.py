"""One process decides: a forward that looks at its numbers as it goes, over many processes.

How W2 is computed depends on what is found on the way: which precision, which directions to look up
in the rows. Were each process to decide for itself, from numbers that differ in their last bit, two
of them could take different ways and wait for each other for ever. So rank 0 of the group runs the
forward of the eager backend, exactly as for one process, on rows that are not there: what it asks
of them is asked of all, added up and answered. The others serve until it is done. The root, the
value and the weights of the gradient exist once, and are the same on every process.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wssl_fast.backends.eager.state import State
from wssl_fast.distributed.exchange import ExchangeError
from wssl_fast.distributed.team import Team


class Shares:
    """The shares of all processes, as the leader's forward asks for them."""

    def __init__(self, team: Team, own: object, device: torch.device) -> None:
        self._team, self._own, self._device = team, own, device

    def ask(
        self, method: str, shape: tuple[int, ...], dtype: torch.dtype, *arguments: Tensor
    ) -> Tensor:
        """The sum over processes of what `method` of their share makes of the arguments, of the
        given shape and dtype; square matrices are symmetric. `product` is told the dtype first."""
        kinds = [[list(t.shape), _name(t.dtype)] for t in arguments]
        order = {"ask": method, "shape": shape, "dtype": _name(dtype), "arguments": kinds}
        self._team.record_from_leader("what comes next", order)
        sent = [self._team.from_leader(f"the arguments of {method}", t) for t in arguments]
        total = _answer(self._team, self._own, method, shape, dtype, self._device, sent)
        assert total is not None  # this is the leader
        return total


class Solution(NamedTuple):
    """What the leader found, on every process."""

    value: Tensor
    """W2^2, float64. ()"""
    weights: Tensor
    """Those of `State`, or (0, 0)."""
    deep: Tensor
    """That of `State`."""
    state: State | None
    """The leader's own, on the leader."""


def solve_together(
    team: Team, share: object, device: torch.device, solve: Callable[[Shares], State]
) -> Solution:
    """`solve` on the leader, whose questions are answered by the `share` of every process."""
    if team.rank != 0:
        return _serve(team, share, device)
    state = None
    try:
        state = solve(Shares(team, share, device))
    except ExchangeError:
        raise
    except Exception as error:
        team.fail(error)
    if state is None:
        team.record_from_leader("what comes next", {"explain": True})
        team.explain()
    k, dtype = len(state.weights), _name(state.weights.dtype)
    done = {"value": float(state.value), "deep": bool(state.deep), "weights": [k, dtype]}
    team.record_from_leader("what comes next", {"done": done})
    return _take(team, done, device, state)


def _serve(team: Team, share: object, device: torch.device) -> Solution:
    while True:
        order = team.record_from_leader("what comes next", {})
        if "explain" in order:
            team.explain()
        if "done" in order:
            return _take(team, order["done"], device, None)
        arguments = [
            team.from_leader(
                f"the arguments of {order['ask']}",
                torch.empty(shape, dtype=_dtype(name), device=device),
            )
            for shape, name in order["arguments"]
        ]
        shape, dtype = tuple(order["shape"]), _dtype(order["dtype"])
        _answer(team, share, order["ask"], shape, dtype, device, arguments)


def _answer(
    team: Team,
    share: object,
    method: str,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    arguments: list[Tensor],
) -> Tensor | None:
    first: tuple[Any, ...] = (dtype,) if method == "product" else ()

    def work() -> Tensor:
        part: Tensor = getattr(share, method)(*first, *arguments)
        return part

    return team.add_up(method, work, shape, dtype, device)


def _take(team: Team, done: dict[str, Any], device: torch.device, state: State | None) -> Solution:
    k, name = done["weights"]
    weights = torch.empty(k, k, dtype=_dtype(name), device=device)
    if k:
        own = weights if state is None else state.weights
        weights = team.half_from_leader("the weights of the gradient", own)
    value = torch.tensor(done["value"], dtype=torch.float64, device=device)
    return Solution(value, weights, torch.tensor(done["deep"], device=device), state)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _dtype(name: str) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, name)
    return dtype
