"""Beyond the paper: the sensitivity study at sample sizes people train with, and the directions
that each loss pushes when a batch is collapsed."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from matplotlib.figure import Figure
from torch import Tensor

import wssl_fast as wf
from benchmarks.paper import closed_forms as exact
from benchmarks.paper import measures, pictures
from benchmarks.paper.metrics import METRICS, Metric
from benchmarks.paper.published import Row
from benchmarks.paper.study import Context, Study

SHARES = (0, 10, 25, 50, 75, 90, 95, 98, 99)


def measure_sizes(context: Context) -> Iterator[Row]:
    """W2 against the collapsed share, n rows of m dimensions, with the floors of n rows."""
    counts = (64, 256) if context.quick else (256, 512, 1024, 2048, 4096)
    dimensions = (256,) if context.quick else (2048, 8192)
    cases = [(m, n, eta) for m in dimensions for n in counts for eta in SHARES]
    for m, n, eta in context.track(cases):
        d, total = measures.split(m, eta / 100)
        rows = measures.sphere(n, d, total, generator=context.generator(n, m, eta))
        best = exact.sampled_w2(m, m, n)
        yield {
            "m": float(m),
            "n": float(n),
            "eta": float(eta),
            "W2": measures.w2(rows),
            "W2 expected of n rows": exact.sampled_w2(d, total, n),
            "W2 of the sphere": exact.sphere_w2(d, total),
            "rank floor": wf.metrics.w2_floor(n, m),
            "share of the range left": 1 - best / math.sqrt(2),
            "-L_U": -measures.uniformity(rows),
        }


def draw_sizes(rows: Sequence[Row]) -> Figure:
    dimensions = sorted({float(row["m"]) for row in rows})
    title = "W2 at the batch sizes people train with: what n rows can show"
    figure, axes = pictures.panels(len(dimensions), title, sharey=True)
    for axis, m in zip(axes, dimensions, strict=True):
        for i, n in enumerate(sorted({float(row["n"]) for row in rows})):
            chosen = [row for row in rows if row["m"] == m and row["n"] == n]
            eta = [row["eta"] for row in chosen]
            pictures.points(axis, eta, [row["W2"] for row in chosen], i, f"n = {n:.0f}")
            pictures.line(axis, eta, [row["W2 expected of n rows"] for row in chosen], i)
            floor = float(chosen[0]["rank floor"])
            axis.axhline(floor, color=pictures.PALETTE[i], linestyle=":", linewidth=1)
        whole = [row["W2 of the sphere"] for row in chosen]
        axis.plot(eta, whole, "--", color=pictures.FAINT, label="infinitely many")
        axis.set_title(f"m = {m:.0f} (dotted: no batch of n rows is lower)")
        axis.set_xlabel("collapsed dimensions, %")
    axes[0].set_ylabel("W2")
    axes[0].legend(frameon=False, loc="lower right")
    return figure


def _negated(metric: Metric, z: Tensor) -> Tensor:
    return -metric(z)


LOSSES = {name.removeprefix("-"): partial(_negated, metric) for name, metric in METRICS.items()}
"""Minimised: the metrics, turned round."""


def ladder(context: Context, n: int, m: int) -> Tensor:
    """Unit rows (n, m) whose centred singular values fall from 1 to about 1e-4 of the largest."""
    generator = context.generator(21)
    k = min(n - 1, m)

    def orthonormal(rows: int) -> Tensor:
        x = torch.randn(rows, k, dtype=torch.float64, generator=generator, device=generator.device)
        return torch.linalg.qr(x - x.mean(0)).Q

    spectrum = torch.logspace(0, -4, k, dtype=torch.float64, device=generator.device)
    return torch.nn.functional.normalize((orthonormal(n) * spectrum) @ orthonormal(m).mT, dim=1)


def pushes(loss: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tensor, Tensor]:
    """sigma_k / sigma_1 of the centred rows, and how fast descent along the gradient makes each
    sigma_k grow: -u_k^T (dloss/dz) v_k, over the largest of them. (k,), (k,)"""
    leaf = z.detach().requires_grad_()
    (grad,) = torch.autograd.grad(loss(leaf), leaf)
    u, sigma, vh = torch.linalg.svd(z - z.mean(0), full_matrices=False)
    keep = sigma > 1e-10 * sigma[0]  # centring leaves one null direction
    push = -((u.mT @ grad) * vh).sum(1)[keep]
    return sigma[keep] / sigma[0], push / push.abs().max()


def measure_gradients(context: Context) -> Iterator[Row]:
    n, m = (48, 64) if context.quick else (384, 512)
    z = ladder(context, n, m)
    for name, loss in context.track(list(LOSSES.items())):
        relative, push = pushes(loss, z)
        for s, p in zip(relative.tolist(), push.tolist(), strict=True):
            yield {"loss": name, "sigma over the largest": s, "push": p}


def draw_gradients(rows: Sequence[Row]) -> Figure:
    title = "A collapsed batch: which directions does each loss push?"
    figure, (left, right) = pictures.panels(2, title)
    for i, name in enumerate(LOSSES):
        chosen = [row for row in rows if row["loss"] == name]
        s = [float(row["sigma over the largest"]) for row in chosen]
        push = [float(row["push"]) for row in chosen]
        # the last two lie on each other
        style = {
            "color": pictures.PALETTE[i],
            "linewidth": 2.8 if name == "W2" else 1.4,
            "linestyle": "--" if i == len(LOSSES) - 1 else "-",
        }
        left.plot(s, push, label=name, **style)
        right.plot(s, [max(p, 1e-9) for p in push], **style)
    left.axhline(0, color=pictures.INK, linewidth=0.8)
    left.set_title("growth of sigma_k under descent")
    right.set_title("the same, where it is positive, logarithmic")
    right.set_yscale("log")
    right.set_ylim(1e-5, 2)
    for axes in (left, right):
        axes.set_xscale("log")
        axes.invert_xaxis()
        axes.set_xlabel("singular value of the batch, over the largest")
    left.legend(frameon=False, fontsize=9)
    return figure


SIZES = Study("sizes", "W2 and its floors at training batch sizes", measure_sizes, draw_sizes)
GRADIENTS = Study("gradients", "directions each loss pushes in a collapsed batch",
                  measure_gradients, draw_gradients)  # fmt: skip
