"""What thousands of calls leave behind: nothing; and the rules that say so see a leak."""

import mmap
import multiprocessing
import random
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

import pytest
import torch

from benchmarks.reliability import endurance, flat
from benchmarks.reliability.calls import Caller, Draw, kinds
from benchmarks.reliability.endurance import PROC, Samples

KINDS = kinds()
EVERY = 2 * len(KINDS)  # each kind twice between two samples

needs_proc = pytest.mark.skipif(not PROC.exists(), reason="memory is read from Linux's /proc")


T = TypeVar("T")


def in_a_fresh_process(function: Callable[..., T], *arguments: object) -> T:
    """One in which other tests compiled functions holds thousands of objects that take several
    collections to go, and memory and threads of theirs."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as fresh:
        return fresh.submit(function, *arguments).result()


def not_flat(call: Callable[[], object], calls: int) -> set[str]:
    """The rules that a run on one thread breaks: a pool of threads starts at the first call that is
    large enough."""
    torch.set_num_threads(1)
    samples = Samples.of(endurance.run(call, calls, EVERY, endurance.WARM_TURNS * len(KINDS)))
    return {each.name for each in samples.verdicts(len(KINDS)) if not each.flat}


class Leak:
    """A caller that keeps its outputs, and 16 KiB a call which no memory that was freed before can
    hold."""

    def __init__(self) -> None:
        self.call, self.kept = Caller(), list[object]()

    def __call__(self) -> None:
        pages = mmap.mmap(-1, 2**14)
        pages.write(bytes(2**14))
        self.kept.append((self.call(), pages))


def caller_breaks() -> set[str]:
    return not_flat(Caller(), 10 * EVERY)


def leak_breaks() -> set[str]:
    return not_flat(Leak(), 5 * EVERY)


@needs_proc
def test_calls_leave_nothing_behind() -> None:
    assert in_a_fresh_process(caller_breaks) == set()


@needs_proc
def test_what_a_list_keeps_is_seen() -> None:
    """By the same rules."""
    caught = in_a_fresh_process(leak_breaks)
    assert {"memory, second half over first", "objects: Tensor"} <= caught, caught


def test_rules_tell_the_least_leak_from_an_allocators_step() -> None:
    calls = list(range(0, 100_001, 1_000))
    leak = [flat.LEAST_LEAK * c for c in calls]
    noise = random.Random(0)
    step = [(flat.ALLOCATOR if c > 50_000 else 0) + noise.randrange(0, 2**16) for c in calls]
    assert not any(each.flat for each in flat.memory(calls, leak))
    assert flat.memory(calls, step)[0].flat
    assert all(each.flat for each in flat.memory(calls, [0.95 * s for s in step]))


def test_rules_tell_one_object_a_call_from_a_cache() -> None:
    """62 kinds of call and 100,000 calls: a kind has 1,613 turns."""
    turns = 100_000 / 62
    leak = [int(turns * i / 100) for i in range(101)]
    cache = [min(i, 60) for i in range(101)]
    assert flat.objects({"Tensor": [0] * 101, "dict": cache}, turns).flat
    assert not flat.objects({"Tensor": leak, "dict": cache}, turns).flat
    assert not flat.constant("threads", [1, 1, 2, 1]).flat


def every_kind() -> None:
    for seed, kind in enumerate(KINDS):
        kind.run(Draw(random.Random(seed)))


def one_cycle() -> None:
    itself: list[object] = [torch.zeros(1)]
    itself.append(itself)


@pytest.mark.parametrize(
    ("call", "left"),
    [(every_kind, {}), (one_cycle, {"list": 1, "Tensor": 1})],
    ids=["every kind", "a cycle"],
)
def test_calls_are_freed_without_the_collector(
    call: Callable[[], object], left: dict[str, int]
) -> None:
    """No reference cycle: tensors go with their last name, not when the collector runs."""
    assert in_a_fresh_process(endurance.cycles, call) == left
