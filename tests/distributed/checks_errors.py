"""An error on one process is an error on all, which says where and why; the group goes on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

import wssl_fast as wf
from tests.distributed.world import Killed, World
from wssl_fast.backends import choice
from wssl_fast.backends.eager import alignment, products, uniformity, w2_covariance, w2_gram
from wssl_fast.distributed import ExchangeError

GOOD = (4, 8)


def assert_in_step(world: World, n: int = 6) -> None:
    """All processes are where the next call begins."""
    z = torch.randn(n, 8, generator=torch.Generator().manual_seed(0))
    own = world.own(z, world.counts(n))
    value = wf.wasserstein_uniformity(own, group=world.group)
    assert abs(value - wf.wasserstein_uniformity(z)) <= 1e-6


@contextmanager
def everywhere(world: World, kind: type[Exception], message: str) -> Iterator[None]:
    with pytest.raises(kind, match=message):
        yield
    assert_in_step(world)


def input_that_is_wrong_on_one_process(world: World) -> None:
    bad = world.size - 1
    good = torch.randn(GOOD)
    wrong: tuple[tuple[type[Exception], str, object], ...] = (
        (ValueError, r"z must have shape .*\(8,\)", torch.randn(8)),
        (ValueError, r"z must have at least 0 row.*\(4, 0\)", torch.randn(4, 0)),
        (TypeError, r"z must have dtype .*int64", torch.ones(GOOD).long()),
        (TypeError, r"z must be a torch.Tensor, got list", [[1.0]]),
    )
    for kind, message, z in wrong:
        rows = z if world.rank == bad else good
        for function in (wf.wasserstein_uniformity, wf.uniformity):
            with everywhere(world, kind, rf"{function.__name__} over .*rank {bad}: {message}"):
                function(rows, group=world.group)
    y = good[:3] if world.rank == bad else good
    with everywhere(world, ValueError, rf"alignment .*rank {bad}: x and y .*\(3, 8\)"):
        wf.alignment(good, y, group=world.group)
    loss = wf.nn.WassersteinUniformityLoss(gather_distributed=True)
    with everywhere(world, ValueError, rf"rank {bad}: z_a and z_b .*\(4, 5\)"):
        loss(good, good[:, :5] if world.rank == bad else good)


def a_dtensor_is_no_share(world: World) -> None:
    from torch.distributed.tensor import DTensor, init_device_mesh

    z = torch.randn(GOOD)
    spread = DTensor.from_local(z, init_device_mesh("cpu", (world.size,)))
    message = r"rank 0: z must be a plain tensor, got DTensor: .*z\.to_local\(\)"
    for function in (wf.wasserstein_uniformity, wf.uniformity):
        with everywhere(world, TypeError, message):
            function(spread, group=world.group)
    with everywhere(world, TypeError, r"rank 0: x must be a plain tensor, got DTensor"):
        wf.alignment(spread, spread, group=world.group)
    with pytest.raises(TypeError, match=r"z must be a plain tensor, got DTensor"):
        wf.metrics.Moments().update(spread)
    assert wf.metrics.Moments().update(spread.to_local()).count == len(z)


def torch_func_over_a_group(world: World) -> None:
    z = torch.randn(GOOD)
    message = "rank 0: RuntimeError: z has no numbers to look at inside of a torch.func"
    for function in (wf.wasserstein_uniformity, wf.uniformity):
        with everywhere(world, RuntimeError, message):
            torch.func.grad(lambda z, f=function: f(z, group=world.group))(z)
        with everywhere(world, RuntimeError, message):
            torch.func.vmap(lambda z, f=function: f(z, group=world.group))(z[None])


def wrong_on_several_processes(world: World) -> None:
    rows = torch.randn(8) if world.rank != 1 else torch.randn(GOOD)
    others = [rank for rank in range(world.size) if rank != 1]
    pattern = ".*".join(f"rank {rank}: z must have shape" for rank in others)
    with everywhere(world, ValueError, pattern):
        wf.wasserstein_uniformity(rows, group=world.group)


def a_long_reason_is_cut(world: World) -> None:
    def rows() -> Tensor:
        raise ValueError("why " * 1000 + "\u2200")

    from wssl_fast import distributed

    with everywhere(world, ValueError, r"rank 0: why why why"):
        distributed.uniformity(world.group, rows, t=2.0, normalize=True)


def processes_that_differ(world: World) -> None:
    odd = world.rank == 1
    z = torch.randn(GOOD)

    def expect(message: str, call: Callable[[], object]) -> None:
        with everywhere(world, ValueError, f"processes differ in {message}"):
            call()

    group = world.group
    for name, usual, other in (
        ("precision", "auto", "double"),
        ("solver", "eigh", "newton_schulz"),
        ("eps", 0.0, 0.5),
        ("normalize", True, False),
        ("squared", False, True),
    ):
        how = {name: other if odd else usual}
        expect(
            rf"{name}: {usual if usual else '(0|False)'} on .*{other} on rank 1",
            lambda how=how: wf.wasserstein_uniformity(z, group=group, **how),  # type: ignore[misc]
        )
    expect("t: ", lambda: wf.uniformity(z, t=3.0 if odd else 2.0, group=group))
    expect("alpha: ", lambda: wf.alignment(z, z, alpha=3.0 if odd else 2.0, group=group))
    expect("columns m: 8 on .*5 on", lambda: wf.uniformity(z[:, :5] if odd else z, group=group))
    expect("dtype: ", lambda: wf.uniformity(z.double() if odd else z, group=group))
    lead = torch.randn(2, *GOOD)
    expect(
        r"leading dimensions: \(\) on .*\(2,\) on",
        lambda: wf.wasserstein_uniformity(lead if odd else z, group=group),
    )
    expect(
        "function: uniformity on .*alignment on rank 1",
        lambda: wf.alignment(z, z, group=group) if odd else wf.uniformity(z, group=group),
    )
    weights = wf.nn.WassersteinUniformityLoss(weight=2.0 if odd else 1.0, gather_distributed=True)
    expect("weight: 1 on .*2 on", lambda: weights(z))
    views = wf.nn.UniformityLoss(gather_distributed=True)
    expect("views: 2 on .*1 on", lambda: views(z) if odd else views(z, z))


def settings_that_are_wrong_everywhere(world: World) -> None:
    z = torch.randn(GOOD)
    for message, how in (
        ("solver must be one of", {"solver": "svd"}),
        ("precision must be one of", {"precision": "tf32"}),
        ("eps must be finite", {"eps": -1.0}),
    ):
        with everywhere(world, ValueError, message):
            wf.wasserstein_uniformity(z, group=world.group, **how)
    message = "backend triton was asked for by name"
    with everywhere(world, ValueError, message), choice.use("triton"):
        wf.wasserstein_uniformity(z, group=world.group)


def too_few_rows_in_all(world: World) -> None:
    none, one = torch.randn(0, 8), torch.randn(1 if world.rank == 0 else 0, 8)
    with everywhere(world, ValueError, r"at least 1 row\(s\) in all .*\[0, 0"):
        wf.wasserstein_uniformity(none, group=world.group)
    with everywhere(world, ValueError, r"at least 1 row\(s\) in all .*\[0, 0"):
        wf.alignment(none, none, group=world.group)
    with everywhere(world, ValueError, r"at least 2 row\(s\) in all .*\[1, 0"):
        wf.uniformity(one, group=world.group)
    assert wf.wasserstein_uniformity(one, group=world.group).item() == pytest.approx(2**0.5)


def work_that_fails_on_one_process(world: World) -> None:
    """At every stage, on the leader and on another."""
    wide, tall = (torch.randn(4, 40), torch.randn(4, 5)), torch.randn(40, 4)
    stages = (
        (wide[0], products, "symmetric_product"),
        (wide[0], w2_gram, "backward"),
        (tall, products, "row_statistics"),
        (tall, products, "symmetric_product"),
    )
    for rank in (0, world.size - 1):
        message = rf"wasserstein_uniformity over .*rank {rank}: MemoryError: no room"
        for z, module, name in stages:
            with everywhere(world, RuntimeError, message), failing(world, rank, module, name):
                wf.wasserstein_uniformity(z.clone().requires_grad_(), group=world.group)
        message = rf"uniformity .*rank {rank}: MemoryError"
        with everywhere(world, RuntimeError, message), failing(world, rank, uniformity, "strip"):
            wf.uniformity(tall, group=world.group)
        message = rf"alignment .*rank {rank}: MemoryError"
        with everywhere(world, RuntimeError, message), failing(world, rank, alignment, "forward"):
            wf.alignment(tall, tall, group=world.group)
    for z, module in ((wide[0], w2_gram), (tall, w2_covariance)):
        message = "rank 0: MemoryError: no room"
        with everywhere(world, RuntimeError, message), failing(world, 0, module, "inverse_root"):
            wf.wasserstein_uniformity(z, group=world.group)


@contextmanager
def failing(world: World, rank: int, module: object, name: str) -> Iterator[None]:
    """A function of a module raises, on one process."""
    if world.rank != rank:
        yield
        return
    with mock.patch.object(module, name, side_effect=MemoryError("no room")):
        yield


def a_second_pass_that_fails(world: World) -> None:
    """After the leader has decided for float64."""
    z = torch.zeros(2, 40)  # no norms to divide by: float32 will not do
    message = "rank 1: MemoryError"
    with everywhere(world, RuntimeError, message), failing(world, 1, products, "inverse_norms"):
        wf.wasserstein_uniformity(z, group=world.group)


def groups_that_are_none(world: World) -> None:
    z = torch.randn(GOOD)
    for group in (1, "gloo", [0, 1]):
        with pytest.raises(TypeError, match="group must be a torch"):
            wf.wasserstein_uniformity(z, group=group)  # type: ignore[arg-type]
    alone = [dist.new_group([rank]) for rank in range(world.size)][world.rank]
    assert torch.equal(
        wf.wasserstein_uniformity(z, group=alone), wf.wasserstein_uniformity(z)
    )  # the ordinary way
    with pytest.raises(ValueError, match=r"z must have at least 1 row"):
        wf.wasserstein_uniformity(z[:0], group=alone)
    assert_in_step(world)


def a_process_that_does_not_call(world: World) -> None:
    """The others are told after the timeout of the group, which is of no use then."""
    if world.size > 2:  # one wait is enough
        return
    group = dist.new_group(timeout=timedelta(seconds=5))
    if world.rank != 1:
        what = "exchanging what each was called with failed on rank"
        with pytest.raises(ExchangeError, match=rf"wasserstein_uniformity over .*{what}"):
            wf.wasserstein_uniformity(torch.randn(GOOD), group=group)
    dist.barrier()
    assert_in_step(world)


def the_others_hear_of_a_killed_process(world: World) -> None:
    """The last check of all: this group is no more."""
    dist.barrier()
    if world.rank == 1:
        raise Killed
    message = (
        r"uniformity over . processes: exchanging what each was .* failed on rank \d\. A process"
    )
    with pytest.raises(ExchangeError, match=message):
        wf.uniformity(torch.randn(GOOD), group=world.group)
