"""How often does LAPACK's eigensolver fail? The measurement behind backends/eager/eigen.py.

python -m benchmarks.studies.eigensolver        counts, and writes rows

Matrices X^T W X of one to four rows X (r, k), k from 20 to 129, whose entries are quarters with
exact zeros, as cloned rows with dead features make them; the largest entry scaled to 1, 1/2 and
1/3, rounded to bfloat16 first. Counted are those on which `torch.linalg.eigh` raises or returns
NaN, in float32 and in float64.
"""

import json
from collections import Counter
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from benchmarks.machine import hardware, versions
from wssl_fast.backends.eager.eigen import LinAlgError

ROWS = Path(__file__).parents[1] / "results" / "studies" / "eigensolver.jsonl"
SEEDS = 2500
SCALES = (1.0, 1 / 2, 1 / 3)


def matrix(seed: int) -> Tensor:
    """(k, k) float32, largest entry 1, or all zeros."""
    generator = torch.Generator().manual_seed(seed)
    k = int(torch.randint(20, 130, (1,), generator=generator))
    r = int(torch.randint(1, 5, (1,), generator=generator))
    x = (torch.randn(r, k, generator=generator) / 2).round() / 4
    weights = torch.randint(1, 9, (r, 1), generator=generator)
    a = x.T @ (weights * x)
    return (a / a.abs().max().clamp_min(1e-30)).bfloat16().float()


def outcome(a: Tensor) -> str:
    try:
        eigenvalues, vectors = torch.linalg.eigh(a)
    except LinAlgError:
        return "raises"
    return "NaN" if bool(eigenvalues.isnan().any() | vectors.isnan().any()) else "right"


def main() -> None:
    counts = {dtype: Counter[str]() for dtype in (torch.float32, torch.float64)}
    for seed in track(range(SEEDS), description="matrices"):
        a = matrix(seed)
        for scale in SCALES:
            for dtype, counter in counts.items():
                counter[outcome(a.to(dtype) * scale)] += 1
    lines = []
    for dtype, counter in counts.items():
        row = {"dtype": str(dtype).removeprefix("torch."), "matrices": counter.total(), **counter}
        Console().print(row)
        lines.append(json.dumps({**row, "hardware": hardware(), "versions": versions()}) + "\n")
    ROWS.write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
