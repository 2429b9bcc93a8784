"""Streaming moments: one pass over a memory-mapped file, its speed, memory and accuracy.

python -m benchmarks.studies.streaming                       1,000,000 x 2,048 float32: 8 GB on disk
python -m benchmarks.studies.streaming --rows 250000         a quarter of it
python -m benchmarks.studies.streaming --parts batches accuracy         without the file

pass      `Moments` over the file, and the pass of `wssl-fast inspect` (norms once more, a sample of
          the rows, L_U and eigenvalues), each in a fresh process; the file in the page cache, and
          evicted from it ("cold"). Peak memory is that of the process's own pages, RssAnon: pages
          of the mapped file are the system's to take back.
batches   rows a second by size of the batch that `update` gets.
accuracy  null eigenvalues of float32 and float64 products over a million rows, and the singular
          value where a direction is seen no more.

The syrk rate is that of PyTorch's product of 8,192 x 2,048 rows in the same dtype, timed between
the blocks of the pass or in the same rounds: n m^2 flops of a symmetric product at the rate of a
full one, which no syrk exceeds by much. Rows are written with --record.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.machine import commit, hardware, versions
from wssl_fast.backends.eager.products import symmetric_product
from wssl_fast.cli import scan, summary
from wssl_fast.cli.readers import open_sources
from wssl_fast.metrics import Moments

ROWS_FILE = Path(__file__).parents[1] / "results" / "studies" / "streaming.jsonl"
BLOCK = 8192
EVERY = 6
DTYPES = {"double": torch.float64, "highest": torch.float32}
Row = dict[str, Any]


def batch(n: int, m: int, seed: int) -> torch.Tensor:
    """Rows with a spectrum that falls and a mean, float32."""
    g = torch.Generator().manual_seed(seed)
    scale = torch.arange(1, m + 1) ** -0.5
    return torch.randn(n, m, generator=g) * scale + 0.1


def write_file(path: Path, rows: int, m: int) -> None:
    out = np.lib.format.open_memmap(path, "w+", np.float32, (rows, m))
    for start in range(0, rows, BLOCK):
        part = batch(min(BLOCK, rows - start), m, start).numpy()
        out[start : start + len(part)] = part
    out.flush()


def evict(path: Path) -> None:
    """Takes a file out of the page cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class PeakMemory:
    """The largest RssAnon of this process between enter and exit, and what it was on entry."""

    def __enter__(self) -> "PeakMemory":
        self.before = self.peak = self._now()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.01):
            self.peak = max(self.peak, self._now())

    @staticmethod
    def _now() -> float:
        """MiB."""
        found = re.search(r"RssAnon:\s*(\d+) kB", Path("/proc/self/status").read_text())
        assert found
        return int(found[1]) / 1024


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def one_pass(path: Path, what: str, precision: str) -> Row:
    """Runs in a process of its own. Every few blocks a full product of the same rows is timed, so
    that both meet the same machine; its time is not the pass's."""
    dtype = DTYPES[precision]
    (source,) = open_sources([path])
    n, m = source.rows, source.width
    Moments(precision=precision).update(batch(256, m, 0)).effective_rank()  # warm
    z, out = batch(BLOCK, m, 0).to(dtype), torch.empty(m, m, dtype=dtype)
    torch.mm(z.T, z, out=out)
    products: list[float] = []

    def blocks(count: int) -> Iterator[torch.Tensor]:
        for i, block in enumerate(source.blocks(count)):
            if i % EVERY == 0:
                products.append(seconds(lambda: torch.mm(z.T, z, out=out)))
            yield block

    timed = replace(source, blocks=blocks)

    def moments() -> object:
        found = Moments(precision=precision)
        for block in timed.blocks(BLOCK):
            found.update(block)
        return found

    def inspect() -> object:
        found = scan.scan(
            [timed], normalize=True, precision=precision, skip=False, sample=8192, seed=0,
            console=Console(quiet=True),
        )  # fmt: skip
        return summary.record(found, summary.values(found))

    with PeakMemory() as memory:
        taken = seconds(moments if what == "moments" else inspect) - sum(products)
    rate = 2 * BLOCK * m * m * len(products) / sum(products)
    return {
        "part": "pass",
        "what": what,
        "precision": precision,
        "rows": n,
        "columns": m,
        "seconds": taken,
        "gflops": n * m * m / taken / 1e9,
        "syrk_gflops": rate / 1e9,
        "share_of_syrk": n * m * m / taken / rate,
        "peak_above_start_mib": memory.peak - memory.before,
        "load": os.getloadavg()[0],  # of the machine: processes that want a core
    }


PASSES = (
    ("moments", "double", False),
    ("moments", "highest", False),
    ("inspect", "double", False),
    ("inspect", "highest", False),
    ("moments", "highest", True),
)


def passes(rows: int, m: int) -> list[Row]:
    found = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.npy"
        write_file(path, rows, m)
        for what, precision, cold in PASSES:
            if cold:
                evict(path)
            command = [sys.executable, "-m", "benchmarks.studies.streaming"]
            command += ["--child", str(path), what, precision]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found.append(json.loads(done.stdout) | {"cold": cold})
    return found


SIZES = (256, 1024, 4096, 8192, 32768)


def batches(m: int) -> list[Row]:
    """By size of a batch, m columns."""
    z = batch(max(SIZES), m, 0)
    return [row for precision in DTYPES for row in _batches(z, precision)]


def _batches(z: torch.Tensor, precision: str, rounds: int = 5) -> list[Row]:
    """Medians of interleaved rounds."""
    m, dtype = z.shape[1], DTYPES[precision]
    mean = torch.zeros(m, dtype=torch.float64)
    product: list[float] = []
    gemm: list[float] = []
    x, out = z[:BLOCK].to(dtype), torch.empty(m, m, dtype=dtype)
    samples: dict[int, list[float]] = {size: [] for size in SIZES}
    states = {size: Moments(precision=precision).update(z[:256]) for size in SIZES}
    for i in range(rounds + 1):
        for size, state in states.items():
            start = time.perf_counter()
            state.update(z[:size])
            if i:
                samples[size].append(time.perf_counter() - start)
        alone = seconds(lambda: symmetric_product(z[:BLOCK], dtype, covariance=True, mean=mean))
        full = seconds(lambda: torch.mm(x.T, x, out=out))
        if i:
            product.append(alone)
            gemm.append(full)
    rate = 2 * BLOCK * m * m / statistics.median(gemm)
    return [
        {
            "part": "batches",
            "precision": precision,
            "batch": size,
            "columns": m,
            "rows_per_second": size / statistics.median(taken),
            "share_of_syrk": size * m * m / statistics.median(taken) / rate,
            "product_alone": BLOCK * m * m / statistics.median(product) / rate,
        }
        for size, taken in samples.items()
    ]


def low_rank(m: int, seed: int) -> torch.Tensor:
    """A block of rows of rank m/2 exactly: products of small integers."""
    mix = torch.randint(-3, 4, (m // 2, m), generator=torch.Generator().manual_seed(1))
    g = torch.Generator().manual_seed(seed)
    return torch.randint(-3, 4, (BLOCK, m // 2), generator=g).float() @ mix.float()


def clones(m: int, seed: int) -> torch.Tensor:
    """A block of the same 8 points, drawn anew: neural collapse, whose products round alike."""
    points = torch.randn(8, m, generator=torch.Generator().manual_seed(1))
    return points[torch.randint(0, 8, (BLOCK,), generator=torch.Generator().manual_seed(seed))]


def accuracy(m: int = 256) -> list[Row]:
    """How large do eigenvalues that are exactly null come out, in units of eps |C|_F and as
    singular values of the largest?"""
    found = []
    for name, block, rank in (("rank 128 of 256", low_rank, m // 2), ("8 points", clones, 7)):
        states = {p: Moments(normalize=True, precision=p) for p in DTYPES}
        for i in range(128):
            for state in states.values():
                state.update(block(m, i))
            if i + 1 not in (1, 16, 128):
                continue
            for precision, state in states.items():
                c = state.covariance
                lam = torch.linalg.eigvalsh(c).flip(0)
                unit = torch.finfo(DTYPES[precision]).eps * torch.linalg.vector_norm(c)
                null = lam[rank:].abs().max()
                found.append(
                    {
                        "part": "accuracy",
                        "case": name,
                        "rows": (i + 1) * BLOCK,
                        "columns": m,
                        "precision": precision,
                        "null_over_unit": float(null / unit),
                        "null_sigma": float((null / lam[0]).sqrt()),
                    }
                )
    return found


def show(title: str, rows: list[Row]) -> None:
    table = Table(title=title, title_justify="left")
    for name in rows[0]:
        if name != "part":
            table.add_column(name)
    for row in rows:
        values = [v for k, v in row.items() if k != "part"]
        table.add_row(*(f"{v:.4g}" if isinstance(v, float) else str(v) for v in values))
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, default=2048)
    parser.add_argument("--parts", nargs="+", default=["batches", "accuracy", "pass"])
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        path, what, precision = options.child
        print(json.dumps(one_pass(Path(path), what, precision)))
        return
    found: list[Row] = []
    for part in options.parts:
        rows = {
            "batches": lambda: batches(options.columns),
            "accuracy": accuracy,
            "pass": lambda: passes(options.rows, options.columns),
        }[part]()
        show(part, rows)
        found += rows
    if options.record:
        where = {"hardware": hardware(), "versions": versions(), "commit": commit()}
        with ROWS_FILE.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row | where) + "\n" for row in found)


if __name__ == "__main__":
    main()
