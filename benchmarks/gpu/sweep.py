"""The sweep: every case of the plan in its order, until time is up; a row for whatever happened.

A case makes its inputs, checks each provider against float64, captures its graph, and then times
all that are right in interleaved rounds, forward and forward+backward, called plainly and replayed.
The two products with z alone, by cuBLAS in the dtype of z, are timed in the same rounds: half the
full symmetric product, and for the backward one product more, are the floor of the shape. The root
comes on top of it.
"""

import gc
import time
from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu import providers as p
from benchmarks.gpu.plan import DTYPES, Case, affordable
from benchmarks.gpu.providers import Provider, Truth
from benchmarks.gpu.rows import Log, Row, Rows, finite, milliseconds, row, times
from benchmarks.gpu.supervise import TOGETHER, Journal, Step, is_skipped
from benchmarks.gpu.timing import (
    Call,
    DeviceLostError,
    Entry,
    Stopwatch,
    captured,
    describe,
    input_sets,
    measure,
    raise_if_lost,
)
from benchmarks.peers import Loss
from wssl_fast.backends import choice

FORWARD, BOTH, PART = "forward", "forward+backward", "part"
FULL_PRODUCT, PRODUCT = "symmetric product of z, in full", "product with z"
PLAIN, GRAPH = "plain", "graph"


@dataclass
class Worker:
    """What a case is run with."""

    device: torch.device
    watch: Stopwatch
    rows: Rows
    journal: Journal
    log: Log
    skipped: Sequence[Step] = ()

    def run(self, cases: Sequence[Case]) -> None:
        """Cases in order, those that still fit; the supervisor writes rows of those that did not.

        Raises DeviceLostError, after its row, when no further call of this process can succeed.
        """
        ended = self.journal.ended()
        slowness = 1.0
        for index, case in enumerate(cases):
            if case.key in ended or is_skipped(Step(case.key, TOGETHER), self.skipped):
                continue
            if not affordable(case, self.log.left(), slowness):
                continue
            self.log.say(f"{index + 1}/{len(cases)} {case.tier} {case.key}")
            started = time.time()
            Measurement(self, case).run()
            self.journal.end(case.key)
            taken = (time.time() - started) / case.seconds()
            slowness = 0.7 * slowness + 0.3 * max(taken, 0.3)
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()


@dataclass
class Ready:
    """A provider that was checked, and what is known of it so far."""

    provider: Provider
    entries: list[Entry] = field(default_factory=list)
    known: dict[tuple[str, str], Row] = field(default_factory=dict)
    """By mode and call: errors, peak memory, launches."""


class Measurement:
    """One case."""

    def __init__(self, worker: Worker, case: Case) -> None:
        self.worker, self.case = worker, case
        self.dtype = DTYPES[case.dtype]
        self.truths: dict[Loss | None, Truth] = {}

    def run(self) -> None:
        """Everything, with a row for whatever fails."""
        case, device = self.case, self.worker.device
        self._begin("inputs")
        try:
            bytes_each = case.n * case.m * self.dtype.itemsize
            self.inputs = [
                p.healthy(case.n, case.m, self.dtype, device, seed)
                for seed in range(input_sets(bytes_each, device))
            ]
        except Exception as error:
            self._failed("inputs", error)
            return
        ready = [found for name in case.providers if (found := self._prepare(p.BY_NAME[name]))]
        self.truths.clear()
        self._begin(TOGETHER)
        parts = self._parts()
        entries = [entry for one in ready for entry in one.entries]
        try:
            measure(
                [*entries, *parts],
                self.worker.watch,
                deadline=self.worker.log.deadline,
                beat=self.worker.journal.touch,
            )
        finally:  # also when the device is lost in the middle
            self._write(ready, parts)

    def _prepare(self, provider: Provider) -> Ready | None:
        case = self.case
        if is_skipped(Step(case.key, provider.name), self.worker.skipped):
            return None
        skipped = None
        if not provider.fits(case.n, case.m, case.half):
            skipped = "too slow or too large"
        elif self.worker.log.left() <= 0:
            skipped = "time was up"
        if skipped:
            self.worker.rows.add(self._row(provider.name) | {"skipped": skipped})
            return None
        self._begin(provider.name)
        ready = None
        try:
            ready = self._checked(provider)
        except DeviceLostError:
            raise
        except Exception as error:
            self._failed(provider.name, error)
        return ready

    def _checked(self, provider: Provider) -> Ready | None:
        z = self.inputs[0]
        loss = provider.make()
        ready = Ready(provider)
        both = partial(p.value_and_gradient, loss, scale=provider.scale(self.dtype))
        poison(z)
        if not self._accept(ready, BOTH, PLAIN, both(z)):
            return None
        with counted(self.worker.device) as launches:
            peak = self.worker.watch.peak_bytes(partial(both, z))
        ready.known[BOTH, PLAIN] |= {"launches": len(launches) or None, "peak_bytes": peak}
        self._add(ready, BOTH, both)
        if provider.forward:
            value = partial(p.value_only, loss)
            if self._accept(ready, FORWARD, PLAIN, value(z)):
                self._add(ready, FORWARD, value)
        return ready

    def _add(self, ready: Ready, mode: str, call: Callable[[Tensor], Sequence[Tensor]]) -> None:
        """Entries of `call`: plain, and replayed from a graph where that works."""
        name = ready.provider.name
        runs: list[Call] = [partial(call, z) for z in self.inputs]
        ready.entries.append(Entry(name, mode, PLAIN, runs, queued=False))
        if not ready.provider.graph or self.worker.device.type != "cuda":
            return
        try:
            replays, outputs = captured(call, self.inputs)
        except Exception as error:
            self._failed(name, error, mode=mode, call=GRAPH)
            return
        if self._accept(ready, mode, GRAPH, outputs):
            ready.entries.append(Entry(name, mode, GRAPH, replays, queued=True))

    def _accept(self, ready: Ready, mode: str, call: str, outputs: Sequence[Tensor]) -> bool:
        """Whether it may be timed: notes its errors, or writes a row if it may not."""
        provider = ready.provider
        if provider.own not in self.truths:
            self.truths[provider.own] = p.truth_of(provider, self.inputs[0])
        truth = self.truths[provider.own]
        found = p.errors(provider, truth, outputs, provider.scale(self.dtype))
        wrong = p.wrong(provider, found, self.inputs[0])
        known: Row = {"value_error": finite(found.value), "wrong": wrong}
        if found.gradient is not None:
            known["gradient_error"] = finite(found.gradient)
        ready.known[mode, call] = known
        if wrong is None or provider.timed_if_wrong:
            return True
        self.worker.rows.add(self._row(provider.name, mode, call) | known)
        self.worker.log.say(f"    {provider.name}, {mode}, {call}: {wrong}")
        return False

    def _parts(self) -> list[Entry]:
        """The products with z that no implementation avoids, in the dtype of z."""
        n, m = self.case.n, self.case.m
        k = min(n, m)
        try:
            z = self.inputs[0]
            square = torch.randn(k, k, device=z.device).to(self.dtype)
            full, out = torch.empty_like(square), torch.empty_like(z)
        except Exception as error:
            self._failed(PART, error)
            return []

        def symmetric(z: Tensor) -> object:
            return torch.mm(z, z.mT, out=full) if n <= m else torch.mm(z.mT, z, out=full)

        def product(z: Tensor) -> object:
            return torch.mm(square, z, out=out) if n <= m else torch.mm(z, square, out=out)

        return [
            Entry(name, PART, PLAIN, [partial(call, z) for z in self.inputs], queued=True)
            for name, call in ((FULL_PRODUCT, symmetric), (PRODUCT, product))
        ]

    def _write(self, ready: Sequence[Ready], parts: Sequence[Entry]) -> None:
        floors: dict[str, float] = {}
        if len(parts) == 2:
            symmetric, product = (entry.timing.median for entry in parts)
            floors = {FORWARD: symmetric / 2, BOTH: symmetric / 2 + product}
        for part in parts:
            self.worker.rows.add(self._row(part.provider, PART, PLAIN) | times(part.timing))
        for one in ready:
            for entry in one.entries:
                known = one.known[entry.mode, entry.call]
                found = self._row(one.provider.name, entry.mode, entry.call) | known
                found |= times(entry.timing) | {"note": one.provider.note or None}
                found["wrong"] = entry.timing.wrong or known["wrong"]
                if one.provider.own is None:
                    floor = floors.get(entry.mode, float("nan"))
                    found["floor_ms"] = milliseconds(floor)
                    found["time_over_floor"] = finite(entry.timing.median / floor)
                self.worker.rows.add(found)
        self.worker.log.say(f"    {summary([e for one in ready for e in one.entries])}")

    def _row(self, provider: str, mode: str | None = None, call: str | None = None) -> Row:
        return case_row(self.case) | {"mode": mode, "provider": provider, "call": call}

    def _begin(self, name: str) -> None:
        self.worker.journal.begin(Step(self.case.key, name))

    def _failed(
        self, name: str, error: Exception, mode: str | None = None, call: str | None = None
    ) -> None:
        self.worker.rows.add(self._row(name, mode, call) | {"error": describe(error)})
        self.worker.log.say(f"    {name}: {describe(error)}")
        raise_if_lost(error)


def case_row(case: Case | None) -> Row:
    """A row of the case, or of none, otherwise empty."""
    if case is None:
        return row(group="sweep")
    return row(group="sweep", tier=case.tier, shape=[case.n, case.m], dtype=case.dtype)


def poison(z: Tensor) -> None:
    """Leaves NaN in freed memory of the sizes that outputs will have, so that an element that is
    never written shows."""
    held = [torch.full_like(z, torch.nan) for _ in range(2)]
    held += [torch.full((k, k), torch.nan, device=z.device) for k in {min(z.shape)} for _ in "12"]
    del held


@contextmanager
def counted(device: torch.device) -> Iterator[Sized]:
    """The launches of the package's own kernels inside; nothing where there are none."""
    if device.type != "cuda" or choice.resolve(choice.requested(), device) == "eager":
        yield ()
        return
    from wssl_fast.backends.triton.launch import recorded

    with recorded() as found:
        yield found


def summary(entries: Sequence[Entry]) -> str:
    """The medians of forward+backward, for the log."""
    return ", ".join(
        f"{e.provider}{' (graph)' if e.call == GRAPH else ''} {e.timing.median * 1e3:.3f}"
        for e in entries
        if e.mode == BOTH and e.timing.samples
    )


def warm(pairs: Sequence[tuple[Case, str]], device: torch.device, log: Log) -> None:
    """Calls each provider at its case, so that the compilers' disk caches hold what it needs.
    Goes on past failures: the measurement will say what is wrong."""
    for case, name in pairs:
        if log.left() < 0:
            return
        try:
            z = p.healthy(case.n, case.m, DTYPES[case.dtype], device, 0)
            loss: Loss = p.BY_NAME[name].make()
            p.value_and_gradient(loss, z, 1.0)
            p.value_only(loss, z)
        except Exception as error:
            log.say(f"    warming {name} at {case.key}: {describe(error)}")
            raise_if_lost(error)
