"""The k x k problem alone, at every size: who is right, and how long each takes.

As sweep.py does with losses: a contender is checked against float64, plainly and replayed from a
graph, and all that are right are timed in the same interleaved rounds, cache cold. Parts are put
back before each call, outside its time.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from benchmarks.gpu import root
from benchmarks.gpu.plan import root_job
from benchmarks.gpu.root import Contender, Prepared, Problem
from benchmarks.gpu.rows import Log, Row, finite, milliseconds, root_row, times
from benchmarks.gpu.supervise import TOGETHER, Step, is_skipped
from benchmarks.gpu.sweep import GRAPH, PLAIN, Worker
from benchmarks.gpu.timing import (
    DeviceLostError,
    Entry,
    captured,
    describe,
    input_sets,
    measure,
    raise_if_lost,
)

PARTS = "parts of K"


def run(worker: Worker, sizes: Sequence[int]) -> None:
    """Sizes in order; the supervisor writes rows of those that did not fit.

    Raises DeviceLostError, after its row, when no further call of this process can succeed.
    """
    ended = worker.journal.ended()
    for index, k in enumerate(sizes):
        if root_job(k) in ended or is_skipped(Step(root_job(k), TOGETHER), worker.skipped):
            continue
        if worker.log.left() <= 0:
            return
        worker.log.say(f"{index + 1}/{len(sizes)} root {k} x {k}")
        Measurement(worker, k).run()
        worker.journal.end(root_job(k))
        if worker.device.type == "cuda":
            torch.cuda.empty_cache()


@dataclass
class Ready:
    """A contender that was right at least once."""

    contender: Contender
    entries: list[Entry] = field(default_factory=list)
    known: dict[str, Row] = field(default_factory=dict)
    """By call: errors, and what is wrong."""


class Measurement:
    """One size."""

    def __init__(self, worker: Worker, k: int) -> None:
        self.worker, self.k = worker, k

    def run(self) -> None:
        """Everything, with a row for whatever fails."""
        self._begin(PARTS)
        try:
            given = root.problem(self.k, self.worker.device)
            contenders = root.contenders(given)
        except Exception as error:
            self._failed(PARTS, error)
            return
        # seven matrices are a workspace
        self.sets = input_sets(7 * 4 * self.k**2, self.worker.device)
        ready = [found for one in contenders if (found := self._prepare(given, one))]
        self._begin(TOGETHER)
        try:
            measure(
                [entry for one in ready for entry in one.entries],
                self.worker.watch,
                deadline=self.worker.log.deadline,
                beat=self.worker.journal.touch,
            )
        finally:  # also when the device is lost in the middle
            self._write(ready)

    def _prepare(self, given: Problem, contender: Contender) -> Ready | None:
        if is_skipped(Step(root_job(self.k), contender.name), self.worker.skipped):
            return None
        if self.worker.log.left() <= 0:
            self.worker.rows.add(self._row(contender.name) | {"skipped": "time was up"})
            return None
        self._begin(contender.name)
        try:
            return self._checked(given, contender)
        except DeviceLostError:
            raise
        except Exception as error:
            self._failed(contender.name, error)
            return None

    def _checked(self, given: Problem, contender: Contender) -> Ready | None:
        sets = [contender.make() for _ in range(self.sets)]
        first = sets[0]
        ready = Ready(contender)
        first.restore()
        if not self._accept(given, ready, PLAIN, first, first.run()):
            return None
        before = [one.restore for one in sets]
        runs = [one.run for one in sets]
        ready.entries.append(Entry(contender.name, "root", PLAIN, runs, False, before))
        if self.worker.device.type != "cuda":
            return ready
        try:
            replays, outputs = captured(
                lambda one: one.run(), sets, restore=lambda one: one.restore()
            )
        except Exception as error:
            self._failed(contender.name, error, GRAPH)
            return ready
        if self._accept(given, ready, GRAPH, first, outputs):
            ready.entries.append(Entry(contender.name, "root", GRAPH, replays, True, before))
        return ready

    def _accept(
        self, given: Problem, ready: Ready, call: str, one: Prepared, outputs: Sequence[Tensor]
    ) -> bool:
        """Whether it may be timed: notes its errors, or writes a row if it may not."""
        found = root.errors(given, outputs, one.factor)
        notes = [ready.contender.note, f"{given.splits} parts"]
        if one.deep is not None and bool(one.deep.any()):
            notes.append("asks for float64")
        known: Row = {
            "value_error": finite(found[0]),
            "weights_error": finite(found[1]),
            "modelled_ms": milliseconds(ready.contender.modelled),
            "note": "; ".join(note for note in notes if note),
            "wrong": root.wrong(found),
        }
        ready.known[call] = known
        if known["wrong"] is None:
            return True
        name = ready.contender.name
        self.worker.rows.add(self._row(name, call) | known)
        self.worker.log.say(f"    {name}, {call}: {known['wrong']}")
        return False

    def _write(self, ready: Sequence[Ready]) -> None:
        for one in ready:
            for entry in one.entries:
                found = self._row(one.contender.name, entry.call) | one.known[entry.call]
                found |= times(entry.timing)
                ratio = entry.timing.median / one.contender.modelled
                found["time_over_modelled"] = finite(ratio)
                self.worker.rows.add(found)
        timed = [entry for one in ready for entry in one.entries if entry.timing.samples]
        self.worker.log.say(f"    {summary(timed)}")

    def _row(self, provider: str, call: str | None = None) -> Row:
        return root_row(self.k) | {"provider": provider, "call": call}

    def _begin(self, name: str) -> None:
        self.worker.journal.begin(Step(root_job(self.k), name))

    def _failed(self, name: str, error: Exception, call: str | None = None) -> None:
        self.worker.rows.add(self._row(name, call) | {"error": describe(error)})
        self.worker.log.say(f"    {name}: {describe(error)}")
        raise_if_lost(error)


def summary(entries: Sequence[Entry]) -> str:
    """Medians in microseconds, for the log: from a graph where there is one."""
    graphs = [entry for entry in entries if entry.call == GRAPH]
    return ", ".join(
        f"{e.provider}{' (graph)' if e.call == GRAPH else ''} {e.timing.median * 1e6:.1f} us"
        for e in graphs or entries
    )


def warm(sizes: Sequence[int], device: torch.device, log: Log) -> None:
    """Triton's kernel of every size, so that the disk cache holds it. Goes on past failures: the
    measurement will say what is wrong."""
    for k in sizes:
        if log.left() < 0:
            return
        try:
            root.by_triton(root.problem(k, device)).run()
        except Exception as error:
            log.say(f"    warming the root of {k}: {describe(error)}")
            raise_if_lost(error)
