"""Timing side by side: warm, interleaved rounds over rotated inputs, correctness first.

Every provider of a comparison runs once a round, in an order that rotates, so that noise hits all
alike and a ratio within a run means something. A provider that is slower than its share gets fewer
rounds, spread over the whole run; the number is part of its row. One that would take longer than a
call may take is not called: its seconds are foreseen from smaller problems, and named.
"""

import gc
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import machine
from benchmarks.peers import Loss, value_and_gradient

ROUNDS = 20
SECONDS_PER_CASE = 30.0  # a provider slower than SECONDS_PER_CASE / ROUNDS gets fewer rounds
SLOW_SECONDS = 3.0  # a first call this slow is warm enough: it counts as a sample

Reason = Callable[[], str | None]
"""Why not, or None."""


def no_reason() -> str | None:
    """Nothing speaks against it."""
    return None


@dataclass(frozen=True)
class Case:
    """One provider: a call to time, and what speaks against timing it.

    Attributes:
        check: what is wrong with it, or None.
        skip: why it is not called at all, or None; asked before `check`.
        seconds: its share of the run; None: that of the comparison.
        part: a part of the floor, not a competitor.
        timed_if_wrong: its cost is the question even where its result is wrong.
    """

    provider: str
    run: Callable[[Tensor], object]
    check: Reason = no_reason
    skip: Reason = no_reason
    seconds: float | None = None
    part: bool = False
    timed_if_wrong: bool = False


@dataclass
class Timing:
    """Seconds of each round of one provider; empty, with the reason, if it was not timed."""

    provider: str
    samples: list[float] = field(default_factory=list)
    wrong: str | None = None
    skipped: str | None = None
    part: bool = False

    def percentile(self, percent: float) -> float:
        """Seconds; NaN if not timed."""
        if not self.samples:
            return float("nan")
        return torch.tensor(self.samples, dtype=torch.float64).quantile(percent / 100).item()

    @property
    def median(self) -> float:
        """Seconds; NaN if not timed."""
        return self.percentile(50)


def measure(
    cases: Sequence[Case],
    inputs: Sequence[Tensor],
    *,
    rounds: int = ROUNDS,
    seconds_per_case: float = SECONDS_PER_CASE,
) -> dict[str, Timing]:
    """Time all cases side by side; one that is skipped or wrong is reported and not timed."""
    timings = {case.provider: _asked(case) for case in cases}
    if len(timings) < len(cases):
        raise ValueError("two cases of one comparison have the same name")
    planned: dict[str, int] = {}
    for case in cases:
        timing = timings[case.provider]
        if timing.skipped or (timing.wrong and not case.timed_if_wrong):
            continue
        share = seconds_per_case if case.seconds is None else case.seconds
        try:
            planned[case.provider] = _planned(case, timing, inputs, rounds, share)
        except (RuntimeError, ArithmeticError) as error:
            _fail(timing, error)
    running = [case for case in cases if case.provider in planned]
    for round_index in range(rounds):
        z = inputs[round_index % len(inputs)]
        start = round_index % max(len(running), 1)
        for case in running[start:] + running[:start]:
            timing, calls = timings[case.provider], planned[case.provider]
            if (round_index + 1) * calls // rounds > round_index * calls // rounds:
                try:
                    timing.samples.append(seconds_of(case.run, z))
                except (RuntimeError, ArithmeticError) as error:
                    _fail(timing, error)
                    planned[case.provider] = 0
    return timings


def _asked(case: Case) -> Timing:
    timing = Timing(case.provider, part=case.part)
    try:
        timing.skipped = case.skip()
        if timing.skipped is None:
            timing.wrong = case.check()
    except (RuntimeError, ArithmeticError) as error:  # an eigensolver that did not converge
        _fail(timing, error)
    return timing


def _fail(timing: Timing, error: Exception) -> None:
    timing.samples.clear()
    timing.wrong = f"raised {type(error).__name__.lstrip('_')}: {str(error).splitlines()[0][:120]}"


def _planned(
    case: Case, timing: Timing, inputs: Sequence[Tensor], rounds: int, share: float
) -> int:
    first = seconds_of(case.run, inputs[0])
    if first >= SLOW_SECONDS:
        timing.samples.append(first)
        affordable = min(rounds, int(share / first))
        return max(affordable, 2) - len(timing.samples)  # one call may be a spike
    quickest = min(first, seconds_of(case.run, inputs[-1]))
    return min(rounds, max(int(share / quickest), 2))


def seconds_of(run: Callable[[Tensor], object], z: Tensor) -> float:
    """Wall time of one call, the device of z synchronised before and inside."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        _synchronise(z)
        started = time.perf_counter()
        run(z)
        _synchronise(z)
        return time.perf_counter() - started
    finally:
        if collecting:
            gc.enable()


def _synchronise(z: Tensor) -> None:
    if z.device.type == "cuda":
        torch.cuda.synchronize(z.device)


def extrapolated(seconds: Sequence[float], doublings: float) -> float:
    """The last doubling's growth goes on, at least 2 and at most 8 a doubling."""
    growth = min(max(seconds[-1] / seconds[-2], 2.0), 8.0) if len(seconds) > 1 else 2.0
    return seconds[-1] * growth**doublings


def too_slow(
    run: Callable[[Tensor], object],
    make: Callable[[int], Tensor],
    size: int,
    limit: float,
) -> Reason:
    """Skip what is foreseen to take over `limit` seconds at `size`, from size/64 ... size/4.

    The smaller problems stop where even the least growth would pass the limit.
    """

    def skip() -> str | None:
        found: list[float] = []
        for halvings in (6, 5, 4, 3, 2):
            if size >> halvings < 16:
                continue
            z = make(size >> halvings)
            found.append(min(seconds_of(run, z) for _ in range(3)))
            if found[-1] * 2**halvings > limit:
                break
        if not found or (foreseen := extrapolated(found, halvings)) <= limit:
            return None
        return f"foreseen to take {foreseen:.0f} s a call, over {limit:g} s"

    return skip


def loss_case(provider: str, loss: Loss, check: Reason = no_reason) -> Case:
    """Forward and backward of a loss, the gradient in the rows."""
    return Case(provider, lambda z: value_and_gradient(loss, z), check)


def against_truth(
    loss: Loss, z: Tensor, value: Tensor, gradient: Tensor | None, *, tolerance: float = 1e-3
) -> Reason:
    """A check of value (absolute) and gradient (relative) of `loss` at z against float64 truth.

    1e-3 tells right from wrong on a healthy batch; the accuracy table says how right each one is.
    Without a true gradient the value is checked, and that the gradient is finite.
    """

    def check() -> str | None:
        found, found_gradient = value_and_gradient(loss, z)
        value_error = abs(found.double().item() - value.item())
        if not found_gradient.isfinite().all():
            return f"value off by {value_error:.1e}, gradient not finite"
        gradient_error = 0.0
        if gradient is not None:
            off = found_gradient.double().cpu() - gradient.cpu()
            gradient_error = (off.norm() / gradient.norm()).item()
        if value_error <= tolerance and gradient_error <= tolerance:
            return None
        seen = f", gradient by {gradient_error:.1e}" if gradient is not None else ""
        return f"value off by {value_error:.1e}{seen}"

    return check


def rows(
    group: str,
    shape: Sequence[int],
    timings: Mapping[str, Timing],
    *,
    mode: str = "forward+backward",
    dtype: str = "float32",
    device: str = "cpu",
    floor: float | None = None,
    peak_bytes: Mapping[str, int] | None = None,
) -> list[dict[str, object]]:
    """One JSON-ready row a provider, with where, with what and at which commit it was measured."""
    where = {
        "hardware": machine.hardware(device),
        "versions": machine.versions(),
        "commit": machine.commit(),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    found = []
    for provider, timing in timings.items():
        row: dict[str, object] = {
            "group": group,
            "shape": list(shape),
            "dtype": dtype,
            "device": device,
            "mode": "part" if timing.part else mode,
            "provider": provider,
            "rounds": len(timing.samples),
            "wrong": timing.wrong,
            "skipped": timing.skipped,
            "peak_bytes": (peak_bytes or {}).get(provider),
        }
        for percent in (20, 50, 80):
            row[f"p{percent}_ms"] = _milliseconds(timing.percentile(percent))
        row["floor_ms"] = _milliseconds(floor) if floor is not None else None
        row["time_over_floor"] = (
            round(timing.median / floor, 3)
            if floor and math.isfinite(floor) and timing.samples
            else None
        )
        found.append(row | where)
    return found


def record(found: Sequence[Mapping[str, object]], folder: Path, *, device: str = "cpu") -> Path:
    """Append rows to <folder>/<machine>/bench.jsonl; never rewrites what is there."""
    path = folder / machine.machine_name(device) / "bench.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        for row in found:
            file.write(json.dumps(row) + "\n")
    return path


def _milliseconds(seconds: float) -> float | None:
    return None if seconds != seconds else round(seconds * 1e3, 4)  # NaN is not JSON
