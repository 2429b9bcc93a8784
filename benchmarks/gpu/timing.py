"""Times of single calls on a device: events, a cold cache, rotated inputs, graphs, peak memory.

plain   the device is idle when the call begins, so launches that the host is slow to make count:
        what a call costs by itself.
queued  the device is kept busy until the call, or the replay of a graph, is in its queue: what it
        costs inside a training step whose host runs ahead.

Before each timed call a buffer several times the L2 cache is read, which leaves the cache cold and
clean (a buffer that was written would be written back at the expense of the call).
"""

import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from benchmarks.harness import Timing

ROUNDS = 20
FEWEST = 3  # rounds of a call that is too slow for more
SECONDS = 1.5  # a call slower than SECONDS / ROUNDS gets fewer rounds
COLD_BYTES = 2**28  # read in at least 60 us: longer than the host takes to replay a graph
MOST_SETS = 6

Call = Callable[[], object]
Input = TypeVar("Input")


class Stopwatch(Protocol):
    """What times and weighs a call."""

    def seconds(self, call: Call, *, queued: bool) -> float: ...

    def peak_bytes(self, call: Call) -> int | None:
        """Most memory held at once, above what was held before; None where nobody counts."""
        ...


class HostStopwatch:
    """The wall clock: for a rehearsal without a GPU."""

    def seconds(self, call: Call, *, queued: bool) -> float:
        started = time.perf_counter()
        call()
        return time.perf_counter() - started

    def peak_bytes(self, call: Call) -> int | None:
        call()
        return None


class CudaStopwatch:
    """CUDA events on the current stream, cold cache."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        cache = torch.cuda.get_device_properties(device).L2_cache_size
        self._cold = torch.randn(max(4 * cache, COLD_BYTES) // 4, device=device)
        self._sink = torch.empty((), device=device)
        self._start = torch.cuda.Event(enable_timing=True)
        self._end = torch.cuda.Event(enable_timing=True)

    def seconds(self, call: Call, *, queued: bool) -> float:
        torch.sum(self._cold, dim=0, out=self._sink)
        if not queued:
            torch.cuda.synchronize(self._device)
        self._start.record()
        call()
        self._end.record()
        self._end.synchronize()
        return self._start.elapsed_time(self._end) / 1e3

    def peak_bytes(self, call: Call) -> int | None:
        torch.cuda.synchronize(self._device)
        before = torch.cuda.memory_allocated(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        call()
        torch.cuda.synchronize(self._device)
        return torch.cuda.max_memory_allocated(self._device) - before


def stopwatch(device: torch.device) -> Stopwatch:
    """Events on a GPU, the wall clock elsewhere."""
    return CudaStopwatch(device) if device.type == "cuda" else HostStopwatch()


@dataclass
class Entry:
    """One provider in one mode: a call for each input set."""

    provider: str
    mode: str
    call: str
    """plain or graph."""
    runs: Sequence[Call]
    queued: bool
    before: Sequence[Call] = ()
    """Of each call, outside its time: restores what the call destroys."""
    timing: Timing = field(init=False)

    def __post_init__(self) -> None:
        self.timing = Timing(self.provider)


def measure(
    entries: Sequence[Entry],
    watch: Stopwatch,
    *,
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
    deadline: float = math.inf,
    beat: Callable[[], None] = lambda: None,
) -> None:
    """Fills the timings of `entries`, warm, interleaved: each runs once a round, in an order that
    rotates, on an input that the call before it did not touch. A call that raises is reported in
    its timing. Past `deadline` (time.time) no round begins once all have FEWEST. `beat` is called
    between calls: a sign of life."""
    planned = {}
    for entry in entries:
        beat()
        first = _sample(entry, 0, watch)
        if first is None:
            continue
        again = _sample(entry, -1, watch) if first < seconds else first
        if again is None:
            continue
        quickest = min(first, again)
        planned[id(entry)] = min(rounds, max(int(seconds / max(quickest, 1e-9)), FEWEST))
    for index in range(rounds):
        if time.time() > deadline and all(
            len(e.timing.samples) >= FEWEST for e in entries if not e.timing.wrong
        ):
            return
        start = index % max(len(entries), 1)
        order = [*range(start, len(entries)), *range(start)]
        for place, position in enumerate(order):
            entry = entries[position]
            share = planned.get(id(entry), 0)
            if entry.timing.wrong or (index + 1) * share // rounds == index * share // rounds:
                continue
            beat()
            taken = _sample(entry, index + place, watch)
            if taken is not None:
                entry.timing.samples.append(taken)


def _sample(entry: Entry, index: int, watch: Stopwatch) -> float | None:
    place = index % len(entry.runs)
    try:
        if entry.before:
            entry.before[place]()
        return watch.seconds(entry.runs[place], queued=entry.queued)
    except Exception as error:
        entry.timing.samples.clear()
        entry.timing.wrong = describe(error)
        raise_if_lost(error)
        return None


def captured(
    call: Callable[[Input], Sequence[Tensor]],
    inputs: Sequence[Input],
    restore: Callable[[Input], object] = lambda _: None,
) -> tuple[list[Call], list[Tensor]]:
    """Replays of `call` on each input, and what the first graph writes into outputs that held NaN.

    All graphs share one pool of memory: nothing of a replay is wanted after it. `restore`: what a
    call needs done to its input before; no part of a graph.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    pool = torch.cuda.graph_pool_handle()
    replays: list[Call] = []
    first: list[Tensor] = []
    with torch.cuda.stream(side):
        for _ in range(2):
            restore(inputs[0])
            call(inputs[0])
        torch.cuda.synchronize()
        for z in inputs:
            graph = torch.cuda.CUDAGraph()
            outputs = _record(graph, pool, call, z)
            if not replays:
                restore(z)
                first = _replayed_over_nan(graph, outputs)
            del outputs
            replays.append(graph.replay)
    torch.cuda.current_stream().wait_stream(side)
    return replays, first


def _record(
    graph: torch.cuda.CUDAGraph,
    pool: tuple[int, int],
    call: Callable[[Input], Sequence[Tensor]],
    z: Input,
) -> Sequence[Tensor]:
    # torch.cuda.graph would collect garbage and empty the allocator's cache for every graph
    graph.capture_begin(pool=pool)
    try:
        outputs = call(z)
    except BaseException:
        with suppress(Exception):  # the capture is invalid: what made it so is what matters
            graph.capture_end()
        raise
    graph.capture_end()
    return outputs


def _replayed_over_nan(graph: torch.cuda.CUDAGraph, outputs: Sequence[Tensor]) -> list[Tensor]:
    for output in outputs:
        output.detach().fill_(math.nan)
    graph.replay()
    torch.cuda.synchronize()
    return [output.detach().clone() for output in outputs]


def input_sets(bytes_each: int, device: torch.device) -> int:
    """How many inputs to rotate through: together twice the last-level cache, two to MOST_SETS."""
    if device.type != "cuda":
        return 2
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    return min(max(math.ceil(2 * cache / bytes_each), 2), MOST_SETS)


class DeviceLostError(RuntimeError):
    """The CUDA context is broken: no further call of this process can succeed."""


def raise_if_lost(error: Exception) -> None:
    """Raises DeviceLostError if `error` has left the device unusable. Out of memory has not."""
    if not torch.cuda.is_available() or isinstance(error, torch.OutOfMemoryError):
        return
    try:
        torch.cuda.synchronize()
    except Exception as broken:
        raise DeviceLostError(describe(error)) from broken


def describe(error: BaseException) -> str:
    """The kind of an error and its first line, short enough for a row."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


@contextmanager
def time_limit(seconds: float, what: str) -> Iterator[None]:
    """TimeoutError inside after `seconds`. Main thread only; a single C++ call is not cut short."""

    def expired(*_: object) -> None:
        raise TimeoutError(f"{what}: more than {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
