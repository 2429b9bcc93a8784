"""Steps to the optimum by start and loss, and W2^2 on the way there."""

from collections.abc import Sequence
from statistics import median
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.plots.style import FAINT, GRID, INK, KNOWN, OURS_COLOR
from benchmarks.reliability.descent import STEPS

Row = dict[str, Any]

SHOWN = {
    "auto, eigh": OURS_COLOR,
    "auto, newton_schulz": "#56a0d3",
    "highest, eigh": "#6f4e9c",
    "highest, newton_schulz": "#b39ddb",
    "svdvals": KNOWN["svdvals"],
    "eigvalsh": KNOWN["eigvalsh"],
    "paper's eigh": KNOWN["paper's eigh"],
}
"""`double` and the float64 truth stand in the rows and in the table."""

MARKERS = "os^Dv"


def outcome(row: Row) -> tuple[str, float]:
    """("steps", median), ("NaN", median step) or ("never", share of the excess left) of a row."""
    failed = [step for step in row["failed"] if step is not None]
    steps = [step for step in row["steps"] if step is not None]
    count = len(row["steps"])
    if len(failed) > count / 2:
        return "NaN", median(failed)
    if len(steps) > count / 2:
        return "steps", median(steps)
    excess = (
        (last - row["optimum"]) / (first - row["optimum"])
        for last, first in zip(row["last"], row["first"], strict=True)
    )
    return "never", median(excess)


def steps(rows: Sequence[Row]) -> Figure:
    """Panels by mode; starts down the page, losses within a start, a marker a shape."""
    modes = list(dict.fromkeys(row["mode"] for row in rows))
    starts = list(dict.fromkeys(row["start"] for row in rows))
    shapes = list(dict.fromkeys((row["n"], row["m"]) for row in rows))
    height = len(SHOWN) + 2.0
    figure, axes = plt.subplots(
        1, len(modes), figsize=(4.6 * len(modes) + 1, 1.2 * len(starts) + 2.2),
        sharey=True, squeeze=False, layout="constrained",
    )  # fmt: skip
    figure.suptitle("Steps of descent until 1 % of the excess over the optimum is left", x=0.01,
                    ha="left", weight="bold", fontsize=13.5, color=INK)  # fmt: skip
    for axis, mode in zip(axes[0], modes, strict=True):
        for i, start in enumerate(starts):
            if i % 2 == 0:
                axis.axhspan(i * height - 1, (i + 1) * height - 1, color=GRID, alpha=0.45, zorder=0)
            for j, (loss, color) in enumerate(SHOWN.items()):
                for marker, (n, m) in zip(MARKERS, shapes, strict=False):
                    at = {"mode": mode, "start": start, "loss": loss, "n": n, "m": m}
                    for row in (r for r in rows if all(r[k] == v for k, v in at.items())):
                        _mark(axis, row, i * height + j, color, marker)
        axis.set_xlim(-4, 1.32 * STEPS)
        axis.set_xticks(range(0, STEPS + 1, STEPS // 3))
        axis.axvline(1.03 * STEPS, color=FAINT, linewidth=0.8, linestyle=":")
        axis.set_title(mode)
        axis.set_xlabel("steps")
        axis.grid(axis="y", visible=False)
        axis.tick_params(axis="y", length=0)
    first = axes[0][0]
    first.set_yticks([i * height + (len(SHOWN) - 1) / 2 for i in range(len(starts))], starts)
    first.set_ylim(len(starts) * height - 1, -1)
    _legend(figure, shapes)
    return figure


def _mark(axis: Axes, row: Row, y: float, color: str, marker: str) -> None:
    kind, value = outcome(row)
    small = {"color": color, "markersize": 4.5, "markeredgewidth": 1.1}
    if kind == "steps":
        found = [step for step in row["steps"] if step is not None]
        axis.plot([min(found), max(found)], [y, y], color=color, linewidth=1, alpha=0.7)
        axis.plot([value], [y], marker, **small)
    elif kind == "NaN":
        axis.plot([value], [y], "x", color=color, markersize=5.5, markeredgewidth=1.6)
    else:
        at = STEPS * (1.08 + 0.06 * MARKERS.index(marker))
        axis.plot([at], [y], ">", fillstyle="none", **small)
    near = [step for step in row["steps_reachable"] if step is not None]
    if near and kind == "never" and row["reachable"] > row["optimum"]:
        axis.plot([median(near)], [y], marker, fillstyle="none", **small)


def _legend(figure: Figure, shapes: Sequence[tuple[int, int]]) -> None:
    losses = [Line2D([], [], color=c, linewidth=3, label=name) for name, c in SHOWN.items()]
    plain = {"color": INK, "linestyle": "none", "markersize": 5}
    marks = [
        *(Line2D([], [], marker=marker, label=f"{n} x {m}", **plain)
          for marker, (n, m) in zip(MARKERS, shapes, strict=False)),
        Line2D([], [], marker="x", label="NaN, at that step", **plain),
        Line2D([], [], marker=">", fillstyle="none", label=f"never in {STEPS}", **plain),
        Line2D([], [], marker="o", fillstyle="none", label="what exact descent can reach", **plain),
    ]  # fmt: skip
    figure.legend(handles=[*losses, *marks], loc="outside lower center", ncols=5, frameon=False,
                  fontsize=9.5)  # fmt: skip


def curves(rows: Sequence[Row]) -> Figure:
    """W2^2 over steps, a panel a start; dashed the optimum, dotted what exact descent can reach."""
    starts = list(dict.fromkeys(row["start"] for row in rows))
    figure, axes = plt.subplots(1, len(starts), figsize=(4.3 * len(starts), 4.2), sharey=True,
                                squeeze=False, layout="constrained")  # fmt: skip
    n, m, mode = rows[0]["n"], rows[0]["m"], rows[0]["mode"]
    figure.suptitle(f"W2 squared on the way, {n} x {m}, {mode}", x=0.01, ha="left", weight="bold",
                    fontsize=13.5, color=INK)  # fmt: skip
    for axis, start in zip(axes[0], starts, strict=True):
        of_start = [row for row in rows if row["start"] == start]
        best, reachable = of_start[0]["optimum"], of_start[0]["reachable"]
        axis.axhline(best, color=INK, linewidth=1, linestyle="--")
        if reachable > best + 1e-6:
            axis.axhline(reachable, color=INK, linewidth=1, linestyle=":")
        for row in of_start:
            values, color = row["W2 squared"], SHOWN[row["loss"]]
            behind = row["loss"].startswith("auto")
            axis.plot(range(len(values)), values, color=color, linewidth=3.2 if behind else 1.5,
                      alpha=0.55 if behind else 1, label=row["loss"],
                      linestyle="--" if "newton" in row["loss"] else "-")  # fmt: skip
            if row["failed"] is not None:
                axis.plot(len(values) - 1, values[-1], "x", color=color, markersize=7,
                          markeredgewidth=2)  # fmt: skip
        axis.set_title(start)
        axis.set_xlabel("step")
    axes[0][0].set_ylabel("W2 squared")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False,
                  fontsize=9.5)  # fmt: skip
    return figure
