"""Tiles for this machine: regenerates its architecture's part of table.json, a row at a time.

    python -m benchmarks.gpu tune [--kernel gram ...] [--product exact ...] [--seconds 500]

Each row of the table (kernel, kind of product, size class) is tuned where a whole call, forward and
backward and replayed from a graph, reaches it at the largest size of its class: from the committed
tile, one change at a time (twice or half the tile, the block, the warps; a stage more or less) for
as long as the call gets faster by GAIN. A tile must give the same result as the committed one
before it is timed, beside the best so far in interleaved rounds. Tiles that do not compile, do not
fit or are wrong are left out with the reason in their row of timings. The table is written after
every row, so that an interruption keeps what was found.
"""

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

import wssl_fast as wf
from benchmarks.gpu import providers as p
from benchmarks.gpu.plan import DTYPES
from benchmarks.gpu.rows import Log, Rows, milliseconds
from benchmarks.gpu.supervise import Journal, Step, is_skipped
from benchmarks.gpu.timing import (
    Call,
    DeviceLostError,
    Entry,
    Stopwatch,
    captured,
    describe,
    measure,
    raise_if_lost,
)
from benchmarks.peers import Loss
from wssl_fast.backends.triton import dispatch
from wssl_fast.backends.triton.dispatch import Tile
from wssl_fast.backends.triton.launch import recorded

TABLE = Path(dispatch.__file__).parent / "table.json"
GAIN = 0.01
MOST_MOVES = 4
ROUNDS, SECONDS = 30, 0.6
SAME = 1e-2  # largest relative difference from the committed tile's result: wrong is O(1)
SIZES = (128, 256, 512, 1024, 2048, 4096, 8192)
SMALLEST, LARGEST_SIZE, LARGEST_BLOCK = 16, 128, 256
FLOAT64_SIZE = 64
FIRST = (
    *("newton_schulz", "newton_schulz_small", "newton_schulz_phases", "gram", "gram_backward"),
    *("covariance", "covariance_backward"),
)

Table = dict[str, dict[str, dict[str, list[list[Any]]]]]


@dataclass(frozen=True)
class Target:
    """A row of the table: up to `limit` (None: any size)."""

    kernel: str
    product: str
    limit: int | None

    @property
    def job(self) -> str:
        return f"{self.kernel} {self.product} {self.limit or 'any'}"


@dataclass(frozen=True)
class Probe:
    """A call that may reach a row."""

    loss: str
    precision: str
    n: int
    m: int
    dtype: str

    def function(self) -> Loss:
        if self.loss == "L_U":
            return wf.uniformity
        return partial(wf.wasserstein_uniformity, precision=self.precision)

    def inputs(self, device: torch.device, count: int) -> list[Tensor]:
        dtype = DTYPES[self.dtype]
        return [p.healthy(self.n, self.m, dtype, device, seed) for seed in range(count)]


def probes() -> list[Probe]:
    """Calls at every size, in both formulations; one precision a product."""
    found = []
    for k in SIZES:
        shapes = ((k, min(max(4 * k, 8192), 32768)), (min(max(4 * k, 8192), 32768), k))
        for n, m in shapes:
            for dtype in DTYPES:
                kinds = ("highest", "double") if dtype == "bfloat16" else ("highest", "medium")
                found += [Probe("W2", precision, n, m, dtype) for precision in kinds]
                if n * m <= 2**25:
                    found.append(Probe("L_U", "highest", n, m, dtype))
    return found


Reached = dict[Target, tuple[int, Probe]]


def reached(
    table: Table,
    target: dispatch.Target,
    device: torch.device,
    calls: Sequence[Probe],
    say: Callable[[str], None] = print,
) -> Reached:
    """For every row that a call looks up, the call that does so at the largest size of the class.

    Nothing is launched. A float64 row is tuned where float64 is asked for: elsewhere it may be
    looked up for a launch that does nothing on a healthy batch."""
    found: Reached = {}
    look_up = dispatch.tile
    rows = _rows_for(table, target.name)
    for probe in calls:
        seen: list[tuple[str, str, int]] = []

        def watched(
            kernel: str,
            product: str,
            size: int,
            of: dispatch.Target,
            seen: list[tuple[str, str, int]] = seen,
        ) -> Tile:
            seen.append((kernel, product, size))
            return look_up(kernel, product, size, of)

        try:
            with mock.patch.object(dispatch, "tile", watched), recorded(run=False):
                p.value_and_gradient(probe.function(), probe.inputs(device, 1)[0], 1.0)
        except Exception as error:
            say(f"    {probe}: {describe(error)}")
        for kernel, product, size in seen:
            if product.startswith("float64") != (probe.precision == "double"):
                continue
            row = Target(kernel, product, class_of(rows[kernel][product], size))
            if row not in found or size > found[row][0]:
                found[row] = (size, probe)
    return found


def class_of(entries: Sequence[Sequence[Any]], size: int) -> int | None:
    """The limit of the class that `size` falls into."""
    limit: int | None = next(
        (limit for limit, _ in entries if limit is None or size <= limit), entries[-1][0]
    )
    return limit


def neighbours(tile: Tile, product: str) -> list[Tile]:
    """One change away: twice or half of the tile, the block or the warps; a stage more or less."""
    largest = FLOAT64_SIZE if product.startswith("float64") else LARGEST_SIZE
    moves = [
        *(tile._replace(size=size) for size in (tile.size * 2, tile.size // 2)),
        *(tile._replace(block=block) for block in (tile.block * 2, tile.block // 2)),
        *(tile._replace(warps=warps) for warps in (tile.warps * 2, tile.warps // 2)),
        *(tile._replace(stages=stages) for stages in (tile.stages + 1, tile.stages - 1)),
    ]
    return [
        t
        for t in moves
        if min(SMALLEST, tile.size) <= t.size <= max(largest, tile.size)
        and min(SMALLEST, tile.block) <= t.block <= max(LARGEST_BLOCK, tile.block)
        and 1 <= t.warps <= 16
        and 1 <= t.stages <= 5
    ]


def importance(row: Target) -> tuple[bool, int, str, int]:
    """Order of tuning: float64 last, the products of W2 first, small classes first."""
    place = FIRST.index(row.kernel) if row.kernel in FIRST else len(FIRST)
    return row.product.startswith("float64"), place, row.job.rsplit(" ", 1)[0], row.limit or 2**31


@dataclass
class Tuner:
    """What tunes rows, one after another."""

    device: torch.device
    watch: Stopwatch
    rows: Rows
    journal: Journal
    log: Log
    table_path: Path
    skipped: Sequence[Step] = ()
    chosen: dict[Target, Tile] = field(default_factory=dict)

    def run(self, wanted: Callable[[Target], bool]) -> None:
        """Every row wanted, until time is up; writes the table after each."""
        of = dispatch.target_of(self.device)
        table = read_table(self.table_path)
        rows = _rows_for(table, of.name)
        ended = self.journal.ended()
        found = reached(table, of, self.device, probes(), self.log.say)
        jobs = sorted((row for row in found if wanted(row)), key=importance)
        for index, row in enumerate(jobs):
            if row.job in ended or self.log.left() < 0:
                continue
            size, probe = found[row]
            old = Tile(*next(t for limit, t in rows[row.kernel][row.product] if limit == row.limit))
            self.log.say(f"{index + 1}/{len(jobs)} {row.job}: {tuple(old)}, {probe}")
            self.chosen[row] = self._climb(row, probe, size, old)
            write_row(self.table_path, of.name, row, self.chosen[row])
            self.journal.end(row.job)

    def _climb(self, row: Target, probe: Probe, size: int, old: Tile) -> Tile:
        """The best tile found from `old`."""
        self.journal.begin(Step(row.job, "committed tile"))
        inputs = probe.inputs(self.device, 2)
        best = self._ready(row, probe, inputs, old, None)
        if best is None:
            return old
        tried = {old}
        for _ in range(MOST_MOVES):
            start = best
            for tile in neighbours(start.tile, row.product):
                if tile in tried or self.log.left() < 0:
                    continue
                tried.add(tile)
                step = Step(row.job, str(tuple(tile)))
                if is_skipped(step, self.skipped):
                    continue
                self.journal.begin(step)
                other = self._ready(row, probe, inputs, tile, best)
                if other is None:
                    continue
                was, now = self._compare(best, other)
                self._row(row, probe, size, tile, seconds=now, best=was, best_tile=best.tile)
                if now < was * (1 - GAIN):
                    self.log.say(f"    {tuple(tile)} {now * 1e3:.4f} ms, was {was * 1e3:.4f}")
                    best = other
            if best is start:
                break
        return best.tile

    def _ready(
        self, row: Target, probe: Probe, inputs: Sequence[Tensor], tile: Tile, best: "Ready | None"
    ) -> "Ready | None":
        """Graphs of the call with `tile`; None, with a row that says why, if it cannot be timed."""
        try:
            with self._using(row, tile):
                both = partial(p.value_and_gradient, probe.function(), scale=1.0)
                replays, outputs = self._captured(both, inputs)
            if best is not None and (apart := difference(outputs, best.outputs)) > SAME:
                raise ArithmeticError(f"differs by {apart:.1e} from {tuple(best.tile)}")
        except DeviceLostError:
            raise
        except Exception as error:
            self._row(row, probe, None, tile, error=describe(error))
            self.log.say(f"    {tuple(tile)}: {describe(error)}")
            raise_if_lost(error)
            return None
        return Ready(tile, replays, outputs)

    def _captured(
        self, call: Callable[[Tensor], Sequence[Tensor]], inputs: Sequence[Tensor]
    ) -> tuple[list[Call], list[Tensor]]:
        if self.device.type == "cuda":
            return captured(call, inputs)
        return [partial(call, z) for z in inputs], list(call(inputs[0]))

    def _compare(self, best: "Ready", other: "Ready") -> tuple[float, float]:
        """Medians of both, in seconds, from the same rounds."""
        entries = [
            Entry(str(one.tile), "forward+backward", "graph", one.replays, queued=True)
            for one in (best, other)
        ]
        measure(entries, self.watch, rounds=ROUNDS, seconds=SECONDS)
        return entries[0].timing.median, entries[1].timing.median

    @contextmanager
    def _using(self, row: Target, tile: Tile) -> Iterator[None]:
        """`tile` for this row, what was chosen for rows before it, the table for all others."""
        look_up = dispatch.tile
        rows = _rows_for(read_table(self.table_path), dispatch.target_of(self.device).name)

        def chosen(kernel: str, product: str, size: int, of: dispatch.Target) -> Tile:
            asked = Target(kernel, product, class_of(rows[kernel][product], size))
            if asked == row:
                return tile
            return self.chosen.get(asked) or look_up(kernel, product, size, of)

        with mock.patch.object(dispatch, "tile", chosen):
            yield

    def _row(
        self,
        row: Target,
        probe: Probe,
        size: int | None,
        tile: Tile,
        *,
        seconds: float = math.nan,
        best: float = math.nan,
        best_tile: Tile | None = None,
        error: str | None = None,
    ) -> None:
        self.rows.add(
            {
                "group": "tune",
                "kernel": row.kernel,
                "product": row.product,
                "limit": row.limit,
                "size": size,
                "shape": [probe.n, probe.m],
                "dtype": probe.dtype,
                "loss": probe.loss,
                "precision": probe.precision,
                "tile": list(tile),
                "p50_ms": milliseconds(seconds),
                "best_tile": list(best_tile) if best_tile else None,
                "best_p50_ms": milliseconds(best),
                "error": error,
            }
        )


@dataclass(frozen=True)
class Ready:
    """A tile whose call was captured."""

    tile: Tile
    replays: Sequence[Call]
    outputs: Sequence[Tensor]


def difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Largest relative difference between outputs; infinite for NaN."""
    apart = [
        ((a.double() - b.double()).norm() / b.double().norm()).item()
        for a, b in zip(found, expected, strict=True)
    ]
    return max(x if x == x else math.inf for x in apart)


def read_table(path: Path) -> Table:
    """table.json."""
    table: Table = json.loads(path.read_text(encoding="utf-8"))
    return table


def write_row(path: Path, architecture: str, row: Target, tile: Tile) -> None:
    """Puts one tile into the table on disk, all at once. An architecture without rows of its own
    gets those it used so far: the nearest older one's."""
    table = read_table(path)
    rows: dict[str, Any] = json.loads(json.dumps(_rows_for(table, architecture)))
    entries = rows[row.kernel][row.product]
    rows[row.kernel][row.product] = [
        [limit, list(tile) if limit == row.limit else old] for limit, old in entries
    ]
    table[architecture] = rows
    _replace(path, format_table(table))


def format_table(table: Mapping[str, Mapping[str, object]]) -> str:
    """JSON with a line a kernel."""
    architectures = []
    for name, kernels in table.items():
        lines = [f"    {json.dumps(kernel)}: {json.dumps(of)}" for kernel, of in kernels.items()]
        architectures.append(f"  {json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n  }")
    return "{\n" + ",\n".join(architectures) + "\n}\n"


def _rows_for(table: Table, architecture: str) -> dict[str, dict[str, list[list[Any]]]]:
    return table[dispatch._nearest(architecture, tuple(table))]


def _replace(path: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
