"""What the processes do that stages.py supervises: compile, measure, tune, each until its deadline.
3 is the exit code of one that lost its device."""

import os
from collections.abc import Sequence
from contextlib import nullcontext

import torch

from benchmarks.gpu import providers as p
from benchmarks.gpu import turns
from benchmarks.gpu.place import REHEARSAL, Place
from benchmarks.gpu.rates import measure_rates
from benchmarks.gpu.rows import Log
from benchmarks.gpu.supervise import Journal, Step, is_skipped
from benchmarks.gpu.sweep import Worker, warm
from benchmarks.gpu.timing import DeviceLostError, stopwatch

WORKER_SECONDS = 10.0  # before it is stopped, a worker should be writing its last rows
RATES = "rates"
COMPILED_BY_CALLS = (p.OURS, p.HIGHEST, p.DOUBLE, p.UNIFORMITY, p.COMPILED)
WARM_TIERS = ("target", "memory", "large", "dtype", "tall", REHEARSAL)


def warm_part(place: Place, part: int, parts: int) -> None:
    """Compiles, by calling, this part of what the first tiers call."""
    pairs = [
        (case, name)
        for case in place.cases()
        if case.tier in WARM_TIERS
        for name in case.providers
        if name in COMPILED_BY_CALLS
    ]
    device, log = torch.device(place.device), place.logger()
    from benchmarks.gpu import root_sweep  # needs Triton

    os.nice(turns.NICER)
    turns.share_compilation(place.scratch, nullcontext)
    root_sweep.warm(place.roots()[part::parts], device, log)
    warm(pairs[part::parts], device, log)


def work(place: Place, skipped: Sequence[Step]) -> int:
    """A worker: rates once, then cases. 3 if the device was lost."""
    device = torch.device(place.device)
    journal, log = Journal(place.journal), place.logger()
    if log.left() <= 0:
        return 0
    try:
        watch = stopwatch(device)
        if RATES not in journal.ended() and not is_skipped(Step(RATES, RATES), skipped):
            journal.begin(Step(RATES, RATES))
            log.say("rates of the device")
            measure_rates(device, watch, place.writer(), log)
            journal.end(RATES)
        until = Log(log.path, place.deadline - WORKER_SECONDS)
        Worker(device, watch, place.writer(), journal, until, skipped).run(place.cases())
    except DeviceLostError as error:
        log.say(f"    device lost: {error}")
        return 3
    return 0


def root_work(place: Place, skipped: Sequence[Step]) -> int:
    """A worker over the k x k problem alone. 3 if the device was lost."""
    from benchmarks.gpu import root_sweep  # needs Triton

    device, log = torch.device(place.device), place.logger()
    try:
        journal, until = Journal(place.root_journal), Log(log.path, place.deadline - WORKER_SECONDS)
        worker = Worker(device, stopwatch(device), place.writer(), journal, until, skipped)
        root_sweep.run(worker, place.roots())
    except DeviceLostError as error:
        log.say(f"    device lost: {error}")
        return 3
    return 0


def tune_work(
    place: Place,
    skipped: Sequence[Step],
    kernels: Sequence[str],
    products: Sequence[str],
    sizes: Sequence[str],
) -> int:
    """A worker that tunes the rows asked for; none asked for: all."""
    from benchmarks.gpu.tune import TABLE, Target, Tuner  # needs Triton

    def wanted(row: Target) -> bool:
        return (
            (not kernels or row.kernel in kernels)
            and (not products or row.product in products)
            and (not sizes or str(row.limit or "any") in sizes)
        )

    device = torch.device(place.device)
    journal, log = Journal(place.journal), place.logger()
    try:
        tuner = Tuner(device, stopwatch(device), place.writer(), journal, log, TABLE, skipped)
        tuner.run(wanted)
    except DeviceLostError as error:
        log.say(f"    device lost: {error}")
        return 3
    return 0
