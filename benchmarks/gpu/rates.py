"""What the device can do at best, measured in the same run: products, copies, launches."""

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.gpu.providers import healthy
from benchmarks.gpu.rows import Log, Row, Rows, times
from benchmarks.gpu.rows import row as empty
from benchmarks.gpu.timing import Call, Entry, Stopwatch, captured, describe, measure, raise_if_lost

SIDE = 8192  # of the square product
COPY_BYTES = 2**30
LAUNCHES = 1000
DENSE = "dense product"
COPY, LAUNCH = "device copy", "launch in a graph"
H200_HALF, H200_COPY = 790e12, 4.3e12
"""Measured on an H200: flops a second of a half-precision product, bytes a second of a copy."""
DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


def measure_rates(device: torch.device, watch: Stopwatch, rows: Rows, log: Log) -> None:
    """A row each: dense products by dtype (TFLOP/s, counted in full), copies (TB/s, bytes read and
    written), and the smallest PyTorch kernel within a graph of many (microseconds)."""
    side = SIDE if device.type == "cuda" else 64
    for dtype in DTYPES:
        flops = 2.0 * side**3
        _one(rows, log, watch, DENSE, dtype, "TFLOP/s", flops / 1e12, _product(side, dtype, device))
    count = COPY_BYTES // 4 if device.type == "cuda" else 1024
    _one(rows, log, watch, COPY, torch.float32, "TB/s", 8 * count / 1e12, _copy(count, device))
    if device.type == "cuda":
        _one(rows, log, watch, LAUNCH, torch.float32, "us", None, _launch(device))


def _one(
    rows: Rows,
    log: Log,
    watch: Stopwatch,
    provider: str,
    dtype: torch.dtype,
    unit: str,
    amount: float | None,
    make: Callable[[], Call],
) -> None:
    name = str(dtype).removeprefix("torch.")
    row: Row = empty(group="rates", mode="rate", provider=provider, dtype=name, call="plain")
    try:
        entry = Entry(provider, "rate", "plain", [make()], queued=True)
        measure([entry], watch)
    except Exception as error:
        rows.add(row | {"error": describe(error)})
        raise_if_lost(error)
        return
    median = entry.timing.median
    rate = median * 1e6 / LAUNCHES if amount is None else amount / median
    rows.add(row | times(entry.timing) | {"rate": round(rate, 3), "unit": unit})
    log.say(f"    {provider} {name}: {rate:.3g} {unit}")


def _product(side: int, dtype: torch.dtype, device: torch.device) -> Callable[[], Call]:
    def make() -> Call:
        a = healthy(side, side, dtype, device, 0)
        b = healthy(side, side, dtype, device, 1)
        out = torch.empty_like(a)
        return lambda: torch.mm(a, b, out=out)

    return make


def _copy(count: int, device: torch.device) -> Callable[[], Call]:
    def make() -> Call:
        source = torch.randn(count, device=device)
        target = torch.empty_like(source)
        return lambda: target.copy_(source)

    return make


def _launch(device: torch.device) -> Callable[[], Call]:
    def make() -> Call:
        one = torch.zeros(1, device=device)

        def many(z: Tensor) -> list[Tensor]:
            for _ in range(LAUNCHES):
                z.add_(1.0)
            return []

        (replay,), _ = captured(many, [one])
        return replay

    return make
