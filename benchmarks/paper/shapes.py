"""Figures 1, 10, 12, 13 and 14: batches to look at, with what the metrics say of them."""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.paper import measures, pictures
from benchmarks.paper.measures import Rows
from benchmarks.paper.published import Row
from benchmarks.paper.study import Context, Study

Batch = Callable[[int, torch.Generator], Tensor]


def _normal(n: int, m: int, generator: torch.Generator) -> Tensor:
    return torch.randn(n, m, generator=generator, device=generator.device)


def _as_rows(name: str, x: Tensor) -> Iterator[Row]:
    """A row a point (up to 3 coordinates), with both metrics of its batch."""
    rows = Rows(x, x.shape[1])
    w2, uniformity = measures.w2(rows), measures.uniformity(rows)
    for point in x.cpu().double().tolist():
        y = dict(zip(("y_1", "y_2", "y_3"), (*point, 0.0), strict=False))
        yield {"batch": name, "W2": w2, "L_U": uniformity, **y}


def _scatter(axes: Axes, rows: Sequence[Row], i: int) -> None:
    """Points on the sphere, with the metrics above them."""
    pictures.sphere_axes(axes)
    axes.scatter(*([row[f"y_{k}"] for row in rows] for k in (1, 2, 3)),
                 s=9, color=pictures.PALETTE[i], depthshade=True)  # fmt: skip
    w2, uniformity = rows[0]["W2"], rows[0]["L_U"]
    axes.text2D(0.5, 0.02, f"{rows[0]['batch']}\nW2 {w2:.2f},  L_U {uniformity:.2f}",
                transform=axes.transAxes, ha="center", weight="bold")  # fmt: skip


def _by_batch(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(str(row["batch"]), []).append(row)
    return found


def _spheres(rows: Sequence[Row], title: str) -> Figure:
    """Three batches, a sphere each."""
    figure, axes = pictures.panels(3, title, subplot_kw={"projection": "3d"}, height=4.6)
    for i, (axis, chosen) in enumerate(zip(axes, _by_batch(rows).values(), strict=True)):
        _scatter(axis, chosen, i)
    return figure


# figure 1: the two ways to collapse

SCATTERED = 400


def measure_collapses(context: Context) -> Iterator[Row]:
    def draw(spread: tuple[float, float, float], mean: float) -> Tensor:
        x = _normal(SCATTERED, 3, context.generator(1))
        return normalize(x * torch.tensor(spread, device=x.device) + mean, dim=1)

    batches = {
        "uniform": draw((1, 1, 1), 0),
        "constant collapse": draw((0.12, 0.12, 0.12), 1),
        "dimensional collapse": draw((1, 1, 0.05), 0),
    }
    for name in context.track(list(batches)):
        yield from _as_rows(name, batches[name])


def draw_collapses(rows: Sequence[Row]) -> Figure:
    return _spheres(rows, "Two ways to collapse: onto a point, and into fewer dimensions")


# figure 10: which distribution is most uniform once normalised

COMPARED_M = 256


def _compared() -> dict[str, Batch]:
    """Before they are normalised. The paper does not say which mixture: here two Gaussians of
    variance 1 around 1/2 and -1/2 in every dimension, even odds."""

    def mixture(n: int, generator: torch.Generator) -> Tensor:
        side = torch.randint(2, (n, 1), generator=generator, device=generator.device)
        return _normal(n, COMPARED_M, generator) + (side - 0.5)

    def uniform(n: int, generator: torch.Generator) -> Tensor:
        return torch.rand(n, COMPARED_M, generator=generator, device=generator.device)

    return {
        "N(0, I)": lambda n, g: _normal(n, COMPARED_M, g),
        "uniform on [0, 1]": uniform,
        "mixture of two Gaussians": mixture,
    }


def measure_distributions(context: Context) -> Iterator[Row]:
    n = context.size(50_000, 1_000)
    for i, (name, batch) in enumerate(context.track(list(_compared().items()))):
        x = normalize(batch(n, context.generator(10, i)), dim=1)
        rows = Rows(x, COMPARED_M)
        yield {
            "distribution": name,
            "n": float(n),
            "m": float(COMPARED_M),
            "W2": measures.w2(rows),
            "-L_U": -measures.uniformity(rows),
        }


def draw_distributions(rows: Sequence[Row]) -> Figure:
    title = f"Normalised samples of three distributions, m = {COMPARED_M}"
    figure, (left, right) = pictures.panels(2, title, height=3.6)
    names = [str(row["distribution"]) for row in rows]
    for axes, name, better in ((left, "W2", "lower"), (right, "-L_U", "higher")):
        bars = axes.barh(names, [row[name] for row in rows], color=pictures.PALETTE[: len(rows)])
        axes.bar_label(bars, fmt="%.3f", padding=4)
        axes.margins(x=0.15)
        axes.invert_yaxis()
        axes.set_title(f"{name}: {better} is more uniform")
        axes.grid(visible=False, axis="y")
    right.set_yticklabels([])
    return figure


# figures 12 and 13: the circle, the circle in three dimensions, the sphere


def measure_zero_coordinate(context: Context) -> Iterator[Row]:
    circle = normalize(_normal(SCATTERED, 2, context.generator(12)), dim=1)
    batches = {
        "N(0, I_2)": circle,
        "N(0, I_2) and a zero": torch.nn.functional.pad(circle, (0, 1)),
        "N(0, I_3)": normalize(_normal(SCATTERED, 3, context.generator(13)), dim=1),
    }
    for name in context.track(list(batches)):
        x = batches[name]
        centred = x.double() - x.double().mean(0)
        sigma = torch.linalg.svdvals(centred) / math.sqrt(len(x))
        spectrum = dict(
            zip(("sigma_1", "sigma_2", "sigma_3"), (*sigma.tolist(), 0.0), strict=False)
        )
        for row in _as_rows(name, x):
            yield {**row, "m": float(x.shape[1]), **spectrum}


def draw_zero_coordinate(rows: Sequence[Row]) -> Figure:
    return _spheres(rows, "A coordinate of zeros: the same circle, and L_U cannot tell")


def draw_zero_spectrum(rows: Sequence[Row]) -> Figure:
    title = "Singular values of the covariance of the same batches"
    figure, axes = pictures.panels(3, title, height=3.6, sharey=True)
    for i, (axis, (name, chosen)) in enumerate(zip(axes, _by_batch(rows).items(), strict=True)):
        values = [float(chosen[0][f"sigma_{k}"]) ** 2 for k in range(1, int(chosen[0]["m"]) + 1)]
        axis.bar(range(1, len(values) + 1), values, color=pictures.PALETTE[i], width=0.6)
        axis.axhline(1 / len(values), color=pictures.FAINT, linestyle="--", linewidth=1)
        axis.set_title(name)
        axis.set_xticks(range(1, 4))
        axis.set_xlim(0.4, 3.6)
        axis.set_xlabel("dimension (dashed: 1/m)")
    return figure


# figure 14: a large mean

MEANS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)


def measure_means(context: Context) -> Iterator[Row]:
    for k in context.track(MEANS):
        x = normalize(_normal(300, 2, context.generator(14)) + k, dim=1)
        for row in _as_rows(f"k = {k:g}", x):
            yield {name: value for name, value in row.items() if name != "y_3"}


def draw_means(rows: Sequence[Row]) -> Figure:
    title = "Normalised draws of N(k 1, I_2): a large mean collapses onto a point"
    figure, axes = pictures.panels(len(MEANS), title, rows=2, height=6.6)
    for axis, (name, chosen) in zip(axes, _by_batch(rows).items(), strict=True):
        pictures.circle(axis)
        axis.scatter([row["y_1"] for row in chosen], [row["y_2"] for row in chosen], s=6,
                     color=pictures.PALETTE[0], alpha=0.6)  # fmt: skip
        w2, uniformity = chosen[0]["W2"], chosen[0]["L_U"]
        axis.set_title(f"{name}\nW2 {w2:.2f}, L_U {uniformity:.2f}", fontsize=10)
    return figure


FIGURE_1 = Study("1", "constant and dimensional collapse", measure_collapses, draw_collapses)
FIGURE_10 = Study("10", "which distribution is most uniform", measure_distributions,
                  draw_distributions)  # fmt: skip
FIGURE_12 = Study("12", "an appended coordinate of zeros, points", measure_zero_coordinate,
                  draw_zero_coordinate)  # fmt: skip
FIGURE_13 = Study("13", "an appended coordinate of zeros, spectra", measure_zero_coordinate,
                  draw_zero_spectrum)  # fmt: skip
FIGURE_14 = Study("14", "large means", measure_means, draw_means)
