"""Figures 2, 8 and 9: a coordinate of the uniform sphere, and the Gaussian it is close to."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import stats
from torch import Tensor

from benchmarks.paper import closed_forms as exact
from benchmarks.paper import measures, pictures
from benchmarks.paper.published import Comparison, Expected, Row, pick
from benchmarks.paper.study import Context, Study

DIMENSIONS = [2**p for p in range(1, 9)]
BINS = 51
EDGES = torch.linspace(-1, 1, BINS + 1, dtype=torch.float64)


def coordinates(context: Context, n: int, m: int, count: int) -> tuple[Tensor, Tensor]:
    """The first `count` coordinates of n uniform points of the sphere in m dimensions, and of n
    draws of N(0, I/m). (n, count) each, float64, block by block: never n x m."""
    generator = context.generator(n, m)
    on_sphere = torch.empty(n, count, dtype=torch.float64)
    for block in on_sphere.split(measures.BLOCK):
        block.copy_(measures.sphere(len(block), m, generator=generator).x[:, :count])
    normal = torch.randn(n, count, generator=generator, device=generator.device)
    return on_sphere, normal.double().cpu() / math.sqrt(m)


def _histogram(y: Tensor) -> Tensor:
    """Share of the samples in each of 51 bins of [-1, 1]; what lies outside goes to the last."""
    inside = y.clamp(-1, math.nextafter(1, 0))
    return torch.histogram(inside, bins=EDGES).hist / len(y)


def measure_distances(context: Context) -> Iterator[Row]:
    n = context.size(200_000, 5_000)
    for m in context.track(DIMENSIONS):
        y, normal = coordinates(context, n, m, 1)
        p, q = _histogram(y[:, 0]), _histogram(normal[:, 0])
        both = (p > 0) & (q > 0)
        sampled = (y[:, 0].sort().values - normal[:, 0].sort().values).square().mean().sqrt()
        yield {
            "m": float(m),
            "n": float(n),
            "KL": exact.coordinate_divergence(m),
            "KL of 51 bins": float((p * (p / q).log())[both].sum()),
            "W2": exact.coordinate_w2(m),
            "W2 of sorted samples": float(sampled),
            "Talagrand's bound": exact.talagrand_bound(m),
        }


PUBLISHED = {
    "KL": (".621", ".0811", ".0152", ".00333", ".00078", ".000189", "4.6e-5", "1.2e-5"),
    "W2": (".227", ".0797", ".0278", ".0097", ".0034", ".0012", ".00042", ".00015"),
}


def compare_distances(rows: Sequence[Row]) -> list[Comparison]:
    found = []
    for quantity, printed in PUBLISHED.items():
        for m, text in zip(DIMENSIONS, printed, strict=True):
            ours = float(pick(rows, m=float(m))[quantity])
            theory = Expected(ours)  # nothing is sampled on either side
            found.append(Comparison("2", quantity, f"m = {m}", text, ours, theory, theory))
    return found


def draw_distances(rows: Sequence[Row]) -> Figure:
    title = "A coordinate of the uniform sphere becomes N(0, 1/m)"
    figure, (left, right) = pictures.panels(2, title)
    m = [row["m"] for row in rows]
    pictures.line(left, m, [row["KL"] for row in rows], 0, "closed form")
    pictures.points(left, m, [row["KL of 51 bins"] for row in rows], 0, "51 bins of samples")
    left.set_title("KL divergence")
    pictures.line(right, m, [row["W2"] for row in rows], 1, "quantiles, exact")
    pictures.points(right, m, [row["W2 of sorted samples"] for row in rows], 1, "sorted samples")
    bound = [row["Talagrand's bound"] for row in rows]
    pictures.line(right, m, bound, 2, "Talagrand's bound", style="--")
    right.set_title("W2")
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel("dimension m")
        axes.legend(frameon=False)
    return figure


def measure_densities(context: Context) -> Iterator[Row]:
    n = context.size(200_000, 5_000)
    width = 2 / BINS
    centres = (EDGES[:-1] + EDGES[1:]) / 2
    for m in context.track(DIMENSIONS):
        y, normal = coordinates(context, n, m, 1)
        p, q = _histogram(y[:, 0]) / width, _histogram(normal[:, 0]) / width
        density = exact.coordinate_density(centres.numpy(), m)
        gaussian = stats.norm.pdf(centres.numpy(), scale=m**-0.5)
        for values in zip(centres.tolist(), p.tolist(), q.tolist(), density, gaussian, strict=True):
            names = ("y", "density of Y_i", "density of N(0, 1/m)", "lemma 4", "Gaussian")
            yield {"m": float(m), **dict(zip(names, map(float, values), strict=True))}


def draw_densities(rows: Sequence[Row]) -> Figure:
    title = "Densities of a coordinate Y_i of the sphere and of N(0, 1/m)"
    figure, grid = pictures.panels(len(DIMENSIONS), title, rows=2, width=14, height=6.4)
    for axes, m in zip(grid, DIMENSIONS, strict=True):
        chosen = [row for row in rows if row["m"] == float(m)]
        y = [row["y"] for row in chosen]
        pictures.points(axes, y, [row["density of Y_i"] for row in chosen], 0, "Y_i, sampled")
        pictures.line(axes, y, [row["lemma 4"] for row in chosen], 0, "lemma 4")
        sampled = [row["density of N(0, 1/m)"] for row in chosen]
        pictures.points(axes, y, sampled, 1, "N(0, 1/m), sampled")
        pictures.line(axes, y, [row["Gaussian"] for row in chosen], 1, "density of N(0, 1/m)")
        axes.set_title(f"m = {m}")
        axes.set_ylim(0, 1.15 * max(float(row["Gaussian"]) for row in chosen))
    grid[0].legend(frameon=False, fontsize=8)
    return figure


PAIR_M = 32


def measure_pairs(context: Context) -> Iterator[Row]:
    n = context.size(2_000_000, 20_000)
    y, normal = coordinates(context, n, PAIR_M, 2)
    edges = EDGES.numpy()
    area = (2 / BINS) ** 2
    counts = [
        np.histogram2d(*pair.clamp(-1, 1).numpy().T, bins=(edges, edges))[0] / (n * area)
        for pair in (y, normal)
    ]
    centres = (edges[:-1] + edges[1:]) / 2
    first, second = np.meshgrid(centres, centres, indexing="ij")
    density = exact.coordinate_pair_density(first, second, PAIR_M)
    gaussian = stats.norm.pdf(first, scale=PAIR_M**-0.5) * stats.norm.pdf(
        second, scale=PAIR_M**-0.5
    )
    names = ("y_1", "y_2", "density of (Y_1, Y_2)", "density of N(0, I/m)", "exact", "Gaussian")
    for values in context.track(
        list(zip(*(a.ravel() for a in (first, second, *counts, density, gaussian)), strict=True))
    ):
        yield dict(zip(names, map(float, values), strict=True))


def draw_pairs(rows: Sequence[Row]) -> Figure:
    title = f"Two coordinates of the sphere in {PAIR_M} dimensions, and two of N(0, I/{PAIR_M})"
    figure, axes = pictures.panels(3, title, width=14.5, height=4.6)
    maps = {
        name: np.array([row[name] for row in rows], dtype=float).reshape(BINS, BINS)
        for name in ("density of (Y_1, Y_2)", "density of N(0, I/m)", "exact", "Gaussian")
    }
    top = maps["exact"].max()
    for axis, name in zip(axes[:2], maps, strict=False):
        image = axis.imshow(maps[name].T, extent=(-1, 1, -1, 1), origin="lower", vmin=0, vmax=top,
                            cmap="viridis")  # fmt: skip
        axis.set_title(name)
        axis.grid(False)
    figure.colorbar(image, ax=axes[:2].tolist(), shrink=0.8)
    middle = BINS // 2
    y = (EDGES[:-1] + EDGES[1:]).numpy() / 2
    for i, (sampled, form) in enumerate(
        (("density of (Y_1, Y_2)", "exact"), ("density of N(0, I/m)", "Gaussian"))
    ):
        pictures.points(axes[2], y, maps[sampled][:, middle], i, sampled)
        pictures.line(axes[2], y, maps[form][:, middle], i)
    axes[2].set_title("cut through y_2 = 0")
    axes[2].set_xlim(-0.8, 0.8)
    axes[2].legend(frameon=False, fontsize=9, loc="upper right")
    return figure


FIGURE_2 = Study("2", "KL and W2 between a coordinate and N(0, 1/m)", measure_distances,
                 draw_distances, compare_distances)  # fmt: skip
FIGURE_8 = Study("8", "densities of a coordinate", measure_densities, draw_densities)
FIGURE_9 = Study("9", "joint densities of two coordinates", measure_pairs, draw_pairs)
