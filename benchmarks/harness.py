"""Timing side by side: warm, interleaved rounds over rotated inputs, correctness first.

Every provider of a comparison runs once a round, in an order that rotates, so that noise hits all
alike and a ratio within a run means something. A provider that is slower than its share gets fewer
rounds, spread over the whole run; the number is part of its row.
"""

import gc
import json
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


@dataclass(frozen=True)
class Case:
    """One provider: a call to time, and a check that returns what is wrong with it, or None."""

    provider: str
    run: Callable[[Tensor], object]
    check: Callable[[], str | None] = lambda: None


@dataclass
class Timing:
    """Seconds of each round of one provider; empty, with the reason, if it was not timed."""

    provider: str
    samples: list[float] = field(default_factory=list)
    wrong: str | None = None

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
    """Time all cases side by side; a case whose check fails is reported and not timed."""
    timings = {case.provider: Timing(case.provider, wrong=case.check()) for case in cases}
    right = [case for case in cases if timings[case.provider].wrong is None]
    planned = {}
    for case in right:
        samples = timings[case.provider].samples
        first = _time(case.run, inputs[0])
        if first >= SLOW_SECONDS:
            samples.append(first)
            affordable = min(rounds, int(seconds_per_case / first))
            planned[case.provider] = max(affordable, 2) - len(samples)  # one call may be a spike
        else:
            quickest = min(first, _time(case.run, inputs[-1]))
            planned[case.provider] = min(rounds, max(int(seconds_per_case / quickest), 2))
    for round_index in range(rounds):
        z = inputs[round_index % len(inputs)]
        start = round_index % max(len(right), 1)
        for case in right[start:] + right[:start]:
            share = planned[case.provider]
            if (round_index + 1) * share // rounds > round_index * share // rounds:
                timings[case.provider].samples.append(_time(case.run, z))
    return timings


def _time(run: Callable[[Tensor], object], z: Tensor) -> float:
    collecting = gc.isenabled()
    gc.disable()
    try:
        started = time.perf_counter()
        run(z)
        return time.perf_counter() - started
    finally:
        if collecting:
            gc.enable()


def loss_case(provider: str, loss: Loss, check: Callable[[], str | None] = lambda: None) -> Case:
    """Forward and backward of a loss, the gradient in the rows."""
    return Case(provider, lambda z: value_and_gradient(loss, z), check)


def against_truth(
    loss: Loss, z: Tensor, value: Tensor, gradient: Tensor, *, tolerance: float = 1e-3
) -> Callable[[], str | None]:
    """A check of value (absolute) and gradient (relative) of `loss` at z against float64 truth.

    1e-3 tells right from wrong on a healthy batch; the demo's table says how right each one is.
    """

    def check() -> str | None:
        found, found_gradient = value_and_gradient(loss, z)
        value_error = abs(found.double().item() - value.item())
        gradient_error = ((found_gradient.double() - gradient).norm() / gradient.norm()).item()
        if value_error <= tolerance and gradient_error <= tolerance:
            return None
        return f"value off by {value_error:.1e}, gradient by {gradient_error:.1e}"

    return check


FLOORS = ("full Gram", "eigh", "GEMM", "copy")


def floor_cases(n: int, m: int) -> list[Case]:
    """The parts no implementation avoids: products with the smaller Gram, its eigh, a copy of z."""
    k = min(n, m)
    square = torch.randn(k, k)
    gram_out, row_out = torch.empty(k, k), torch.empty(n, m)
    x = torch.randn(n, m)
    gram = x @ x.T if n <= m else x.T @ x

    def full_gram(z: Tensor) -> None:
        if n <= m:
            torch.mm(z, z.T, out=gram_out)
        else:
            torch.mm(z.T, z, out=gram_out)

    def gemm(z: Tensor) -> None:
        if n <= m:
            torch.mm(square, z, out=row_out)
        else:
            torch.mm(z, square, out=row_out)

    return [
        Case("full Gram", full_gram),
        Case("eigh", lambda z: torch.linalg.eigh(gram)),
        Case("GEMM", gemm),
        Case("copy", lambda z: row_out.copy_(z)),
    ]


def floor_seconds(timings: Mapping[str, Timing]) -> float:
    """Half of the full Gram product (it is symmetric), one eigh, one GEMM."""
    return timings["full Gram"].median / 2 + timings["eigh"].median + timings["GEMM"].median


def rows(
    group: str,
    shape: tuple[int, int],
    timings: Mapping[str, Timing],
    *,
    floor: float | None = None,
    peak_bytes: Mapping[str, int] | None = None,
) -> list[dict[str, object]]:
    """One JSON-ready row a provider, with where, with what and at which commit it was measured."""
    where = {
        "hardware": machine.hardware(),
        "versions": machine.versions(),
        "commit": machine.commit(),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    found = []
    for provider, timing in timings.items():
        row: dict[str, object] = {
            "group": group,
            "shape": list(shape),
            "dtype": "float32",
            "mode": "part" if provider in FLOORS else "forward+backward",
            "provider": provider,
            "rounds": len(timing.samples),
            "wrong": timing.wrong,
            "peak_bytes": (peak_bytes or {}).get(provider),
        }
        for percent in (20, 50, 80):
            row[f"p{percent}_ms"] = _milliseconds(timing.percentile(percent))
        row["time_over_floor"] = (
            round(timing.median / floor, 3) if floor and timing.samples else None
        )
        found.append(row | where)
    return found


def record(found: Sequence[Mapping[str, object]], folder: Path) -> Path:
    """Append rows to <folder>/<machine>/bench.jsonl; never rewrites what is there."""
    path = folder / machine.machine_name() / "bench.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        for row in found:
            file.write(json.dumps(row) + "\n")
    return path


def _milliseconds(seconds: float) -> float | None:
    return None if seconds != seconds else round(seconds * 1e3, 4)  # NaN is not JSON
