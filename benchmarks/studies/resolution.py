"""How deep a collapse does the gradient still see, and what does that cost? Resolution as a figure.

python -m benchmarks.studies.resolution            measure, write rows and figure
python -m benchmarks.studies.resolution --draw     figure from the rows there are

One batch whose singular values fall from 1 to 1e-8 of the largest: the weight u^T P v / sqrt n
that each setting's gradient gives every direction (the exact gradient gives 1), and the resolution,
the smallest sigma/sigma_max from which on up every weight is within 0.1 of 1. Beside it the time
of forward and backward on a healthy batch and on this one, over that of one float32 pass on the
healthy batch, interleaved in one run.

Then healthy batches with n = m = 512 and 2048, whose least singular values are near zero by
themselves: the relative error of P, and the time over that of one float32 pass.
"""

import argparse
import json
import math
import statistics
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import wssl_fast as wf
from benchmarks.machine import hardware, versions
from wssl_fast import reference

RESULTS = Path(__file__).parents[1] / "results" / "studies"
ROWS = RESULTS / "resolution.jsonl"
SETTINGS = [
    (precision, solver)
    for precision in ("highest", "auto", "double")
    for solver in ("eigh", "newton_schulz")
]
SHAPES = {"Gram": (256, 512), "covariance": (512, 256)}
ROUNDS = 15


def ladder(n: int, m: int) -> Tensor:
    """Raw float32 rows of norm about 1 with singular values log-spaced from 1 to 1e-8. (n, m)"""
    generator = torch.Generator().manual_seed(0)
    k = min(n - 1, m)
    u = torch.randn(n, k, dtype=torch.float64, generator=generator)
    u = torch.linalg.qr(u - u.mean(0)).Q
    v = torch.linalg.qr(torch.randn(m, k, dtype=torch.float64, generator=generator)).Q
    return ((u * torch.logspace(0, -8, k, dtype=torch.float64)) @ v.mT * math.sqrt(n)).float()


def healthy(n: int, m: int) -> Tensor:
    return torch.randn(n, m, generator=torch.Generator().manual_seed(1)) / math.sqrt(m)


def gradient(z: Tensor, precision: str, solver: str) -> Tensor:
    leaf = z.detach().requires_grad_()
    value = wf.wasserstein_uniformity(
        leaf, normalize=False, squared=True, precision=precision, solver=solver
    )
    (grad,) = torch.autograd.grad(value, leaf)
    return grad


def weights(z: Tensor, precision: str, solver: str) -> tuple[Tensor, Tensor]:
    """sigma/sigma_max and the weights, from P = sqrt m (z - n/2 grad). (k,), (k,)"""
    n, m = z.shape
    grad = gradient(z, precision, solver)
    polar = math.sqrt(m) * (z.double() - n / 2 * grad.double())
    return reference.polar_weights(z, polar, normalize=False)


def resolution(relative: Tensor, weight: Tensor) -> float:
    """Smallest sigma/sigma_max from which on up every weight is within 0.1 of 1."""
    wrong = (weight - 1).abs() > 0.1
    above = relative[relative > (relative[wrong].max() if bool(wrong.any()) else 0)]
    return float(above.min()) if len(above) else 1.0


def times(n: int, m: int) -> dict[tuple[str, str, str], float]:
    """Medians over that of (highest, eigh) on the healthy batch."""
    batches = {"healthy": healthy(n, m), "ladder": ladder(n, m)}
    samples: dict[tuple[str, str, str], list[float]] = {}
    for i in range(ROUNDS + 1):
        for name, z in batches.items():
            for precision, solver in SETTINGS:
                start = time.perf_counter()
                gradient(z, precision, solver)
                if i:
                    taken = time.perf_counter() - start
                    samples.setdefault((name, precision, solver), []).append(taken)
    unit = statistics.median(samples["healthy", "highest", "eigh"])
    return {key: statistics.median(taken) / unit for key, taken in samples.items()}


def measure() -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for formulation, (n, m) in SHAPES.items():
        z, cost = ladder(n, m), times(n, m)
        for precision, solver in SETTINGS:
            relative, weight = weights(z, precision, solver)
            keep = slice(0, None, 4)
            rows.append(
                {
                    "formulation": formulation,
                    "n": n,
                    "m": m,
                    "precision": precision,
                    "solver": solver,
                    "resolution": resolution(relative, weight),
                    "time_healthy": cost["healthy", precision, solver],
                    "time_collapsed": cost["ladder", precision, solver],
                    "relative": [float(f"{s:.4g}") for s in relative[keep].tolist()],
                    "weights": [float(f"{w:.5g}") for w in weight[keep].tolist()],
                    "hardware": hardware(),
                    "versions": versions(),
                }
            )
    return rows


def square(n: int) -> list[dict[str, object]]:
    """Error of P against the float64 SVD and time over (highest, eigh), healthy n x n rows."""
    z = healthy(n, n)
    truth = reference.polar_factor(z, normalize=False)
    samples: dict[str, list[float]] = {}
    errors: dict[str, float] = {}
    for i in range(ROUNDS + 1):
        for precision in ("highest", "auto", "double"):
            start = time.perf_counter()
            grad = gradient(z, precision, "eigh")
            if i:
                samples.setdefault(precision, []).append(time.perf_counter() - start)
            polar = math.sqrt(n) * (z.double() - n / 2 * grad.double())
            errors[precision] = float((polar - truth).norm() / truth.norm())
    unit = statistics.median(samples["highest"])
    return [
        {
            "formulation": "square",
            "n": n,
            "m": n,
            "precision": precision,
            "solver": "eigh",
            "error": error,
            "time_healthy": statistics.median(samples[precision]) / unit,
            "hardware": hardware(),
            "versions": versions(),
        }
        for precision, error in errors.items()
    ]


def draw(rows: list[dict[str, object]]) -> None:
    figure, axes = plt.subplots(1, len(SHAPES), figsize=(12, 4.6), sharey=True)
    colours = {"highest": "#9aa0a6", "auto": "#1b6ca8", "double": "#c8553d"}
    for axis, formulation in zip(axes, SHAPES, strict=True):
        for row in rows:
            if row["formulation"] == formulation:
                axis.semilogx(
                    row["relative"],
                    row["weights"],
                    color=colours[str(row["precision"])],
                    linestyle="-" if row["solver"] == "eigh" else "--",
                    linewidth=3.5 if row["precision"] == "auto" else 1.8,
                    alpha=0.6 if row["precision"] == "auto" else 1.0,
                    label=f"{row['precision']}, {row['solver']}",
                )
        axis.set_title(f"{formulation} formulation, float32 rows")
        axis.set_xlabel("singular value of the batch, over the largest")
        axis.set_ylim(-0.1, 1.3)
        axis.set_xlim(1.5, 1e-9)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("weight in the gradient (exact: 1)")
    axes[1].legend(frameon=False, loc="lower left")
    figure.tight_layout()
    figure.savefig(RESULTS / "resolution.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draw", action="store_true", help="figure from the rows there are")
    if not parser.parse_args().draw:
        rows = measure() + square(512) + square(2048)
        ROWS.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    rows = [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()]
    table = Table(title="times over one float32 pass by eigh on a healthy batch")
    columns = ("formulation", "precision", "solver", "resolution", "healthy", "this batch")
    for column in columns:
        table.add_column(column)
    for row in rows:
        if row["formulation"] == "square":
            continue
        table.add_row(
            row["formulation"],
            row["precision"],
            row["solver"],
            f"{row['resolution']:.1e}",
            f"{row['time_healthy']:.2f}",
            f"{row['time_collapsed']:.2f}",
        )
    Console().print(table)
    for row in rows:
        if row["formulation"] == "square":
            text = f"n = m = {row['n']}, {row['precision']}: error of P {row['error']:.1e}"
            Console().print(f"{text}, time {row['time_healthy']:.2f}")
    draw(rows)


if __name__ == "__main__":
    main()
