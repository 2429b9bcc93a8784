"""Is each compiled pass of csrc/cpu worth keeping? Its PyTorch form beside it.

python -m benchmarks.studies.compiled_passes        prints ratios, writes rows

A pass that is not at least 1.2 times faster than its PyTorch form at a shape that matters goes.
Interleaved medians of one run; threads as PyTorch is set.
"""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.machine import hardware, versions
from wssl_fast.backends import native

ROWS = Path(__file__).parents[1] / "results" / "studies" / "compiled_passes.jsonl"
SHAPES = ((512, 8192), (256, 32768), (4096, 1024))
ROUNDS = 15
Pair = tuple[Callable[[], object], Callable[[], object]]


def pairs(n: int, m: int) -> dict[str, Pair]:
    """(compiled, PyTorch) forms of every pass at n x m."""
    z, t = torch.randn(n, m), torch.randn(n, m)
    scale, mean = native.row_pass(z)
    inv, shift = scale.float()[:, None], mean.float()
    block = torch.randn(512, 512).clamp(-1, 1)
    work = torch.empty_like(t)
    tall = n > m

    def epilogue() -> torch.Tensor:
        p = work.copy_(t).mul_(inv).sub_(shift)
        x = z * inv
        return p.sub_((p * x).sum(1, keepdim=True) * x).mul_(inv)

    def row_statistics(dtype: torch.dtype) -> Callable[[], object]:
        def run() -> object:
            norm = torch.linalg.vector_norm(z, dim=1, dtype=dtype)
            return norm, (1 / norm).float() @ z / n

        return run

    def product(scaled: bool) -> Callable[[], object]:
        s, mu = (scale, mean) if scaled else (None, None)
        return lambda: native.symmetric_product(z, covariance=tall, scale=s, mean=mu)

    full = (lambda: z.T @ z) if tall else (lambda: z @ z.T)
    return {
        "symmetric product / mm": (product(False), full),
        "symmetric product, scaled and centred / mm": (product(True), full),
        "symmetric product, float64 sums / float64 mm": (
            lambda: native.symmetric_product(z, covariance=tall, dtype=torch.float64),
            lambda: (lambda d: d.T @ d if tall else d @ d.T)(z.double()),
        ),
        "tangent epilogue": (
            lambda: native.tangent_epilogue_(work.copy_(t), z, a=scale, inv=scale, shift=mean),
            epilogue,
        ),
        "norms and mean, float64": (lambda: native.row_pass(z), row_statistics(torch.float64)),
        "norms and mean, against float32": (
            lambda: native.row_pass(z),
            row_statistics(torch.float32),
        ),
        "pairwise exponential, 512 x 512": (
            lambda: native.exp_block_(block.clone(), s=4.0, shift=-4.0),
            lambda: block.clone().mul_(4.0).sub_(4.0).exp_().sum(dtype=torch.float64),
        ),
    }


def main() -> None:
    table = Table(title=f"PyTorch time / compiled time, {torch.get_num_threads()} threads")
    for column in ("pass", *(f"{n} x {m}" for n, m in SHAPES)):
        table.add_column(column)
    found: dict[str, list[str]] = {}
    rows = []
    for n, m in SHAPES:
        for name, both in pairs(n, m).items():
            samples: tuple[list[float], list[float]] = ([], [])
            for i in range(ROUNDS + 1):
                for run, taken in zip(both, samples, strict=True):
                    start = time.perf_counter()
                    run()
                    if i:
                        taken.append(time.perf_counter() - start)
            compiled, torch_form = (statistics.median(taken) for taken in samples)
            found.setdefault(name, []).append(f"{torch_form / compiled:.2f}")
            rows.append(
                {
                    "pass": name,
                    "shape": [n, m],
                    "compiled_ms": 1e3 * compiled,
                    "torch_ms": 1e3 * torch_form,
                    "hardware": hardware(),
                    "versions": versions(),
                }
            )
    for name, ratios in found.items():
        table.add_row(name, *ratios)
    Console().print(table)
    ROWS.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
