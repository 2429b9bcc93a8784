"""What thousands of calls leave behind: nothing; and the rules that say so see a leak."""

import gc
import mmap
import random
from collections.abc import Callable, Iterator

import pytest
import torch

from benchmarks.reliability import endurance, flat
from benchmarks.reliability.calls import Caller, Draw, kinds
from benchmarks.reliability.endurance import PROC, Samples

KINDS = kinds()
EVERY = 2 * len(KINDS)  # each kind twice between two samples

needs_proc = pytest.mark.skipif(not PROC.exists(), reason="memory is read from Linux's /proc")


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # a pool of threads is started by the first call that is large enough
    yield
    torch.set_num_threads(before)


def found(call: Callable[[], object], calls: int) -> list[flat.Verdict]:
    warm_up = endurance.WARM_TURNS * len(KINDS)
    return Samples.of(endurance.run(call, calls, EVERY, warm_up)).verdicts(len(KINDS))


@needs_proc
def test_calls_leave_nothing_behind(one_thread: None) -> None:
    assert not [each for each in found(Caller(), 10 * EVERY) if not each.flat]


@needs_proc
def test_what_a_list_keeps_is_seen(one_thread: None) -> None:
    """By the same rules: the outputs are kept, and 16 KiB a call which no memory that was freed
    before in this process can hold."""
    kept: list[object] = []
    call = Caller()

    def leak() -> None:
        pages = mmap.mmap(-1, 2**14)
        pages.write(bytes(2**14))
        kept.append((call(), pages))

    caught = {each.name for each in found(leak, 5 * EVERY) if not each.flat}
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


def test_calls_are_freed_without_the_collector() -> None:
    """No reference cycle: tensors go with their last name, not when the collector runs."""

    def all_kinds() -> None:
        for seed, kind in enumerate(KINDS):
            kind.run(Draw(random.Random(seed)))

    all_kinds()
    gc.collect()
    gc.disable()
    try:
        all_kinds()
        assert gc.collect() == 0
    finally:
        gc.enable()
