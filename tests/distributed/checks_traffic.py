"""What docs/distributed.md says of bytes and memory, counted in torch.distributed and PyTorch."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import wssl_fast as wf
from tests.distributed.world import World
from tests.zoo import BY_NAME
from wssl_fast.distributed.exchange import RECORD

SENT = ("all_gather", "all_to_all_single", "all_reduce", "reduce", "broadcast")


@contextmanager
def counting(world: World) -> Iterator[Counter[str]]:
    """What this process sends, by collective; a broadcast by its source alone."""
    sent: Counter[str] = Counter()

    def counted(name: str) -> Callable[..., Any]:
        collective = getattr(dist, name)

        def call(*tensors: Any, **how: Any) -> Any:
            if name != "broadcast" or how["src"] == world.rank:
                data = tensors[-1]  # (output, input), or one tensor for both
                sent[name] += data.numel() * data.element_size()
            return collective(*tensors, **how)

        return call

    with ExitStack() as stack:
        for name in SENT:
            stack.enter_context(mock.patch.object(dist, name, counted(name)))
        yield sent


def half(k: int) -> int:
    return (k + 1) // 2 * (k + 1)


def gram(world: World, counts: list[int], m: int, s: int, f: int, w: int) -> dict[str, int]:
    """s, f, w: bytes of an element of z, of the product and the weights, of the gradient."""
    n, own = sum(counts), counts[world.rank]
    width = m * (world.rank + 1) // world.size - m * world.rank // world.size
    leads = world.rank == 0
    norms = f == 8  # a float64 pass asks for them first
    return {
        "all_gather": RECORD + 1,
        "all_to_all_single": own * m * s + n * width * w,
        "reduce": f * (half(n) + world.size) + norms * 8 * (n + world.size),
        "broadcast": leads * (2 * RECORD + 8 * n + f * half(n) + norms * (RECORD + 8 * n)),
    }


def covariance(world: World, m: int, f: int) -> dict[str, int]:
    leads = world.rank == 0
    return {
        "all_gather": RECORD,
        "all_reduce": 8 * (m + 3 * world.size),
        "reduce": f * (half(m) + world.size),
        "broadcast": leads * (2 * RECORD + f * half(m)),
    }


def assert_sent(sent: Counter[str], want: dict[str, int], said: str) -> None:
    assert {k: v for k, v in sent.items() if v} == {k: v for k, v in want.items() if v}, said


def w2_sends_what_the_table_says(world: World) -> None:
    for dtype, s, f in ((torch.float32, 4, 4), (torch.bfloat16, 2, 4), (torch.float64, 8, 8)):
        for n, m in ((12, 31), (31, 12)):
            for split in ("equal", "unequal"):
                counts = world.counts(n, split)
                z = world.own(torch.randn(n, m), counts).to(dtype).requires_grad_()
                with counting(world) as sent:
                    value = wf.wasserstein_uniformity(z, group=world.group)
                    value.backward()
                want = gram(world, counts, m, s, f, f) if n <= m else covariance(world, m, f)
                assert_sent(sent, want, f"{dtype}, {n} x {m}, {split}")


def double_sends_the_product_in_float64(world: World) -> None:
    n, m = 12, 31
    counts = world.counts(n)
    z = world.own(torch.randn(n, m), counts).requires_grad_()
    with counting(world) as sent:
        wf.wasserstein_uniformity(z, precision="double", group=world.group)
    want = gram(world, counts, m, 4, 8, 4)
    assert_sent(sent, want, "n <= m")


def a_collapsed_batch_adds_a_pass(world: World) -> None:
    for n, m in ((24, 40), (40, 24)):
        counts = world.counts(n)
        z = world.own(BY_NAME["noise_1e-4"](n, m), counts).requires_grad_()
        with counting(world) as sent:
            wf.wasserstein_uniformity(z, group=world.group)
        k = min(n, m)
        want = gram(world, counts, m, 4, 4, 4) if n <= m else covariance(world, m, 4)
        want["reduce"] += 8 * (half(k) + world.size)
        extra = RECORD + 4 * half(k)  # an order, and weights in float64
        if n <= m:
            want["reduce"] += 8 * (n + world.size)
            extra += RECORD + 8 * n
        want["broadcast"] += (world.rank == 0) * extra
        assert_sent(sent, want, f"{n} x {m}")


def without_a_gradient_nothing_comes_back(world: World) -> None:
    n, m = 12, 31
    counts = world.counts(n)
    z = world.own(torch.randn(n, m), counts)
    with counting(world) as sent:
        wf.wasserstein_uniformity(z, group=world.group)
    want = {
        "all_gather": RECORD,
        "all_to_all_single": len(z) * m * 4,
        "reduce": 4 * (half(n) + world.size),
        "broadcast": (world.rank == 0) * 2 * RECORD,
    }
    assert_sent(sent, want, "no gradient")


def pairs_send_what_the_table_says(world: World) -> None:
    n, m = 17, 9
    counts = world.counts(n)
    z = world.own(torch.randn(n, m), counts).requires_grad_()
    with counting(world) as sent:
        wf.uniformity(z, group=world.group).backward()
    assert_sent(sent, {"all_gather": RECORD + max(counts) * m * 4 + 24}, "L_U")
    with counting(world) as sent:
        wf.alignment(z, z.detach(), group=world.group).backward()
    want = {"all_gather": RECORD, "all_reduce": 8 * (1 + world.size)}
    assert_sent(sent, want, "alignment")


def looked_up_directions_add_a_thin_product(world: World) -> None:
    for n, m in ((64, 64), (65, 64)):
        counts = world.counts(n)
        z = world.own(BY_NAME["gaussian"](n, m), counts).requires_grad_()
        with counting(world) as sent:
            wf.wasserstein_uniformity(z, group=world.group)
        want = gram(world, counts, m, 4, 4, 4) if n <= m else covariance(world, m, 4)
        added = sent["reduce"] - want["reduce"]
        (q,) = [q for q in range(1, 64) if 8 * (half(q) + world.size) == added]
        want["reduce"] = sent["reduce"]
        want["broadcast"] += (world.rank == 0) * (RECORD + 4 * 64 * q + (8 * n if n <= m else 0))
        assert_sent(sent, want, f"{n} x {m}, {q} directions")


class Largest(TorchDispatchMode):
    """The most bytes of any tensor that comes into being."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for t in tree_leaves(out):
            if isinstance(t, torch.Tensor):
                self.size = max(self.size, t.numel() * t.element_size())
        return out


def no_process_holds_the_whole_batch(world: World) -> None:
    n, m = 8, 800
    counts = world.counts(n, "equal")
    z = world.own(torch.randn(n, m), counts).requires_grad_()
    with Largest() as largest:
        wf.wasserstein_uniformity(z, group=world.group).backward()
    assert largest.size == 4 * n * m // world.size
