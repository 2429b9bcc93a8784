"""Part (d): one picture of the demo's figures. Drawn from finished reports; measures nothing."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from benchmarks.demo.speed import OURS, Curve, SpeedSettings
from benchmarks.plots import style
from benchmarks.plots.style import FAINT
from benchmarks.ssl_small import EpochReport, RunReport

PAPER = "#ffffff"
ACCENT = "#0b7a75"  # the package, and the arm that trains with it
ALONE = "#d1603d"  # Barlow Twins alone
PEER_COLORS = {
    OURS: ACCENT,
    "W2, svdvals": "#3f6fb5",
    "W2, eigvalsh": "#8a63b8",
    "W2, the paper's eigh": "#b5446e",
    "Barlow Twins' loss": ALONE,
    "L_U, pdist": "#8f7a3c",
}
STYLE = {
    **style.STYLE,
    "font.size": 12,
    "axes.titlesize": 14,
    "axes.titlepad": 12,
    "lines.linewidth": 2.4,
    "lines.solid_capstyle": "round",
}


LABEL_HEIGHT = 0.062  # of an axis: what a line of text takes


class End(NamedTuple):
    """Last point of a curve, and its label."""

    x: float
    y: float
    name: str
    color: str
    bold: bool
    left: bool = False  # of the point; right otherwise


def draw(
    path: Path, speed: SpeedSettings, curves: Sequence[Curve], runs: dict[str, RunReport]
) -> None:
    """Write the four panels to `path`, 1800 x 1250 pixels."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(2, 2, figsize=(14.4, 10), facecolor=PAPER)
        _times(axes[0, 0], speed, curves)
        _spectra(axes[0, 1], runs)
        _epochs(axes[1, 0], runs, lambda report: report.knn_accuracy)
        axes[1, 0].set_title("kNN accuracy on test images, %")
        _epochs(axes[1, 1], runs, lambda report: report.w2)
        axes[1, 1].set_title("W2 of test embeddings (lower is more uniform)")
        _floor(axes[1, 1], next(iter(runs.values())).w2_floor)
        figure.tight_layout(h_pad=3, w_pad=3)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=125)
        plt.close(figure)


def _times(axes: Axes, speed: SpeedSettings, curves: Sequence[Curve]) -> None:
    axes.set_title(f"Forward + backward, {speed.n} rows")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    ends = []
    dimensions = sorted({m for curve in curves for m in curve.dimensions})
    first_stopped = min(
        (curve for curve in curves if curve.foreseen),
        key=lambda curve: (curve.dimensions[-1], -curve.timings[-1].median),
        default=None,
    )
    for curve in curves:
        ours = curve.name == OURS
        medians = [timing.median for timing in curve.timings]
        low = [timing.percentile(20) for timing in curve.timings]
        high = [timing.percentile(80) for timing in curve.timings]
        color = PEER_COLORS[curve.name]
        axes.fill_between(curve.dimensions, low, high, color=color, alpha=0.15, linewidth=0)
        axes.plot(
            curve.dimensions,
            medians,
            color=color,
            linewidth=3.4 if ours else 2,
            marker="o",
            markersize=6 if ours else 4,
            zorder=3 if ours else 2,
        )
        if curve.foreseen:
            axes.plot(curve.dimensions[-1], medians[-1], "x", color=color, ms=10, mew=2.5)
        left = curve is first_stopped  # the right of its point belongs to the other curves' labels
        ends.append(End(curve.dimensions[-1], medians[-1], curve.name, color, ours, left))
    axes.set_xticks(dimensions, [f"{m:,}" for m in dimensions])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(base=10))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(_seconds))
    axes.set_xlabel("embedding dimension m")
    axes.set_xlim(dimensions[0] / 1.15, dimensions[-1] * 2.0 ** (0.42 * len(dimensions)))
    axes.set_ylim(top=axes.get_ylim()[1] * 2)  # room for the uppermost label
    _label_ends(axes, ends)
    if any(curve.foreseen for curve in curves):
        axes.text(
            0.98,
            0.03,
            f"×  the next m takes over {speed.limit_seconds:g} s",
            transform=axes.transAxes,
            ha="right",
            color=FAINT,
        )


def _spectra(axes: Axes, runs: dict[str, RunReport]) -> None:
    axes.set_title("Spectrum of the final test embeddings")
    axes.set_yscale("log")
    for name, color in zip(runs, (ALONE, ACCENT), strict=True):
        values = runs[name].singular_values
        kept = values[values > 1e-9 * values[0]]
        axes.plot(range(1, len(kept) + 1), kept, color=color)
        rank = runs[name].epochs[-1].effective_rank
        axes.lines[-1].set_label(f"{name}: effective rank {rank:.0f}")
    dimension = len(next(iter(runs.values())).singular_values)
    target = runs[next(iter(runs))].recipe.projector_dim ** -0.5
    axes.axhline(target, color=FAINT, linewidth=1.4, linestyle=(0, (4, 3)))
    axes.text(dimension, target * 1.15, "uniform: 1/√m", color=FAINT, ha="right", va="bottom")
    axes.set_ylim(top=axes.get_ylim()[1] * 2)
    axes.set_xlabel("direction, by size")
    axes.set_ylabel("singular value / √n")
    axes.set_xlim(0, dimension * 1.02)
    legend = axes.legend(loc="lower left", frameon=False, handlelength=1.4, borderaxespad=0.2)
    for text, color in zip(legend.get_texts(), (ALONE, ACCENT), strict=True):
        text.set_color(color)


def _epochs(axes: Axes, runs: dict[str, RunReport], figure: Callable[[EpochReport], float]) -> None:
    ends = []
    for (name, run), color in zip(runs.items(), (ALONE, ACCENT), strict=True):
        epochs = [report.epoch for report in run.epochs]
        values = [figure(report) for report in run.epochs]
        axes.plot(epochs, values, color=color, marker="o", markersize=5)
        ends.append(End(epochs[-1], values[-1], f"{name}  {values[-1]:.3g}", color, True))
    last = max(end.x for end in ends)
    axes.set_xlim(1 - 0.03 * last, last * 1.55)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xticks([tick for tick in axes.get_xticks() if 1 <= tick <= last])
    axes.set_xlabel("epoch")
    _label_ends(axes, ends)


def _floor(axes: Axes, floor: float) -> None:
    axes.axhline(floor, color=FAINT, linewidth=1.4, linestyle=(0, (4, 3)))
    axes.set_ylim(bottom=0)
    axes.text(
        axes.get_xlim()[1],
        floor,
        f"as many uniform points: {floor:.2f}",
        color=FAINT,
        ha="right",
        va="bottom",
    )


def _label_ends(axes: Axes, ends: Sequence[End]) -> None:
    """Names beside the curves' last points, pushed apart where they would overlap."""
    low, high = axes.get_ylim()
    log = axes.get_yscale() == "log"
    scale: Callable[[float], float] = math.log10 if log else float
    gap = LABEL_HEIGHT * (scale(high) - scale(low))
    previous: dict[float, float] = {}  # x -> height of the last label there
    for end in sorted(ends, key=lambda end: end.y):
        place = max(scale(end.y), previous.get(end.x, -math.inf) + gap)
        previous[end.x] = place
        axes.annotate(
            end.name,
            (end.x, 10**place if log else place),
            xytext=(-12 if end.left else 12, 0),
            textcoords="offset points",
            color=end.color,
            weight="bold" if end.bold else "normal",
            va="center",
            ha="right" if end.left else "left",
        )


def _seconds(value: float, _: int) -> str:
    return f"{value:g} s" if value >= 1 else f"{value * 1e3:g} ms"
